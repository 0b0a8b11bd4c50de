"""Who of the people that were read is returned, with which score, and who is not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.copies import copy_shares
from personlab_keras.decoder.fusion import FramedMaps
from personlab_keras.decoder.instances import (
    best_first,
    person_scores,
    suppressed_by_better,
)
from personlab_keras.decoder.merging import merge_readings
from personlab_keras.decoder.reading import Readings
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class Scored:
    """N readings, scored.

    Attributes:
        order: (N,) int, their places among the readings given; the better readings first.
        people: the readings in this order, those of one body merged into the best of them.
        shared: (N, K) bool, keypoints that do not count because the reading joined another one that
            has them.
        suppressed: (N, K) bool, keypoints that do not count because a better reading has them at
            the same place; all False where `decode.soft_nms` is off.
        uncopied: (N,) float64, the scores before copies lose some of theirs.
        copies: (N,) float64, how much of each is a copy; 0 for those that are dropped before.
        scores: (N,) float64, the final scores.
        returned: (M,) int, those that are returned, best first.
    """

    order: np.ndarray
    people: Readings
    shared: np.ndarray
    suppressed: np.ndarray
    uncopied: np.ndarray
    copies: np.ndarray
    scores: np.ndarray
    returned: np.ndarray


def score_people(
    readings: Readings,
    sizes: Sequence[Sequence[FramedMaps]],
    maps: Sequence[Maps],
    skeleton: Skeleton,
    options: DecodeConfig,
) -> Scored:
    """Merges and scores the readings of all sizes.

    Args:
        readings: of all sizes, in input pixels of the first one.
        sizes: the passes of every size.
        maps: of every size, fused.
        skeleton: with the constants of object keypoint similarity.
        options: thresholds and limits.
    """
    merges = options.merge or len(sizes) > 1
    # Soft-NMS goes by the mean (paper); who leads when readings merge, by the score of a person.
    power = options.score_power if merges else 1.0
    order = best_first(person_scores(readings.keypoint_scores, power))
    people = readings[order]
    added = people.keypoint_scores
    shared = suppressed = np.zeros(added.shape, bool)
    if merges:
        people, shared = merge_readings(people, skeleton.kappas)
        added = np.where(shared, 0.0, added)
    if options.soft_nms:
        suppressed = suppressed_by_better(people.keypoints, options.nms_radius)
        added = np.where(suppressed, 0.0, added)
    uncopied = person_scores(added, options.score_power)
    best = _returned(uncopied, best_first(uncopied)[: options.max_people], options)

    copies, scores = np.zeros(len(people)), uncopied.copy()
    if options.copy_score < 1:
        chosen = people[best]
        each_size = [chosen.moved(sizes[0][0], size[0]) for size in sizes]
        copies[best] = copy_shares(each_size, maps, skeleton.kappas, options)
        scores[best] *= 1 - (1 - options.copy_score) * copies[best]
        best = _returned(scores, best[best_first(scores[best])], options)
    return Scored(order, people, shared, suppressed, uncopied, copies, scores, best)


def _returned(scores: np.ndarray, best: np.ndarray, options: DecodeConfig) -> np.ndarray:
    return best[(scores[best] > 0) & (scores[best] >= options.score_threshold)]
