"""The embedding: every point of a person points at all of that person's keypoints.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

import numpy as np

from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.sampling import step_along
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
    assert maps.long_offsets is not None
    long_offsets, short_offsets = (
        np.ascontiguousarray(field, np.float32) for field in (maps.long_offsets, maps.short_offsets)
    )
    return _embed(
        long_offsets,
        short_offsets,
        np.ascontiguousarray(points, np.float64),
        maps.stride,
        refinements,
    )


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
    for a in range(len(points)):
        for k in range(count):
            x, y = step_along(long_offsets, k, points[a, 0], points[a, 1], stride)
            embedding[a, k, 0, 0], embedding[a, k, 0, 1] = x, y
            for _ in range(refinements):
                x, y = step_along(long_offsets, k, x, y, stride)
            for _ in range(refinements):
                x, y = step_along(short_offsets, k, x, y, stride)
            embedding[a, k, 1, 0], embedding[a, k, 1, 1] = x, y
    return embedding


def embedding_distances(
    embedding: np.ndarray, keypoints: np.ndarray, weights: np.ndarray, scale: float, largest: float
) -> np.ndarray:
    """D_ij of every cell to one person: the mean distance of its guesses from the person's
    keypoints, by the person's size.

    D_ij = 1 / (sum_k p_k(y_jk)) * sum_k p_k(y_jk) |G_k(x_i) - y_jk| / lambda_j, over the keypoints
    that were found, with the nearer of the two guesses at each.

    Args:
        embedding: (A, K, 2, 2) in input pixels.
        keypoints: (K, 2) in input pixels, NaN where not found.
        weights: (K,) p_k(y_jk).
        scale: lambda_j in input pixels.
        largest: distances are cut at this, and the sum of a cell stops early once it is reached.

    Returns:
        (A,) float32, at most `largest`; `largest` where both guesses are unknown or all weights are
        zero.
    """
    found = np.flatnonzero(np.isfinite(keypoints).all(axis=-1) & (weights > 0))
    if not len(found):
        return np.full(len(embedding), largest, np.float32)
    found = found[
        np.argsort(-weights[found], kind="stable")
    ]  # those that weigh most tell soonest that a cell is too far
    shares = weights[found] / (weights[found].sum() * scale)
    return _distances(
        np.ascontiguousarray(embedding, np.float32), keypoints[found], found, shares, float(largest)
    )


@compiled
def _distances(
    embedding: np.ndarray,
    keypoints: np.ndarray,
    channels: np.ndarray,
    shares: np.ndarray,
    largest: float,
) -> np.ndarray:
    distances = np.empty(len(embedding), np.float32)
    for a in range(len(embedding)):
        total = 0.0
        for i in range(len(channels)):
            nearer = np.inf
            for guess in range(2):
                x = embedding[a, channels[i], guess, 0] - keypoints[i, 0]
                y = embedding[a, channels[i], guess, 1] - keypoints[i, 1]
                square = x * x + y * y
                if square < nearer:  # which a guess that is unknown is not
                    nearer = square
            total += shares[i] * np.sqrt(nearer)
            if total >= largest:
                total = largest
                break
        distances[a] = total
    return distances
