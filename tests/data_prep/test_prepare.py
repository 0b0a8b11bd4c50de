"""`prepare` as a whole: one result by any engine, interrupted or not, and never over something
else.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.build import prepare
from data_prep.engines import beam, processes
from data_prep.shards import STATE, write_shard
from personlab_keras.cli import main
from personlab_keras.config import load_config
from personlab_keras.data.records import read_meta
from personlab_keras.errors import InputError
from personlab_keras.io.files import sole_writer

ROOT = Path(__file__).parents[2]
SETTINGS = ["data.view_size=97", "targets.radius=8", "data.views_per_image=2"]


def contents(folder):
    """What a finished folder holds, but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def build(scenes, out, *overrides, engine=None, **named):
    config = load_config(None, [*SETTINGS, *overrides])
    return prepare(
        scenes / "annotations.json",
        scenes / "images",
        out,
        config,
        engine=engine or processes(1),
        **named,
    )


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """What an uninterrupted run gives."""
    folder = tmp_path_factory.mktemp("whole") / "records"
    build(scenes, folder)
    return contents(folder)


def stopping_after(count, error):
    """An engine that is ended from outside."""

    def run(tasks):
        for task in tasks[:count]:
            yield write_shard(task)
        raise error

    return run


@pytest.mark.slow
def test_any_engine_gives_the_same_bytes(scenes, whole, tmp_path):
    build(scenes, tmp_path / "two", engine=processes(2))
    assert contents(tmp_path / "two") == whole
    pytest.importorskip("apache_beam")
    build(scenes, tmp_path / "beam", engine=beam())
    assert contents(tmp_path / "beam") == whole


