"""The embedding; `decoder.embedding` in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.reading import Readings
from personlab_keras.decoder_graph.sampling import follow_all, offsets_at


def embed(fields: Fields, points: tf.Tensor, refinements: int) -> list[tf.Tensor]:
    """Both guesses, (..., K, 2) each, of points (..., 2) where the person at the point has every
    keypoint; as `decoder.embedding.embed`.
    """
    assert fields.long_offsets is not None
    flat = tf.reshape(points, [-1, 2])
    plain = fields.grid.inside(flat)[:, None] + offsets_at(fields.long_offsets, flat, fields.grid)
    refined = follow_all(fields.long_offsets, plain, fields.grid, refinements)
    refined = follow_all(fields.short_offsets, refined, fields.grid, refinements)
    shape = tf.concat([tf.shape(points)[:-1], tf.shape(plain)[1:]], axis=0)
    return [tf.reshape(guess, shape) for guess in (plain, refined)]


def keypoint_shares(people: Readings) -> tf.Tensor:
    """(P, K): the weight of every keypoint in the embedding distance to its person, divided by the
    sum of all weights and by lambda; NaN for a person without any, to whom nothing is near.
    """
    found = tf.math.is_finite(people.own_keypoints[..., 0])
    weights = tf.where(found, people.heat, 0.0)
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    return tf.where(total > 0, weights / (total * people.scales[:, None]), float("nan"))


def nearer_distances(
    guesses: Sequence[tf.Tensor], keypoints: tf.Tensor, shares: tf.Tensor
) -> tf.Tensor:
    """(...) D_ij: the distances of the nearer guess at every keypoint, weighted and added up; as
    `decoder.embedding.embedding_distances`, not cut; infinite where both guesses are unknown.

    Args:
        guesses: two of (..., K, 2).
        keypoints: (..., K, 2), NaN where not found.
        shares: (..., K) as of `keypoint_shares`.
    """
    squares = (
        tf.math.squared_difference(guess[..., 0], keypoints[..., 0])
        + tf.math.squared_difference(guess[..., 1], keypoints[..., 1])
        for guess in guesses
    )
    nearer = tf.minimum(
        *(tf.where(tf.math.is_finite(square), square, np.inf) for square in squares)
    )
    total = tf.reduce_sum(tf.math.multiply_no_nan(tf.sqrt(nearer), shares), axis=-1)
    return tf.where(tf.math.is_finite(total), total, np.inf)
