"""Hough voting: every cell of a disc votes for a point; where many agree, there is a keypoint.

Papandreou et al. 2018, section 3.1: h_k(x) = 1 / (pi R^2) * sum_i p_k(x_i) B(x_i + S_k(x_i) - x), B
the bilinear kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from personlab_keras.config import AGREEING_VOTES, FAINT_VOTE, NEAR_VOTE
from personlab_keras.decoder.compilation import compiled
from personlab_keras.method.maps import Maps

BINS_PER_RADIUS = 1
"""How fine the bins of votes are: this changes the speed of finding the votes near a point, not the
result.
"""


@dataclass(frozen=True)
class Votes:
    """The votes of all cells for all keypoints.

    Attributes:
        points: (N, 2) float32 (x, y) in input pixels where a vote lands, in the frame or not.
        mass: (N,) float32, the probability p_k of the cell that votes; positive.
        keypoints: (N,) int64, the keypoint voted for.
    """

    points: np.ndarray
    mass: np.ndarray
    keypoints: np.ndarray


class BinnedVotes(NamedTuple):
    """Votes sorted into square bins by where they land, so that the votes near a point are found
    without looking at the others.

    Attributes:
        points, mass: as in `Votes`, sorted by keypoint, then by row of bins, then by bin.
        starts: (K, rows, columns + 1) int32: the index of the first vote of every bin, and the end
            of the last bin of the row.
        origin: x and y in input pixels of the corner of the first bin.
        side: side of a bin in input pixels.
    """

    points: np.ndarray
    mass: np.ndarray
    starts: np.ndarray
    origin: float
    side: float


def cast_votes(maps: Maps) -> Votes:
    """The votes of all cells with a probability of at least `FAINT_VOTE` and a finite offset."""
    heatmaps, offsets = (
        np.ascontiguousarray(values, np.float32) for values in (maps.heatmaps, maps.short_offsets)
    )
    return Votes(*_cast(heatmaps, offsets, maps.stride))


@compiled
def _cast(
    heatmaps: np.ndarray, offsets: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width, count = heatmaps.shape
    flat = heatmaps.reshape(-1)
    total = 0
    for i in range(len(flat)):
        total += flat[i] >= FAINT_VOTE
    points = np.empty((total, 2), np.float32)
    mass = np.empty(total, np.float32)
    keypoints = np.empty(total, np.int64)
    # The voters of a row are listed first, without a branch: which cells vote is as good as random,
    # and mispredicted branches cost more than the votes.
    voters = np.empty(width * count, np.uint32)
    n = 0
    for row in range(height):
        heat, away = heatmaps[row].reshape(-1), offsets[row].reshape(-1, 2)
        found = 0
        for i in range(len(heat)):
            voters[found] = i
            found += heat[i] >= FAINT_VOTE
        for i in voters[:found]:
            column = i // np.uint32(count)
            x = np.float32(np.int64(column) * stride) + away[i, 0]
            y = np.float32(row * stride) + away[i, 1]
            points[n, 0], points[n, 1] = x, y
            mass[n], keypoints[n] = heat[i], i - column * np.uint32(count)
            n += np.isfinite(x) and np.isfinite(y)
    return points[:n], mass[:n], keypoints[:n]


@compiled
def _agreeing_pairs(
    heatmaps: np.ndarray, offsets: np.ndarray, stride: int, limit: float
) -> tuple[int, int]:
    """How many pairs of neighbouring cells both show a keypoint, and how many of them agree."""
    height, width, count = heatmaps.shape
    flat = heatmaps.reshape(-1)
    pairs = agreeing = 0
    for n in range(len(flat)):
        if flat[n] < 0.5:
            continue
        row, column, k = n // (width * count), n // count % width, n % count
        for i, j in ((row, column + 1), (row + 1, column)):
            if i < height and j < width and heatmaps[i, j, k] >= 0.5:
                x = (j - column) * stride + offsets[i, j, k, 0] - offsets[row, column, k, 0]
                y = (i - row) * stride + offsets[i, j, k, 1] - offsets[row, column, k, 1]
                pairs += 1
                agreeing += x**2 + y**2 <= limit**2
    return pairs, agreeing


def vote_spread(maps: Maps) -> float:
    """`NEAR_VOTE` where votes tell neighbours apart, 0 where they scatter too much for that.

    They do where of all neighbouring cells that both show a keypoint (p >= 1/2) most agree on it,
    within `AGREEING_VOTES`.
    """
    pairs, agreeing = _agreeing_pairs(
        maps.heatmaps, maps.short_offsets, maps.stride, AGREEING_VOTES
    )
    return NEAR_VOTE if 2 * agreeing > pairs else 0.0


def hough_scores(
    votes: Votes, shape: tuple[int, int, int], stride: int, radius: float
) -> np.ndarray:
    """Hough scores on the cells of the maps.

    A vote is shared between the four cells around the point where it lands; what falls on cells
    outside the frame is lost. The normaliser is the number of cells in a disc, pi R^2 / stride^2,
    so that a keypoint on which its whole disc agrees scores about 1 at any stride (less where it
    lies between cells), and the scores of a map times the normaliser add up to the mass of the
    votes inside the frame.

    Args:
        votes: as `cast_votes` gives them.
        shape: (h, w, K) of the heatmaps.
        stride: input pixels per cell.
        radius: R in input pixels.

    Returns:
        (h, w, K) float64.
    """
    unit = stride**2 / (np.pi * radius**2)
    return _splat(votes.points, votes.mass, votes.keypoints, shape, float(stride), unit)


@compiled
def _splat(
    points: np.ndarray,
    mass: np.ndarray,
    keypoints: np.ndarray,
    shape: tuple[int, int, int],
    stride: float,
    unit: float,
) -> np.ndarray:
    height, width, _ = shape
    scores = np.zeros(shape)
    for i in range(len(points)):
        x, y = points[i, 0] / stride, points[i, 1] / stride
        if not (-1 < x < width and -1 < y < height):
            continue
        left, top = int(np.floor(x)), int(np.floor(y))
        vote = mass[i] * unit
        for row, share in ((top, 1 - (y - top)), (top + 1, y - top)):
            if 0 <= row < height:
                if left >= 0:
                    scores[row, left, keypoints[i]] += vote * share * (1 - (x - left))
                if left + 1 < width:
                    scores[row, left + 1, keypoints[i]] += vote * share * (x - left)
    return scores


def bin_votes(votes: Votes, shape: tuple[int, int, int], stride: int, radius: float) -> BinnedVotes:
    """The votes in bins by where they land.

    Args:
        votes: as `cast_votes` gives them.
        shape: (h, w, K) of the heatmaps.
        stride: input pixels per cell.
        radius: R in input pixels. Votes farther than 3 R from the frame are left out: no keypoint
            is found farther than R from it, and none moves by more than R or asks for votes farther
            away than that.
    """
    height, width, count = shape
    origin, side = -3.0 * radius, radius / BINS_PER_RADIUS
    rows, columns = (
        int(((cells - 1) * stride + 6 * radius) // side) + 1 for cells in (height, width)
    )
    starts = np.zeros((count, rows, columns + 1), np.int32)
    points, mass = _sort(votes.points, votes.mass, votes.keypoints, starts, origin, side)
    return BinnedVotes(points, mass, starts, origin, side)


@compiled
def _sort(
    points: np.ndarray,
    mass: np.ndarray,
    keypoints: np.ndarray,
    starts: np.ndarray,
    origin: float,
    side: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Points and mass of the votes in the order of their bins; fills in `starts`."""
    count, rows, columns = starts.shape[0], starts.shape[1], starts.shape[2] - 1
    bins = np.full(len(points), -1, np.int32)
    counts = np.zeros(count * rows * columns, np.int32)
    for i in range(len(points)):
        column, row = (points[i, 0] - origin) / side, (points[i, 1] - origin) / side
        if 0 <= column < columns and 0 <= row < rows:
            bins[i] = (keypoints[i] * rows + int(row)) * columns + int(column)
            counts[bins[i]] += 1
    total, b = 0, 0
    for keypoint in range(count):
        for row in range(rows):
            for column in range(columns):
                starts[keypoint, row, column] = total
                total, counts[b] = total + counts[b], total
                b += 1
            starts[keypoint, row, columns] = total
    sorted_points, sorted_mass = np.empty((total, 2), np.float32), np.empty(total, np.float32)
    for i in range(len(points)):
        if bins[i] >= 0:
            to = counts[bins[i]]
            counts[bins[i]] += 1
            sorted_points[to, 0], sorted_points[to, 1] = points[i, 0], points[i, 1]
            sorted_mass[to] = mass[i]
    return sorted_points, sorted_mass
