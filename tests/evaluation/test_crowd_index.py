"""AP by crowd index, against CrowdPose's own procedure in pycocotools' terms."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from published_forms import crowdpose
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.evaluation import evaluate_results
from personlab_keras.method.skeleton import load_skeleton

SKELETON = load_skeleton("crowdpose")


@pytest.fixture
def content(scenes):
    return crowdpose(json.loads((scenes / "annotations.json").read_text()))


def results(content, spread, seed=0):
    """Everybody with labelled keypoints, moved at random; a third of them missed."""
    random = np.random.default_rng(seed)
    found = []
    for entry in content["annotations"]:
        points = np.array(entry["keypoints"], float).reshape(-1, 3)
        if not points[:, 2].any() or random.random() < spread / 9:
            continue
        points[:, :2] += random.normal(0, spread, (len(points), 2))
        score = float(random.random())
        common = {"image_id": entry["image_id"], "category_id": 1, "score": score}
        found.append({**common, "keypoints": points.reshape(-1).tolist()})
    return found


def published(content, found, low, high):
    """AP over the images of a span of crowd indices, as CrowdPose's evaluation takes it: by
    COCOeval on these images alone, with .53 of the box for the area.
    """
    truth = copy.deepcopy(content)
    for number, entry in enumerate(truth["annotations"], start=1):
        _, _, width, height = entry["bbox"]
        labelled = sum(v > 0 for v in entry["keypoints"][2::3])
        entry.update(area=width * height * 0.53, id=number, num_keypoints=labelled)
    images = [image["id"] for image in truth["images"] if low <= image["crowdIndex"] < high]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), "keypoints")
        evaluation.params.imgIds = images
        evaluation.params.kpt_oks_sigmas = (
            np.array(
                [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]
            )
            / 10
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("spread", [0.5, 1.5, 3.0])
def test_figures_equal_those_of_crowdposes_procedure(content, spread):
    found = results(content, spread)
    figures = evaluate_results(content, found, skeleton=SKELETON)["keypoints"]
    spans = {"": (0, 2), "easy": (0, 0.1), "medium": (0.1, 0.8), "hard": (0.8, 2)}
    expected = {level: published(content, found, *span) for level, span in spans.items()}
    assert len({round(value, 4) for value in expected.values()}) > 2  # they can be told apart
    for level, value in expected.items():
        assert figures[f"AP{level}"] == pytest.approx(value, abs=1e-12), level


def test_the_levels_are_judged_apart(content):
    hard = {image["id"] for image in content["images"] if image["crowdIndex"] >= 0.8}
    exact = results(content, 0.0)
    found = [result for result in exact if result["image_id"] not in hard]
    figures = evaluate_results(content, found, skeleton=SKELETON)["keypoints"]
    assert figures["APeasy"] == pytest.approx(1.0)
    assert figures["APmedium"] == pytest.approx(1.0)
    assert figures["APhard"] == 0.0


def test_files_without_an_index_have_no_such_figures(content):
    for image in content["images"]:
        del image["crowdIndex"]
    found = results(content, 0.0)
    assert not {"APeasy", "APmedium", "APhard"} & set(
        evaluate_results(content, found, skeleton=SKELETON)["keypoints"]
    )


@pytest.mark.parametrize("index", [None, "0.9", float("nan"), -1, 7])
def test_an_image_without_a_usable_index_is_in_no_level(content, index):
    for image in content["images"]:
        image["crowdIndex"] = index if image["crowdIndex"] >= 0.8 else image["crowdIndex"]
    metrics = evaluate_results(content, results(content, 0.0), skeleton=SKELETON)
    assert metrics["keypoints"]["APmedium"] == pytest.approx(1.0)
    assert metrics["keypoints"]["APhard"] is None
    assert metrics["unavailable"]["keypoints APhard"] == (
        "no person with labelled keypoints is annotated in images of crowd index from 0.8"
    )
