"""Reading maps bilinearly between their cells; `decoder.sampling` in TensorFlow.

One operation reads all points: `tf.image.crop_and_resize`, with crops of one pixel. It reads every
channel of a cell, of which one is kept: for the points of a pose that costs less than turning whole
maps so that a channel is an image of its own. For all channels of thousands of points,
`follow_all`, four gathered numbers cost less."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from personlab_keras.config import FAINT_SHARE, NEAR_VOTE


@dataclass(frozen=True)
class Grid:
    """Points in input pixels as places in maps of (h, w) cells, and back.

    A place is (y, x, y, x) in fractions of the frame's sides, a crop of one pixel.

    Attributes:
        stride: input pixels per cell.
        last: (2,) float32, x and y of the last cell in input pixels.
        to_places: (2, 4) float32; points (N, 2) times this are places (N, 4).
        to_points: (4, 2) float32; places times this are points.
    """

    stride: int
    last: tf.Tensor
    to_places: tf.Tensor
    to_points: tf.Tensor

    @classmethod
    def of(cls, height: tf.Tensor, width: tf.Tensor, stride: int) -> Grid:
        """The grid of maps with so many rows and columns of cells."""
        last = tf.cast((tf.stack([width, height]) - 1) * stride, tf.float32)
        # By these products a coordinate that is unknown or infinite makes the other one unknown.
        share = 1.0 / tf.maximum(last, 1.0)
        to_places = share[:, None] * tf.constant([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
        to_points = last * tf.constant([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        return cls(stride, last, to_places, to_points)

    def inside(self, points: tf.Tensor) -> tf.Tensor:
        """Points (N, 2) moved into the frame; NaN where unknown."""
        return tf.matmul(self.places(points), self.to_points)

    def places(self, points: tf.Tensor) -> tf.Tensor:
        """The places (N, 4) of points (N, 2), moved into the frame; NaN where unknown."""
        return tf.clip_by_value(tf.matmul(points, self.to_places), 0.0, 1.0)


def value_at(field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Bilinear samples (...) of a map (h, w, C), each from a channel (...) of its own, at points
    (..., 2) in input pixels.

    A point outside the frame reads the nearest point of the frame. NaN where the point or a cell
    that it reads is NaN."""
    places = grid.places(tf.reshape(points, [-1, 2]))
    values = _read(field[..., None], tf.reshape(channels, [-1]), places)[:, 0]
    values += tf.reduce_sum(places - places, axis=1)  # unknown places are read at 0
    return tf.ensure_shape(tf.reshape(values, tf.shape(points)[:-1]), points.shape[:-1])


def follow(
    field: tf.Tensor, channels: tf.Tensor, points: tf.Tensor, grid: Grid, steps: int = 1
) -> tf.Tensor:
    """Where channels (...) of an offset field (h, w, C, 2) send points (..., 2) in so many steps,
    each to the point plus the offset read there; a point outside the frame is first moved into it.
    NaN where a step leads nowhere.
    """
    if not steps:
        return points
    channels = tf.reshape(channels, [-1])
    places = grid.places(tf.reshape(points, [-1, 2]))
    for _ in range(steps - 1):
        offsets = _read(field, channels, places)
        places = tf.clip_by_value(places + tf.matmul(offsets, grid.to_places), 0.0, 1.0)
    reached = tf.matmul(places, grid.to_points) + _read(field, channels, places)
    known = tf.reduce_all(tf.math.is_finite(reached), axis=1, keepdims=True)
    reached = tf.where(known, reached, float("nan"))
    return tf.ensure_shape(tf.reshape(reached, tf.shape(points)), points.shape)


