"""Compares the keypoints of a file with those of a skeleton, in any common spelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from personlab_keras.method.skeleton import Skeleton

PARTS = {
    "foot_kpts": (
        "left_big_toe",
        "left_small_toe",
        "left_heel",
        "right_big_toe",
        "right_small_toe",
        "right_heel",
    )
}
"""Lists beside `keypoints` in COCO-WholeBody's annotations, which its categories do not name:
field -> keypoint names.
"""
_SIDES = {"l": "left", "r": "right"}
_MISSPELT = {"throax": "thorax"}
"""The keypoints of the usual conversion of MPII."""


def parts_joined(listed: Any, skeleton: Skeleton) -> tuple[str, ...] | None:
    """The fields that complete `keypoints` to a skeleton; None if the keypoints differ.

    Args:
        listed: the `keypoints` of a category in the file.

    >>> from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton
    >>> parts_joined(list(COCO_PERSON.keypoints), COCO_PERSON)
    ()
    >>> parts_joined(list(COCO_PERSON.keypoints), load_skeleton("coco_body_feet"))
    ('foot_kpts',)
    """
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        return None
    names, fields = list(listed), []
    if same_names(names, skeleton.keypoints):
        return ()
    for field, part in PARTS.items():
        if same_names([*names, *part], skeleton.keypoints[: len(names) + len(part)]):
            names.extend(part)
            fields.append(field)
    return tuple(fields) if fields and len(names) == skeleton.keypoint_count else None


def same_names(these: Sequence[str], those: Sequence[str]) -> bool:
    """Whether two lists name the same keypoints in the same order, ignoring case and separators,
    with `l` and `r` for left and right.

    >>> same_names(["Left Shoulder", "r_ankle"], ["left_shoulder", "right_ankle"])
    True
    """
    return [_plain(name) for name in these] == [_plain(name) for name in those]


def _plain(name: str) -> tuple[str, ...]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\s_.\-]+", spaced.lower()) if word]
    return tuple(_SIDES.get(word, _MISSPELT.get(word, word)) for word in words)
