"""A body read twice counts once; `decoder.copies` in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.config import SAME_PERSON, DecodeConfig
from personlab_keras.decoder_graph.embedding import embed, keypoint_shares, nearer_distances
from personlab_keras.decoder_graph.fields import Fields, Frame
from personlab_keras.decoder_graph.merging import agreements, similarities
from personlab_keras.decoder_graph.reading import Readings

_FAINT = 1e-4  # a similarity that does not count


def copy_shares(
    people: Readings,
    maps: Sequence[Fields],
    frames: Sequence[Frame],
    kappas: np.ndarray,
    options: DecodeConfig,
) -> tf.Tensor:
    """(P,): how much of every person is a copy of a better one; as `decoder.copies.copy_shares`.

    Args:
        people: best first, in the input pixels of the first size.
        maps, frames: of every size.
        kappas: (K,) the constants of object keypoint similarity.
        options: `long_refinements` and `embedding_threshold`.
    """
    places = tf.range(tf.shape(people.scales)[0])
    agreement, _ = agreements(people.own_keypoints, people.scales, kappas)
    alike = tf.minimum(similarities(people.own_keypoints, agreement) / SAME_PERSON, 1.0)
    pairs = (alike > _FAINT) & (places[:, None] < places[None, :])  # better, worse
    total = tf.zeros_like(people.scales)
    for i, (fields, frame) in enumerate(zip(maps, frames, strict=True)):
        if fields.long_offsets is None:
            continue
        own = people.moved(frames[0], frame)
        chosen = tf.where(pairs & (people.sizes == i)[None, :])
        better, worse = chosen[:, 0], chosen[:, 1]
        needed, place = tf.unique(worse)
        guesses = embed(fields, tf.gather(own.own_keypoints, needed), options.long_refinements)
        distances = nearer_distances(
            [tf.gather(guess, place) for guess in guesses],
            tf.gather(own.own_keypoints, better)[:, None],
            tf.gather(keypoint_shares(own), better)[:, None],
        )  # (pairs, K) from the keypoints of the worse to the better
        points_at = tf.clip_by_value(1.5 - distances / options.embedding_threshold, 0.0, 1.0)
        used = tf.where(tf.math.is_finite(own.own_keypoints[..., 0]), own.heat, 0.0)
        weights = used / tf.maximum(tf.reduce_sum(used, axis=1, keepdims=True), 1e-12)
        shares = tf.reduce_sum(tf.gather(weights, worse) * points_at, axis=1)
        shares *= tf.gather_nd(alike, chosen)
        total = tf.maximum(
            total,
            tf.maximum(tf.math.unsorted_segment_max(shares, worse, tf.size(places)), 0.0),
        )
    return total
