import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as rle

from personlab_keras.method.person import Person, decode_mask, encode_mask


def someone(mask=True):
    keypoints = np.full((17, 2), np.nan)
    keypoints[[0, 5, 6]] = [[4, 2], [6, 5], [2, 5]]
    area = np.zeros((10, 8), bool)
    area[2:7, 3:6] = True
    return Person(
        keypoints,
        np.where(np.isfinite(keypoints[:, 0]), 0.5, 0.0),
        0.25,
        encode_mask(area) if mask else None,
    )


def test_box_surrounds_the_pixels_of_the_mask():
    # Columns 3, 4, 5 reach from 2.5 to 5.5; rows 2..6 from 1.5 to 6.5.
    assert someone().box.tolist() == [2.5, 1.5, 3.0, 5.0]


def test_box_without_mask_surrounds_the_found_keypoints():
    assert someone(mask=False).box.tolist() == [2.0, 2.0, 4.0, 3.0]


def test_a_mask_without_pixels_is_not_written():
    person = replace(someone(), rle=encode_mask(np.zeros((10, 8), bool)))
    assert person.mask.shape == (10, 8)  # in Python it has its shape
    assert "mask" not in person.to_dict()
    (keypoints,) = person.to_coco(image_id=7)
    assert "segmentation" not in keypoints
    assert person.box.tolist() == someone(mask=False).box.tolist()
    assert repr(person) == repr(someone(mask=False))


def test_nobody_has_an_empty_box():
    nothing = Person(np.full((17, 2), np.nan), np.zeros(17), 0.0)
    assert nothing.box.tolist() == [0.0] * 4
    assert not nothing.found.any()


def test_coco_entries():
    keypoints, segmentation = someone().to_coco(image_id=7)
    assert keypoints["keypoints"][:3] == [4.0, 2.0, 0.5]
    assert keypoints["keypoints"][3:6] == [
        4.0,
        3.5,
        0.0,
    ]  # not found: the middle of those that were
    # COCO's edges: columns 3..5 span 3..6, which is what pycocotools says of the mask.
    assert (
        segmentation["bbox"]
        == rle.toBbox(segmentation["segmentation"]).tolist()
        == [3.0, 2.0, 3.0, 5.0]
    )
    assert rle.area(segmentation["segmentation"]) == 15


def test_dict_is_json_with_nulls_where_nothing_was_found():
    values = json.loads(json.dumps(someone().to_dict(), allow_nan=False))
    assert values["keypoints"][1] == [None, None, 0.0]
    assert decode_mask(values["mask"]).sum() == 15
    assert "mask" not in someone(mask=False).to_dict()


def test_transformed_moves_points_and_keeps_nan():
    moved = someone().transformed(np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))
    assert moved.keypoints[0].tolist() == [9.0, 4.0]
    assert not moved.found[1]
    assert moved.mask is None


def test_mask_round_trip():
    mask = np.random.default_rng(1).random((13, 7)) > 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(K, 2\)"):
        Person(np.zeros((17, 3)), np.zeros(17), 0.0)
    with pytest.raises(ValueError, match="keypoint_scores"):
        Person(np.zeros((17, 2)), np.zeros(16), 0.0)
    with pytest.raises(ValueError, match="encode_mask"):
        Person(np.zeros((17, 2)), np.zeros(17), 0.0, np.zeros((3, 3)))
