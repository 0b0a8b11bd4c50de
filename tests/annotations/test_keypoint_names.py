"""Keypoints by name, as the published files spell them."""

import pytest

from personlab_keras.annotations.keypoint_names import parts_joined, same_names
from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton

# As the usual conversion of MPII's annotations to COCO's form writes them.
MPII_CONVERTED = [
    "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "throax", "upper_neck",
    "head_top", "r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist",
]  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "skeleton", "parts"),
    [
        (list(COCO_PERSON.keypoints), "coco_person", ()),
        ([name.replace("_", " ").title() for name in COCO_PERSON.keypoints], "coco_person", ()),
        (MPII_CONVERTED, "mpii", ()),
        (MPII_CONVERTED[::-1], "mpii", None),
        (list(COCO_PERSON.keypoints), "coco_body_feet", ("foot_kpts",)),
        (list(COCO_PERSON.keypoints), "crowdpose", None),
        (list(load_skeleton("coco_body_feet").keypoints), "coco_body_feet", ()),
        (list(COCO_PERSON.keypoints[:-1]), "coco_person", None),
        ([*COCO_PERSON.keypoints, "left_big_toe"], "coco_person", None),
        (None, "coco_person", None),
        ("nose", "coco_person", None),
        ([*COCO_PERSON.keypoints[:-1], 7], "coco_person", None),
    ],
)
def test_which_lists_make_up_a_skeleton(listed, skeleton, parts):
    assert parts_joined(listed, load_skeleton(skeleton)) == parts


def test_other_names_are_other_keypoints():
    assert same_names(["leftEye", "NOSE"], ["left_eye", "nose"])
    assert not same_names(["left_eye"], ["right_eye"])
    assert not same_names(["left_eye"], ["left_eyebrow"])
    assert not same_names(["eye"], ["left_eye"])
