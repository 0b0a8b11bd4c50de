"""Other people's data sets from the file to metrics, by the command line and --skeleton alone."""

import json

import numpy as np
import pytest
from published_forms import FORMS
from tiny import flags

from personlab_keras.annotations.convert import convert
from personlab_keras.annotations.formats import read_annotations
from personlab_keras.cli import main
from personlab_keras.evaluation import evaluate
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton


def personlab(*arguments):
    assert main([str(argument) for argument in arguments]) == 0, arguments


@pytest.fixture(scope="module")
def sources(scenes, tmp_path_factory):
    """Name of a form -> the arguments that name its annotations and images, and its skeleton."""
    folder = tmp_path_factory.mktemp("forms")
    content = json.loads((scenes / "annotations.json").read_text())
    found = {}
    for skeleton, form in FORMS.items():
        file = folder / f"{skeleton}.json"
        file.write_text(json.dumps(form(content)))
        found[form.__name__] = (["--annotations", file, "--images", scenes / "images"], skeleton)
    convert(scenes / "annotations.json", folder / "yolo", COCO_PERSON, images=scenes / "images")
    found["yolo"] = (["--annotations", folder / "yolo"], "coco_person")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", ["crowdpose", "yolo"])  # the others differ in reading alone
def test_from_the_published_file_to_metrics(sources, tmp_path, no_saved_model, form):
    source, skeleton = sources[form]
    records, run, model = tmp_path / "records", tmp_path / "run", tmp_path / "model"
    baked = flags("data", "targets")
    personlab("prepare", *source, "--skeleton", skeleton, "--out", records, *baked)
    personlab("train", "--records", records, "--workdir", run, *flags(), "--set", "train.steps=2")
    personlab("export", run, "--out", model)
    personlab("evaluate", "--model", model, *source, "--out", tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["images"] == 10
    assert metrics["keypoints"]["AP"] is not None
    assert metrics["segmentation"] is None  # neither has masks
    assert ("APhard" in metrics["keypoints"]) == (form == "crowdpose")


@pytest.mark.parametrize("form", ["crowdpose", "ochuman", "mpii", "wholebody", "yolo"])
def test_a_perfect_predictor_scores_one(sources, tmp_path, form):
    source, name = sources[form]
    skeleton = load_skeleton(name)
    dataset = read_annotations(source[1], skeleton)
    answers = iter(
        [
            [
                Person(
                    np.where(person.keypoints[:, 2:] > 0, person.keypoints[:, :2], np.nan),
                    person.keypoints[:, 2] / 2,
                    0.9,
                )
                for person in image.annotations
                if person.annotated and not person.crowd
            ]
            for image in dataset.images
        ]
    )
    images = source[3] if len(source) > 2 else None
    metrics = evaluate(lambda image: next(answers), source[1], images, tmp_path, skeleton=skeleton)
    figures = {name: value for name, value in metrics["keypoints"].items() if "AP" in name}
    assert all(value == pytest.approx(1.0) for value in figures.values() if value is not None)
    assert figures["AP"] is not None
