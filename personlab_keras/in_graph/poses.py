"""From maps to poses; `decoder.voting`, `peaks`, `grouping`, `bridging` and `instances` in TensorFlow.

What differs: at most `SEEDS` seeds and `VOTES` votes per keypoint, the strongest, are looked at. Seeds are followed several at a time,
since an operation costs more than what it does for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.in_graph.loops import for_each
from personlab_keras.in_graph.sampling import cell_points, lead, value_at
from personlab_keras.skeleton import Skeleton

SEEDS = 4096
VOTES = 16384
SEEDS_AT_ONCE = 32
_NOWHERE = 1e6  # input pixels: farther from every keypoint than any radius


@dataclass(frozen=True)
class Fields:
    """The maps of one image as the decoder reads them: float32; probabilities in [0, 1], offsets NaN where they are not finite.

    Attributes:
        heatmaps: (h, w, K).
        short_offsets: (h, w, K, 2) in input pixels, as the others.
        mid_offsets: (h, w, 2E, 2).
        long_offsets: (h, w, K, 2); None where the network has none.
        segmentation: (h, w); None where the network has none.
        stride: input pixels per cell.
    """

    heatmaps: tf.Tensor
    short_offsets: tf.Tensor
    mid_offsets: tf.Tensor
    long_offsets: tf.Tensor | None
    segmentation: tf.Tensor | None
    stride: int


@dataclass(frozen=True)
class Poses:
    """N places for people, best first, `count` of them taken.

    Attributes:
        keypoints: (N, K, 2) float32 (x, y) in input pixels; NaN where not found and in places that are free.
        heat: (N, K) float32, probability at the keypoints; 0 where there is none.
        scales: (N,) float32, lambda in input pixels; positive.
        keypoint_scores: (N, K) float32.
        scores: (N,) float32; 0 in places that are free.
        count: () int32.
    """

    keypoints: tf.Tensor
    heat: tf.Tensor
    scales: tf.Tensor
    keypoint_scores: tf.Tensor
    scores: tf.Tensor
    count: tf.Tensor


def fields_of(outputs: Mapping[str, tf.Tensor], stride: int) -> Fields:
    """The maps of one image, flat outputs (h, w, channels) by name, cleaned as `decode` cleans them."""

    def probabilities(name: str) -> tf.Tensor:
        values = tf.cast(outputs[name], tf.float32)
        return tf.clip_by_value(tf.where(tf.math.is_finite(values), values, 0.0), 0.0, 1.0)

    def offsets(name: str) -> tf.Tensor:
        values = tf.cast(outputs[name], tf.float32)
        shape = tf.shape(values)
        pairs = tf.reshape(values, [shape[0], shape[1], values.shape[-1] // 2, 2])
        return tf.where(tf.math.is_finite(pairs), pairs, float("nan"))

    return Fields(
        heatmaps=probabilities("heatmaps"),
        short_offsets=offsets("short_offsets"),
        mid_offsets=offsets("mid_offsets"),
        long_offsets=offsets("long_offsets") if "long_offsets" in outputs else None,
        segmentation=probabilities("segmentation")[..., 0] if "segmentation" in outputs else None,
        stride=stride,
    )


def find_poses(fields: Fields, skeleton: Skeleton, options: DecodeConfig, radius: float, candidates: int) -> Poses:
    """The best `options.max_people` poses of one image, as `decode` finds them.

    Args:
        fields: its maps.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        radius: R in input pixels.
        candidates: most people that are grouped.
    """
    points, mass = _votes(fields)
    hough = _accumulate(points, mass, fields, radius) if options.hough else fields.heatmaps
    seeds = _seeds(hough, fields.stride, options.peak_threshold)
    keypoints, count = _group(seeds, fields, skeleton, options, radius, candidates)

    strongest = _strongest(points, mass)
    for _ in range(options.vote_refinements):
        keypoints = _settle(keypoints, count, strongest, options.nms_radius)
    channels = tf.broadcast_to(tf.range(skeleton.keypoint_count), tf.shape(keypoints)[:2])
    heat = value_at(fields.heatmaps, channels, keypoints, fields.stride)
    heat = tf.where(tf.math.is_finite(heat), heat, 0.0)
    scales = _scales(keypoints, options.nms_radius)
    keypoint_scores = heat
    if options.expected_oks:
        keypoint_scores = heat * _expected_oks(keypoints, count, scales, strongest, skeleton.kappas, radius)
    order = tf.argsort(tf.reduce_mean(keypoint_scores, axis=1), direction="DESCENDING", stable=True)
    keypoints, heat, scales, keypoint_scores = (tf.gather(each, order) for each in (keypoints, heat, scales, keypoint_scores))
    added = tf.where(_shown(keypoints, count, options.nms_radius), 0.0, keypoint_scores) if options.soft_nms else keypoint_scores
    scores = tf.reduce_mean(added**options.score_power, axis=1) ** (1.0 / options.score_power)
    scores = tf.where((scores > 0) & (scores >= options.score_threshold), scores, 0.0)

    places = options.max_people
    scores, best = tf.math.top_k(tf.pad(scores, [[0, places]]), places)
    taken = scores > 0
    best = tf.where(taken, best, 0)
    return Poses(
        keypoints=tf.where(taken[:, None, None], tf.gather(keypoints, best), float("nan")),
        heat=tf.where(taken[:, None], tf.gather(heat, best), 0.0),
        scales=tf.gather(scales, best),
        keypoint_scores=tf.where(taken[:, None], tf.gather(keypoint_scores, best), 0.0),
        scores=scores,
        count=tf.reduce_sum(tf.cast(taken, tf.int32)),
    )


def _votes(fields: Fields) -> tuple[tf.Tensor, tf.Tensor]:
    """Where every cell's vote for every keypoint lands, (h, w, K, 2) in input pixels, and its mass (h, w, K), 0 for no vote."""
    shape = tf.shape(fields.heatmaps)
    points = cell_points(shape[0], shape[1], fields.stride)[:, :, None, :] + fields.short_offsets
    known = tf.reduce_all(tf.math.is_finite(points), axis=-1)
    return tf.where(known[..., None], points, _NOWHERE), tf.where(known, fields.heatmaps, 0.0)


