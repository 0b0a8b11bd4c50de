"""Prediction by a Beam pipeline: the people of the SavedModel, each image exactly once."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from personlab_keras.cli import main
from personlab_keras.export.export import export_source
from personlab_keras.method.person import decode_mask

pytest.importorskip("apache_beam")

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from personlab_keras.errors import InputError
from personlab_keras.inference.beam.filesystems import ImageFile, list_sources
from personlab_keras.inference.beam.handler import (
    Failure,
    PeopleHandler,
    prediction_of,
    read_image_file,
)
from personlab_keras.inference.beam.job import predict_with_beam, shard_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCHEME = "elsewhere://"


class Elsewhere(LocalFileSystem):
    """Files that only Beam reaches: elsewhere:///x is /x."""

    @classmethod
    def scheme(cls):
        return "elsewhere"

    def mkdirs(self, path):
        super().mkdirs(_on_disk(path))

    def _list(self, dir_or_prefix):
        for each in super()._list(_on_disk(dir_or_prefix)):
            yield FileMetadata(f"{SCHEME}{each.path}", each.size_in_bytes)

    def metadata(self, path):
        return FileMetadata(path, super().metadata(_on_disk(path)).size_in_bytes)

    def create(self, path, mime_type="application/octet-stream", compression_type="auto"):
        return super().create(_on_disk(path), mime_type, compression_type)

    def open(self, path, mime_type="application/octet-stream", compression_type="auto"):
        return super().open(_on_disk(path), mime_type, compression_type)

    def rename(self, source_file_names, destination_file_names):
        super().rename(
            [_on_disk(path) for path in source_file_names],
            [_on_disk(path) for path in destination_file_names],
        )

    def exists(self, path):
        return super().exists(_on_disk(path))

    def delete(self, paths):
        super().delete([_on_disk(path) for path in paths])


def _on_disk(path: str) -> str:
    assert path.startswith((SCHEME, "/"))
    return path.removeprefix(SCHEME)


@pytest.fixture(scope="module")
def model(model_directory, tmp_path_factory) -> Path:
    """A model directory of an untrained network whose thresholds let it find many people."""
    changes = [
        f"decode.{name}=0" for name in ("score_threshold", "peak_threshold", "keypoint_threshold")
    ]
    return export_source(
        model_directory,
        tmp_path_factory.mktemp("many") / "model",
        [*changes, "decode.max_people=6"],
    )


@pytest.fixture(scope="module")
def images(scenes) -> Path:
    return scenes / "images"


@pytest.fixture(scope="module")
def finished(images, model, tmp_path_factory) -> Path:
    """The results for the ten scenes."""
    out = tmp_path_factory.mktemp("finished") / "people"
    summary = predict_with_beam([images], model, out, shards=3)
    assert (summary.images, summary.failed, summary.shards, summary.done_before) == (10, {}, 3, 0)
    return out


def command(*arguments: object) -> list[str]:
    return ["predict", *map(str, arguments), "--beam"]


