"""The files that `evaluate` writes, judged by plain COCO and COCOeval on the user's own annotation
file, give every figure of metrics.json.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.evaluation import evaluate
from personlab_keras.evaluation.judge import _Evaluation
from personlab_keras.method.person import Person, encode_mask

SHARED = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[2] / ".." / "shared"))
DATA = SHARED / "data"
SETS = {
    "sample train": ("coco-sample/annotations/person_keypoints_train2017.json", "train2017"),
    "sample val": ("coco-sample/annotations/person_keypoints_val2017.json", "val2017"),
    "more val": ("coco-more/val.json", "images"),
}
pytestmark = pytest.mark.skipif(
    not (DATA / "coco-more").is_dir(),
    reason=f"the COCO sample is absent: {DATA} (PERSONLAB_SHARED)",
)
FIGURES = {
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR", "ARs", "ARm", "ARl"),
}


def quietly(call, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*arguments)


def folder_of(path: Path, images: str) -> Path:
    return next(each for each in path.parents[1].rglob(images) if each.is_dir())


def plausible_people(coco: COCO, image_id: int, rng) -> list[Person]:
    """Most people of an image, roughly, people who are not there, and some within crowds."""
    image = coco.imgs[image_id]
    height, width = image["height"], image["width"]
    people = []
    for entry in coco.imgToAnns[image_id]:
        if rng.random() < 0.2:
            continue
        x, y, w, h = entry["bbox"]
        points = np.array([x, y]) + rng.random((17, 2)) * (w, h)
        labelled = np.array(entry.get("keypoints", [0] * 51), float).reshape(-1, 3)
        known = labelled[:, 2] > 0
        spread = rng.uniform(0, 0.08) * np.sqrt(entry["area"])
        points[known] = labelled[known, :2] + rng.normal(0, spread, (known.sum(), 2))
        points[rng.random(17) < 0.1] = np.nan
        mask = coco.annToMask(entry).astype(bool)
        mask = np.roll(mask, rng.integers(-6, 7, 2), axis=(0, 1))
        people.append(
            Person(points, rng.random(17), float(np.round(rng.random(), 2)), encode_mask(mask))
        )
    for _ in range(rng.integers(0, 3)):
        x, y = rng.random(2) * (width, height) / 2
        points = np.array([x, y]) + rng.random((17, 2)) * 60
        mask = np.zeros((height, width), bool)
        mask[int(y) : int(y) + 50, int(x) : int(x) + 40] = True
        people.append(Person(points, np.ones(17), float(rng.random()), encode_mask(mask)))
    return people


@pytest.fixture(scope="module", params=SETS)
def evaluated(request, tmp_path_factory):
    annotations = DATA / SETS[request.param][0]
    images = folder_of(annotations, SETS[request.param][1])
    coco = quietly(COCO, str(annotations))
    rng = np.random.default_rng(8)
    ids = iter(sorted(coco.imgs))
    out = tmp_path_factory.mktemp("evaluated")
    evaluate(lambda pixels: plausible_people(coco, next(ids), rng), annotations, images, out)
    return annotations, out


def test_plain_cocoeval_on_the_written_files_gives_every_figure(evaluated):
    annotations, out = evaluated
    metrics = json.loads((out / "metrics.json").read_text())
    compared = 0
    for kind, figures in FIGURES.items():
        coco = quietly(COCO, str(annotations))
        detected = quietly(coco.loadRes, str(out / f"{kind}_results.json"))
        evaluation = COCOeval(coco, detected, kind)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            quietly(step)
        ours = metrics["segmentation" if kind == "segm" else kind]
        for figure, value in zip(figures, evaluation.stats, strict=True):
            if figure is not None:
                assert (-1 if ours[figure] is None else ours[figure]) == pytest.approx(
                    value, abs=1e-12
                ), (kind, figure)
                compared += 1
        assert 0.05 < ours["AP"] < 0.9
    assert compared == 20


def test_similarities_are_those_of_pycocotools_to_the_last_bit(evaluated):
    annotations, out = evaluated
    coco = quietly(COCO, str(annotations))
    detected = quietly(coco.loadRes, str(out / "keypoints_results.json"))
    plain, ours = (kind(coco, detected, "keypoints") for kind in (COCOeval, _Evaluation))
    pairs = 0
    for evaluation in (plain, ours):
        evaluation.params.maxDets = [20]
        evaluation._prepare()
    for image in coco.imgs:
        for category in coco.cats:
            expected = plain.computeOks(image, category)
            found = ours.computeOks(image, category)
            np.testing.assert_array_equal(found, expected)
            pairs += np.size(expected)
    assert pairs > 20
