"""Beyond the tree: the long-range field bridges gaps that the walk cannot cross.

The walk passes through every keypoint between the seed and the keypoint it looks for. Where one of
them is missing (half of COCO's keypoints are not labelled), everything behind it is lost, and later
seeds make a second person of it. But the long-range field at any keypoint of a person points at all
of that person's keypoints."""

from __future__ import annotations

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.sampling import step_each, step_room, value_at
from personlab_keras.method.maps import Maps


def bridge_gaps(people: np.ndarray, maps: Maps, options: DecodeConfig) -> np.ndarray:
    """The same people, with keypoints that the tree did not reach where the long-range field at the
    found ones points at them.

    Every found keypoint k proposes y_l = y_k + L_l(y_k), refined `options.mid_refinements` times by
    the short-range field of l. A proposal lands if the heatmap there has at least
    `options.keypoint_threshold`. Proposals within `options.nms_radius` of each other support each
    other, each weighted by the probability of the keypoint that made it. The one with the most
    support is taken (of equal ones that of the first keypoint), if its support is at least
    `options.bridge_support` of the weight of all found keypoints: a single proposal is easily led
    astray to somebody else's keypoint.

    Args:
        people: (P, K, 2) (x, y) in input pixels, NaN where not found.
        maps: float32, contiguous; long offsets NaN where unknown. Without long offsets there are
            no bridges.
        options: the settings named above.

    Returns:
        (P, K, 2) float64; keypoints found before are unchanged.
    """
    bridged = np.array(people, np.float64)
    if maps.long_offsets is not None:
        for person in bridged:
            bridge_person(
                person,
                maps.heatmaps,
                maps.short_offsets,
                maps.long_offsets,
                maps.stride,
                options.mid_refinements,
                options.keypoint_threshold,
                options.nms_radius,
                options.bridge_support,
            )
    return bridged


@compiled
def bridge_person(
    person: np.ndarray,
    heatmaps: np.ndarray,
    short_offsets: np.ndarray,
    long_offsets: np.ndarray,
    stride: int,
    refinements: int,
    threshold: float,
    agreement: float,
    least_support: float,
) -> None:
    """Finds the missing keypoints of one person (K, 2), in place; as `bridge_gaps`."""
    count = len(person)
    sources = np.flatnonzero(np.isfinite(person[:, 0]))
    targets = np.flatnonzero(~np.isfinite(person[:, 0]))
    if len(sources) == 0 or len(targets) == 0:
        return
    weights = np.zeros(count)
    for source in sources:
        weight = value_at(heatmaps, source, person[source, 0], person[source, 1], stride)
        weights[source] = 0.0 if np.isnan(weight) else weight
    # The proposals of all sources for all targets, target by target.
    channels = np.repeat(targets, len(sources)).astype(np.int32)
    points = np.empty((2, len(channels)))
    for i in range(len(channels)):
        points[0, i], points[1, i] = person[sources[i % len(sources)]]
    room = step_room(len(channels))
    step_each(long_offsets, channels, points, stride, room)
    for _ in range(refinements):
        step_each(short_offsets, channels, points, stride, room)
    proposed, shares = np.empty((count, 2)), np.empty(count)
    for t, target in enumerate(targets):
        landed = 0
        for s, source in enumerate(sources):
            x, y = points[:, t * len(sources) + s]
            if value_at(heatmaps, target, x, y, stride) >= threshold:
                proposed[landed, 0], proposed[landed, 1], shares[landed] = x, y, weights[source]
                landed += 1
        most, chosen = least_support * weights.sum(), -1
        for i in range(landed):
            support = 0.0
            for j in range(landed):
                across = proposed[i, 0] - proposed[j, 0]
                down = proposed[i, 1] - proposed[j, 1]
                if across**2 + down**2 <= agreement**2:
                    support += shares[j]
            if support > most or (support == most and chosen < 0):
                most, chosen = support, i
        if chosen >= 0:
            person[target] = proposed[chosen]
