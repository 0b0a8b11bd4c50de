"""The embedding; `decoder.embedding` in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.sampling import step_along


def embed(fields: Fields, points: tf.Tensor, refinements: int) -> list[tf.Tensor]:
    """Both guesses, (..., K, 2) each, of points (..., 2) where the person at the point has every
    keypoint; as `decoder.embedding.embed`.
    """
    count = fields.heatmaps.shape[-1]
    shape = tf.concat([tf.shape(points)[:-1], [count]], axis=0)
    channels = tf.broadcast_to(tf.range(count), shape)
    spread = tf.broadcast_to(points[..., None, :], tf.concat([shape, [2]], axis=0))
    plain = step_along(fields.long_offsets, channels, spread, fields.stride)
    refined = plain
    for field in (fields.long_offsets, fields.short_offsets):
        for _ in range(refinements):
            refined = step_along(field, channels, refined, fields.stride)
    return [plain, refined]


def nearer_distances(
    guesses: Sequence[tf.Tensor], keypoints: tf.Tensor, shares: tf.Tensor
) -> tf.Tensor:
    """(...) D_ij: the distances of the nearer guess at every keypoint, weighted and added up; as
    `decoder.embedding.embedding_distances`, not cut.

    Args:
        guesses: two of (..., K, 2).
        keypoints: (..., K, 2), NaN where not found.
        shares: (..., K) weight of every keypoint divided by the sum of all and by lambda.
    """
    squares = (
        tf.math.squared_difference(guess[..., 0], keypoints[..., 0])
        + tf.math.squared_difference(guess[..., 1], keypoints[..., 1])
        for guess in guesses
    )
    nearer = tf.minimum(
        *(tf.where(tf.math.is_finite(square), square, np.inf) for square in squares)
    )
    return tf.reduce_sum(tf.where(shares > 0, shares * tf.sqrt(nearer), 0.0), axis=-1)