def _accumulate(points: tf.Tensor, mass: tf.Tensor, fields: Fields, radius: float) -> tf.Tensor:
    """Hough scores (h, w, K); as `decoder.voting.accumulate`."""
    shape = tf.shape(mass)
    height, width, count = shape[0], shape[1], shape[2]
    limits = tf.cast(tf.stack([width, height]), tf.float32)
    # Clipped votes land out of the frame all the same, and stay small enough for integers.
    places = tf.clip_by_value(points / fields.stride, -2.0, limits + 1)
    first = tf.floor(places)
    share = places - first
    near = tf.cast(first, tf.int32)
    votes = mass * (fields.stride**2 / (math.pi * radius**2))
    scores = tf.zeros([height * width * count])
    for below in (0, 1):
        for beside in (0, 1):
            row, column = near[..., 1] + below, near[..., 0] + beside
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            down, across = share[..., 1], share[..., 0]
            portion = (down if below else 1 - down) * (across if beside else 1 - across)
            cells = (row * width + column) * count + tf.range(count)
            scores += tf.math.unsorted_segment_sum(
                tf.reshape(tf.where(inside, votes * portion, 0.0), [-1]),
                tf.reshape(tf.where(inside, cells, 0), [-1]),
                height * width * count,
            )
    return tf.reshape(scores, shape)


@dataclass(frozen=True)
class _Seeds:
    """`SEEDS` places for seeds, best first: points (S, 2) in input pixels, keypoints (S,), and whether the place is taken (S,)."""

    points: tf.Tensor
    keypoints: tf.Tensor
    taken: tf.Tensor


