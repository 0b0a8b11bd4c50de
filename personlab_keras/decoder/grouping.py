"""Greedy grouping: follow the tree from the best seed to a whole person, then from the next seed
that no person explains.

Papandreou et al. 2018, section 3.1, fast greedy decoding: one queue over the seeds of all
keypoints."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.bridging import bridge_person
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.peaks import Seeds
from personlab_keras.decoder.sampling import step_among_votes, value_at
from personlab_keras.decoder.voting import vote_spread
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import Skeleton

_NO_FIELD = np.zeros((0, 0, 0, 2), np.float32)


def group(
    seeds: Seeds, maps: Maps, skeleton: Skeleton, options: DecodeConfig, radius: float, limit: int
) -> np.ndarray:
    """People in the order of their seeds.

    A seed within `options.nms_radius` of the same keypoint of an earlier person belongs to that
    person and starts nobody. Keypoints of other types never stand in the way.

    Args:
        seeds: best first.
        maps: float32, contiguous; offsets in input pixels, NaN where unknown.
        skeleton: the tree to follow.
        options: `nms_radius`, `mid_refinements`, `keypoint_threshold`, `bridge`, `bridge_support`.
        radius: R in input pixels; a keypoint farther than this from the frame is not found.
        limit: most people.

    Returns:
        (P, K, 2) float64 (x, y) in input pixels; NaN where a keypoint was not found. Each person
        has at least one keypoint.
    """
    bridges = options.bridge and maps.long_offsets is not None
    return _group(
        seeds.points,
        seeds.keypoints,
        (
            maps.heatmaps,
            maps.short_offsets,
            maps.mid_offsets,
            maps.long_offsets if bridges else _NO_FIELD,
        ),
        maps.stride,
        routes_of(skeleton),
        seeds.spread,
        float(options.nms_radius),
        options.mid_refinements,
        float(options.keypoint_threshold),
        float(radius),
        float(options.bridge_support),
        limit,
    )


@compiled
def _group(
    points: np.ndarray,
    keypoints: np.ndarray,
    fields: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    stride: int,
    routes: np.ndarray,
    spread: float,
    nms_radius: float,
    refinements: int,
    threshold: float,
    radius: float,
    bridge_support: float,
    limit: int,
) -> np.ndarray:
    heatmaps, short_offsets, mid_offsets, long_offsets = fields
    people = np.empty((min(limit, len(points)), heatmaps.shape[2], 2))
    accepted = 0
    for i in range(len(points)):
        if accepted == len(people):
            break
        if _is_explained(points[i], keypoints[i], people[:accepted], nms_radius):
            continue
        person = people[accepted]
        _walk(
            person,
            points[i],
            keypoints[i],
            routes,
            short_offsets,
            mid_offsets,
            stride,
            refinements,
            spread,
        )
        found = _drop_unfound(person, heatmaps, stride, threshold, radius)
        if found and len(long_offsets):
            bridge_person(
                person,
                heatmaps,
                short_offsets,
                long_offsets,
                stride,
                refinements,
                threshold,
                nms_radius,
                bridge_support,
            )
            found = _drop_unfound(person, heatmaps, stride, threshold, radius)
        accepted += found > 0
    return people[:accepted].copy()


@compiled
def _is_explained(point: np.ndarray, keypoint: int, people: np.ndarray, nms_radius: float) -> bool:
    for j in range(len(people)):
        across, down = people[j, keypoint, 0] - point[0], people[j, keypoint, 1] - point[1]
        if across**2 + down**2 <= nms_radius**2:
            return True
    return False


@compiled
def _walk(
    person: np.ndarray,
    point: np.ndarray,
    keypoint: int,
    routes: np.ndarray,
    short_offsets: np.ndarray,
    mid_offsets: np.ndarray,
    stride: int,
    refinements: int,
    spread: float,
) -> None:
    """Fills a person (K, 2) from its seed; as `follow_tree`."""
    person[:] = np.nan
    person[keypoint] = point
    for step in range(routes.shape[1]):
        edge, source, target = routes[keypoint, step]
        x, y = person[source]
        x, y = step_among_votes(mid_offsets, edge, x, y, stride, short_offsets, source, spread)
        x, y = settle(x, y, target, short_offsets, stride, refinements, spread)
        person[target, 0], person[target, 1] = x, y


@compiled
def settle(
    x: float,
    y: float,
    keypoint: int,
    short_offsets: np.ndarray,
    stride: int,
    refinements: int,
    spread: float,
) -> tuple[float, float]:
    """A point refined by the short-range field of a keypoint."""
    for _ in range(refinements):
        x, y = step_among_votes(
            short_offsets, keypoint, x, y, stride, short_offsets, keypoint, spread
        )
    return x, y


@compiled
def _drop_unfound(
    person: np.ndarray, heatmaps: np.ndarray, stride: int, threshold: float, radius: float
) -> int:
    """Sets keypoints (K, 2) to NaN that are improbable or farther than R from the frame, and
    returns how many are left.

    The walk passes through them all the same, so a wrist is found behind a hidden elbow.
    """
    right, bottom = (
        (heatmaps.shape[1] - 1.0) * stride + radius,
        (heatmaps.shape[0] - 1.0) * stride + radius,
    )
    found = 0
    for k in range(len(person)):
        x, y = person[k]
        if (
            -radius <= x <= right
            and -radius <= y <= bottom
            and value_at(heatmaps, k, x, y, stride) >= threshold
        ):
            found += 1
        else:
            person[k] = np.nan
    return found


def settled(seeds: Seeds, maps: Maps, refinements: int) -> Seeds:
    """The seeds, moved to where the votes of one person land if votes tell neighbours apart.

    Between neighbours the centre of mass of the scores lies between them.
    """
    spread = vote_spread(maps)
    if not spread:
        return seeds
    points = _settle_each(
        seeds.points,
        seeds.keypoints,
        maps.short_offsets,
        maps.stride,
        refinements,
        spread,
    )
    return replace(seeds, points=points, spread=spread)


@compiled
def _settle_each(
    points: np.ndarray,
    keypoints: np.ndarray,
    short_offsets: np.ndarray,
    stride: int,
    refinements: int,
    spread: float,
) -> np.ndarray:
    settled = np.empty_like(points)
    for i in range(len(points)):
        x, y = points[i]
        settled[i] = settle(x, y, keypoints[i], short_offsets, stride, refinements, spread)
    return settled


def follow_tree(
    points: np.ndarray, keypoints: np.ndarray, maps: Maps, skeleton: Skeleton, refinements: int
) -> np.ndarray:
    """Walk from each seed over the whole tree, in both directions of its edges.

    y_l = y_k + M_kl(y_k), refined by y_l <- y_l + S_l(y_l): the short-range field of the keypoint
    that the step leads to. Where votes tell neighbours apart (`vote_spread`), cells whose votes
    land elsewhere do not count.

    Args:
        points: (N, 2) (x, y) of the seeds in input pixels.
        keypoints: (N,) which keypoint each seed is.
        maps: float32; mid- and short-range offsets in input pixels.
        skeleton: the tree.
        refinements: steps of short-range refinement.

    Returns:
        (N, K, 2) float64 in input pixels; NaN where an offset on the way is NaN.
    """
    people = np.empty((len(points), skeleton.keypoint_count, 2))
    spread = vote_spread(maps)
    for person, point, keypoint in zip(people, points, keypoints, strict=True):
        _walk(
            person,
            point,
            keypoint,
            routes_of(skeleton),
            maps.short_offsets,
            maps.mid_offsets,
            maps.stride,
            refinements,
            spread,
        )
    return people


def keypoint_probabilities(people: np.ndarray, maps: Maps) -> np.ndarray:
    """(P, K) float64: the probability of every keypoint (P, K, 2) at its position; 0 where there is
    none.
    """
    return _probabilities(people, maps.heatmaps, maps.stride)


@compiled
def _probabilities(people: np.ndarray, heatmaps: np.ndarray, stride: int) -> np.ndarray:
    probabilities = np.zeros(people.shape[:2])
    for j in range(people.shape[0]):
        for k in range(people.shape[1]):
            value = value_at(heatmaps, k, people[j, k, 0], people[j, k, 1], stride)
            if not np.isnan(value):
                probabilities[j, k] = value
    return probabilities


@lru_cache(maxsize=8)
def routes_of(skeleton: Skeleton) -> np.ndarray:
    """(K, K - 1, 3) int64: for each keypoint as the seed the directed edges to follow, nearest
    first: (edge, source, target).
    """
    ends = skeleton.edge_indices.tolist()
    routes = []
    for root in range(skeleton.keypoint_count):
        reached, route = [root], []
        for keypoint in reached:  # it grows while it is walked
            for edge, (source, target) in enumerate(ends):
                if source == keypoint and target not in reached:
                    reached.append(target)
                    route.append((edge, source, target))
        routes.append(route)
    return np.array(routes, np.int64).reshape(skeleton.keypoint_count, -1, 3)
