"""Greedy grouping: from the best seed along the tree to a whole person, then the next seed that nobody explains yet.

Papandreou et al. 2018, section 3.1, fast greedy decoding: one queue over the seeds of all keypoints.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from personlab_keras.decoder.bridging import bridge_gaps
from personlab_keras.decoder.peaks import Seeds
from personlab_keras.decoder.sampling import follow, sample
from personlab_keras.maps import Maps
from personlab_keras.skeleton import Skeleton

SEEDS_AT_ONCE = 64
"""Seeds followed together. It changes the speed, not the result: the walk from a seed knows nothing of other people."""


def group(
    seeds: Seeds,
    maps: Maps,
    skeleton: Skeleton,
    *,
    nms_radius: float,
    refinements: int,
    keypoint_threshold: float,
    radius: float,
    bridge: bool,
    limit: int,
) -> np.ndarray:
    """People in the order of their seeds.

    A seed within `nms_radius` of the same keypoint of an earlier person is that person's and starts nobody. Keypoints of other
    types never stand in the way.

    Args:
        seeds: best first.
        maps: offsets in input pixels, NaN where unknown.
        skeleton: the tree to follow.
        nms_radius: in input pixels.
        refinements: how often each mid-range step is refined by the short-range field.
        keypoint_threshold: least heatmap probability at a keypoint that counts as found.
        radius: R in input pixels; a keypoint farther than this from the frame is not found.
        bridge: whether keypoints that the tree does not reach are looked for by the long offsets of those that it does.
        limit: most people.

    Returns:
        (P, K, 2) float64 (x, y) in input pixels; NaN where a keypoint was not found. Each person has one at least.
    """
    people = np.empty((0, skeleton.keypoint_count, 2))
    for start in range(0, len(seeds.scores), SEEDS_AT_ONCE):
        points = seeds.points[start : start + SEEDS_AT_ONCE]
        keypoints = seeds.keypoints[start : start + SEEDS_AT_ONCE]
        unexplained = ~(_distances(points, keypoints, people) <= nms_radius).any(axis=1)
        points, keypoints = points[unexplained], keypoints[unexplained]
        walked = follow_tree(points, keypoints, maps, skeleton, refinements)
        walked = drop_unfound(walked, maps, keypoint_threshold, radius)
        if bridge:
            walked = bridge_gaps(walked, maps, refinements, keypoint_threshold, agreement=nms_radius)
            walked = drop_unfound(walked, maps, keypoint_threshold, radius)
        explained = _distances(points, keypoints, walked) <= nms_radius
        accepted = _accept_in_order(explained, np.isfinite(walked[..., 0]).any(axis=1))
        people = np.concatenate([people, walked[accepted]])
        if len(people) >= limit:
            return people[:limit]
    return people


def follow_tree(points: np.ndarray, keypoints: np.ndarray, maps: Maps, skeleton: Skeleton, refinements: int) -> np.ndarray:
    """Walk from each seed over the whole tree, in both directions of its edges.

    y_l = y_k + M_kl(y_k), refined by y_l <- y_l + S_l(y_l): the short-range field of the keypoint that the step leads to.

    Args:
        points: (N, 2) (x, y) of the seeds in input pixels.
        keypoints: (N,) which keypoint each seed is.
        maps: mid- and short-range offsets in input pixels.
        skeleton: the tree.
        refinements: steps of short-range refinement.

    Returns:
        (N, K, 2) float64 in input pixels; NaN where the fields know no way.
    """
    people = np.full((len(points), skeleton.keypoint_count, 2), np.nan)
    people[np.arange(len(points)), keypoints] = points
    for edges_of_root in _levels(skeleton):
        edges = edges_of_root[keypoints]
        person, slot = np.nonzero(edges >= 0)
        edge = edges[person, slot]
        source, target = skeleton.edge_indices[edge].T
        reached = follow(maps.mid_offsets, edge, people[person, source], maps.stride)
        for _ in range(refinements):
            reached = follow(maps.short_offsets, target, reached, maps.stride)
        people[person, target] = reached
    return people


def drop_unfound(people: np.ndarray, maps: Maps, threshold: float, radius: float) -> np.ndarray:
    """The same people (P, K, 2) with NaN for keypoints that are not there: improbable, or farther than R from the frame.

    The walk went on through them, so that a wrist is found behind a hidden elbow.
    """
    height, width = maps.image_shape
    in_reach = ((people >= -radius) & (people <= (width - 1 + radius, height - 1 + radius))).all(axis=-1)
    return np.where((in_reach & (heat_at(people, maps) >= threshold))[..., None], people, np.nan)


def heat_at(people: np.ndarray, maps: Maps) -> np.ndarray:
    """(P, K) float64: the probability of every keypoint (P, K, 2) at its position; 0 where there is none."""
    channels = np.broadcast_to(np.arange(people.shape[1]), people.shape[:2])
    heat = sample(maps.heatmaps, channels.reshape(-1), people.reshape(-1, 2), maps.stride)
    return np.nan_to_num(heat).reshape(people.shape[:2])


def _distances(points: np.ndarray, keypoints: np.ndarray, people: np.ndarray) -> np.ndarray:
    """(N, P) from each seed to the same keypoint of each person; NaN where the person lacks it."""
    return np.linalg.norm(people[:, keypoints] - points, axis=-1).T


def _accept_in_order(explained: np.ndarray, eligible: np.ndarray) -> list[int]:
    """Indices of the seeds, in order, that no seed accepted before them explains; explained (N, N) is [seed, by whom]."""
    accepted: list[int] = []
    for seed in np.flatnonzero(eligible).tolist():
        if not explained[seed, accepted].any():
            accepted.append(seed)
    return accepted


@lru_cache(maxsize=8)
def _levels(skeleton: Skeleton) -> list[np.ndarray]:
    """Per distance from the seed: (K, n) int, for each keypoint as the seed the directed edges to follow, -1 for none."""
    from_to = skeleton.edge_indices.tolist()
    reached = [{root} for root in range(skeleton.keypoint_count)]
    levels: list[np.ndarray] = []
    while True:
        fringe = [[e for e, (a, b) in enumerate(from_to) if a in seen and b not in seen] for seen in reached]
        widest = max(map(len, fringe), default=0)
        if not widest:
            return levels
        levels.append(np.array([edges + [-1] * (widest - len(edges)) for edges in fringe]))
        reached = [seen | {from_to[e][1] for e in edges} for seen, edges in zip(reached, fringe, strict=True)]
