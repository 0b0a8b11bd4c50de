"""Beyond the tree: the long-range field bridges gaps; `decoder.bridging` in TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.sampling import follow, value_at


def bridge_gaps(people: tf.Tensor, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """People (P, K, 2) with keypoints that the tree did not reach; as
    `decoder.bridging.bridge_gaps`.
    """
    assert fields.long_offsets is not None
    count = people.shape[1]
    found = tf.math.is_finite(people[..., 0])
    channels = tf.broadcast_to(tf.range(count), tf.shape(people)[:2])
    weights = value_at(fields.heatmaps, channels, people, fields.grid)
    weights = tf.where(tf.math.is_finite(weights), weights, 0.0)

    # Only keypoints that are missing are proposed, by those that are found.
    gaps = tf.cast(tf.where(~found), tf.int32)  # person, target
    sources = tf.gather(people, gaps[:, 0])  # (G, K, 2)
    targets = tf.broadcast_to(gaps[:, 1:], tf.shape(sources)[:2])
    proposed = follow(fields.long_offsets, targets, sources, fields.grid)
    proposed = follow(fields.short_offsets, targets, proposed, fields.grid, options.mid_refinements)
    landed = value_at(fields.heatmaps, targets, proposed, fields.grid) >= options.keypoint_threshold
    shares = tf.where(landed, tf.gather(weights, gaps[:, 0]), 0.0)
    x, y = proposed[..., 0], proposed[..., 1]
    squared = tf.math.squared_difference(x[:, :, None], x[:, None, :])
    squared += tf.math.squared_difference(y[:, :, None], y[:, None, :])
    agree = squared <= options.nms_radius**2
    support = tf.reduce_sum(tf.where(agree, shares[:, None, :], 0.0), axis=-1)
    support = tf.where(landed, support, -1.0)
    least = options.bridge_support * tf.gather(tf.reduce_sum(weights, axis=1), gaps[:, 0])
    enough = tf.reduce_max(support, axis=-1) >= least
    chosen = tf.gather(proposed, tf.argmax(support, axis=-1), batch_dims=1)
    return tf.tensor_scatter_nd_update(
        people, tf.boolean_mask(gaps, enough), tf.boolean_mask(chosen, enough)
    )
