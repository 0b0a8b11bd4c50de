import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from personlab_keras.cli import main
from personlab_keras.errors import InputError
from personlab_keras.inference.predict import load
from personlab_keras.inference.video import (
    OverlayFile,
    ahead,
    overlay_rate,
    predict_video,
)
from personlab_keras.io.images import list_images, read_image
from personlab_keras.io.journal import JOURNAL_FILE
from personlab_keras.io.media import is_video

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def film(path: Path, frames: int, scenes: Path, side: int = 97, rate: float = 10.0) -> Path:
    """A video of synthetic scenes, one after the other."""
    pictures = [
        cv2.resize(read_image(each), (side, side)) for each in list_images([scenes / "images"])
    ]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (side, side))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(pictures[i % len(pictures)][..., ::-1])
    writer.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (got := capture.read())[0]:
        frames.append(got[1][..., ::-1])
    return frames


@pytest.fixture(scope="module")
def predictor(model_directory):
    return load(
        model_directory,
        ["decode.score_threshold=0", "decode.peak_threshold=0.001", "decode.keypoint_threshold=0"],
    )


def test_a_video_is_predicted_frame_by_frame(predictor, scenes, tmp_path):
    source, ticks = film(tmp_path / "clip.avi", 7, scenes), []
    summary = predict_video(
        predictor,
        str(source),
        tmp_path / "out" / "clip",
        progress=lambda *counts: ticks.append(counts),
    )
    assert (summary.frames, summary.announced, summary.interrupted) == (7, 7, False)
    assert ticks == [(i, 7) for i in range(1, 8)]
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "clip.jsonl").read_text().splitlines()
    ]
    assert [line["frame"] for line in lines] == list(range(7))
    assert {(line["video"], line["width"], line["height"]) for line in lines} == {
        ("clip.avi", 96, 96)
    }
    assert len(lines[0]["keypoint_names"]) == 17
    np.testing.assert_allclose([line["time"] for line in lines], np.arange(7) / 10, atol=1e-3)
    for line, frame in zip(lines, frames_of(source), strict=True):
        assert line["people"] == json.loads(
            json.dumps([person.to_dict() for person in predictor(frame)])
        )
    assert summary.people == sum(len(line["people"]) for line in lines) > 0
    overlay = frames_of(tmp_path / "out" / "clip.overlay.mp4")
    assert len(overlay) == 7
    assert overlay[0].shape == (96, 96, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "clip.jsonl",
        "clip.overlay.mp4",
    ]


