"""The maps of one image as the decoder in the graph reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Fields:
    """The maps of one image as the decoder reads them, `method.maps.Maps` as tensors: float32,
    probabilities in [0, 1], offsets NaN where they are not finite.

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


def fields_of(outputs: Mapping[str, tf.Tensor], stride: int) -> Fields:
    """The maps of one image, flat outputs (h, w, channels) by name, cleaned as `decode` cleans
    them.
    """

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


NOWHERE = 1e6  # input pixels: farther from every keypoint than any radius
