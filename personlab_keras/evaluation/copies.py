"""How often one person is found twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as rle

from personlab_keras.config import DecodeConfig

SCORE_THRESHOLD = DecodeConfig().score_threshold
"""Least score of the people that count: the default of `predict`."""
SAME_MASK = 0.8
"""Intersection over union of two masks above which they are of one person."""


def count_copies(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The number of people with a score of at least `SCORE_THRESHOLD`, and of those among them
    whose mask overlaps that of a better one in the same image by more than `SAME_MASK`.

    Args:
        results: COCO's mask results, entries with image_id, score and segmentation (RLE), in any
            order; of equal scores the first is the better one.

    >>> mask = {"size": [1, 4], "counts": "04"}
    >>> twice = [{"image_id": 1, "score": score, "segmentation": mask} for score in (0.9, 0.5, 0.2)]
    >>> count_copies(twice)
    {'people': 2, 'copies': 1, 'score_threshold': 0.3, 'mask_iou': 0.8}
    """
    of_images = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        if result["score"] >= SCORE_THRESHOLD:
            of_images[result["image_id"]].append(_as_bytes(result["segmentation"]))
    copies = 0
    for masks in of_images.values():
        overlaps = rle.iou(masks, masks, [False] * len(masks))
        copies += sum(bool((overlaps[j, :j] > SAME_MASK).any()) for j in range(len(masks)))
    return {
        "people": sum(map(len, of_images.values())),
        "copies": copies,
        "score_threshold": SCORE_THRESHOLD,
        "mask_iou": SAME_MASK,
    }


def _as_bytes(mask: Mapping[str, Any]) -> dict[str, Any]:
    counts = mask["counts"]
    return {**mask, "counts": counts.encode() if isinstance(counts, str) else counts}
