"""One person for every body: readings of the same body are merged.

Beyond the paper. Greedy decoding reads a body again from every seed that no earlier person
explains, and each size at which the network sees an image gives readings of its own. Readings that
COCO's measure takes for the same person become one person, whose keypoints lie where the readings
agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from personlab_keras.config import DIFFERENT_PLACE, SAME_PERSON
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.fusion import FramedMaps
from personlab_keras.decoder.reading import Readings

_LARGEST_EXPONENT = 40.0
"""Beyond it exp(-x) is lost beside any agreement that counts. In a crowd most pairs are as far."""


def pool_readings(
    readings: Sequence[Readings],
    sizes: Sequence[Sequence[FramedMaps]],
    scale_range: tuple[float, float],
) -> Readings:
    """The readings of all sizes together, in input pixels of the first pass of the first size.

    A network reads people of some sizes better than others. A person that is too small in one of
    the inputs is left to a larger input, and one that is too large to a smaller one, as long as
    there is any.

    Args:
        readings: of every size, in its own input pixels.
        sizes: the passes of every size, largest input first.
        scale_range: least and largest lambda in input pixels of a person that the network reads
            well.
    """
    if len(readings) == 1:
        return readings[0]
    pooled = [
        each[suits(each.scales, i, len(sizes), scale_range)].moved(passes[0], sizes[0][0])
        for i, (each, passes) in enumerate(zip(readings, sizes, strict=True))
    ]
    return Readings(
        *(
            np.concatenate([getattr(each, field.name) for each in pooled])
            for field in fields(Readings)
        )
    )


def suits(
    scales: np.ndarray, size: int, sizes: int, scale_range: tuple[float, float]
) -> np.ndarray:
    """(N,) bool: who of the readings with those scales in a size's own pixels stays with it."""
    least, largest = scale_range
    return ((size == 0) | (scales >= least)) & ((size == sizes - 1) | (scales <= largest))


def merge_readings(readings: Readings, kappas: np.ndarray) -> tuple[Readings, np.ndarray]:
    """The readings with those of one body merged into the best of them, their leader.

    In order, each reading joins the leader with the highest object keypoint similarity above
    `SAME_PERSON`, or becomes a leader itself. The similarity is the sum, over the keypoints that
    both have, of exp(-d^2 / (2 lambda^2 kappa^2)), lambda that of the smaller reading, divided by
    the number of keypoints of the one with fewer.

    A reading of a keypoint weighs the square of its score, so that a few sure ones outweigh many
    doubtful ones, and supports another reading by its weight times exp(-d^2 / ...). The merged
    keypoint is the mean of the readings, each weighted by how much it supports the one with the
    most support, so that outliers hardly move it. A keypoint that the leader lacks is not
    taken from others.

    A reading that joined a leader keeps only the keypoints that it does not share with the leader:
    a walk may have gone from one person to another.

    Args:
        readings: best first.
        kappas: (K,) the constants of object keypoint similarity.

    Returns:
        The readings in their order, leaders with merged keypoints.
        (N, K) bool, the keypoints of readings that a leader other than themselves shares.
    """
    leaders = _leaders(readings.keypoints, readings.scales, kappas)
    merged = _merged_keypoints(
        readings.keypoints, readings.keypoint_scores, readings.scales, leaders, kappas
    )
    shared = _shared(readings.keypoints, readings.scales, leaders, kappas)
    return replace(readings, keypoints=merged), shared


@compiled
def _agreement(
    keypoints: np.ndarray, scales: np.ndarray, kappas: np.ndarray, a: int, b: int, k: int
) -> float:
    """How well readings a and b agree on keypoint k, from 0 to 1; NaN where either has none."""
    x, y = keypoints[a, k, 0] - keypoints[b, k, 0], keypoints[a, k, 1] - keypoints[b, k, 1]
    spread = min(scales[a], scales[b]) * kappas[k]
    exponent = (x * x + y * y) / (2 * spread * spread)
    return 0.0 if exponent > _LARGEST_EXPONENT else np.exp(-exponent)


@compiled
def _similarity(
    keypoints: np.ndarray,
    scales: np.ndarray,
    kappas: np.ndarray,
    found: np.ndarray,
    a: int,
    b: int,
) -> float:
    total = 0.0
    for k in range(len(kappas)):
        agreement = _agreement(keypoints, scales, kappas, a, b, k)
        if not np.isnan(agreement):
            total += agreement
    return total / min(found[a], found[b])


@compiled
def similarities(keypoints: np.ndarray, scales: np.ndarray, kappas: np.ndarray) -> np.ndarray:
    """(N, N) float64: the object keypoint similarity of readings a < b, as of `merge_readings`;
    zeros elsewhere."""
    found = np.isfinite(keypoints[:, :, 0]).sum(axis=1)
    alike = np.zeros((len(keypoints), len(keypoints)))
    for b in range(len(keypoints)):
        for a in range(b):
            alike[a, b] = _similarity(keypoints, scales, kappas, found, a, b)
    return alike


@compiled
def _leaders(keypoints: np.ndarray, scales: np.ndarray, kappas: np.ndarray) -> np.ndarray:
    """(N,) int64: the leader of every reading; leaders are their own."""
    leaders = np.arange(len(keypoints))
    found = np.isfinite(keypoints[:, :, 0]).sum(axis=1)
    for j in range(len(keypoints)):
        most = SAME_PERSON
        for leader in range(j):
            if leaders[leader] != leader:
                continue
            similarity = _similarity(keypoints, scales, kappas, found, leader, j)
            if similarity > most:
                most, leaders[j] = similarity, leader
    return leaders


@compiled
def _shared(
    keypoints: np.ndarray, scales: np.ndarray, leaders: np.ndarray, kappas: np.ndarray
) -> np.ndarray:
    """(N, K) bool: the keypoints of readings with a leader other than themselves that the leader
    sees at the same place.
    """
    shared = np.zeros((len(keypoints), len(kappas)), np.bool_)
    for j in range(len(keypoints)):
        if leaders[j] != j:
            for k in range(len(kappas)):
                agreement = _agreement(keypoints, scales, kappas, leaders[j], j, k)
                shared[j, k] = agreement >= DIFFERENT_PLACE
    return shared


@compiled
def _merged_keypoints(
    keypoints: np.ndarray,
    scores: np.ndarray,
    scales: np.ndarray,
    leaders: np.ndarray,
    kappas: np.ndarray,
) -> np.ndarray:
    """(N, K, 2): the keypoints, those of leaders merged with their readings'."""
    merged = keypoints.copy()
    weights = scores**2
    for leader in range(len(keypoints)):
        members = np.flatnonzero(leaders == leader)
        if len(members) < 2:
            continue
        for k in range(len(kappas)):
            if np.isnan(keypoints[leader, k, 0]):
                continue
            most, best = 0.0, np.int64(-1)
            for a in members:
                support = 0.0
                for b in members:
                    agreement = _agreement(keypoints, scales, kappas, a, b, k)
                    if not np.isnan(agreement):
                        support += weights[b, k] * agreement
                if support > most:
                    most, best = support, a
            if best < 0:
                continue
            x = y = 0.0
            for b in members:
                agreement = _agreement(keypoints, scales, kappas, best, b, k)
                if not np.isnan(agreement):
                    share = weights[b, k] * agreement / most
                    x += share * keypoints[b, k, 0]
                    y += share * keypoints[b, k, 1]
            merged[leader, k, 0], merged[leader, k, 1] = x, y
    return merged
