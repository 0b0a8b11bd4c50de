"""Instance masks: every pixel of a person points at all keypoints of that person, and is given to those whom it points at.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage

from personlab_keras.decoder.sampling import lead, upsample
from personlab_keras.maps import Maps

ROWS_AT_ONCE = 256
"""Rows of an image for which person probabilities are held: bounds the memory, not the result."""


@dataclass(frozen=True)
class Frame:
    """An image that the network saw: network point = image point * scale + offset.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels.
        scale: (sx, sy), network pixels per image pixel.
        offset: (ox, oy) in network pixels.

    Raises:
        ValueError: a side or a scale is not positive.
    """

    height: int
    width: int
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"`height` and `width` must be positive. Received: {self.height}, {self.width}")
        if min(self.scale) <= 0:
            raise ValueError(f"`scale` must be positive. Received: {self.scale}")

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the network's frame in this image."""
        return (points - np.asarray(self.offset)) / np.asarray(self.scale)

    def cells(self, shape: tuple[int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in a map of shape (h, w) of every row (height,) and column (width,) of the image, ascending.

        Pixels beyond the map's frame stand at its border.
        """
        sides, places = (self.width, self.height), []
        for axis in (1, 0):
            pixels = np.arange(sides[axis]) * self.scale[axis] + self.offset[axis]
            places.append(np.clip(pixels / stride, 0, shape[1 - axis] - 1))
        return places[0], places[1]


def embed(maps: Maps, cells: np.ndarray, refinements: int) -> np.ndarray:
    """G_k(x) = x + L_k(x) for each of the cells, refined so many times by the long-range field and then by the short one.

    Args:
        maps: with long offsets.
        cells: (A, 2) int (row, column).
        refinements: steps of each kind.

    Returns:
        (K, 2, A) float32 (x, y) in input pixels where each cell believes its person's keypoints are; NaN for no belief.
    """
    assert maps.long_offsets is not None
    long_offsets, short_offsets = (np.ascontiguousarray(field, np.float32) for field in (maps.long_offsets, maps.short_offsets))
    return _embed(long_offsets, short_offsets, np.ascontiguousarray(cells, np.int64), maps.stride, refinements)


@njit(cache=True)
def _embed(long_offsets: np.ndarray, short_offsets: np.ndarray, cells: np.ndarray, stride: int, refinements: int) -> np.ndarray:
    count = long_offsets.shape[2]
    embedding = np.empty((count, 2, len(cells)), np.float32)
    for a in range(len(cells)):
        row, column = cells[a]
        for k in range(count):
            x = column * stride + np.float64(long_offsets[row, column, k, 0])
            y = row * stride + np.float64(long_offsets[row, column, k, 1])
            for _ in range(refinements):
                x, y = lead(long_offsets, k, x, y, stride)
            for _ in range(refinements):
                x, y = lead(short_offsets, k, x, y, stride)
            embedding[k, 0, a], embedding[k, 1, a] = x, y
    return embedding


def embedding_distances(
    embedding: np.ndarray, keypoints: np.ndarray, weights: np.ndarray, scale: float, largest: float
) -> np.ndarray:
    """D_ij of every cell to one person: the mean distance of its guesses from the person's keypoints, by the person's size.

    D_ij = 1 / (sum_k p_k(y_jk)) * sum_k p_k(y_jk) |G_k(x_i) - y_jk| / lambda_j, over the keypoints that were found.

    Args:
        embedding: (K, 2, A) in input pixels.
        keypoints: (K, 2) in input pixels, NaN where not found.
        weights: (K,) p_k(y_jk).
        scale: lambda_j in input pixels.
        largest: distances are cut at this; cells that are surely farther are told at a fraction of the cost.

    Returns:
        (A,) float32, at most `largest`, which also stands where a guess is unknown or all weights are zero.
    """
    distances = np.full(embedding.shape[2], largest, np.float32)
    found = np.flatnonzero(np.isfinite(keypoints).all(axis=-1) & (weights > 0))
    if not len(found):
        return distances
    shares = weights[found] / (weights[found].sum() * scale)
    x, y = np.moveaxis(embedding[found] - keypoints[found, :, None], 1, 0)
    # The length of the mean is a lower bound of the mean of the lengths.
    close = np.flatnonzero((shares @ x) ** 2 + (shares @ y) ** 2 < largest**2)
    x, y = x[:, close], y[:, close]
    distances[close] = np.fmin(shares @ np.sqrt(x**2 + y**2), largest)
    return distances


def find_masks(
    people: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    maps: Maps,
    frame: Frame,
    *,
    refinements: int,
    segmentation_threshold: float,
    embedding_threshold: float,
) -> list[np.ndarray]:
    """A mask for every person: the pixels that show somebody and point at this person's keypoints.

    Not exclusive: a pixel may be owned by several people, or by none. Probabilities and distances are brought to the image's
    resolution bilinearly before they are compared with their thresholds.

    Args:
        people: (P, K, 2) in input pixels, NaN where not found.
        weights: (P, K) heatmap probability at the keypoints.
        scales: (P,) lambda_j in input pixels.
        maps: with long offsets and segmentation.
        frame: the image to find masks in.
        refinements: steps of refinement of the embedding by long offsets, then as many by short offsets.
        segmentation_threshold: least p_S of a pixel.
        embedding_threshold: t, largest D_ij of a pixel.

    Returns:
        P masks (frame.height, frame.width) bool.
    """
    assert maps.segmentation is not None
    masks = [np.zeros((frame.height, frame.width), bool) for _ in people]
    # A pixel above the threshold has a cell above it among the four that it is interpolated from.
    active = ndimage.binary_dilation(maps.segmentation >= segmentation_threshold, np.ones((3, 3), bool))
    cells = np.argwhere(active)
    if not len(cells) or not len(people):
        return masks
    embedding = embed(maps, cells, refinements)
    rows, columns = frame.cells(maps.shape, maps.stride)
    # In bands, so that a large image needs no floats for all its pixels at once.
    bands = np.array_split(rows, -(-frame.height // ROWS_AT_ONCE))
    foreground = np.concatenate([upsample(maps.segmentation, band, columns) >= segmentation_threshold for band in bands])
    # Beyond the threshold only the side matters. Uncut, a distance of many times t in a neighbouring cell would pull the
    # border towards the cell inside; cut at twice t, it lies half-way.
    largest = 2 * embedding_threshold
    for mask, keypoints, weight, scale in zip(masks, people, weights, scales, strict=True):
        near = np.full(maps.shape, largest, np.float32)
        near[tuple(cells.T)] = embedding_distances(embedding, keypoints, weight, scale, largest)
        box = _box_around(near <= embedding_threshold)
        if box is not None:
            down, across = slice(*np.searchsorted(rows, box[0])), slice(*np.searchsorted(columns, box[1]))
            own = upsample(near, rows[down], columns[across]) <= embedding_threshold
            mask[down, across] = own & foreground[down, across]
    return masks


def _box_around(inside: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """((top, bottom), (left, right)) of the cells just outside those of a map that are true; None where none is.

    Between them lies every pixel that is interpolated from one of the cells inside.
    """
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    return (int(rows[0]) - 1, int(rows[-1]) + 1), (int(columns[0]) - 1, int(columns[-1]) + 1)
