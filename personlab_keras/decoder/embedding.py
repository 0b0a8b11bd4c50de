"""The embedding: every point of a person points at all of that person's keypoints.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.sampling import step_each
from personlab_keras.method.maps import Maps


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


@dataclass(frozen=True)
class NearCells:
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
    margin = largest * scales[:, None]
    used = np.where(shares[:, None] > 0, places, np.nan)
    reach = np.concatenate(
        [
            np.fmin.reduce(used, axis=2, initial=np.inf) - margin,
            np.fmax.reduce(used, axis=2, initial=-np.inf) + margin,
        ],
        axis=1,
    )
    owners, indices, distances = _near(
        *_fields(maps), cells, maps.stride, refinements, (places, shares), reach, float(largest)
    )
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(len(people) + 1))
    return NearCells(starts, cells[indices[order]], distances[order])


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
    embedding = np.empty((len(points), count, 2, 2), np.float32)
    guesses, reached = np.empty((2, 2, count), np.float32), np.empty((2, count))
    for a in range(len(points)):
        reached[0], reached[1] = points[a, 0], points[a, 1]
        _guess(guesses, reached, long_offsets, short_offsets, stride, refinements)
        embedding[a] = guesses.transpose(2, 0, 1)
    return embedding


@compiled
def _guess(
    guesses: np.ndarray,
    reached: np.ndarray,
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    stride: int,
    refinements: int,
) -> None:
    """Fills in both guesses (2, 2, K) of one point, of which `reached` (2, K) holds K copies."""
    channels = np.arange(long_offsets.shape[2])
    step_each(long_offsets, channels, reached, stride)
    guesses[0] = reached
    for _ in range(refinements):
        step_each(long_offsets, channels, reached, stride)
    for _ in range(refinements):
        step_each(short_offsets, channels, reached, stride)
    guesses[1] = reached


@compiled
def _distance(guesses: np.ndarray, places: np.ndarray, shares: np.ndarray) -> float:
    """D_ij of one point with guesses (2, 2, K) to a person with places (2, K)."""
    total = 0.0
    for k in range(len(shares)):
        nearer = np.inf
        for guess in range(2):
            x, y = guesses[guess, 0, k] - places[0, k], guesses[guess, 1, k] - places[1, k]
            square = x * x + y * y
            nearer = square if square < nearer else nearer  # which an unknown guess is not
        total += shares[k] * np.sqrt(nearer) if shares[k] > 0 else 0.0
    return total


@compiled
def _distances(guesses: np.ndarray, places: np.ndarray, shares: np.ndarray) -> np.ndarray:
    distances = np.empty(len(guesses), np.float32)
    for a in range(len(guesses)):
        distances[a] = _distance(guesses[a], places, shares)
    return distances


@compiled
def _near(
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    cells: np.ndarray,
    stride: int,
    refinements: int,
    anchors: tuple[np.ndarray, np.ndarray],
    reach: np.ndarray,
    largest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person, index of the cell, and distance of all pairs nearer than `largest`, by cell.

    `reach` (P, 4) has the least and largest (x, y) at which a guess may lie that is near enough.
    """
    places, shares = anchors
    count = long_offsets.shape[2]
    guesses, reached = np.empty((2, 2, count), np.float32), np.empty((2, count))
    owners, indices, distances = (
        np.empty(2 * len(cells), np.int64),
        np.empty(2 * len(cells), np.int64),
        np.empty(2 * len(cells), np.float32),
    )
    n = 0
    for a in range(len(cells)):
        reached[0], reached[1] = cells[a, 1] * stride, cells[a, 0] * stride
        _guess(guesses, reached, long_offsets, short_offsets, stride, refinements)
        left = top = np.float32(np.inf)
        right = bottom = np.float32(-np.inf)
        for guess in range(2):
            for k in range(count):
                x, y = guesses[guess, 0, k], guesses[guess, 1, k]
                left = x if x < left else left  # which NaN is not
                right = x if x > right else right
                top = y if y < top else top
                bottom = y if y > bottom else bottom
        for j in range(len(reach)):
            if (
                left > reach[j, 2]
                or right < reach[j, 0]
                or top > reach[j, 3]
                or bottom < reach[j, 1]
            ):
                continue
            distance = np.float32(_distance(guesses, places[j], shares[j]))
            if distance < largest:
                if n == len(owners):
                    owners, indices, distances = (
                        np.concatenate((owners, owners)),
                        np.concatenate((indices, indices)),
                        np.concatenate((distances, distances)),
                    )
                owners[n], indices[n], distances[n] = j, a, distance
                n += 1
    return owners[:n], indices[:n], distances[:n]