def lines(out: Path, kind: str = "people") -> dict[str, dict]:
    """The line of each path."""
    found = [
        json.loads(line)
        for path in sorted(out.glob(f"{kind}-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len({line["path"] for line in found}) == len(found)
    return {line["path"]: line for line in found}


def contents(out: Path) -> dict[str, tuple[bytes, int]]:
    """The content of files, and when they were written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.jsonl")}


def refusal(capsys, *arguments: object) -> str:
    """The error line of a refused command."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_lines_hold_what_the_saved_model_finds(finished, images, model):
    found = lines(finished)
    photos = sorted(images.iterdir())
    assert sorted(found) == [str(photo) for photo in photos]
    assert sum(1 for path in finished.glob("people-*-of-00003.jsonl") if path.stat().st_size) > 1
    direct = tf.saved_model.load(str(model)).signatures["people_from_bytes"](
        image_bytes=tf.constant([photo.read_bytes() for photo in photos])
    )
    direct = {name: value.numpy() for name, value in direct.items()}
    assert direct["count"].sum() > 10
    for i, photo in enumerate(photos):
        line = found[str(photo)]
        assert set(line) == {"path", "image", "width", "height", "people"}
        assert line["image"] == photo.name
        assert [line["height"], line["width"]] == direct["size"][i].tolist()
        assert len(line["people"]) == direct["count"][i]
        for j, person in enumerate(line["people"]):
            assert person["score"] == pytest.approx(direct["scores"][i, j], abs=1e-6)
            np.testing.assert_allclose(person["box"], direct["boxes"][i, j], atol=0.01)
            mask = {
                "size": direct["size"][i].tolist(),
                "counts": direct["masks"][i, j].decode(),
            }
            assert decode_mask(mask).shape == (line["height"], line["width"])
            assert person.get("mask") == (mask if decode_mask(mask).any() else None)
            for ours, theirs in zip(person["keypoints"], direct["keypoints"][i, j], strict=True):
                if theirs.any():
                    np.testing.assert_allclose(ours, theirs, atol=0.0051)
                else:
                    assert ours == [None, None, 0.0]


def test_a_keypoint_that_was_not_found_is_null():
    found = {
        "size": np.array([50, 70], np.int32),
        "count": np.int32(1),
        "keypoints": np.array([[[3, 4, 0.5], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], np.float32),
        "scores": np.array([0.25, 0], np.float32),
    }
    person = {
        "score": 0.25,
        "box": [3.0, 4.0, 0.0, 0.0],
        "keypoints": [[3.0, 4.0, 0.5], [None, None, 0.0]],
    }
    assert prediction_of(found) == {"width": 70, "height": 50, "people": [person]}


def png_that_promises(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def test_failed_images_are_counted_by_reason_and_the_others_are_predicted(
    finished, images, model, tmp_path, capsys
):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    whole = next(images.iterdir()).read_bytes()
    bad = {
        "cut.jpg": (whole[: len(whole) // 2], "damaged image"),
        "empty.png": (b"", "empty file"),
        "text.jpg": (b"hello", "neither JPEG nor PNG"),
        "animated.webp": (b"RIFF0000WEBP", "neither JPEG nor PNG"),
        "huge.png": (png_that_promises(30_000, 30_000), "too large"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    out = tmp_path / "people"
    assert main(command(folder / "*", "--model", model, "--out", out, "--shards", 2)) == 2
    said = capsys.readouterr()
    people = sum(len(line["people"]) for line in lines(finished).values())
    assert said.out.splitlines()[-1] == f"{out}: 10 images, {people} people, 5 failed"
    assert f"personlab predict: neither JPEG nor PNG: 2, see {out}/failed-*.jsonl" in said.err
    failed = lines(out, "failed")
    assert {Path(path).name: line["reason"] for path, line in failed.items()} == {
        name: reason for name, (_, reason) in bad.items()
    }
    assert failed[str(folder / "huge.png")]["detail"] == "30000 x 30000 pixels"
    assert all(line["detail"] and "{{" not in line["detail"] for line in failed.values())
    before, after = (
        {Path(path).name: line["people"] for path, line in lines(each).items()}
        for each in (finished, out)
    )
    assert before == after
    # A second run reports them again.
    assert main(command(folder / "*", "--model", model, "--out", out)) == 2
    assert "damaged image: 1" in capsys.readouterr().err


def test_a_deleted_image_is_a_failure(tmp_path):
    gone = read_image_file(ImageFile(str(tmp_path / "gone.jpg"), 10))
    assert isinstance(gone, Failure)
    assert gone.reason == "cannot be read"
    assert "No such file" in gone.detail
    film = read_image_file(ImageFile(str(tmp_path / "film.jpg"), 10**12))
    assert film == Failure("too large", f"{10**12} bytes")


def test_a_second_run_does_nothing_and_a_missing_shard_is_made_again_alone(
    finished, images, model, tmp_path, capsys
):
    out = tmp_path / "people"
    shutil.copytree(finished, out)
    before = contents(out)
    assert main(command(images, "--model", model, "--out", out)) == 0
    assert "10 images in 3 shards, 3 of them finished before" in " ".join(
        capsys.readouterr().out.split()
    )
    assert contents(out) == before
    victim = max(out.glob("people-*.jsonl"), key=lambda path: path.stat().st_size)
    victim.unlink()
    assert main(command(images, "--model", model, "--out", out)) == 0
    assert "2 of them finished before" in " ".join(capsys.readouterr().out.split())
    after = contents(out)
    assert after.keys() == before.keys()
    for name, (content, written) in after.items():
        assert content == before[name][0]
        assert (written == before[name][1]) == (name != victim.name)


def test_a_killed_run_resumes_with_the_remaining_shards(finished, images, model, tmp_path):
    out = tmp_path / "people"
    arguments = command(images, "--model", model, "--out", out, "--shards", 10)
    run = subprocess.Popen(
        [sys.executable, "-m", "personlab_keras.cli", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while (
            not list(out.glob("state/done-*")) and run.poll() is None and time.monotonic() < until
        ):
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
    finally:
        run.kill()
        run.wait()
    noted = {
        f"people-{path.stem.removeprefix('done-')}-of-00010.jsonl"
        for path in out.glob("state/done-*")
    }
    before = contents(out)
    assert noted
    assert noted <= before.keys()
    summary = predict_with_beam([images], model, out)
    assert summary.done_before == len(noted)
    after = contents(out)
    assert len(after) == 10
    assert all(after[name] == before[name] for name in noted)
    assert not list(out.rglob(".*.part"))
    assert lines(out) == lines(finished)


def test_an_interrupted_run_reports_its_progress(images, model, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PeopleHandler, "load_model", lambda handler: None)
    monkeypatch.setattr(PeopleHandler, "run_inference", interrupted)
    with pytest.raises(
        KeyboardInterrupt,
        match="interrupted with 0 of 3 shards finished; the same command resumes from there",
    ):
        predict_with_beam([images], model, tmp_path, shards=3)


def test_other_input_is_refused_by_name(finished, images, model, model_directory, tmp_path, capsys):
    out = tmp_path / "people"
    shutil.copytree(finished, out)
    before = contents(out)
    words = refusal(capsys, *command(images, "--model", model_directory, "--out", out))
    assert "manifest.json: the folder holds results of another model" in words
    some = sorted(images.iterdir())[1:]
    words = refusal(capsys, *command(*some, "--model", model, "--out", out))
    assert "manifest.json: the folder holds results of 10 images; choose another folder" in words
    assert "Received: 9 images" in words
    words = refusal(capsys, *command(images, "--model", model, "--out", out, "--shards", 4))
    assert "holds results in 3 shards; choose another folder. Received: 4" in words
    assert contents(out) == before
    (out / "manifest.json").write_text("{}")
    assert "manifest.json: damaged" in refusal(
        capsys, *command(images, "--model", model, "--out", out)
    )
    (out / "manifest.json").unlink()
    assert "holds results without manifest.json" in refusal(
        capsys, *command(images, "--model", model, "--out", out)
    )


def test_a_run_that_cannot_start_gets_one_line(images, model, tmp_path, capsys, monkeypatch):
    out = tmp_path / "people"
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model / "personlab.json", bare)
    whole = [images, "--model", model, "--out", out]
    for wrong, words in (
        (
            command(tmp_path / "empty", "--model", model, "--out", out),
            "empty: the folder must hold images",
        ),
        (
            command(tmp_path / "*.png", "--model", model, "--out", out),
            "the pattern must match images",
        ),
        (
            command(f"{SCHEME}{tmp_path}/*.png", "--model", model, "--out", out),
            "*.png: must be an image, or match images",
        ),
        (
            command(f"{SCHEME}{tmp_path}/empty/", "--model", model, "--out", out),
            "Received: no match",
        ),
        (
            command("unheard://x/*.jpg", "--model", model, "--out", out),
            "unheard://x/*.jpg: cannot be listed: Unable to get",
        ),
        (
            command(images, "--model", bare, "--out", out),
            "variables.index: cannot be read; --beam takes a model directory",
        ),
        (command(images, "--model", tmp_path, "--out", out), "no personlab.json there"),
        (command(*whole, "--shards", 0), "--shards must be at least 1. Received: 0"),
        (
            command(*whole, "--flip", "--set", "decode.masks=false"),
            "exporting it again. Received: predict.flip=true decode.masks=false",
        ),
        (command("film.mp4", *whole[1:]), "film.mp4: --beam accepts images only"),
        (command(*whole, "--beam-options=--direct_num_workers=many"), "invalid int value: 'many'"),
        (
            ["predict", *whole, "--beam-options=--x=y"],
            "options of a Beam pipeline require --beam",
        ),
        (["predict", *whole, "--shards", 2], "--shards requires --beam"),
        (["predict", "gs://x/y.jpg", *whole[1:]], "gs://x/y.jpg: addresses require --beam"),
    ):
        assert words in refusal(capsys, *wrong)
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    assert "--beam requires Apache Beam: pip install 'personlab-keras[beam]'" in refusal(
        capsys, *command(*whole)
    )


def test_a_saved_model_that_takes_no_bytes_is_named(tmp_path):
    empty = tf.Module()
    empty.answer = tf.function(lambda: {"answer": tf.constant(42)}, input_signature=[])
    tf.saved_model.save(empty, str(tmp_path), signatures={"answer": empty.answer})
    with pytest.raises(
        InputError, match="the SavedModel has no signature people_from_bytes; export it again"
    ):
        PeopleHandler(str(tmp_path), 4).load_model()


def test_sources_model_and_results_may_be_where_only_beam_reaches(
    finished, images, model, tmp_path, capsys
):
    photos = sorted(images.iterdir())
    sources = [
        f"{SCHEME}{photos[0]}",
        f"{SCHEME}{images}/",
        f"{SCHEME}{images}/*.{photos[0].suffix[1:]}",
    ]
    assert [each.path for each in list_sources(sources)] == [f"{SCHEME}{photo}" for photo in photos]
    out = tmp_path / "deep" / "people"
    arguments = command(
        *sources, "--model", f"{SCHEME}{model}", "--out", f"{SCHEME}{out}", "--shards", 2
    )
    assert main(arguments) == 0
    assert {_on_disk(path): line["people"] for path, line in lines(out).items()} == {
        path: line["people"] for path, line in lines(finished).items()
    }
    before = contents(out)
    left = out / ".people-00000-of-00002.jsonl.0123.part"
    left.touch()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "2 of them finished before" in " ".join(capsys.readouterr().out.split())
    assert contents(out) == before
    assert not left.exists()


def test_the_shard_of_an_image_is_fixed():
    assert [shard_of(f"gs://bucket/{i}.jpg", 1000) for i in range(3)] == [
        shard_of(f"gs://bucket/{i}.jpg", 1000) for i in range(3)
    ]
    counts = np.bincount([shard_of(f"gs://bucket/{i}.jpg", 10) for i in range(5000)], minlength=10)
    assert counts.min() > 400
    assert counts.max() < 600
