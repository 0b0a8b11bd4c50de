"""The maps of one pass over an image as the decoder in the graph reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from personlab_keras.decoder_graph.sampling import Grid
from personlab_keras.method.skeleton import Skeleton

NOWHERE = 1e6  # input pixels: farther from every keypoint than any radius


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the network's input: network point = image point * scale + offset; as
    `method.frame.Frame`.

    Attributes:
        size: (2,) int32, height and width in pixels.
        scale: (2,) float64 (sx, sy), network pixels per image pixel.
        offset: (2,) float64 in network pixels.
    """

    size: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor

    def to_image(self, points: tf.Tensor) -> tf.Tensor:
        """Points (..., 2) of the network's frame in this image."""
        return tf.cast((tf.cast(points, tf.float64) - self.offset) / self.scale, tf.float32)

    def inside_image(self, points: tf.Tensor) -> tf.Tensor:
        """As `to_image`; a point beyond the image becomes the nearest middle of a pixel."""
        last = tf.cast(self.size[::-1] - 1, tf.float32)
        return tf.clip_by_value(self.to_image(points), 0.0, last)

    def to_input(self, points: tf.Tensor) -> tf.Tensor:
        """Points (..., 2) of this image in the network's frame."""
        return tf.cast(tf.cast(points, tf.float64) * self.scale + self.offset, tf.float32)

    def cells(self, shape: tuple[tf.Tensor, tf.Tensor], stride: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and column (float64) in a map of shape (h, w) of every row and column of the image;
        pixels beyond the map's frame are moved to its border.
        """

        def along(axis: int) -> tf.Tensor:
            pixels = (
                tf.cast(tf.range(self.size[1 - axis]), tf.float64) * self.scale[axis]
                + self.offset[axis]
            )
            last = tf.cast(shape[1 - axis] - 1, tf.float64)
            return tf.clip_by_value(pixels / stride, tf.zeros_like(last), last)

        return along(1), along(0)

    def cells_of(
        self, other: Frame, other_shape: tuple[tf.Tensor, tf.Tensor], shape: tuple, stride: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and column (float64) in a map of shape (h, w) in this input of every row and column
        of a map of `other_shape` in another input with the same image.
        """

        def along(axis: int) -> tf.Tensor:
            cells = tf.cast(tf.range(other_shape[1 - axis]) * stride, tf.float64)
            pixels = (cells - other.offset[axis]) / other.scale[axis]
            moved = pixels * self.scale[axis] + self.offset[axis]
            last = tf.cast(shape[1 - axis] - 1, tf.float64)
            return tf.clip_by_value(moved / stride, tf.zeros_like(last), last)

        return along(1), along(0)


@dataclass(frozen=True)
class Fields:
    """The maps of one pass, `method.maps.Maps` as tensors: float32, probabilities in [0, 1]; an
    offset that is not finite leads nowhere wherever it is read.

    Attributes:
        heatmaps: (h, w, K).
        short_offsets: (h, w, K, 2) in input pixels, as the others.
        mid_offsets: (h, w, 2E, 2).
        long_offsets: (h, w, K, 2); None where the network has none.
        segmentation: (h, w); None where the network has none.
        stride: input pixels per cell.
        grid: places in these maps.
    """

    heatmaps: tf.Tensor
    short_offsets: tf.Tensor
    mid_offsets: tf.Tensor
    long_offsets: tf.Tensor | None
    segmentation: tf.Tensor | None
    stride: int
    grid: Grid

    @property
    def shape(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows and columns of cells."""
        shape = tf.shape(self.heatmaps)
        return shape[0], shape[1]


def fields_of(outputs: Mapping[str, tf.Tensor], stride: int) -> Fields:
    """The maps of one image, flat outputs (h, w, channels) by name, cleaned as `decode` cleans
    them.
    """

    def probabilities(name: str) -> tf.Tensor:
        values = tf.cast(outputs[name], tf.float32)
        values = tf.cond(
            tf.math.is_finite(tf.reduce_sum(values)),
            lambda: values,
            lambda: tf.where(tf.math.is_finite(values), values, 0.0),
        )
        return tf.clip_by_value(values, 0.0, 1.0)

    def offsets(name: str) -> tf.Tensor:
        values = tf.cast(outputs[name], tf.float32)
        shape = tf.shape(values)
        return tf.reshape(values, [shape[0], shape[1], values.shape[-1] // 2, 2])

    heatmaps = probabilities("heatmaps")
    height, width, _ = tf.unstack(tf.shape(heatmaps))
    return Fields(
        heatmaps=heatmaps,
        short_offsets=offsets("short_offsets"),
        mid_offsets=offsets("mid_offsets"),
        long_offsets=offsets("long_offsets") if "long_offsets" in outputs else None,
        segmentation=probabilities("segmentation")[..., 0] if "segmentation" in outputs else None,
        stride=stride,
        grid=Grid.of(height, width, stride),
    )


def mirrored(fields: Fields, skeleton: Skeleton) -> Fields:
    """The maps of the mirrored input as those of the input; as `Maps.mirrored`."""

    def flipped(values: tf.Tensor, order: np.ndarray) -> tf.Tensor:
        return tf.reverse(tf.gather(values, order, axis=2), [1])

    def turned(offsets: tf.Tensor, order: np.ndarray) -> tf.Tensor:
        return flipped(offsets, order) * tf.constant([-1.0, 1.0])

    long, segmentation = fields.long_offsets, fields.segmentation
    return replace(
        fields,
        heatmaps=flipped(fields.heatmaps, skeleton.flip_order),
        short_offsets=turned(fields.short_offsets, skeleton.flip_order),
        mid_offsets=turned(fields.mid_offsets, skeleton.edge_flip_order),
        long_offsets=None if long is None else turned(long, skeleton.flip_order),
        segmentation=None if segmentation is None else tf.reverse(segmentation, [1]),
    )
