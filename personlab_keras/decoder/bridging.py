"""Beyond the tree: the long-range field bridges keypoints that the walk cannot reach.

The walk passes through every keypoint between the seed and the one it looks for. Where one of them is not there (half of COCO's are
not labelled), what lies behind is lost, and later seeds make a second person of it. But the long-range field at any keypoint of a
person points at all of them.
"""

from __future__ import annotations

import numpy as np

from personlab_keras.decoder.sampling import follow, sample
from personlab_keras.maps import Maps


def bridge_gaps(people: np.ndarray, maps: Maps, refinements: int, threshold: float, agreement: float) -> np.ndarray:
    """The same people with keypoints that the tree did not reach, where the long-range field at found ones points at them.

    Every found keypoint k proposes y_l = y_k + L_l(y_k), refined by the short-range field of l. Of the proposals that land on
    probability, the one with the most others near it is taken, each weighted by the probability of the keypoint that made it.

    Args:
        people: (P, K, 2) (x, y) in input pixels, NaN where not found.
        maps: long offsets NaN where unknown; without any there are no bridges.
        refinements: steps of short-range refinement.
        threshold: least heatmap probability at a proposal.
        agreement: proposals within this many pixels of each other support each other.

    Returns:
        (P, K, 2) float64; what was found before is unchanged.
    """
    if maps.long_offsets is None:
        return people
    found = np.isfinite(people[..., 0])
    person, missing = np.nonzero(~found & found.any(axis=1, keepdims=True))
    gap, source = np.nonzero(found[person])  # one proposal for each gap and each found keypoint of its person
    origins, targets = people[person[gap], source], missing[gap]
    proposed = follow(maps.long_offsets, targets, origins, maps.stride)
    for _ in range(refinements):
        proposed = follow(maps.short_offsets, targets, proposed, maps.stride)
    landed = sample(maps.heatmaps, targets, proposed, maps.stride) >= threshold
    weight = np.nan_to_num(sample(maps.heatmaps, source, origins, maps.stride))

    points = np.full((len(person), people.shape[1], 2), np.nan)
    weights = np.zeros(points.shape[:2])
    points[gap[landed], source[landed]] = proposed[landed]
    weights[gap[landed], source[landed]] = weight[landed]
    near = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1) <= agreement
    support = np.where(np.isfinite(points[..., 0]), (near * weights[:, None]).sum(axis=-1), -1.0)
    bridged = people.copy()
    bridged[person, missing] = points[np.arange(len(person)), support.argmax(axis=1)]
    return bridged
