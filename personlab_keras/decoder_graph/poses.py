"""From maps to poses: the steps of `decoder.decode` up to the masks, in TensorFlow.

Two things differ. Of seeds the best `SEEDS` count, of votes the strongest `VOTES` per keypoint. And
several seeds are followed at a time, because calling an operation costs more than its work for one
seed."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.copies import copy_shares
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.grouping import group
from personlab_keras.decoder_graph.instances import (
    expected_oks,
    mean_shift,
    person_scales,
    person_scores,
    suppressed_by_better,
)
from personlab_keras.decoder_graph.merging import merge_readings
from personlab_keras.decoder_graph.peaks import find_peaks
from personlab_keras.decoder_graph.sampling import value_at
from personlab_keras.decoder_graph.voting import cast_votes, hough_scores, strongest_votes
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class Poses:
    """People in N places, best first, of which the first `count` are taken.

    Attributes:
        keypoints: (N, K, 2) float32 (x, y) in input pixels; NaN where not found and in places that
            are free.
        own_keypoints: (N, K, 2) float32, the same before merging, by which masks are found.
        heat: (N, K) float32, probability at the keypoints; 0 where there is none.
        scales: (N,) float32, lambda in input pixels; positive.
        keypoint_scores: (N, K) float32.
        scores: (N,) float32; 0 in places that are free.
        count: () int32.
    """

    keypoints: tf.Tensor
    own_keypoints: tf.Tensor
    heat: tf.Tensor
    scales: tf.Tensor
    keypoint_scores: tf.Tensor
    scores: tf.Tensor
    count: tf.Tensor


def find_poses(
    fields: Fields, skeleton: Skeleton, options: DecodeConfig, radius: float, limit: int
) -> Poses:
    """The best `options.max_people` poses of one image, as `decode` finds them.

    Args:
        fields: its maps.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        radius: R in input pixels.
        limit: most people that are grouped.
    """
    points, mass = cast_votes(fields)
    hough = hough_scores(points, mass, fields, radius) if options.hough else fields.heatmaps
    seeds = find_peaks(hough, fields.stride, options.peak_threshold)
    keypoints, count = group(seeds, fields, skeleton, options, radius, limit)

    strongest = strongest_votes(points, mass)
    for _ in range(options.vote_refinements):
        keypoints = mean_shift(keypoints, count, strongest, options.nms_radius)
    channels = tf.broadcast_to(tf.range(skeleton.keypoint_count), tf.shape(keypoints)[:2])
    heat = value_at(fields.heatmaps, channels, keypoints, fields.stride)
    heat = tf.where(tf.math.is_finite(heat), heat, 0.0)
    scales = person_scales(keypoints, options.nms_radius)
    keypoint_scores = heat
    if options.expected_oks:
        keypoint_scores = heat * expected_oks(
            keypoints, count, scales, strongest, skeleton.kappas, radius
        )
    power = options.score_power if options.merge else 1.0
    order = tf.argsort(person_scores(keypoint_scores, power), direction="DESCENDING", stable=True)
    keypoints, heat, scales, keypoint_scores = (
        tf.gather(each, order) for each in (keypoints, heat, scales, keypoint_scores)
    )
    own_keypoints, added = keypoints, keypoint_scores
    if options.merge:
        keypoints, shared = merge_readings(
            keypoints, count, scales, keypoint_scores, skeleton.kappas
        )
        added = tf.where(shared, 0.0, added)
    if options.soft_nms:
        suppressed = suppressed_by_better(keypoints, count, options.nms_radius)
        added = tf.where(suppressed, 0.0, added)
    scores = person_scores(added, options.score_power)
    scores = tf.where((scores > 0) & (scores >= options.score_threshold), scores, 0.0)

    places = options.max_people
    scores, best = tf.math.top_k(tf.pad(scores, [[0, places]]), places)
    poses = _chosen(
        Poses(keypoints, own_keypoints, heat, scales, keypoint_scores, scores, count), scores, best
    )
    if options.copy_score == 1 or fields.long_offsets is None:
        return poses
    shares = copy_shares(
        poses.own_keypoints,
        poses.count,
        poses.heat,
        poses.scales,
        fields,
        skeleton.kappas,
        options,
    )
    scores = poses.scores * (1.0 - (1.0 - options.copy_score) * shares)
    scores = tf.where(scores >= options.score_threshold, scores, 0.0)
    best = tf.argsort(scores, direction="DESCENDING", stable=True)
    return _chosen(poses, tf.gather(scores, best), best)


def _chosen(poses: Poses, scores: tf.Tensor, chosen: tf.Tensor) -> Poses:
    """Poses in new places, with new scores; those with score 0 are free."""
    taken = scores > 0
    chosen = tf.where(taken, chosen, 0)
    return Poses(
        keypoints=tf.where(taken[:, None, None], tf.gather(poses.keypoints, chosen), float("nan")),
        own_keypoints=tf.where(
            taken[:, None, None], tf.gather(poses.own_keypoints, chosen), float("nan")
        ),
        heat=tf.where(taken[:, None], tf.gather(poses.heat, chosen), 0.0),
        scales=tf.gather(poses.scales, chosen),
        keypoint_scores=tf.where(taken[:, None], tf.gather(poses.keypoint_scores, chosen), 0.0),
        scores=scores,
        count=tf.reduce_sum(tf.cast(taken, tf.int32)),
    )
