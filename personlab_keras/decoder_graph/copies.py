"""A body read twice counts once; `decoder.copies` in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from personlab_keras.config import SAME_PERSON, DecodeConfig
from personlab_keras.decoder_graph.embedding import embed, nearer_distances
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.loops import for_each
from personlab_keras.decoder_graph.merging import agreement_with


def copy_shares(
    people: tf.Tensor,
    count: tf.Tensor,
    heat: tf.Tensor,
    scales: tf.Tensor,
    fields: Fields,
    kappas: np.ndarray,
    options: DecodeConfig,
) -> tf.Tensor:
    """(N,): how much of every person is a copy of a better one; as `decoder.copies.copy_shares`.

    Args:
        people: (N, K, 2) in input pixels, best first; NaN where not found and in free places.
        count: () int32, how many are taken.
        heat: (N, K), 0 where not found.
        scales: (N,) lambda in input pixels.
        fields: the maps, with long offsets.
        kappas: (K,) the constants of object keypoint similarity.
        options: `long_refinements` and `embedding_threshold`.
    """
    places = people.shape[0]
    found = tf.math.is_finite(people[..., 0])
    numbers = tf.reduce_sum(tf.cast(found, tf.float32), axis=1)
    used = tf.where(found & (heat > 0), heat, 0.0)
    shares = used / (tf.maximum(tf.reduce_sum(used, axis=1), 1e-12)[:, None] * scales[:, None])
    threshold = options.embedding_threshold

    def of_person(j: tf.Tensor) -> tuple[tf.Tensor]:
        agreement = agreement_with(j, people, scales, kappas)
        agreement = tf.where(tf.math.is_finite(agreement), agreement, 0.0)
        fewer = tf.maximum(tf.minimum(numbers, numbers[j]), 1.0)
        alike = tf.minimum(tf.reduce_sum(agreement, axis=1) / fewer / SAME_PERSON, 1.0)
        alike = tf.where(tf.range(places) < j, alike, 0.0)
        guesses = embed(fields, people[j], options.long_refinements)
        distances = nearer_distances(
            [guess[None] for guess in guesses],
            people[:, None],
            shares[:, None],
        )  # (N, K) from the keypoints of j to everybody
        points_at = tf.clip_by_value(1.5 - distances / threshold, 0.0, 1.0)
        weights = used[j] / tf.maximum(tf.reduce_sum(used[j]), 1e-12)
        points_at = tf.where(weights > 0, points_at * weights, 0.0)
        points_at = tf.where(tf.reduce_any(used > 0, axis=1)[:, None], points_at, 0.0)
        return (tf.reduce_max(alike * tf.reduce_sum(points_at, axis=1)),)

    return for_each(count, places, of_person, [tf.constant(0.0)])[0]