def test_neither_the_order_of_the_file_nor_what_is_missing_moves_an_image(scenes, whole, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    chance = random.Random(3)
    for entries in (content["images"], content["annotations"]):
        chance.shuffle(entries)
    shutil.copytree(scenes / "images", tmp_path / "images")
    gone = content["images"][0]
    (tmp_path / "images" / gone["file_name"]).unlink()
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    build(tmp_path, tmp_path / "records")
    found = contents(tmp_path / "records")
    different = [
        name for name in whole if name.endswith("tfrecord") and found.get(name) != whole[name]
    ]
    assert len(different) == 1  # that of the missing image


def test_the_lines_of_the_command(scenes, whole, tmp_path, capsys):
    arguments = [
        "--annotations",
        scenes / "annotations.json",
        "--images",
        scenes / "images",
        "--out",
        tmp_path / "records",
    ]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [str(argument) for argument in ("prepare", *arguments, *settings)]
    assert main([*command, "--workers", "2"]) == 0
    assert contents(tmp_path / "records") == whole
    assert main([*command, "--workers", "0"]) == 0
    assert "shards are already finished and intact" in capsys.readouterr().out
    for wrong, words in (
        (["--workers", "-1"], "--workers must be at least 0. Received: -1"),
        (["--beam-options=--runner=x"], "options of a Beam pipeline require --beam"),
        (["--beam", "--beam-options", "'"], "--beam-options: No closing quotation"),
        (
            ["--skeleton", "cat"],
            "cat: no such skeleton file, and none shipped of that name. Shipped: coco_body_feet, coco_person, crowdpose, mpii",
        ),
        (["--category", "cat"], "no category is called 'cat'. The file has: 'person'"),
    ):
        assert main([*command, *wrong]) == 2, wrong
        errors = capsys.readouterr().err
        assert words in errors
        assert errors.count("\n") == 1


def test_beam_takes_its_options_after_two_dashes(scenes, whole, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    arguments = [
        "--annotations",
        scenes / "annotations.json",
        "--images",
        scenes / "images",
        "--out",
        tmp_path / "records",
    ]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["prepare", *map(str, arguments), *settings, "--beam"]
    assert main([*command, "--", "--direct_num_workers=many"]) == 2
    errors = capsys.readouterr().err
    assert "error: argument --direct_num_workers: invalid int value: 'many'" in errors
    assert errors.count("\n") == 1
    assert main([*command, "--", "--direct_num_workers=1", "--job_name=records"]) == 0
    assert contents(tmp_path / "records") == whole


def test_an_error_in_a_pipeline_is_one_line(scenes, tmp_path):
    pytest.importorskip("apache_beam")
    shutil.copytree(scenes, tmp_path / "scenes")
    victim = next((tmp_path / "scenes" / "images").iterdir())
    victim.write_bytes(b"")
    with pytest.raises(InputError, match=rf"image \d+ '{victim.name}' \[image of zero bytes\]$"):
        build(tmp_path / "scenes", tmp_path / "records", engine=beam(), strict=True)
    # The same by workers, and a look at the faults afterwards that was allowed before.
    with pytest.raises(InputError, match=r"\[image of zero bytes\]$"):
        build(tmp_path / "scenes", tmp_path / "records", engine=processes(2), strict=True)
    build(tmp_path / "scenes", tmp_path / "records")
    meta = read_meta(tmp_path / "records")
    assert meta.skipped == {"image of zero bytes": 1}
    assert victim.name in meta.examples["image of zero bytes"][0]


def test_an_interrupted_run_says_how_far_and_goes_on(scenes, whole, tmp_path):
    with pytest.raises(
        KeyboardInterrupt,
        match=r"interrupted with 2 of \d+ shards finished; the same command resumes from there",
    ):
        build(scenes, tmp_path, engine=stopping_after(2, KeyboardInterrupt()))
    assert not (tmp_path / "meta.json").exists()
    said = []
    build(scenes, tmp_path, say=said.append)
    assert contents(tmp_path) == whole
    assert said[0].startswith(f"{tmp_path}: 2 of ")


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-5], lambda data: data[:50] + b"\x01" + data[51:], lambda data: b""]
)
def test_a_finished_shard_is_kept_only_as_it_was_written(scenes, whole, tmp_path, harm):
    with pytest.raises(KeyboardInterrupt):
        build(scenes, tmp_path, engine=stopping_after(2, KeyboardInterrupt()))
    shard = min(tmp_path.glob("views-*"))
    shard.write_bytes(harm(shard.read_bytes()))
    said = []
    build(scenes, tmp_path, say=said.append)
    assert contents(tmp_path) == whole
    assert said[0].startswith(f"{tmp_path}: 1 of ")
    # So in a finished folder.
    shard.write_bytes(harm(shard.read_bytes()))
    build(scenes, tmp_path)
    assert contents(tmp_path) == whole
    shard.unlink()
    build(scenes, tmp_path)
    assert contents(tmp_path) == whole


def test_a_damaged_note_costs_a_shard_and_nothing_else(scenes, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(scenes, tmp_path, engine=stopping_after(3, KeyboardInterrupt()))
    notes = sorted((tmp_path / STATE).glob("views-*"))
    notes[0].write_bytes(b'{"shard": 3}')
    notes[1].write_bytes(notes[1].read_bytes()[:-4])
    build(scenes, tmp_path)
    assert contents(tmp_path) == whole


def test_killed_runs_leave_nothing_half_done(scenes, whole, tmp_path):
    out = tmp_path / "records"
    arguments = [
        "--annotations",
        scenes / "annotations.json",
        "--images",
        scenes / "images",
        "--out",
        out,
        "--workers",
        "2",
    ]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "personlab_keras.cli",
        "prepare",
        *map(str, arguments),
        *settings,
    ]
    for shards in (1, 4):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while process.poll() is None and len(list(out.glob("views-*"))) < shards:
            time.sleep(0.005)
        workers = children(process.pid)
        process.kill()
        process.wait()
        assert all(path.read_bytes() == whole[path.name] for path in out.glob("views-*"))
        deadline = time.monotonic() + 20
        while any(
            Path(f"/proc/{worker}/cmdline").is_file() and running(worker) for worker in workers
        ):
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.05)
    build(scenes, out)
    assert contents(out) == whole


def children(process):
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").glob("*/children")
        for child in task.read_text().split()
    ]


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


