"""Greedy grouping along the tree; `decoder.grouping` in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.bridging import bridge_gaps
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.peaks import SEEDS, Seeds
from personlab_keras.decoder_graph.sampling import step_along, value_at
from personlab_keras.method.skeleton import Skeleton

SEEDS_AT_ONCE = 32


def group(
    seeds: Seeds,
    fields: Fields,
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    limit: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """People (P, K, 2) in the order of their seeds, NaN where nothing was found, and how many; as
    `decoder.grouping.group`.

    The next `SEEDS_AT_ONCE` seeds that no person explains are followed together. Then, in order,
    each either starts a person or is explained by one that an earlier seed of the round started.
    """
    count = skeleton.keypoint_count
    routes = tf.constant(tree_levels(skeleton))
    rank = tf.range(SEEDS, 0, -1)

    def explained(points: tf.Tensor, keypoints: tf.Tensor, people: tf.Tensor) -> tf.Tensor:
        """(N, P) bool: whether a seed at one of the points (N, 2) lies near the same keypoint of
        one of the people (P, K, 2).
        """
        across, down = (
            tf.gather(tf.transpose(people[..., axis]), keypoints) - points[:, axis, None]
            for axis in (0, 1)
        )
        return across * across + down * down <= options.nms_radius**2  # NaN is not

    def following(
        pending: tf.Tensor, people: tf.Tensor, accepted: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        next_ranks, chosen = tf.math.top_k(tf.where(pending, rank, 0), SEEDS_AT_ONCE)
        points, keypoints = tf.gather(seeds.points, chosen), tf.gather(seeds.keypoints, chosen)
        found = follow_tree(points, keypoints, routes, fields, options.mid_refinements)
        found = drop_unfound(found, fields, options.keypoint_threshold, radius)
        if options.bridge and fields.long_offsets is not None:
            bridged = bridge_gaps(found, fields, options)
            found = drop_unfound(bridged, fields, options.keypoint_threshold, radius)
        starts = (next_ranks > 0) & tf.reduce_any(tf.math.is_finite(found[..., 0]), axis=1)
        earlier = tf.cast(np.tri(SEEDS_AT_ONCE, k=-1), tf.bool)
        blocks = explained(points, keypoints, found) & earlier

        def settled(keep: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(keep != last)

        def next_guess(keep: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return starts & ~tf.reduce_any(blocks & keep[None, :], axis=1), keep

        # After n rounds the first n verdicts are final, so verdicts that repeat are the only
        # consistent ones.
        keep, _ = tf.while_loop(settled, next_guess, next_guess(starts, starts))
        keep, _ = next_guess(keep, keep)
        place = tf.where(keep, accepted + tf.cumsum(tf.cast(keep, tf.int32)) - 1, limit)
        place = tf.minimum(place, limit)  # the place after the last is never read
        people = tf.tensor_scatter_nd_update(people, place[:, None], found)
        kept = tf.where(keep[:, None, None], found, float("nan"))
        gone = tf.reduce_any(explained(seeds.points, seeds.keypoints, kept), axis=1)
        pending &= ~gone & (rank < next_ranks[-1])
        return (
            pending,
            people,
            tf.minimum(accepted + tf.reduce_sum(tf.cast(keep, tf.int32)), limit),
        )

    people = tf.fill([limit + 1, count, 2], float("nan"))
    _, people, accepted = tf.while_loop(
        lambda pending, _, accepted: tf.reduce_any(pending) & (accepted < limit),
        following,
        (seeds.taken, people, tf.constant(0)),
    )
    return people[:limit], accepted


def tree_levels(skeleton: Skeleton) -> np.ndarray:
    """(K, levels, width, 3) int32: for each keypoint as the seed the directed edges (edge, source,
    target) to follow; those that start equally far from the seed form a level. Free places lead
    from the seed to keypoint K, which does not exist."""
    ends = skeleton.edge_indices.tolist()
    routes: list[list[list[tuple[int, int, int]]]] = []
    for root in range(skeleton.keypoint_count):
        reached, front, levels = {root}, [root], []
        while front:
            level = [(e, a, b) for e, (a, b) in enumerate(ends) if a in front and b not in reached]
            front = [b for _, _, b in level]
            reached.update(front)
            if level:
                levels.append(level)
        routes.append(levels)
    depth = max((len(levels) for levels in routes), default=0)
    width = max((len(level) for levels in routes for level in levels), default=1)
    table = np.zeros((skeleton.keypoint_count, depth, width, 3), np.int32)
    for root, levels in enumerate(routes):
        table[root] = (0, root, skeleton.keypoint_count)
        for d, level in enumerate(levels):
            table[root, d, : len(level)] = level
    return table


def follow_tree(
    points: tf.Tensor, keypoints: tf.Tensor, routes: tf.Tensor, fields: Fields, refinements: int
) -> tf.Tensor:
    """(N, K, 2): people grown from seeds over the whole tree; as `decoder.grouping.follow_tree`."""
    count = fields.heatmaps.shape[-1]
    number = points.shape[0]
    people = tf.where(
        tf.one_hot(keypoints, count + 1)[..., None] > 0, points[:, None, :], float("nan")
    )
    chosen = tf.gather(routes, keypoints)
    rows = tf.broadcast_to(tf.range(number)[:, None], [number, routes.shape[2]])
    for level in range(routes.shape[1]):
        edge, source, target = (chosen[:, level, :, i] for i in range(3))
        channel = tf.minimum(target, count - 1)
        reached = step_along(
            fields.mid_offsets, edge, tf.gather(people, source, batch_dims=1), fields.stride
        )
        for _ in range(refinements):
            reached = step_along(fields.short_offsets, channel, reached, fields.stride)
        people = tf.tensor_scatter_nd_update(people, tf.stack([rows, target], axis=-1), reached)
    return people[:, :count]


def drop_unfound(people: tf.Tensor, fields: Fields, threshold: float, radius: float) -> tf.Tensor:
    """NaN for keypoints (N, K, 2) that are improbable or farther than R from the frame."""
    shape = tf.shape(fields.heatmaps)
    last = tf.cast((tf.stack([shape[1], shape[0]]) - 1) * fields.stride, tf.float32)
    near = tf.reduce_all((people >= -radius) & (people <= last + radius), axis=-1)
    channels = tf.broadcast_to(tf.range(fields.heatmaps.shape[-1]), tf.shape(people)[:2])
    probable = value_at(fields.heatmaps, channels, people, fields.stride) >= threshold
    return tf.where((near & probable)[..., None], people, float("nan"))
