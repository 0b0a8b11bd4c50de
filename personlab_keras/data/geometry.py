"""Views: one affine map that carries an image, its keypoints and its masks together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from personlab_keras.config import DataConfig
from personlab_keras.method.coordinates import grid, map_side, transform_points
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class View:
    """A square window onto an image.

    Attributes:
        affine: (2, 3) float64, image pixel -> view pixel.
        side: of the view in pixels.
        mirrored: whether the map mirrors, so that left and right keypoints change places.
    """

    affine: np.ndarray
    side: int
    mirrored: bool = False

    @property
    def scale(self) -> float:
        """View pixels per image pixel."""
        (a, b), (c, d) = self.affine[:, :2].tolist()
        return math.sqrt(abs(a * d - b * c))


def whole_image(width: int, height: int, side: int) -> View:
    """The image scaled by the half-pixel rule so that its longer side fills the view, at the upper
    left corner.

    That is how the predictor fits an image to the network, so a network meets in training what it
    meets later."""
    return View(_shrunk_or_enlarged(side / max(width, height)), side)


def extent(width: int, height: int, side: int) -> np.ndarray:
    """(2,) float64: width and height of an image in pixels of the view that shows it whole.

    >>> extent(640, 480, 801).tolist()
    [801.0, 600.75]
    """
    return np.array([width, height], np.float64) * (side / max(width, height))


def stored_photo_to_whole_view(photo_extent: np.ndarray, width: int, height: int) -> np.ndarray:
    """(2, 3) float64: pixel of a stored photo of that size -> pixel of the view that shows it
    whole, by the half-pixel rule.
    """
    ratio = np.asarray(photo_extent, np.float64) / (width, height)
    return np.column_stack([np.diag(ratio), (ratio - 1.0) / 2.0])


def warp_photo(
    photo: np.ndarray,
    photo_extent: np.ndarray,
    affine: np.ndarray,
    side: int,
    pad_colour: tuple[int, int, int],
) -> np.ndarray:
    """(side, side, 3) uint8: a view of a stored photo (H, W, 3) uint8, as `warp_image` gives it.

    Args:
        photo_extent: of the photo, as `extent` gives it.
        affine: (2, 3), pixel of the view that shows the photo whole -> pixel of the view.
        pad_colour: in the photo's order of channels.
    """
    height, width = photo.shape[:2]
    before = np.vstack([stored_photo_to_whole_view(photo_extent, width, height), [0.0, 0.0, 1.0]])
    view = View(np.asarray(affine, np.float64) @ before, side)
    return warp_image(photo, view, pad_colour)


def _shrunk_or_enlarged(scale: float) -> np.ndarray:
    """(2, 3): the half-pixel rule."""
    shift = (scale - 1.0) / 2.0
    return np.array([[scale, 0.0, shift], [0.0, scale, shift]])


def random_view(
    width: int, height: int, side: int, settings: DataConfig, rng: np.random.Generator
) -> View:
    """A view at random scale, rotation, position and handedness.

    The scale is relative to the whole image fitting the view and uniform in `settings.scale`. The
    position is uniform over those at which, unrotated, the larger of view and image covers the
    smaller: a magnified image fills the view, a small one is seen whole."""
    scale = rng.uniform(*settings.scale) * side / max(width, height)
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    mirrored = bool(rng.random() < settings.flip)
    slack = side - scale * np.array([width, height])
    corner = rng.uniform(np.minimum(slack, 0.0), np.maximum(slack, 0.0))
    # The centre of the unrotated image in the view; the image turns about it.
    centre = corner + scale * np.array([width, height]) / 2.0 - 0.5
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn[:, 0] *= -1.0
    shift = centre - turn @ np.array([(width - 1) / 2.0, (height - 1) / 2.0])
    return View(np.concatenate([turn, shift[:, None]], axis=1), side, mirrored)


def warp_image(image: np.ndarray, view: View, pad_colour: tuple[int, int, int]) -> np.ndarray:
    """(side, side, 3) uint8: the view of an image (H, W, 3) uint8, linear interpolation, smoothed
    first where it shrinks.

    Args:
        pad_colour: in the image's order of channels.
    """
    affine = view.affine
    whole = np.abs(affine - _shrunk_or_enlarged(view.scale)).max() < 1e-9
    if whole and round(min(image.shape[:2]) * view.scale):
        # The whole image, as it is: one resize, by exactly this scale, is faster than a warp, and
        # sharper than a resize and a warp.
        height, width = (min(view.side, round(side * view.scale)) for side in image.shape[:2])
        canvas = np.empty((view.side, view.side, 3), np.uint8)
        below, right = canvas[height:], canvas[:height, width:]
        if len(set(pad_colour)) == 1:  # one number is laid two hundred times as fast as three
            below[:] = right[:] = pad_colour[0]
        else:
            below[:], right[:] = pad_colour, pad_colour
        method = cv2.INTER_AREA if view.scale < 1.0 else cv2.INTER_LINEAR
        inside = canvas[:height, :width]
        resized = cv2.resize(
            image, None, inside, fx=view.scale, fy=view.scale, interpolation=method
        )
        if not np.may_share_memory(resized, canvas):  # of a row or column more or less
            inside[:] = resized[:height, :width]
        return canvas
    if view.scale < 1.0:
        # Linear interpolation alone would skip pixels. The image is averaged down to its size in
        # the view first, as the predictor does it, which leaves turning and shifting to the
        # interpolation.
        height, width = image.shape[:2]
        small = (max(1, round(width * view.scale)), max(1, round(height * view.scale)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        enlarge = np.diag([width / small[0], height / small[1], 1.0])
        enlarge[:2, 2] = (np.diag(enlarge)[:2] - 1.0) / 2.0  # by the half-pixel rule, too
        affine = affine @ enlarge
    return cv2.warpAffine(
        image,
        affine,
        (view.side, view.side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=pad_colour,
    )


def warp_keypoints(keypoints: np.ndarray, view: View, skeleton: Skeleton) -> np.ndarray:
    """Keypoints (P, K, 3) [x, y, v] of the image in the view, float64; v is kept, also for points
    outside it.
    """
    moved = np.concatenate(
        [transform_points(keypoints[..., :2], view.affine), keypoints[..., 2:]], axis=-1
    )
    return moved[:, skeleton.flip_order] if view.mirrored else moved


def warp_boxes(boxes: np.ndarray, view: View) -> np.ndarray:
    """Boxes (P, 4) [x, y, w, h] -> (P, 4) axis-parallel boxes around them in the view; both in
    pixel-centre coordinates.
    """
    if not len(boxes):
        return boxes
    x, y, width, height = np.moveaxis(boxes, -1, 0)
    corners = np.stack(
        [np.stack([x + i * width, y + j * height], axis=-1) for i in (0, 1) for j in (0, 1)], axis=1
    )
    moved = transform_points(corners, view.affine)
    low, high = moved.min(axis=1), moved.max(axis=1)
    return np.concatenate([low, high - low], axis=-1)


def sample_mask(mask: np.ndarray, view: View, stride: int) -> np.ndarray:
    """(h, w) bool: the image's mask (H, W) bool at the points of the view's map cells, each read at
    its nearest pixel.

    A cell is a point, so nothing is interpolated: a mask stays a mask and is neither dilated nor
    smeared."""
    return mask_sampler(view, stride, *mask.shape)(mask)


@lru_cache(maxsize=4)
def _cells(cells: int, stride: int) -> np.ndarray:
    """(cells, cells, 2) float64: the points of the map cells; for reading only."""
    return grid(cells, cells, stride).astype(np.float64)


def mask_sampler(
    view: View, stride: int, height: int, width: int
) -> Callable[[np.ndarray], np.ndarray]:
    """`sample_mask` for many masks of an image of that size: where the cells lie is worked out
    once.
    """
    cells = map_side(view.side, stride)
    inverse = cv2.invertAffineTransform(view.affine)
    points = transform_points(_cells(cells, stride), inverse)
    columns, rows = np.floor(points + 0.5).astype(np.int64).transpose(2, 0, 1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    return lambda mask: inside & mask[rows, columns]
