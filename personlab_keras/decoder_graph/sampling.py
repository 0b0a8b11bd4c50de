"""Reading maps bilinearly between their cells; `decoder.sampling` in TensorFlow.

One operation reads all points: `tf.image.crop_and_resize`, with crops of one pixel. It reads a
channel as an image of its own, so the channels lie in front."""

from __future__ import annotations

import tensorflow as tf

from personlab_keras.config import FAINT_SHARE, NEAR_VOTE


def value_at(field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int) -> tf.Tensor:
    """Bilinear samples (...) of a map (C, h, w), each from a channel (...) of its own, at points
    (..., 2) in input pixels.

    A point outside the frame reads the nearest point of the frame. NaN where the point or a cell
    that it reads is NaN."""
    values, _, known = _read(
        field[..., None], tf.reshape(channels, [-1]), tf.reshape(points, [-1, 2]), stride
    )
    values = tf.where(tf.reduce_all(known, axis=1), values[:, 0], float("nan"))
    return tf.ensure_shape(tf.reshape(values, tf.shape(points)[:-1]), points.shape[:-1])


def follow(
    field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int, steps: int = 1
) -> tf.Tensor:
    """Where channels (...) of an offset field (C, h, w, 2) send points (..., 2) in so many steps,
    each to the point plus the offset read there; a point outside the frame is first moved into it.
    NaN where a step leads nowhere.
    """
    reached, channels = tf.reshape(points, [-1, 2]), tf.reshape(channels, [-1])
    for _ in range(steps):
        values, inside, known = _read(field, channels, reached, stride)
        reached = tf.where(known, inside + values, float("nan"))
    known = tf.reduce_all(tf.math.is_finite(reached), axis=1, keepdims=True)
    reached = tf.where(known, reached, float("nan"))
    return tf.ensure_shape(tf.reshape(reached, tf.shape(points)), points.shape)


def follow_among_votes(
    field: tf.Tensor,
    channels: tf.Tensor,
    points: tf.Tensor,
    short_offsets: tf.Tensor,
    keypoints: tf.Tensor,
    stride: int,
) -> tf.Tensor:
    """One step as of `follow`, but of the four cells around a point those count whose own votes for
    the keypoints (...) land near; as `decoder.sampling.step_among_votes`.
    """
    reached, shape = tf.reshape(points, [-1, 2]), tf.shape(field)
    last = tf.stack([shape[2], shape[1]]) - 1
    inside = tf.where(tf.math.is_finite(reached), reached, 0.0) / stride
    inside = tf.clip_by_value(inside, 0.0, tf.cast(last, tf.float32))
    low = tf.floor(inside)
    share = inside - low
    total, to = tf.zeros_like(reached[:, :1]), tf.zeros_like(reached)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):  # x, y
        cells = tf.minimum(tf.cast(low, tf.int32) + corner, last)
        place = tf.cast(cells * stride, tf.float32)

        def read(
            values: tf.Tensor, indices: tf.Tensor, cells: tf.Tensor = cells, at: tf.Tensor = place
        ) -> tf.Tensor:
            flat = tf.cast(tf.reshape(indices, [-1, 1]), tf.int32)
            return at + tf.gather_nd(values, tf.concat([flat, cells[:, ::-1]], axis=1))

        away = tf.reduce_sum((read(short_offsets, keypoints) - reached) ** 2, 1, keepdims=True)
        weight = tf.reduce_prod(tf.where(tf.equal(corner, 1), share, 1 - share), 1, keepdims=True)
        weight *= tf.exp(away / (-2 * NEAR_VOTE**2))
        weight = tf.where(weight > 0, weight, 0.0)  # which NaN is not
        total += weight
        to += tf.math.multiply_no_nan(read(field, channels), tf.tile(weight, [1, 2]))
    near = total > FAINT_SHARE
    to = tf.where(near, to / tf.where(near, total, 1.0), 0.0)
    known = tf.reduce_all(tf.math.is_finite(reached) & tf.math.is_finite(to), 1, keepdims=True)
    to = tf.reshape(tf.where(known, to, float("nan")), tf.shape(points))
    near = tf.reshape(near, tf.shape(points)[:-1])[..., None]
    return tf.ensure_shape(
        tf.where(near, to, follow(field, channels, points, stride)), points.shape
    )


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


def _read(
    field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, stride: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A map (C, h, w, D) at points (N, 2): the values (N, D), the points moved into the frame (N,
    2), and which coordinates are known (N, 2); unknown ones are read at 0."""
    shape = tf.shape(field)
    last = tf.cast(tf.stack([shape[2], shape[1]]) - 1, tf.float32) * stride
    known = tf.math.is_finite(points)
    inside = tf.clip_by_value(tf.where(known, points, 0.0), 0.0, last)
    corners = tf.gather(inside / tf.maximum(last, 1.0), [1, 0, 1, 0], axis=1)
    values = tf.image.crop_and_resize(field, corners, channels, [1, 1])
    return tf.reshape(values, [-1, field.shape[-1]]), inside, known
