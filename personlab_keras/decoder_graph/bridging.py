"""Beyond the tree: the long-range field bridges gaps; `decoder.bridging` in TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.sampling import step_along, value_at


def bridge_gaps(people: tf.Tensor, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """People (N, K, 2) with keypoints that the tree did not reach; as
    `decoder.bridging.bridge_gaps`. The axes below are person, target, source."""
    number, count = people.shape[:2]
    found = tf.math.is_finite(people[..., 0])
    channels = tf.broadcast_to(tf.range(count), [number, count])
    weights = value_at(fields.heatmaps, channels, people, fields.stride)
    weights = tf.where(tf.math.is_finite(weights), weights, 0.0)
    targets = tf.broadcast_to(tf.range(count)[None, :, None], [number, count, count])
    proposed = step_along(
        fields.long_offsets,
        targets,
        tf.broadcast_to(people[:, None], [number, count, count, 2]),
        fields.stride,
    )
    for _ in range(options.mid_refinements):
        proposed = step_along(fields.short_offsets, targets, proposed, fields.stride)
    landed = (
        value_at(fields.heatmaps, targets, proposed, fields.stride) >= options.keypoint_threshold
    )
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
