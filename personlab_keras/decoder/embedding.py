"""The embedding: every point of a person points at all of that person's keypoints.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.sampling import step_each, step_room
from personlab_keras.method.maps import Maps

_BLOCK = 16
"""Cells that are embedded together; the loops over them then fill the processor's vectors."""


def embed(maps: Maps, points: np.ndarray, refinements: int) -> np.ndarray:
    """The embedding of points: for each keypoint two guesses where the person at the point has it.

    The first is G_k(x) = x + L_k(x). The second is refined by the long-range field and then by the
    short-range field: more precise, but where the keypoint is hidden, these fields describe the
    person in front.

    Args:
        maps: with long offsets.
        points: (A, 2) (x, y) in input pixels.
        refinements: steps by the long-range field, and again as many by the short-range field.

    Returns:
        (A, K, 2, 2) float32: (x, y) of both guesses in input pixels; NaN where unknown.
    """
    return _embed(
        *_fields(maps), np.ascontiguousarray(points, np.float64), maps.stride, refinements
    )


def embedding_distances(
    embedding: np.ndarray, keypoints: np.ndarray, weights: np.ndarray, scale: float, largest: float
) -> np.ndarray:
    """D_ij of every point to one person: the mean distance of its guesses from the person's
    keypoints, by the person's size.

    D_ij = 1 / (sum_k p_k(y_jk)) * sum_k p_k(y_jk) |G_k(x_i) - y_jk| / lambda_j, over the keypoints
    that were found, with the nearer of the two guesses at each.

    Args:
        embedding: (A, K, 2, 2) in input pixels.
        keypoints: (K, 2) in input pixels, NaN where not found.
        weights: (K,) p_k(y_jk).
        scale: lambda_j in input pixels.
        largest: distances are cut at this.

    Returns:
        (A,) float32, at most `largest`; `largest` where both guesses are unknown or all weights are
        zero.
    """
    (places,), (shares,) = _anchors(keypoints[None], weights[None], np.array([scale], np.float64))
    if not shares.any():
        return np.full(len(embedding), largest, np.float32)
    guesses = np.ascontiguousarray(embedding.transpose(2, 3, 1, 0), np.float32)
    distances = np.empty(len(embedding))
    _measure(guesses, places, shares, distances)
    return np.minimum(distances, largest).astype(np.float32)


class NearCells(NamedTuple):
    """The cells near each of P people, one person after the other.

    Attributes:
        starts: (P + 1,) int64: those of person j are the ones from starts[j] to starts[j + 1] - 1.
        cells: (N, 2) int64 (row, column), those of one person in the order in which they were
            given.
        distances: (N,) float32, D_ij.
    """

    starts: np.ndarray
    cells: np.ndarray
    distances: np.ndarray


def near_cells(
    maps: Maps,
    cells: np.ndarray,
    people: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    refinements: int,
    largest: float,
) -> NearCells:
    """The cells whose distance D_ij from a person, as of `embedding_distances`, is below a limit.

    Every cell is embedded once, together with those beside it. All their guesses lie in a box, and
    the mean distance from a person's keypoints is at least the gap between this box and the box
    around the keypoints. So cells are compared only with those whose box is near enough: in a
    crowd, their own people and the neighbours.

    Args:
        maps: with long offsets.
        cells: (A, 2) int64 (row, column).
        people: (P, K, 2) in input pixels, NaN where not found.
        weights: (P, K) p_k(y_jk).
        scales: (P,) lambda_j in input pixels.
        refinements: as of `embed`.
        largest: the limit of D_ij.
    """
    places, shares = _anchors(people, weights, scales)
    margin = largest * scales
    used = np.where(shares[:, None] > 0, places, np.nan)
    reach = np.concatenate(
        [
            np.fmin.reduce(used, axis=2, initial=np.inf).T - margin,
            np.fmax.reduce(used, axis=2, initial=-np.inf).T + margin,
        ]
    )
    return NearCells(
        *_near(
            *_fields(maps), cells, maps.stride, refinements, places, shares, reach, float(largest)
        )
    )


