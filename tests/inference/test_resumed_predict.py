"""A prediction that is killed loses nothing: started again it ends with the same files."""

import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FORMATS = ("--format", "coco,csv,yolo-pose,labelme", "--masks", "png")
IMAGES = 10


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder of images, one of them damaged, a video, and a file in place of the model."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    writer = cv2.VideoWriter(
        str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (120, 80)
    )
    for number in range(IMAGES):
        picture = rng.integers(0, 255, (80, 120, 3), np.uint8)
        cv2.imwrite(str(folder / "photos" / f"{number}.jpg"), picture)
        writer.write(cv2.GaussianBlur(picture, (9, 9), 3))
    writer.release()
    (folder / "photos" / "4.jpg").write_bytes(b"\xff\xd8\xff\xe0 damaged")
    (folder / "model").write_bytes(b"any")
    return folder


def killed(sources, out, events, *arguments):
    """Ends `predict` at these events, and lets the last run finish; gives for each run its exit
    status, the parts in the journal, and the calls of the network.
    """
    done = subprocess.run(
        [
            *(sys.executable, Path(__file__).with_name("killed_predict.py"), out),
            *(",".join(map(str, events)), *arguments, "--model", sources / "model"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert not done.stderr, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["photos", "clip", "both"])
def test_killed_again_and_again_it_ends_with_the_same_bytes(kind, sources, tmp_path):
    arguments = {
        "photos": [sources / "photos", *FORMATS],
        "clip": [sources / "clip.avi", "--smooth", *FORMATS],
        "both": [sources / "clip.avi", sources / "photos", "--format", "csv"],
    }[kind]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    ((status, _, _),) = killed(sources, whole, [], *arguments)
    assert status == ("0" if kind == "clip" else "2")  # one photo is damaged
    dice = random.Random(7)
    events = [dice.randint(1, 60) for _ in range(9)]
    runs = killed(sources, out, events, *arguments)
    statuses = [status for status, _, _ in runs]
    assert {"-9", "143", "130"} <= set(statuses)
    kept = [int(parts) for status, parts, _ in runs if status in ("-9", "143", "130")]
    assert kept == sorted(kept)  # nothing that was finished is ever lost
    if statuses[-2] not in ("-9", "143", "130"):  # a run before the last one had finished
        assert kept[-1] > IMAGES / 2
    assert content(out).keys() == content(whole).keys()
    for name, expected in content(whole).items():
        assert content(out)[name] == expected, name


def test_what_is_finished_is_not_predicted_again(sources, tmp_path):
    # By events: 3 images of a batch have 6 each, with 2 of the network's and 2 of the journal's.
    (_, parts, _), (status, _, calls) = killed(
        sources, tmp_path / "out", [30], sources / "photos", "--no-overlays"
    )
    assert (status, 0 < int(parts) < IMAGES) == ("2", True)
    finished = int(parts) // 3 * 3
    assert int(calls) == IMAGES - finished - (finished <= 4)


def test_ctrl_c_says_how_to_resume(sources, tmp_path):
    killed(sources, tmp_path / "out", [0, 0, 20], sources / "clip.avi", "--no-overlays")
    errors = (tmp_path / "out.errors").read_text().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("personlab predict: interrupted after ")
    assert errors[0].endswith(
        f" of 10 frames of {sources / 'clip.avi'}; run the same command to resume"
    )