def _seeds(hough: tf.Tensor, stride: int, threshold: float) -> _Seeds:
    """The local maxima of Hough scores (h, w, K); as `decoder.peaks.find_peaks`.

    Of a plateau of two cells the first is the peak. Larger ones, which no real map has, may give several seeds, of which the first
    person found explains the others.
    """
    hough = tf.transpose(hough, [2, 0, 1])  # seeds of one score come by keypoint, then in reading order
    shape = tf.shape(hough)
    height, width = shape[1], shape[2]
    framed = tf.pad(hough, [[0, 0], [1, 1], [1, 1]])

    def neighbour(down: int, across: int) -> tf.Tensor:
        return framed[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]

    peak = hough > max(threshold, 0.0)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            if (down, across) < (0, 0):
                peak &= hough > neighbour(down, across)
            elif (down, across) > (0, 0):
                peak &= hough >= neighbour(down, across)
    scores = tf.reshape(tf.where(peak, hough, 0.0), [-1])
    scores, cells = tf.math.top_k(tf.pad(scores, [[0, SEEDS]]), SEEDS)
    taken = scores > 0
    cells = tf.where(taken, cells, 0)
    keypoints, cell = cells // (height * width), cells % (height * width)
    row, column = cell // width, cell % width
    total = across_sum = down_sum = 0.0
    flat = tf.reshape(framed, [-1])
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            around = (keypoints * (height + 2) + row + 1 + down) * (width + 2) + column + 1 + across
            value = tf.gather(flat, around)
            total += value
            across_sum += value * across
            down_sum += value * down
    total = tf.where(taken, total, 1.0)
    x = tf.cast(column, tf.float32) + across_sum / total
    y = tf.cast(row, tf.float32) + down_sum / total
    return _Seeds(tf.stack([x, y], axis=-1) * stride, keypoints, taken)