def _fields(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    assert maps.long_offsets is not None
    return (
        np.ascontiguousarray(maps.long_offsets, np.float32),
        np.ascontiguousarray(maps.short_offsets, np.float32),
    )


def _anchors(
    people: np.ndarray, weights: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where people (P, K, 2) have their keypoints, (P, 2, K), and the share (P, K) of each in the
    distance, divided by lambda; both 0 where a keypoint does not count.
    """
    counts = np.isfinite(people).all(axis=-1) & (weights > 0)
    weights = np.where(counts, weights, 0.0)
    total = weights.sum(axis=1, keepdims=True) * scales[:, None]
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    places = np.where(counts[..., None], people, 0.0)
    return np.ascontiguousarray(places.transpose(0, 2, 1)), shares


@compiled
def _embed(
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    points: np.ndarray,
    stride: int,
    refinements: int,
) -> np.ndarray:
    count = long_offsets.shape[2]
    channels, reached, room = _walkers(len(points), count)
    for k in range(count):
        for a in range(len(points)):
            reached[0, k, a], reached[1, k, a] = points[a]
    embedding = np.empty((len(points), count, 2, 2), np.float32)
    step_each(long_offsets, channels, reached.reshape(2, -1), stride, room)
    embedding[:, :, 0] = reached.T
    _refine(reached, channels, long_offsets, short_offsets, stride, refinements, room)
    embedding[:, :, 1] = reached.T
    return embedding


@compiled
def _walkers(
    points: int, count: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For `count` channels at each of A points: the channel (K * A,), the place (2, K, A), zeros,
    and room for `step_each`.
    """
    channels = np.repeat(np.arange(count), points).astype(np.int32)
    return channels, np.zeros((2, count, points)), step_room(points * count)


@compiled
def _refine(
    reached: np.ndarray,
    channels: np.ndarray,
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    stride: int,
    refinements: int,
    room: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Makes second guesses (2, K, A) of the first, in place."""
    points = reached.reshape(2, -1)
    for _ in range(refinements):
        step_each(long_offsets, channels, points, stride, room)
    for _ in range(refinements):
        step_each(short_offsets, channels, points, stride, room)


@compiled
def _measure(
    guesses: np.ndarray, places: np.ndarray, shares: np.ndarray, distances: np.ndarray
) -> None:
    """Fills in D_ij (A,) of points with guesses (2, 2, K, A) to a person with places (2, K)."""
    distances[:] = 0
    for k in range(len(shares)):
        if shares[k] <= 0:
            continue
        for a in range(len(distances)):
            x, y = guesses[0, 0, k, a] - places[0, k], guesses[0, 1, k, a] - places[1, k]
            other_x = guesses[1, 0, k, a] - places[0, k]
            other_y = guesses[1, 1, k, a] - places[1, k]
            square, other = x * x + y * y, other_x * other_x + other_y * other_y
            nearer = square if square < np.inf else np.inf  # which an unknown guess is not
            nearer = other if other < nearer else nearer
            distances[a] += shares[k] * np.sqrt(nearer)


@compiled
def _near(
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    cells: np.ndarray,
    stride: int,
    refinements: int,
    places: np.ndarray,
    shares: np.ndarray,
    reach: np.ndarray,
    largest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fields of `NearCells`.

    `reach` (4, P) has the least and largest (x, y) at which a guess may lie that is near enough.
    """
    count = long_offsets.shape[2]
    channels, reached, room = _walkers(_BLOCK, count)
    guesses, measured = np.empty((2, *reached.shape), np.float32), np.empty(_BLOCK)
    candidates = np.empty(len(shares), np.int64)
    owners, indices, distances = (
        np.empty(2 * len(cells), np.int64),
        np.empty(2 * len(cells), np.int64),
        np.empty(2 * len(cells), np.float32),
    )
    n = 0
    for first in range(0, len(cells), _BLOCK):
        block = cells[first : first + _BLOCK]
        for a in range(len(block)):
            row, column = block[a]
            for k in range(count):  # a cell itself needs no interpolation
                offsets = long_offsets[row, column, k]
                reached[0, k, a] = column * stride + np.float64(offsets[0])
                reached[1, k, a] = row * stride + np.float64(offsets[1])
        guesses[0] = reached
        _refine(reached, channels, long_offsets, short_offsets, stride, refinements, room)
        guesses[1] = reached
        for i in range(_select(guesses, reach, candidates)):
            j = candidates[i]
            _measure(guesses, places[j], shares[j], measured)
            for a in range(len(block)):
                distance = np.float32(measured[a])
                if distance < largest:
                    if n == len(owners):
                        owners, indices, distances = (
                            np.concatenate((owners, owners)),
                            np.concatenate((indices, indices)),
                            np.concatenate((distances, distances)),
                        )
                    owners[n], indices[n], distances[n] = j, first + a, distance
                    n += 1
    return _by_person(owners[:n], indices[:n], distances[:n], cells, len(shares))


@compiled
def _select(guesses: np.ndarray, reach: np.ndarray, candidates: np.ndarray) -> int:
    """Writes down the people whose reach (4, P) the box around all guesses (2, 2, K, A) touches,
    and returns how many there are.
    """
    low, high = np.full((2, _BLOCK), np.float32(np.inf)), np.full((2, _BLOCK), np.float32(-np.inf))
    for guess in range(2):
        for axis in range(2):
            for k in range(guesses.shape[2]):
                for a in range(_BLOCK):
                    value = guesses[guess, axis, k, a]
                    low[axis, a] = value if value < low[axis, a] else low[axis, a]  # NaN is not
                    high[axis, a] = value if value > high[axis, a] else high[axis, a]
    left, top, right, bottom = low[0].min(), low[1].min(), high[0].max(), high[1].max()
    n = 0
    for j in range(reach.shape[1]):
        candidates[n] = j
        n += (
            (right >= reach[0, j])
            & (bottom >= reach[1, j])
            & (left <= reach[2, j])
            & (top <= reach[3, j])
        )
    return n


@compiled
def _by_person(
    owners: np.ndarray, indices: np.ndarray, distances: np.ndarray, cells: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (N,) of a person and a cell in the order of people, as the fields of `NearCells`."""
    starts = np.zeros(count + 1, np.int64)
    for n in range(len(owners)):
        starts[owners[n] + 1] += 1
    for j in range(count):
        starts[j + 1] += starts[j]
    ends = starts.copy()
    own_cells, own_distances = np.empty((len(owners), 2), np.int64), np.empty_like(distances)
    for n in range(len(owners)):
        to = ends[owners[n]]
        own_cells[to], own_distances[to] = cells[indices[n]], distances[n]
        ends[owners[n]] += 1
    return starts, own_cells, own_distances