PRESS_AT = """
import os, signal, sys
if __name__ == "__main__":
    from data_prep import build, engines
    def press():
        {press}
    def first_done(futures, original=engines.as_completed):
        for future in original(futures):
            press()
            yield future
    def all_done(*arguments, original=build._summed_up):
        press()
        return original(*arguments)
    {place}
    from personlab_keras.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "press", "status"),
    [
        # A terminal sends Ctrl-C to every process of the command.
        ("engines.as_completed = first_done", "os.killpg(0, signal.SIGINT)", 130),
        ("build._summed_up = all_done", "os.killpg(0, signal.SIGINT)", 130),
        ("engines.as_completed = first_done", "os.kill(os.getpid(), signal.SIGTERM)", 143),
    ],
)
def test_a_signal_is_one_line(scenes, tmp_path, place, press, status):
    """While the workers work, and after the last of them: the command interrupts itself, so that
    the state of the machine does not matter.
    """
    script = tmp_path / "press.py"
    script.write_text(PRESS_AT.format(place=place, press=press))
    out = tmp_path / "records"
    done = subprocess.run(
        [
            *(sys.executable, script, "prepare", "--annotations", scenes / "annotations.json"),
            *("--images", scenes / "images", "--out", out, "--workers", "2"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert done.returncode == status
    assert "shards finished; the same command resumes from there" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(out.glob(".*.part"))
    assert not (out / "meta.json").exists()


def test_two_builders_in_one_folder(scenes, tmp_path):
    with sole_writer(tmp_path), pytest.raises(InputError, match="another process is writing there"):
        build(scenes, tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_what_was_changed_is_named_and_not_overwritten(scenes, tmp_path, finished):
    shutil.copytree(scenes, tmp_path / "scenes")
    here, out = tmp_path / "scenes", tmp_path / "records"
    if finished:
        build(here, out)
    else:
        with pytest.raises(KeyboardInterrupt):
            build(here, out, engine=stopping_after(3, KeyboardInterrupt()))
    before = contents(out) if finished else None
    with pytest.raises(
        InputError,
        match=r"other input or settings: data.view_size was 97, is 65\. Choose another folder, or use --over",
    ):
        build(here, out, "data.view_size=65")
    with pytest.raises(InputError, match=r"targets.radius was 8.0, is 9.0"):
        build(here, out, "targets.radius=9")
    # How records are read does not matter.
    config = ("data.brightness=0", "data.workers=2", "data.shuffle_records=7")
    image = next((here / "images").iterdir())
    kept = image.read_bytes()
    image.write_bytes(kept + b"x")
    with pytest.raises(
        InputError, match=r"images.names_and_sizes_sha256 was \w{12}..., is \w{12}..."
    ):
        build(here, out)
    image.write_bytes(kept)
    annotations = (here / "annotations.json").read_text()
    (here / "annotations.json").write_text(annotations + "\n")
    with pytest.raises(
        InputError,
        match=r"annotations.bytes was \d+, is \d+; annotations.sha256 was \w{12}..., is \w{12}...",
    ):
        build(here, out)
    assert before is None or contents(out) == before
    build(here, out, overwrite=True)
    (here / "annotations.json").write_text(annotations)
    build(here, out, *config, overwrite=True)
    build(scenes, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_finished_folder_that_cannot_be_read(scenes, tmp_path):
    build(scenes, tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(
        InputError, match=r"meta.json: damaged. Choose another folder, or use --overwrite"
    ):
        build(scenes, tmp_path)
    build(scenes, tmp_path, overwrite=True)


def test_an_image_that_changed_unnoticed_is_noticed_by_its_shard(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    build(tmp_path / "scenes", tmp_path / "records")
    for image in (tmp_path / "scenes" / "images").iterdir():
        data = bytearray(image.read_bytes())
        image.write_bytes(bytes(data[:-40]) + bytes(40))  # as long as before
    min((tmp_path / "records").glob("views-*")).unlink()
    with pytest.raises(
        InputError,
        match=r"the rebuilt shard differs from the original, so an image must have changed",
    ):
        build(tmp_path / "scenes", tmp_path / "records")


def test_preparing_loads_no_tensorflow():
    check = "import sys, data_prep.build, data_prep.engines, data_prep.statistics; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
