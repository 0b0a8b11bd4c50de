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
    guesses = np.ascontiguousarray(embedding.transpose(0, 2, 3, 1), np.float32)
    return np.minimum(_distances(guesses, places, shares), np.float32(largest))


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

    Every cell is embedded once. All its guesses lie in a box, and their mean distance from a
    person's keypoints is at least the gap between this box and the box around the keypoints. So the
    cell is compared only with those whose box is near enough: in a crowd, its own person and the
    neighbours.

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
    for a in range(len(points)):
        reached[0, a * count : (a + 1) * count] = points[a, 0]
        reached[1, a * count : (a + 1) * count] = points[a, 1]
    embedding = np.empty((len(points), count, 2, 2), np.float32)
    step_each(long_offsets, channels, reached, stride, room)
    embedding[:, :, 0] = reached.T.copy().reshape(len(points), count, 2)
    _refine(reached, channels, long_offsets, short_offsets, stride, refinements, room)
    embedding[:, :, 1] = reached.T.copy().reshape(len(points), count, 2)
    return embedding


@compiled
def _walkers(
    points: int, count: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For `count` channels at each of so many points: the channels, zeros as points, and room for
    `step_each`.
    """
    channels = (np.arange(points * count) % count).astype(np.int32)
    return channels, np.zeros((2, points * count)), step_room(points * count)


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
    """Makes second guesses of the first, in place."""
    for _ in range(refinements):
        step_each(long_offsets, channels, reached, stride, room)
    for _ in range(refinements):
        step_each(short_offsets, channels, reached, stride, room)


@compiled
def _distance(
    guesses: np.ndarray, places: np.ndarray, shares: np.ndarray, terms: np.ndarray
) -> float:
    """D_ij of one point with guesses (2, 2, K) to a person with places (2, K); `terms` (K,) is
    overwritten.
    """
    for k in range(len(shares)):
        x, y = guesses[0, 0, k] - places[0, k], guesses[0, 1, k] - places[1, k]
        other_x, other_y = guesses[1, 0, k] - places[0, k], guesses[1, 1, k] - places[1, k]
        square, other = x * x + y * y, other_x * other_x + other_y * other_y
        nearer = square if square < np.inf else np.inf  # which an unknown guess is not
        nearer = other if other < nearer else nearer
        terms[k] = shares[k] * np.sqrt(nearer) if shares[k] > 0 else 0.0
    total = 0.0
    for k in range(len(terms)):
        total += terms[k]
    return total


@compiled
def _distances(guesses: np.ndarray, places: np.ndarray, shares: np.ndarray) -> np.ndarray:
    distances, terms = np.empty(len(guesses), np.float32), np.empty(len(shares))
    for a in range(len(guesses)):
        distances[a] = _distance(guesses[a], places, shares, terms)
    return distances


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
    guesses = np.empty((_BLOCK, 2, 2, count), np.float32)
    terms = np.empty(count)
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
                reached[0, a * count + k] = column * stride + np.float64(offsets[0])
                reached[1, a * count + k] = row * stride + np.float64(offsets[1])
        _write_guesses(reached, guesses[:, 0])
        _refine(reached, channels, long_offsets, short_offsets, stride, refinements, room)
        _write_guesses(reached, guesses[:, 1])
        for a in range(len(block)):
            for i in range(_select(guesses[a], reach, candidates)):
                j = candidates[i]
                distance = np.float32(_distance(guesses[a], places[j], shares[j], terms))
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
def _write_guesses(reached: np.ndarray, guesses: np.ndarray) -> None:
    """Copies points (2, A * K) to guesses (A, 2, K)."""
    count = guesses.shape[2]
    for a in range(len(guesses)):
        for axis in range(2):
            for k in range(count):
                guesses[a, axis, k] = reached[axis, a * count + k]


@compiled
def _select(guesses: np.ndarray, reach: np.ndarray, candidates: np.ndarray) -> int:
    """Writes down the people whose reach (4, P) the box around the guesses (2, 2, K) touches, and
    returns how many there are.
    """
    left = top = np.float32(np.inf)
    right = bottom = np.float32(-np.inf)
    for guess in range(2):
        for k in range(guesses.shape[2]):
            x, y = guesses[guess, 0, k], guesses[guess, 1, k]
            left = x if x < left else left  # which NaN is not
            right = x if x > right else right
            top = y if y < top else top
            bottom = y if y > bottom else bottom
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