def follow_among_votes(
    field: tf.Tensor,
    channels: tf.Tensor,
    points: tf.Tensor,
    short_offsets: tf.Tensor,
    keypoints: tf.Tensor,
    grid: Grid,
) -> tf.Tensor:
    """One step as of `follow`, but of the four cells around a point those count whose own votes for
    the keypoints (...) land near; as `decoder.sampling.step_among_votes`.
    """
    reached, shape = tf.reshape(points, [-1, 2]), tf.shape(field)
    last = tf.stack([shape[1], shape[0]]) - 1
    inside = tf.where(tf.math.is_finite(reached), reached, 0.0) / grid.stride
    inside = tf.clip_by_value(inside, 0.0, tf.cast(last, tf.float32))[:, None]
    low = tf.floor(inside)
    share = inside - low
    corners = tf.constant([(0, 0), (1, 0), (0, 1), (1, 1)])  # x, y
    cells = tf.minimum(tf.cast(low, tf.int32) + corners, last)
    places = tf.cast(cells * grid.stride, tf.float32)

    def votes(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        """(P, 4, 2): where the cells around each point send it."""
        flat = tf.cast(tf.reshape(indices, [-1, 1, 1]), tf.int32)
        index = tf.concat([cells[..., ::-1], tf.tile(flat, [1, 4, 1])], axis=2)
        return places + tf.gather_nd(values, index)

    away = tf.reduce_sum((votes(short_offsets, keypoints) - reached[:, None]) ** 2, 2)
    weights = tf.reduce_prod(tf.where(tf.equal(corners, 1), share, 1 - share), 2)
    weights *= tf.exp(away / (-2 * NEAR_VOTE**2))
    weights = tf.where(weights > 0, weights, 0.0)  # which NaN is not
    total = tf.reduce_sum(weights, 1, keepdims=True)
    weighted = tf.math.multiply_no_nan(
        votes(field, channels), tf.tile(weights[..., None], [1, 1, 2])
    )
    to = tf.reduce_sum(weighted, 1)
    near = total > FAINT_SHARE
    to = tf.where(near, to / tf.where(near, total, 1.0), 0.0)
    known = tf.reduce_all(tf.math.is_finite(reached) & tf.math.is_finite(to), 1, keepdims=True)
    to = tf.reshape(tf.where(known, to, float("nan")), tf.shape(points))
    near = tf.reshape(near, tf.shape(points)[:-1])[..., None]
    return tf.ensure_shape(tf.where(near, to, follow(field, channels, points, grid)), points.shape)


def offsets_at(field: tf.Tensor, points: tf.Tensor, grid: Grid) -> tf.Tensor:
    """All channels (N, C, 2) of an offset field (h, w, C, 2) at points (N, 2), bilinearly."""
    return _read_all(field, grid.places(points))


def follow_all(field: tf.Tensor, points: tf.Tensor, grid: Grid, steps: int) -> tf.Tensor:
    """Where the channels of an offset field (h, w, C, 2) send points (N, C, 2), each channel its
    own; as `follow`.
    """
    if not steps:
        return points
    shape, count = tf.shape(field), field.shape[2]
    pairs = tf.reshape(tf.bitcast(field, tf.complex64), [-1])
    channels = tf.tile(tf.range(count), tf.shape(points)[:1])
    reached = tf.bitcast(tf.reshape(points, [-1, 2]), tf.complex64)
    for _ in range(steps):
        x = tf.clip_by_value(tf.math.real(reached), 0.0, grid.last[0])
        y = tf.clip_by_value(tf.math.imag(reached), 0.0, grid.last[1])
        column, across, right = _cells(x, grid.stride)
        row, down, below = _cells(y, grid.stride)
        first = (row * shape[1] + column) * count + channels
        second = first + below * (shape[1] * count)
        right *= count
        # A pair of which one half is unknown or infinite makes both halves unknown.
        corners = [tf.gather(pairs, at) for at in (first, first + right, second, second + right)]
        upper = corners[0] + (corners[1] - corners[0]) * across
        lower = corners[2] + (corners[3] - corners[2]) * across
        reached = tf.complex(x, y) + upper + (lower - upper) * down
    reached += reached - reached  # no half stays that is infinite
    return tf.reshape(tf.bitcast(reached, tf.float32), tf.shape(points))


def _cells(coordinates: tf.Tensor, stride: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The cells (int32) before coordinates inside the frame, the shares (complex64) of the way to
    the next, and 1 where that is more than nothing; the first cell where unknown.
    """
    places = coordinates * (1.0 / stride)
    near = tf.cast(tf.where(tf.equal(places, places), places, 0.0), tf.int32)
    share = places - tf.cast(near, tf.float32)
    return near, tf.cast(share, tf.complex64), tf.cast(share > 0, tf.int32)


def upsample(values: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Maps (..., h, w) bilinearly at every pair of a fractional row and column (float64); as
    `decoder.sampling.upsample`.
    """
    for axis, places in ((-1, columns), (-2, rows)):
        low = tf.floor(places)
        share = tf.cast(places - low, tf.float32)
        near = tf.cast(low, tf.int32)
        first = tf.gather(values, near, axis=axis)
        second = tf.gather(values, near + tf.cast(share > 0, tf.int32), axis=axis)
        share = share if axis == -1 else share[:, None]
        values = first * (1 - share) + second * share
    return values


def _read(field: tf.Tensor, channels: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """(N, D): the values of a map (h, w, C, D) at places (N, 4), each from a channel (N,) of its
    own; unknown places are read at 0."""
    return tf.gather(_read_all(field, places), channels, batch_dims=1)


def _read_all(field: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """(N, C, D): the values of a map (h, w, C, D) at places (N, 4); unknown ones are read at 0."""
    count, depth = field.shape[2:]
    shape = tf.shape(field)
    image = tf.reshape(field, [1, shape[0], shape[1], count * depth])
    places = tf.where(tf.equal(places, places), places, tf.zeros_like(places))
    values = tf.image.crop_and_resize(
        image, places, tf.zeros(tf.shape(places)[:1], tf.int32), [1, 1]
    )
    return tf.reshape(values, [-1, count, depth])
