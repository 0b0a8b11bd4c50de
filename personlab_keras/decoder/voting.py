"""Hough voting: every cell of a disc says where the keypoint is; where many agree, there is one.

Papandreou et al. 2018, section 3.1: h_k(x) = 1 / (pi R^2) * sum_i p_k(x_i) B(x_i + S_k(x_i) - x), B the bilinear kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.coordinates import grid
from personlab_keras.maps import Maps


@dataclass(frozen=True)
class Votes:
    """The votes of all cells for all keypoints.

    Attributes:
        points: (N, 2) float32 (x, y) in input pixels where a vote lands, in the frame or not.
        mass: (N,) float32, the probability p_k of the cell that votes; positive.
        keypoints: (N,) int, what the vote is for.
    """

    points: np.ndarray
    mass: np.ndarray
    keypoints: np.ndarray


def cast_votes(maps: Maps) -> Votes:
    """The votes of all cells with a positive probability and an offset that is no NaN."""
    points = (grid(*maps.shape, maps.stride)[:, :, None] + maps.short_offsets).reshape(-1, 2)
    mass = maps.heatmaps.reshape(-1)
    cast = np.flatnonzero((mass > 0) & np.isfinite(points[:, 0]) & np.isfinite(points[:, 1]))
    return Votes(points[cast], mass[cast], cast % maps.heatmaps.shape[2])


def accumulate(votes: Votes, shape: tuple[int, int, int], stride: int, radius: float) -> np.ndarray:
    """Hough scores on the cells of the maps.

    A vote is shared between the four cells around the point where it lands; what falls on cells outside the frame is lost.
    The normaliser is the number of cells in a disc, pi R^2 / stride^2, so that a keypoint on which its whole disc agrees
    scores about 1 at any stride (less where it lies between cells), and the scores of a map times the normaliser add up to
    the mass of the votes inside the frame.

    Args:
        votes: as `cast_votes` gives them.
        shape: (h, w, K) of the heatmaps.
        stride: input pixels per cell.
        radius: R in input pixels.

    Returns:
        (h, w, K) float64.
    """
    height, width, count = shape
    cells = votes.points / stride
    inside = ((cells > -1) & (cells < (width, height))).all(axis=1)
    cells, mass, keypoints = cells[inside], votes.mass[inside].astype(np.float64), votes.keypoints[inside]
    low = np.floor(cells).astype(np.intp)
    x, y = (cells - low).T
    # A margin of one cell takes what falls outside.
    index = ((low[:, 1] + 1) * (width + 2) + low[:, 0] + 1) * count + keypoints
    scores = np.zeros((height + 2) * (width + 2) * count)
    for down, share_y in ((0, 1 - y), (1, y)):
        for right, share_x in ((0, 1 - x), (1, x)):
            corner = index + (down * (width + 2) + right) * count
            scores += np.bincount(corner, mass * share_y * share_x, minlength=scores.size)
    normaliser = np.pi * radius**2 / stride**2
    return scores.reshape(height + 2, width + 2, count)[1:-1, 1:-1] / normaliser