def test_images_and_videos_may_come_together(model_directory, scenes, tmp_path, capsys):
    source = film(tmp_path / "clip.avi", 3, scenes)
    image = list_images([scenes / "images"])[0]
    assert (
        main(
            [
                "predict",
                str(image),
                str(source),
                "--model",
                str(model_directory),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "1 image," in said
    assert "clip.avi: 3 frames" in said
    assert "frames/s" in said
    assert {"clip.jsonl", "clip.overlay.mp4", f"{image.stem}.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_videos_of_one_name_do_not_replace_each_other(model_directory, scenes, tmp_path):
    sources = []
    for folder, frames in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        sources.append(str(film(tmp_path / folder / "clip.avi", frames, scenes)))
    assert (
        main(["predict", *sources, "--model", str(model_directory), "--out", str(tmp_path / "out")])
        == 0
    )
    lines = {
        str(path.parent.name): len(path.read_text().splitlines())
        for path in (tmp_path / "out").rglob("*.jsonl")
    }
    assert lines == {"a": 2, "b": 3}


def test_a_video_that_ends_too_soon_is_reported(model_directory, scenes, tmp_path, capsys):
    source = film(tmp_path / "clip.avi", 60, scenes)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert (
        main(
            [
                "predict",
                str(source),
                "--model",
                str(model_directory),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    said = capsys.readouterr()
    lines = (tmp_path / "out" / "clip.jsonl").read_text().splitlines()
    assert 10 < len(lines) < 60
    assert f"{len(lines)} frames" in said.out
    assert f"only {len(lines)} of its 60 frames could be read" in said.err


def odd_video(shared: Path, name: str) -> Path:
    return shared / "data" / "odd-files" / "video" / name


def numbers_in(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_a_rate_that_mpeg4_cannot_hold(predictor, shared, tmp_path):
    summary = predict_video(
        predictor, str(odd_video(shared, "slow_motion_239.814.avi")), tmp_path / "slow"
    )
    assert (summary.frames, summary.damaged, summary.overlay_error) == (6, (), None)
    assert numbers_in(tmp_path / "slow.jsonl") == list(range(6))
    assert len(frames_of(tmp_path / "slow.overlay.mp4")) == 6


@pytest.mark.parametrize("rate", [0.1, 7.123456, 59.94006, 239.814, 999.999, 70_000.0, 1e9])
def test_every_rate_makes_an_overlay(rate, tmp_path):
    overlay = OverlayFile(tmp_path / "x.overlay.mp4", overlay_rate(rate))
    for shade in range(3):
        overlay.add(np.full((32, 32, 3), 80 * shade, np.uint8))
    overlay.finish()
    assert overlay.error is None
    assert len(frames_of(tmp_path / "x.overlay.mp4")) == 3


def test_a_damaged_frame_is_named_and_skipped(model_directory, shared, tmp_path, capsys):
    source = odd_video(shared, "one_bad_frame.avi")
    assert (
        main(["predict", str(source), "--model", str(model_directory), "--out", str(tmp_path)]) == 2
    )
    said = capsys.readouterr()
    assert said.err == f"personlab predict: {source}: frame 1 is damaged\n"
    assert "5 frames" in said.out
    lines = [
        json.loads(line) for line in (tmp_path / "one_bad_frame.jsonl").read_text().splitlines()
    ]
    assert [line["frame"] for line in lines] == [0, 2, 3, 4, 5]
    np.testing.assert_allclose(
        [line["time"] for line in lines], np.array([0, 2, 3, 4, 5]) / 30, atol=1e-3
    )
    assert len(frames_of(tmp_path / "one_bad_frame.overlay.mp4")) == 5


def test_several_damaged_frames_and_a_damaged_end(predictor, scenes, tmp_path):
    source = film(tmp_path / "clip.avi", 12, scenes)
    data = source.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"\xff\xd8\xff", at)]
    assert len(starts) == 12
    for frame in (3, 4, 7, 11):
        end = data.index(b"\xff\xd9", starts[frame]) + 2
        data = data[: starts[frame]] + bytes(end - starts[frame]) + data[end:]
    source.write_bytes(data)
    summary = predict_video(predictor, str(source), tmp_path / "clip")
    assert summary.damaged == (3, 4, 7)
    assert (summary.frames, summary.announced) == (8, 12)
    assert numbers_in(tmp_path / "clip.jsonl") == [0, 1, 2, 5, 6, 8, 9, 10]


def test_a_container_of_phones(predictor, shared, tmp_path):
    summary = predict_video(predictor, str(odd_video(shared, "clip.3gp")), tmp_path / "clip")
    assert (summary.frames, summary.announced) == (6, 6)


def test_an_overlay_that_cannot_be_written_does_not_stop_the_json(
    model_directory, scenes, tmp_path, capsys
):
    source = film(tmp_path / "clip.avi", 4, scenes)
    (tmp_path / "out" / "clip.overlay.mp4").mkdir(parents=True)
    arguments = [
        "predict",
        str(source),
        "--model",
        str(model_directory),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "4 frames" in said.out
    assert "clip.overlay.mp4: the overlay cannot be written" in said.err
    assert said.err.count("\n") == 1
    assert numbers_in(tmp_path / "out" / "clip.jsonl") == list(range(4))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "clip.jsonl",
        "clip.overlay.mp4",
    ]


def test_a_size_that_the_codec_refuses_is_an_error_of_the_overlay_alone(tmp_path):
    overlay = OverlayFile(tmp_path / "x.overlay.mp4", 25.0)
    for _ in range(3):
        overlay.add(np.full((40, 1, 3), 90, np.uint8))
    overlay.finish()
    assert (
        "x.overlay.mp4: the overlay cannot be written: OpenCV cannot write 0 x 40" in overlay.error
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "must be a video that OpenCV can read"),
        ("text.mp4", b"no video " * 100, "must be a video that OpenCV can read"),
        ("9876", None, "9876: must be a camera of this machine"),
    ],
)
def test_other_files_get_one_line(model_directory, tmp_path, capsys, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    source = name if name.isdecimal() else str(path)
    assert (
        main(["predict", source, "--model", str(model_directory), "--out", str(tmp_path / "out")])
        == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said
    assert not list((tmp_path / "out").glob("*"))


def test_a_file_in_place_of_the_folder_gets_one_line(predictor, scenes, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="must be a folder for the results"):
        predict_video(
            predictor, str(film(tmp_path / "clip.avi", 2, scenes)), tmp_path / "out" / "clip"
        )


def test_ctrl_c_leaves_a_playable_video(model_directory, scenes, tmp_path):
    source = film(tmp_path / "clip.avi", 5000, scenes)
    command = [
        sys.executable,
        "-c",
        "import sys; from personlab_keras.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    command += [
        "predict",
        str(source),
        "--model",
        str(model_directory),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = tmp_path / "out" / "clip.jsonl"
    while process.poll() is None and not (
        lines.is_file() and len(lines.read_text().splitlines()) > 20
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("personlab predict: interrupted after ")
    assert last.endswith(f" of 5000 frames of {source}; run the same command to resume")
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 20 < len(records) < 5000
    assert abs(len(frames_of(tmp_path / "out" / "clip.overlay.mp4")) - len(records)) <= 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        JOURNAL_FILE,
        "clip.jsonl",
        "clip.overlay.mp4",
    ]


def test_memory_does_not_grow_with_the_video(predictor, scenes, tmp_path):
    """As many frames as an hour has at one frame in four seconds."""
    source = film(tmp_path / "clip.avi", 900, scenes, rate=0.25)
    peaks = {}

    def note(done, _):
        peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert (
        predict_video(predictor, str(source), tmp_path / "out" / "clip", progress=note).frames
        == 900
    )
    assert (
        peaks[900] - peaks[15] < 40 * 2**10
    )  # KiB; the frames alone would be as much again, maps and masks many times that


def test_ahead_keeps_the_order_the_bound_and_errors():
    begun: list[int] = []

    def numbers():
        for i in range(100):
            begun.append(i)
            yield i

    taken = ahead(numbers(), 3)
    assert next(taken) == 0
    time.sleep(0.3)
    assert len(begun) <= 6  # one taken, three waiting, one in hand
    assert list(taken) == list(range(1, 100))

    def failing():
        yield 1
        raise InputError("the second cannot be read")

    taken = ahead(failing(), 3)
    assert next(taken) == 1
    with pytest.raises(InputError, match="the second"):
        next(taken)


def test_closing_ahead_ends_all_threads():
    closed = []

    def numbers():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    before = threading.active_count()
    taken = ahead(ahead(numbers(), 2), 2)
    assert next(taken) == 1
    assert threading.active_count() == before + 2
    taken.close()
    assert closed == [True]
    assert threading.active_count() == before


def test_videos_are_known_by_their_names():
    for extension in ("3gp", "wmv", "flv", "ts"):
        assert is_video(f"clip.{extension}")
    assert [is_video(name) for name in ("a.mp4", "b.MOV", "0", "c.jpg", "photos", "d.mp4.jpg")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_folder_gives_its_images_and_its_videos(model_directory, scenes, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    film(folder / "clip.avi", 2, scenes)
    (folder / "picture.jpg").write_bytes(list_images([scenes / "images"])[0].read_bytes())
    (folder / "later.HEIC").write_bytes(b"not read")
    (folder / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    assert main(["predict", str(folder), "--model", str(model_directory), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "skipped 1 other file that looks like an image or video: later.HEIC" in said.err
    assert "broken.mp4: must be a video that OpenCV can read" in said.err
    assert {path.name for path in out.iterdir()} == {
        "clip.jsonl",
        "clip.overlay.mp4",
        "picture.json",
        "picture.overlay.jpg",
    }


def test_a_video_is_not_replaced_by_its_overlay(predictor, scenes, tmp_path):
    source = film(tmp_path / "a.avi", 2, scenes).rename(tmp_path / "a.overlay.mp4")
    before = source.read_bytes()
    with pytest.raises(InputError, match="must not be both a video to predict and a result"):
        predict_video(predictor, str(source), tmp_path / "a")
    assert source.read_bytes() == before


def test_each_kind_of_file_in_a_folder_is_read_or_named(model_directory, shared, tmp_path, capsys):
    """The row on folder/ in the table beside the odd files."""
    folder = shared / "data" / "odd-files" / "folder"
    arguments = ["predict", str(folder), "--model", str(model_directory), "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "5 images" in said.out
    assert "f.HEIC" in said.err
    # No name was taken twice, so each is the shortest.
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [f"{x}.json" for x in "abcde"]


def test_other_formats_and_no_overlays(model_directory, scenes, tmp_path):
    source = film(tmp_path / "clip.avi", 2, scenes)
    image = list_images([scenes / "images"])[0]
    out = tmp_path / "out"
    settings = [f"decode.{name}=0" for name in ("score_threshold", "peak_threshold")]
    arguments = ["predict", str(image), str(source), "--model", str(model_directory)]
    arguments += ["--format", "coco,csv,yolo-pose,labelme", "--masks", "png", "--no-overlays"]
    arguments += [part for setting in settings for part in ("--set", setting)]
    assert main([*arguments, "--out", str(out)]) == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    frames = [f"clip/00000{i}" for i in range(2)]
    assert found == {
        "coco.json",
        "people.csv",
        f"{image.stem}.json",
        f"{image.stem}.masks.png",
        "clip.jsonl",
        *(f"clip.masks/00000{i}.png" for i in range(2)),
        "yolo-pose/data.yaml",
        *(f"yolo-pose/labels/train/{stem}.txt" for stem in (image.stem, *frames)),
        f"yolo-pose/images/train/{image.name}",
        *(f"yolo-pose/images/train/{stem}.jpg" for stem in frames),
        *(f"labelme/{stem}.json" for stem in (image.stem, *frames)),
        f"labelme/{image.name}",
        *(f"labelme/{stem}.jpg" for stem in frames),
    }
    coco = json.loads((out / "coco.json").read_text())
    lines = [json.loads(line) for line in (out / "clip.jsonl").read_text().splitlines()]
    people = [*json.loads((out / f"{image.stem}.json").read_text())["people"]]
    people += [person for line in lines for person in line["people"]]
    assert [a["score"] for a in coco["annotations"]] == [person["score"] for person in people]
    assert len((out / "people.csv").read_text().splitlines()) == 1 + len(people) > 1
