"""Reading maps bilinearly between their cells; `decoder.sampling` in TensorFlow.

The graph reads maps in a hundred places. As functions of their own, `value_at` and `step_along` are
in it once.
"""

from __future__ import annotations

import tensorflow as tf


@tf.function(autograph=False)
def value_at(field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int) -> tf.Tensor:
    """Bilinear samples (...) of a map (h, w, C), each from a channel (...) of its own, at points
    (..., 2) in input pixels.

    A point outside the frame reads the nearest point of the frame. NaN where the point or a cell
    that it reads is NaN."""
    values, shares, _ = _read(field[..., None], channels, points, stride)
    return tf.reduce_sum(values[..., 0] * shares, axis=-1) + _nan_where_unknown(points)


@tf.function(autograph=False)
def step_along(field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int) -> tf.Tensor:
    """Where an offset field (h, w, C, 2) sends points (..., 2): the point plus the offset read
    there; a point outside the frame is first moved into it.
    """
    values, shares, inside = _read(field, channels, points, stride)
    return (
        inside
        + tf.reduce_sum(values * shares[..., None], axis=-2)
        + _nan_where_unknown(points)[..., None]
    )


def cell_points(height: tf.Tensor, width: tf.Tensor, stride: int) -> tf.Tensor:
    """(h, w, 2) float32: the input point (x, y) of every cell."""
    x, y = tf.meshgrid(tf.range(width), tf.range(height))
    return tf.cast(tf.stack([x, y], axis=-1) * stride, tf.float32)


def upsample(values: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """A map (h, w) bilinearly at every pair of a fractional row and column; as
    `decoder.sampling.upsample`.
    """
    for axis, places in ((1, columns), (0, rows)):
        low = tf.floor(places)
        share = places - low
        near = tf.cast(low, tf.int32)
        first = tf.gather(values, near, axis=axis)
        second = tf.gather(values, near + tf.cast(share > 0, tf.int32), axis=axis)
        share = share if axis else share[:, None]
        values = first * (1 - share) + second * share
    return values


def _nan_where_unknown(points: tf.Tensor) -> tf.Tensor:
    known = tf.reduce_all(tf.math.is_finite(points), axis=-1)
    return tf.where(known, 0.0, float("nan"))


def _read(
    field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A map (h, w, C, D) around points (..., 2): the values (..., 4, D) of the four cells, their
    shares (..., 4), and the points moved into the frame (..., 2).

    A point on a cell reads that cell alone, four times: none that carries no weight, and none out
    of range."""
    shape = tf.shape(field)
    last = tf.cast(tf.stack([shape[1], shape[0]]) - 1, tf.float32)
    # Casting NaN to an integer gives anything.
    places = tf.clip_by_value(tf.where(tf.math.is_finite(points), points, 0.0) / stride, 0.0, last)
    first = tf.floor(places)
    share = places - first
    near = tf.cast(first, tf.int32)
    far = near + tf.cast(share > 0, tf.int32)
    columns = tf.stack([near[..., 0], far[..., 0], near[..., 0], far[..., 0]], axis=-1)
    rows = tf.stack([near[..., 1], near[..., 1], far[..., 1], far[..., 1]], axis=-1)
    across, down = share[..., 0], share[..., 1]
    shares = tf.stack(
        [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across],
        axis=-1,
    )
    flat = tf.reshape(field, [-1, field.shape[-1]])
    values = tf.gather(flat, (rows * shape[1] + columns) * shape[2] + channels[..., None])
    return values, shares, places * stride