def _group(
    seeds: _Seeds, fields: Fields, skeleton: Skeleton, options: DecodeConfig, radius: float, candidates: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """People (P, K, 2) in the order of their seeds, NaN where nothing was found, and how many; as `decoder.grouping.group`.

    Always the next `SEEDS_AT_ONCE` seeds that nobody explains are followed together. Then one after the other either starts a person
    or is explained by one that a seed of the same round started.
    """
    count = skeleton.keypoint_count
    routes = tf.constant(_levels(skeleton))
    rank = tf.range(SEEDS, 0, -1)

    def explained(points: tf.Tensor, keypoints: tf.Tensor, people: tf.Tensor) -> tf.Tensor:
        """(N, P) bool: which of the seeds' points (N, 2) lie near the same keypoint of which of the people (P, K, 2)."""
        across, down = (tf.gather(tf.transpose(people[..., axis]), keypoints) - points[:, axis, None] for axis in (0, 1))
        return across * across + down * down <= options.nms_radius**2  # NaN is not

    def following(pending: tf.Tensor, people: tf.Tensor, accepted: tf.Tensor) -> tuple[tf.Tensor, ...]:
        next_ranks, chosen = tf.math.top_k(tf.where(pending, rank, 0), SEEDS_AT_ONCE)
        points, keypoints = tf.gather(seeds.points, chosen), tf.gather(seeds.keypoints, chosen)
        found = _follow_tree(points, keypoints, routes, fields, options.mid_refinements)
        found = _drop_unfound(found, fields, options.keypoint_threshold, radius)
        if options.bridge and fields.long_offsets is not None:
            bridged = _bridge(found, fields, options)
            found = _drop_unfound(bridged, fields, options.keypoint_threshold, radius)
        starts = (next_ranks > 0) & tf.reduce_any(tf.math.is_finite(found[..., 0]), axis=1)
        earlier = tf.cast(np.tri(SEEDS_AT_ONCE, k=-1), tf.bool)
        blocks = explained(points, keypoints, found) & earlier

        def settled(keep: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(keep != last)

        def next_guess(keep: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return starts & ~tf.reduce_any(blocks & keep[None, :], axis=1), keep

        # After n rounds the first n verdicts are final, and one that repeats itself is the only one that is consistent.
        keep, _ = tf.while_loop(settled, next_guess, next_guess(starts, starts))
        keep, _ = next_guess(keep, keep)
        place = tf.where(keep, accepted + tf.cumsum(tf.cast(keep, tf.int32)) - 1, candidates)
        place = tf.minimum(place, candidates)  # beyond the last place lies one that nobody reads
        people = tf.tensor_scatter_nd_update(people, place[:, None], found)
        kept = tf.where(keep[:, None, None], found, float("nan"))
        gone = tf.reduce_any(explained(seeds.points, seeds.keypoints, kept), axis=1)
        pending &= ~gone & (rank < next_ranks[-1])
        return pending, people, tf.minimum(accepted + tf.reduce_sum(tf.cast(keep, tf.int32)), candidates)

    people = tf.fill([candidates + 1, count, 2], float("nan"))
    _, people, accepted = tf.while_loop(
        lambda pending, _, accepted: tf.reduce_any(pending) & (accepted < candidates),
        following,
        (seeds.taken, people, tf.constant(0)),
    )
    return people[:candidates], accepted


def _levels(skeleton: Skeleton) -> np.ndarray:
    """(K, levels, width, 3) int32: for each keypoint as the seed the directed edges (edge, source, target) to follow, those that
    start equally far from it together. Places that are free lead from the seed to K, a keypoint that nobody has."""
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


def _follow_tree(points: tf.Tensor, keypoints: tf.Tensor, routes: tf.Tensor, fields: Fields, refinements: int) -> tf.Tensor:
    """(N, K, 2): people grown from seeds over the whole tree; as `decoder.grouping.follow_tree`."""
    count = fields.heatmaps.shape[-1]
    number = points.shape[0]
    people = tf.where(tf.one_hot(keypoints, count + 1)[..., None] > 0, points[:, None, :], float("nan"))
    chosen = tf.gather(routes, keypoints)
    rows = tf.broadcast_to(tf.range(number)[:, None], [number, routes.shape[2]])
    for level in range(routes.shape[1]):
        edge, source, target = (chosen[:, level, :, i] for i in range(3))
        channel = tf.minimum(target, count - 1)
        reached = lead(fields.mid_offsets, edge, tf.gather(people, source, batch_dims=1), fields.stride)
        for _ in range(refinements):
            reached = lead(fields.short_offsets, channel, reached, fields.stride)
        people = tf.tensor_scatter_nd_update(people, tf.stack([rows, target], axis=-1), reached)
    return people[:, :count]


def _drop_unfound(people: tf.Tensor, fields: Fields, threshold: float, radius: float) -> tf.Tensor:
    """NaN for keypoints (N, K, 2) that are improbable or farther than R from the frame."""
    shape = tf.shape(fields.heatmaps)
    last = tf.cast((tf.stack([shape[1], shape[0]]) - 1) * fields.stride, tf.float32)
    near = tf.reduce_all((people >= -radius) & (people <= last + radius), axis=-1)
    channels = tf.broadcast_to(tf.range(fields.heatmaps.shape[-1]), tf.shape(people)[:2])
    probable = value_at(fields.heatmaps, channels, people, fields.stride) >= threshold
    return tf.where((near & probable)[..., None], people, float("nan"))


def _bridge(people: tf.Tensor, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """People (N, K, 2) with what the tree did not reach, where the long offsets at found keypoints agree on it; as
    `decoder.bridging.bridge_gaps`. The axes are person, target, source."""
    number, count = people.shape[:2]
    found = tf.math.is_finite(people[..., 0])
    channels = tf.broadcast_to(tf.range(count), [number, count])
    weights = value_at(fields.heatmaps, channels, people, fields.stride)
    weights = tf.where(tf.math.is_finite(weights), weights, 0.0)
    targets = tf.broadcast_to(tf.range(count)[None, :, None], [number, count, count])
    proposed = lead(fields.long_offsets, targets, tf.broadcast_to(people[:, None], [number, count, count, 2]), fields.stride)
    for _ in range(options.mid_refinements):
        proposed = lead(fields.short_offsets, targets, proposed, fields.stride)
    landed = value_at(fields.heatmaps, targets, proposed, fields.stride) >= options.keypoint_threshold
    shares = tf.where(landed, weights[:, None, :], 0.0)
    apart = proposed[:, :, :, None, :] - proposed[:, :, None, :, :]
    agree = tf.reduce_sum(apart**2, axis=-1) <= options.nms_radius**2
    support = tf.reduce_sum(tf.where(agree, shares[:, :, None, :], 0.0), axis=-1)
    support = tf.where(landed, support, -1.0)
    least = options.bridge_support * tf.reduce_sum(weights, axis=1, keepdims=True)
    best = tf.argmax(support, axis=-1, output_type=tf.int32)
    enough = tf.reduce_max(support, axis=-1) >= least
    chosen = tf.gather(proposed, best, batch_dims=2)
    return tf.where((~found & enough)[..., None], chosen, people)


@dataclass(frozen=True)
class _Landings:
    """At most `VOTES` votes for every keypoint: where they land, x and y (K, V) in input pixels, and mass (K, V), 0 for no vote.

    Coordinates lie apart from each other: sums over an axis of two are slow.
    """

    x: tf.Tensor
    y: tf.Tensor
    mass: tf.Tensor

    def from_person(self, person: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(K, V) each: how far in x and y every vote lies from the keypoint (K, 2) that it is for, and the squared distance."""
        across, down = self.x - person[:, :1], self.y - person[:, 1:]
        return across, down, across * across + down * down


def _strongest(points: tf.Tensor, mass: tf.Tensor) -> _Landings:
    count = mass.shape[-1]
    x, y, mass = (tf.reshape(tf.transpose(each, [2, 0, 1]), [count, -1]) for each in (points[..., 0], points[..., 1], mass))
    if mass.shape[1] is not None and mass.shape[1] <= VOTES:
        return _Landings(x, y, mass)
    mass, chosen = tf.math.top_k(mass, tf.minimum(VOTES, tf.shape(mass)[1]) if mass.shape[1] is None else VOTES, sorted=False)
    return _Landings(tf.gather(x, chosen, batch_dims=1), tf.gather(y, chosen, batch_dims=1), mass)


def _settle(people: tf.Tensor, count: tf.Tensor, votes: _Landings, reach: float) -> tf.Tensor:
    """People (P, K, 2), of whom `count` are there, each keypoint moved to the mean of the votes around it: a step of
    `decoder.instances.settle`."""

    def moved(j: tf.Tensor) -> tuple[tf.Tensor]:
        across, down, squared = votes.from_person(people[j])
        weight = tf.where(squared <= reach**2, votes.mass * tf.exp(-squared / (reach**2 / 2)), 0.0)
        total = tf.reduce_sum(weight, axis=1)
        pull = tf.stack([_weighted(weight, across), _weighted(weight, down)], axis=-1)
        return (people[j] + tf.where(total[:, None] > 0, pull / tf.where(total > 0, total, 1.0)[:, None], 0.0),)

    return for_each(count, people.shape[0], moved, [tf.fill(people.shape[1:], float("nan"))])[0]


def _expected_oks(
    people: tf.Tensor, count: tf.Tensor, scales: tf.Tensor, votes: _Landings, kappas: np.ndarray, radius: float
) -> tf.Tensor:
    """(P, K): how well the votes around every keypoint agree on it; as `decoder.instances.expected_oks`."""
    spreads = 2.0 * (scales[:, None] * tf.constant(kappas, tf.float32)) ** 2

    def agreement(j: tf.Tensor) -> tuple[tf.Tensor]:
        _, _, squared = votes.from_person(people[j])
        near = tf.where(squared <= radius**2, votes.mass, 0.0)
        total = tf.reduce_sum(near, axis=1)
        agreed = _weighted(near, tf.exp(-squared / spreads[j][:, None]))
        return (tf.where(total > 0, agreed / tf.where(total > 0, total, 1.0), 0.0),)

    return for_each(count, people.shape[0], agreement, [tf.zeros(people.shape[1:2])])[0]


def _weighted(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """(K,): the sums of weights * values (K, V), where a value that is not known weighs nothing."""
    return tf.reduce_sum(tf.where(weights > 0, weights * values, 0.0), axis=1)


def _scales(people: tf.Tensor, smallest_side: float) -> tf.Tensor:
    """(P,) lambda in input pixels; as `decoder.instances.person_scales`."""
    known = tf.math.is_finite(people)
    high = tf.reduce_max(tf.where(known, people, -_NOWHERE), axis=1)
    low = tf.reduce_min(tf.where(known, people, _NOWHERE), axis=1)
    return tf.sqrt(tf.reduce_prod(tf.maximum(high - low, smallest_side), axis=-1))


def _shown(people: tf.Tensor, count: tf.Tensor, radius: float) -> tf.Tensor:
    """(P, K) bool: which keypoints of people (P, K, 2), best first, a better person shows; as `decoder.instances.soft_nms`."""

    def by_better(j: tf.Tensor) -> tuple[tf.Tensor]:
        squared = tf.math.squared_difference(people[..., 0], people[j, :, 0])
        squared += tf.math.squared_difference(people[..., 1], people[j, :, 1])
        better = tf.range(people.shape[0]) < j
        return (tf.reduce_any(better[:, None] & (squared <= radius**2), axis=0),)

    return for_each(count, people.shape[0], by_better, [tf.zeros(people.shape[1:2], tf.bool)])[0]
