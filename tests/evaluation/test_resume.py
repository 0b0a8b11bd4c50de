"""An evaluation that is killed loses nothing: started again it ends with the same files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate
from personlab_keras.io.journal import JOURNAL_FILE
from personlab_keras.method.person import Person, encode_mask

ROOT = Path(__file__).parents[2]
IMAGES = 60
HEIGHT, WIDTH = 90, 120


def guess(pixels: np.ndarray) -> list[Person]:
    """People by the pixels alone: the same for the same image, in any process."""
    rng = np.random.default_rng(int(pixels.astype(np.int64).sum()))
    people = []
    for _ in range(rng.integers(0, 4)):
        x, y = rng.integers(0, 60, 2)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + 40, x : x + 30] = True
        points = np.array([x, y]) + rng.random((17, 2)) * (30, 40)
        people.append(Person(points, rng.random(17), float(rng.random()), encode_mask(mask)))
    return people


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """An annotation file and its images; one image is missing and one damaged."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(1)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for number in range(IMAGES):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), pixels)
        content["images"].append(
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        )
        for person in guess(pixels[..., ::-1])[:2]:
            points = person.keypoints + rng.normal(0, 2, (17, 2))
            x, y, w, h = person.box
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": np.c_[points, np.full(17, 2)].reshape(-1).tolist(),
                    "bbox": [x + 0.5, y + 0.5, w, h],
                    "segmentation": person.rle,
                }
            )
    (folder / "3.png").unlink()
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:100])
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json", folder


SCRIPT = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from test_resume import guess
from personlab_keras.evaluation import evaluate
def slow(pixels):
    time.sleep(0.02)
    return guess(pixels)
def progress(done, total):
    print(done, flush=True)
evaluate(slow, {annotations!r}, {images!r}, {out!r}, identity="guess", progress=progress)
"""


def test_killed_five_times_it_ends_with_the_same_bytes(dataset, tmp_path):
    annotations, images = dataset
    whole, out = tmp_path / "whole", tmp_path / "killed"
    evaluate(guess, annotations, images, whole, identity="guess")
    script = SCRIPT.format(
        tests=str(Path(__file__).parent),
        root=str(ROOT),
        annotations=str(annotations),
        images=str(images),
        out=str(out),
    )
    dice = random.Random(7)
    reached = []
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if int(line) >= (reached[-1] if reached else 0) + dice.randint(1, 9):
                break
        time.sleep(dice.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached.append(int(line))
        assert not (out / "metrics.json").exists()
    assert reached == sorted(set(reached))  # each went on where the last one was killed
    calls = []
    evaluate(
        lambda pixels: calls.append(1) or guess(pixels), annotations, images, out, identity="guess"
    )
    assert len(calls) < IMAGES - reached[-1] + 1
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in whole.iterdir())
    assert JOURNAL_FILE not in names
    for name in names:
        if name != "timings.json":
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"image missing": 1, "image unreadable": 1}.items() <= metrics["skipped"].items()
    assert 0.1 < metrics["keypoints"]["AP"] < 1.0


class Stop(Exception):
    pass


def interrupted(dataset, out, after, error=Stop, **options):
    """Evaluates until so many images are predicted; gives the error that ended it."""
    seen = []

    def predict(pixels):
        if len(seen) == after:
            raise error
        seen.append(1)
        return guess(pixels)

    with pytest.raises(error) as caught:
        evaluate(predict, *dataset, out, **options)
    return caught.value


def calls_until_the_end(dataset, out, **options):
    calls = []
    evaluate(lambda pixels: calls.append(1) or guess(pixels), *dataset, out, **options)
    return len(calls)


USABLE = IMAGES - 2


def test_only_the_same_evaluation_resumes(dataset, tmp_path):
    for options, again, remaining in (
        ({"identity": "a"}, {"identity": "a"}, USABLE - 20),
        ({"identity": "a"}, {"identity": "b"}, USABLE),
        ({"identity": "a"}, {"identity": "a", "frame": "turned"}, USABLE),
        ({"identity": "a"}, {}, USABLE),
        ({}, {}, USABLE),
    ):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        interrupted(dataset, out, 20, **options)
        assert (out / JOURNAL_FILE).is_file()
        assert calls_until_the_end(dataset, out, **again) == remaining


def test_a_line_that_was_cut_is_written_anew(dataset, tmp_path):
    interrupted(dataset, tmp_path, 20, identity="a")
    journal = tmp_path / JOURNAL_FILE
    os.truncate(journal, journal.stat().st_size - 10)
    assert calls_until_the_end(dataset, tmp_path, identity="a") == USABLE - 19


def test_ctrl_c_says_how_to_resume(dataset, tmp_path):
    error = interrupted(dataset, tmp_path, 20, identity="a", error=KeyboardInterrupt)
    assert str(error) == "interrupted after 22 of 60 images; run the same command to resume"


def test_two_evaluations_do_not_share_a_folder(dataset, tmp_path):
    def meanwhile(pixels):
        with pytest.raises(InputError, match="another process is writing there"):
            evaluate(guess, *dataset, tmp_path)
        raise Stop

    with pytest.raises(Stop):
        evaluate(meanwhile, *dataset, tmp_path)
