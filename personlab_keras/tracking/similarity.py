"""Similarities of boxes and of poses."""

from __future__ import annotations

import numpy as np

from personlab_keras.method.skeleton import Skeleton


def pose_similarity(
    first: np.ndarray, second: np.ndarray, areas: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """Object keypoint similarity of poses over their common keypoints.

    Args:
        first: (N, K, 2) keypoints; NaN where not found.
        second: (M, K, 2) keypoints.
        areas: (N,) box areas of the first in square pixels.
        skeleton: defines the tolerance of each keypoint.

    Returns:
        (N, M) in [0, 1]; NaN where poses have fewer than `FEWEST` keypoints in common.

    >>> from personlab_keras.method.skeleton import COCO_PERSON
    >>> pose = np.arange(34.0).reshape(1, 17, 2)
    >>> pose_similarity(pose, pose, np.array([900.0]), COCO_PERSON)
    array([[1.]])
    """
    squares = ((first[:, None] - second[None]) ** 2).sum(axis=-1)
    tolerance = 2 * np.maximum(areas, 1.0)[:, None, None] * skeleton.kappas**2
    common = np.isfinite(squares)
    counts = common.sum(axis=-1)
    agreement = np.where(common, np.exp(-np.where(common, squares, 0.0) / tolerance), 0.0)
    return np.where(counts >= FEWEST, agreement.sum(axis=-1) / np.maximum(counts, 1), np.nan)


FEWEST = 4
"""Fewest common keypoints of two poses that are compared."""


def box_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) [left, top, right, bottom]: (N, M).

    >>> box_overlap(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10]])).round(3)
    array([[0.333]])
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
    sizes = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    return shared / np.maximum(sizes[0][:, None] + sizes[1][None] - shared, 1e-9)
