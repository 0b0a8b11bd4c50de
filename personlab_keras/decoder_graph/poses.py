"""From maps to poses: the steps of `decoder.decode` up to the masks, in TensorFlow.

Several seeds are followed at a time, because calling an operation costs more than its work for one
seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.copies import copy_shares
from personlab_keras.decoder_graph.fields import Fields, Frame
from personlab_keras.decoder_graph.fusion import fuse
from personlab_keras.decoder_graph.instances import person_scores, suppressed_by_better
from personlab_keras.decoder_graph.merging import merge_readings, pool_readings
from personlab_keras.decoder_graph.reading import Readings, read_people
from personlab_keras.method.skeleton import Skeleton


def find_poses(
    passes: Sequence[Sequence[Fields]],
    frames: Sequence[Frame],
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    limit: int,
) -> tuple[Readings, tf.Tensor, list[Fields]]:
    """The poses of one image, as `decode` finds them.

    Args:
        passes: for every size at which the image is seen, largest input first, its maps and maybe
            those of its mirror image, mirrored back.
        frames: of every size.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        radius: R in input pixels.
        limit: most people that are grouped in one size.

    Returns:
        At most `options.max_people` people, best first, in input pixels of the first size; their
        scores (N,); and the maps of every size.
    """
    maps = [fuse(each, skeleton) for each in passes]
    readings = [
        read_people(each, fused, skeleton, options, radius, limit, i)
        for i, (each, fused) in enumerate(zip(passes, maps, strict=True))
    ]
    people = pool_readings(readings, frames, options.scale_range)
    merges = options.merge or len(maps) > 1
    power = options.score_power if merges else 1.0
    people = people.chosen(_best_first(person_scores(people.keypoint_scores, power)))
    added = people.keypoint_scores
    if merges:
        keypoints, shared = merge_readings(people, skeleton.kappas)
        people = replace(people, keypoints=keypoints)
        added = tf.where(shared, 0.0, added)
    if options.soft_nms:
        suppressed = suppressed_by_better(people.keypoints, options.nms_radius)
        added = tf.where(suppressed, 0.0, added)
    scores = person_scores(added, options.score_power)
    people, scores = _best(people, scores, options)
    if options.copy_score < 1:
        shares = copy_shares(people, maps, frames, skeleton.kappas, options)
        scores = scores * (1.0 - (1.0 - options.copy_score) * shares)
        people, scores = _best(people, scores, options)
    return people, scores, maps


def _best_first(scores: tf.Tensor) -> tf.Tensor:
    return tf.argsort(scores, direction="DESCENDING", stable=True)


def _best(people: Readings, scores: tf.Tensor, options: DecodeConfig) -> tuple[Readings, tf.Tensor]:
    """The best people with a positive score above the threshold, best first, and their scores."""
    order = _best_first(scores)[: options.max_people]
    ordered = tf.gather(scores, order)
    good = (ordered > 0) & (ordered >= options.score_threshold)
    return people.chosen(tf.boolean_mask(order, good)), tf.boolean_mask(ordered, good)
