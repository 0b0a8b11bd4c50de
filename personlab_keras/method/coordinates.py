"""The coordinate convention. This module is its only home.

- A point is (x, y), x to the right, y down; the last axis of an array of points is always (x, y).
  Images and maps are indexed [row, column], that is [y, x].
- Pixel centres are at integers. COCO keypoints are taken so. COCO boxes and polygons are edge
  coordinates: pixel c spans c..c+1. The half pixel is added and taken off at that border only, by
  `box_from_coco` and `box_to_coco`.
- Map cell [i, j] at stride s *is* the image point (s * j, s * i). Image sides are s * n + 1, map
  sides n + 1. The reason: a SAME convolution of stride 2 is centred on even pixels only when the
  side is odd, and mirroring a map of such an image mirrors the points of its cells exactly.
- Images are resized by the half-pixel rule (`resize_points`), which is what cv2.resize does. Maps
  are resized by the aligned rule: the corners are cells before and after, so a cell keeps its
  point.
- Offsets are (dx, dy) in network-input pixels at every stride. Mirroring negates dx and swaps left
  and right.
"""

from __future__ import annotations

import numpy as np

from personlab_keras.errors import InputError


def map_side(image_side: int, stride: int) -> int:
    """Cells along a side of an image of stride * n + 1 pixels.

    >>> map_side(401, 8)
    51

    Raises:
        InputError: the side is no stride * n + 1.
    """
    if image_side < 1 or (image_side - 1) % stride:
        raise InputError(
            f"an image side must be stride*n + 1 (stride={stride}). Received: {image_side}. Nearest: {nearest_side(image_side, stride)}"
        )
    return (image_side - 1) // stride + 1


def image_side(cells: int, stride: int) -> int:
    """The inverse of `map_side`.

    >>> image_side(51, 8)
    401
    """
    return (cells - 1) * stride + 1


def nearest_side(side: float, stride: int) -> int:
    """The nearest stride * n + 1, n >= 1.

    >>> nearest_side(400, 8), nearest_side(3, 16)
    (401, 17)
    """
    return stride * max(1, round((side - 1) / stride)) + 1


def covering_side(side: int, stride: int) -> int:
    """The smallest stride * n + 1, n >= 1, that holds `side` pixels.

    >>> covering_side(401, 8), covering_side(402, 8)
    (401, 409)
    """
    return stride * max(1, -(-(side - 1) // stride)) + 1


def grid(height: int, width: int, stride: int) -> np.ndarray:
    """(height, width, 2) float32: the image point (x, y) of every map cell."""
    y, x = np.mgrid[0:height, 0:width]
    return (np.stack([x, y], axis=-1) * stride).astype(np.float32)


def flip_points(points: np.ndarray, width: int) -> np.ndarray:
    """Points (..., 2) in the mirrored image of the given width.

    >>> flip_points(np.array([0.0, 5.0]), 401).tolist()
    [400.0, 5.0]
    """
    return np.stack([(width - 1) - points[..., 0], points[..., 1]], axis=-1)


def resize_points(points: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Points (..., 2) after an image of old = (width, height) was resized to new by the half-pixel
    rule (cv2.resize).

    >>> resize_points(np.array([0.0, 0.0]), (100, 100), (50, 50)).tolist()
    [-0.25, -0.25]
    """
    scale = np.asarray(new, np.float64) / np.asarray(old, np.float64)
    return (points + 0.5) * scale - 0.5


def transform_points(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points (..., 2) under an affine map (2, 3)."""
    return points @ affine[:, :2].T + affine[:, 2]


def box_from_coco(box: np.ndarray) -> np.ndarray:
    """COCO [x, y, width, height] in edge coordinates -> the same with (x, y) in pixel-centre
    coordinates. Inverse: `box_to_coco`.
    """
    return np.asarray(box, np.float64) - (0.5, 0.5, 0.0, 0.0)


def box_to_coco(box: np.ndarray) -> np.ndarray:
    """The inverse of `box_from_coco`."""
    return np.asarray(box, np.float64) + (0.5, 0.5, 0.0, 0.0)
