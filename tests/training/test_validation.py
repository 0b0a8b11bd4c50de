"""Validation measures what `evaluate` measures: the same people in the same images, the same AP."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.config import load_config
from personlab_keras.data.geometry import whole_image
from personlab_keras.data.pipeline import stored_examples
from personlab_keras.data.records import read_judging, read_meta
from personlab_keras.evaluation import evaluate
from personlab_keras.method.maps import OUTPUTS
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, write_dataset
from personlab_keras.training import validation

SIDE = 161


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes with crowds, with people without keypoints and with images that are not annotated
    completely, as records, and what a fair network would find in each image: most people, roughly,
    somebody in every crowd, and somebody whom nobody annotated.
    """
    folder = tmp_path_factory.mktemp("scenes")
    options = SceneOptions(people=(1, 3), crowd=0.7, unannotated=0.3)
    written = write_dataset(folder / "scenes", 24, 150, 5, options=options, workers=1)
    content = json.loads(written.annotations.read_text())
    for image in content["images"][::5]:
        image["complete"] = False
    written.annotations.write_text(json.dumps(content))
    # One image of another size than the view, so that the scale between them is not 1.
    config = load_config(
        None, [f"data.view_size={SIDE}", "targets.radius=12", "train.batch_size=5"]
    )
    prepare(written.annotations, written.images, folder / "records", config, engine=processes(0))
    rng = np.random.default_rng(3)
    found = {}
    for image in read_coco(written.annotations, COCO_PERSON).images:
        found[image.id] = []
        for each in image.annotations:
            if each.annotated and rng.random() < 0.8:
                points = each.keypoints[:, :2].copy()
                points += rng.normal(0, rng.uniform(0, 0.12) * np.sqrt(each.area), points.shape)
            else:
                x, y, w, h = each.box
                points = np.array([x, y]) + rng.random((17, 2)) * (w, h)
            found[image.id].append(Person(points, np.ones(17), float(rng.random())))
        if not image.complete:
            found[image.id].append(Person(rng.random((17, 2)) * 150, np.ones(17), 0.95))
    return written, folder / "records", config, found


def validated(records, config, found, monkeypatch):
    """Keypoint AP by `validate` of a network that finds those people."""
    meta = read_meta(records)
    order = iter(
        [
            (int(example["image_id"]), example)
            for example in stored_examples(records, meta).as_numpy_iterator()
        ]
    )

    def people_of_the_next(*arguments, **named):
        image_id, _ = next(order)
        view = whole_image(150, 150, SIDE)
        return [person.transformed(view.affine) for person in found[image_id]]

    def nothing(image, **named):
        side = meta.map_side
        return {
            name: np.zeros((len(image), side, side, channels(meta.skeleton)), np.float32)
            for name, channels in OUTPUTS.items()
        }

    monkeypatch.setattr(validation, "decode", people_of_the_next)
    network = SimpleNamespace(predict=nothing)
    return validation.validate(network, str(records), config).figures["keypoint_AP"]


def test_the_same_people_get_the_same_ap_from_both(scenes, tmp_path, monkeypatch):
    written, records, config, found = scenes
    images = iter(read_coco(written.annotations, COCO_PERSON).images)
    metrics = evaluate(
        lambda pixels: found[next(images).id], written.annotations, written.images, tmp_path / "out"
    )
    ap = validated(records, config, found, monkeypatch)
    assert ap == pytest.approx(metrics["keypoints"]["AP"], abs=1e-6)
    assert 0.2 < ap < 0.9
    # People within crowds would be false positives if validation did not know the regions.
    known = read_judging(records, read_meta(records))
    without = {
        key: (regions[:0], scale, order[: len(order) - len(regions)])
        for key, (regions, scale, order) in known.items()
    }
    monkeypatch.setattr(validation, "read_judging", lambda records, meta: without)
    assert validated(records, config, found, monkeypatch) < ap - 0.01


def test_records_hold_the_regions_that_are_ignored(scenes):
    written, records, _, _ = scenes
    stored = read_judging(records, read_meta(records))
    regions = {key: found for key, (found, _, _) in stored.items() if len(found)}
    assert {scale for _, scale, _ in stored.values()} == {float(np.float32(SIDE / 150))}
    content = json.loads(written.annotations.read_text())
    crowds = {}
    for entry in content["annotations"]:
        if entry["iscrowd"]:
            crowds.setdefault((entry["image_id"], 0), []).append([*entry["bbox"], entry["area"]])
    for image in content["images"]:
        if not image.get("complete", True):
            crowds.setdefault((image["id"], 0), []).append([0, 0, 150, 150, 150 * 150])
    assert regions.keys() == crowds.keys()
    assert len(crowds) > 5
    scale = SIDE / 150
    for key, boxes in crowds.items():
        expected = np.array(boxes, float)
        # Edge coordinates; the record has pixel centres.
        found = regions[key].astype(float)
        found[:, :2] += 0.5
        expected[:, :4] *= scale
        expected[:, 4] *= scale**2
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
