"""CrowdPose, OCHuman, MPII and COCO-WholeBody as published: from the file to records by
--skeleton alone.
"""

import json

import numpy as np
import pytest
from published_forms import FORMS, wholebody

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.data.records import read_folder
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import load_skeleton


@pytest.fixture
def write(scenes, tmp_path):
    """Writes the synthetic scenes in a form; gives the file and the content."""

    def make(form):
        content = form(json.loads((scenes / "annotations.json").read_text()))
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(content))
        return path, content

    return make


@pytest.mark.parametrize("name", FORMS)
def test_every_labelled_keypoint_of_a_published_form_is_read(write, name):
    path, content = write(FORMS[name])
    dataset = read_coco(path, load_skeleton(name))
    found = {person.id: person for image in dataset.images for person in image.annotations}
    assert len(found) == len(content["annotations"]) > 10
    for entry in content["annotations"]:
        said = [*entry["keypoints"], *entry.get("foot_kpts", ())]
        expected = np.array(said, float).reshape(-1, 3)
        inside = (expected[:, :2].min(axis=1) >= -1) & (expected[:, :2].max(axis=1) <= 97)
        np.testing.assert_array_equal(
            found[entry["id"]].keypoints,
            np.where((inside & (expected[:, 2] > 0))[:, None], expected, 0),
        )
        np.testing.assert_allclose(found[entry["id"]].box, entry["bbox"])


@pytest.mark.parametrize("name", FORMS)
def test_a_published_form_becomes_records(write, scenes, tmp_path, tiny_config, name):
    path, content = write(FORMS[name])
    skeleton = load_skeleton(name)
    out = tmp_path / "records"
    meta = prepare(path, scenes / "images", out, tiny_config, skeleton, engine=processes(1))
    assert meta.skeleton == skeleton
    known = [
        entry
        for entry in content["annotations"]
        if not entry["iscrowd"] and (any(entry["keypoints"]) or "segmentation" in entry)
    ]
    assert meta.counts["persons"] == len(known) > 10
    masks = any("segmentation" in entry for entry in content["annotations"])
    assert ("mask missing (person kept)" in meta.skipped) != masks
    for record in read_folder(out, meta):
        targets = record.targets
        assert targets.keypoints.shape[1] == skeleton.keypoint_count
        assert bool(targets.instance.any()) == masks


def test_the_feet_of_wholebody(write, scenes, tmp_path, tiny_config):
    path, content = write(wholebody)
    feet = load_skeleton("coco_body_feet")
    first, second, third = content["annotations"][:3]
    third["keypoints"] = first["keypoints"]
    # Malformed feet leave the body; a crowd needs none; the count of the file is that of the body.
    del first["foot_kpts"]
    second["foot_kpts"] = second["foot_kpts"][:-1]
    third.update(iscrowd=1)
    del third["foot_kpts"]
    path.write_text(json.dumps(content))
    dataset = read_coco(path, feet)
    assert dataset.skipped["keypoints missing or malformed (person kept without)"] == 2
    assert "num_keypoints disagrees with the keypoints (keypoints believed)" not in dataset.skipped
    assert dataset.examples["keypoints missing or malformed (person kept without)"][0] == (
        "annotations[0].foot_kpts must be 18 finite numbers. Received: None"
    )
    people = {person.id: person for image in dataset.images for person in image.annotations}
    for entry in (first, second):
        assert people[entry["id"]].annotated
        assert not people[entry["id"]].keypoints[17:].any()


def test_a_file_without_feet_is_refused(scenes):
    with pytest.raises(
        InputError, match="annotations must have foot_kpts for 'coco_body_feet'. Received: none"
    ):
        read_coco(scenes / "annotations.json", load_skeleton("coco_body_feet"))
