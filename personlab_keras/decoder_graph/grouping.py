"""Greedy grouping along the tree; `decoder.grouping` in TensorFlow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.bridging import bridge_gaps
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.peaks import Seeds
from personlab_keras.decoder_graph.sampling import follow, follow_among_votes, value_at
from personlab_keras.method.skeleton import Skeleton

SEEDS_AT_ONCE = 256


def group(
    seeds: Seeds,
    fields: Fields,
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    limit: int,
    agree: tf.Tensor,
) -> tf.Tensor:
    """People (P, K, 2) in the order of their seeds, NaN where nothing was found; as
    `decoder.grouping.group`.

    The next `SEEDS_AT_ONCE` seeds that no person explains are followed together. Then, in order,
    each either starts a person or is explained by one that an earlier seed of the round started.
    `agree` is as of `voting.votes_agree`.
    """
    count = skeleton.keypoint_count
    routes = tf.constant(tree_levels(skeleton))

    def explained(points: tf.Tensor, keypoints: tf.Tensor, people: tf.Tensor) -> tf.Tensor:
        """(N, P) bool: whether a seed at one of the points (N, 2) lies near the same keypoint of
        one of the people (P, K, 2).
        """
        across, down = (
            tf.gather(tf.transpose(people[..., axis]), keypoints) - points[:, axis, None]
            for axis in (0, 1)
        )
        return across * across + down * down <= options.nms_radius**2  # NaN is not

    def unfound_dropped(people: tf.Tensor) -> tf.Tensor:
        return drop_unfound(people, fields, options.keypoint_threshold, radius)

    def following(first: tf.Tensor, people: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        last = tf.minimum(first + SEEDS_AT_ONCE, tf.shape(seeds.keypoints)[0])
        points, keypoints = seeds.points[first:last], seeds.keypoints[first:last]
        open_ones = ~tf.reduce_any(explained(points, keypoints, people), axis=1)
        points, keypoints = (
            tf.boolean_mask(points, open_ones),
            tf.boolean_mask(keypoints, open_ones),
        )
        walked = follow_tree(points, keypoints, routes, fields, options.mid_refinements, agree)
        walked = unfound_dropped(walked)
        number = tf.shape(walked)[0]
        earlier = tf.range(number)[None, :] < tf.range(number)[:, None]

        def verdicts(grown: tf.Tensor) -> tf.Tensor:
            """(N,) bool: who starts a person, as the people are now."""
            starts = tf.reduce_any(tf.math.is_finite(grown[..., 0]), axis=1)
            blocks = explained(points, keypoints, grown) & earlier

            def next_guess(keep: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return starts & ~tf.reduce_any(blocks & keep[None, :], axis=1), keep

            # After n rounds the first n verdicts are final, so verdicts that repeat are the only
            # consistent ones.
            return tf.while_loop(
                lambda keep, last: tf.reduce_any(keep != last),
                next_guess,
                next_guess(starts, starts),
            )[0]

        keep = verdicts(walked)
        if options.bridge and fields.long_offsets is not None:

            def bridging(
                grown: tf.Tensor, bridged: tf.Tensor, keep: tf.Tensor
            ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                todo = tf.where(keep & ~bridged)
                more = bridge_gaps(tf.gather_nd(grown, todo), fields, options)
                grown = tf.tensor_scatter_nd_update(grown, todo, unfound_dropped(more))
                return grown, bridged | keep, verdicts(grown)

            # A bridge may explain a seed, so who starts a person is asked again.
            walked, _, keep = tf.while_loop(
                lambda _, bridged, keep: tf.reduce_any(keep & ~bridged),
                bridging,
                (walked, tf.zeros_like(keep), keep),
            )
        people = tf.concat([people, tf.boolean_mask(walked, keep)], axis=0)
        return last, people[:limit]

    _, people = tf.while_loop(
        lambda first, people: (
            (first < tf.shape(seeds.keypoints)[0]) & (tf.shape(people)[0] < limit)
        ),
        following,
        (tf.constant(0), tf.zeros([0, count, 2])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, count, 2])),
    )
    return people


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


def settled(seeds: Seeds, fields: Fields, refinements: int, agree: tf.Tensor) -> Seeds:
    """The seeds among the votes of one person; as `decoder.grouping.settled`."""
    points = tf.cond(
        agree,
        lambda: _refined(seeds.points, seeds.keypoints, fields, refinements, among_votes=True),
        lambda: seeds.points,
    )
    return replace(seeds, points=points)


def _refined(
    points: tf.Tensor, keypoints: tf.Tensor, fields: Fields, refinements: int, among_votes: bool
) -> tf.Tensor:
    """Points (..., 2) refined by the short-range field of the keypoints (...)."""
    short = fields.short_offsets
    if not among_votes:
        return follow(short, keypoints, points, fields.grid, refinements)
    _, points = tf.while_loop(  # a graph of all steps would be slow to load
        lambda step, _: step < refinements,
        lambda step, points: (
            step + 1,
            follow_among_votes(short, keypoints, points, short, keypoints, fields.grid),
        ),
        (tf.constant(0), points),
    )
    return points


def follow_tree(
    points: tf.Tensor,
    keypoints: tf.Tensor,
    routes: tf.Tensor,
    fields: Fields,
    refinements: int,
    agree: tf.Tensor,
) -> tf.Tensor:
    """(N, K, 2): people grown from seeds over the whole tree; as `decoder.grouping.follow_tree`."""
    return tf.cond(
        agree,
        lambda: _follow_tree(points, keypoints, routes, fields, refinements, True),
        lambda: _follow_tree(points, keypoints, routes, fields, refinements, False),
    )


def _follow_tree(
    points: tf.Tensor,
    keypoints: tf.Tensor,
    routes: tf.Tensor,
    fields: Fields,
    refinements: int,
    among_votes: bool,
) -> tf.Tensor:
    count = fields.heatmaps.shape[2]
    number = tf.shape(points)[0]
    people = tf.where(
        tf.one_hot(keypoints, count + 1)[..., None] > 0, points[:, None, :], float("nan")
    )
    chosen = tf.gather(routes, keypoints)
    rows = tf.broadcast_to(tf.range(number)[:, None], [number, routes.shape[2]])

    def follow_level(level: tf.Tensor, people: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        edge, source, target = tf.unstack(tf.gather(chosen, level, axis=1), axis=-1)
        channel = tf.minimum(target, count - 1)
        start = tf.gather(people, source, batch_dims=1)
        reached = (
            follow_among_votes(
                fields.mid_offsets, edge, start, fields.short_offsets, source, fields.grid
            )
            if among_votes
            else follow(fields.mid_offsets, edge, start, fields.grid)
        )
        reached = _refined(reached, channel, fields, refinements, among_votes)
        places = tf.stack([rows, target], axis=-1)
        return level + 1, tf.tensor_scatter_nd_update(people, places, reached)

    _, people = tf.while_loop(  # a graph of all levels would be slow to load
        lambda level, _: level < routes.shape[1], follow_level, (tf.constant(0), people)
    )
    return people[:, :count]


def drop_unfound(people: tf.Tensor, fields: Fields, threshold: float, radius: float) -> tf.Tensor:
    """NaN for keypoints (N, K, 2) that are improbable or farther than R from the frame."""
    near = tf.reduce_all((people >= -radius) & (people <= fields.grid.last + radius), axis=-1)
    channels = tf.broadcast_to(tf.range(fields.heatmaps.shape[2]), tf.shape(people)[:2])
    probable = value_at(fields.heatmaps, channels, people, fields.grid) >= threshold
    return tf.where((near & probable)[..., None], people, float("nan"))
