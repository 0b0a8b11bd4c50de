"""Reading maps bilinearly between their cells.

`value_at` and `step_along` read one point and are compiled, for the loops of the decoder; `sample`,
`follow` and `upsample` read many."""

from __future__ import annotations

import numpy as np

from personlab_keras.config import FAINT_SHARE
from personlab_keras.decoder.compilation import compiled


@compiled
def all_finite(bits: np.ndarray) -> bool:
    """Whether all float32 numbers are finite that have the bits (N,) int32: not all bits of the
    exponent are set.

    >>> all_finite(np.array([1.0, -0.0], np.float32).view(np.int32))
    True
    >>> all_finite(np.array([1.0, np.inf], np.float32).view(np.int32))
    False
    """
    infinite = np.int32(0)
    for i in range(len(bits)):
        infinite |= np.int32((bits[i] & 0x7F800000) == 0x7F800000)
    return infinite == 0


@compiled
def all_fractions(bits: np.ndarray) -> bool:
    """Whether all float32 numbers lie between 0 and 1 that have the bits (N,) int32.

    >>> all_fractions(np.array([0.0, 1.0], np.float32).view(np.int32))
    True
    >>> all_fractions(np.array([-0.1, 0.5, 1.1], np.float32).view(np.int32))
    False
    """
    beyond = False
    for i in range(len(bits)):
        beyond |= (bits[i] < 0) | (bits[i] > 0x3F800000)
    return not beyond


@compiled
def place(
    x: float, y: float, height: int, width: int, stride: int
) -> tuple[int, int, float, float]:
    """(row, column, down, across) of a point in a map (h, w): the cell above and left of it and the
    fractions, from 0 to below 1, of the way to the next. Points outside are moved into the frame.
    """
    column = min(max(x / stride, 0.0), width - 1.0)
    row = min(max(y / stride, 0.0), height - 1.0)
    left, top = int(column), int(row)
    return top, left, row - top, column - left


@compiled
def between(values: np.ndarray, row: int, column: int, down: float, across: float) -> float:
    """A map (h, w), bilinearly between a cell and the next ones down and right.

    A point on a cell reads that cell alone: none that carries no weight, and none out of range."""
    below, beside = row + (down > 0), column + (across > 0)
    upper = values[row, column] * (1 - across) + values[row, beside] * across
    lower = values[below, column] * (1 - across) + values[below, beside] * across
    return upper * (1 - down) + lower * down


@compiled
def value_at(field: np.ndarray, channel: int, x: float, y: float, stride: int) -> float:
    """One channel of a map (h, w, C), bilinearly at a point; as `sample`."""
    if np.isnan(x) or np.isnan(y):
        return np.nan
    row, column, down, across = place(x, y, field.shape[0], field.shape[1], stride)
    return between(field[:, :, channel], row, column, down, across)


@compiled
def step_along(
    field: np.ndarray, channel: int, x: float, y: float, stride: int
) -> tuple[float, float]:
    """Where one channel of an offset field (h, w, C, 2) sends a point; as `follow`."""
    if np.isnan(x) or np.isnan(y):
        return np.nan, np.nan
    row, column, down, across = place(x, y, field.shape[0], field.shape[1], stride)
    below, beside = row + (down > 0), column + (across > 0)
    shares = (1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across
    return (
        (column + across) * stride
        + shares[0] * field[row, column, channel, 0]
        + shares[1] * field[row, beside, channel, 0]
        + shares[2] * field[below, column, channel, 0]
        + shares[3] * field[below, beside, channel, 0],
        (row + down) * stride
        + shares[0] * field[row, column, channel, 1]
        + shares[1] * field[row, beside, channel, 1]
        + shares[2] * field[below, column, channel, 1]
        + shares[3] * field[below, beside, channel, 1],
    )


@compiled
def step_among_votes(
    field: np.ndarray,
    channel: int,
    x: float,
    y: float,
    stride: int,
    short_offsets: np.ndarray,
    keypoint: int,
    spread: float,
) -> tuple[float, float]:
    """As `step_along`, for a point at a keypoint: of the four cells around it those count whose own
    vote for the keypoint lands near, weighted by a Gaussian of `spread` input pixels.

    Between neighbours the cells belong to different people, and the mean of their offsets leads to
    nobody. Where all votes are far, or with a spread of 0, all cells count."""
    if spread > 0 and not (np.isnan(x) or np.isnan(y)):
        row, column, down, across = place(x, y, field.shape[0], field.shape[1], stride)
        total = to_x = to_y = 0.0
        for i in range(row, row + 1 + (down > 0)):
            for j in range(column, column + 1 + (across > 0)):
                away_x = j * stride + short_offsets[i, j, keypoint, 0] - x
                away_y = i * stride + short_offsets[i, j, keypoint, 1] - y
                share = (down if i > row else 1 - down) * (across if j > column else 1 - across)
                share *= np.exp(-(away_x**2 + away_y**2) / (2 * spread**2))
                if share > 0:  # which NaN is not
                    total += share
                    to_x += share * (j * stride + field[i, j, channel, 0])
                    to_y += share * (i * stride + field[i, j, channel, 1])
        if total > FAINT_SHARE:
            return to_x / total, to_y / total
    return step_along(field, channel, x, y, stride)


@compiled
def step_each(
    field: np.ndarray,
    channels: np.ndarray,
    points: np.ndarray,
    stride: int,
    room: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Moves points (2, N), x and y of each, along its own of the channels (N,) int32 of an offset
    field (h, w, C, 2), C-contiguous float32, in place; as `step_along`.

    The points do not depend on each other. So their places are found first, then the offsets around
    them fetched, then mixed: all but the fetching is done for several points at once.

    Args:
        room: as of `step_room` for N points; overwritten.
    """
    floats, cells, offsets = room
    height, width, count = field.shape[:3]
    for axis, side in ((0, width), (1, height)):
        _find_places(points[axis], stride, side - 1.0, floats[axis], cells[axis], floats[2 + axis])
    pairs = field.reshape(-1).view(np.uint64)  # x and y at once
    _fetch(pairs, width, count, channels, cells, floats[2:], offsets)
    _mix(floats, offsets.view(np.float32), points)


@compiled
def step_room(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `step_each` writes its intermediate results to, for `count` points: in x and y the place
    in pixels and the fraction of the way to the next cell; the cell; the offsets around.
    """
    return (
        np.empty((4, count)),
        np.empty((2, count), np.int32),
        np.empty((4, count), np.uint64),
    )


@compiled
def _find_places(
    points: np.ndarray,
    stride: int,
    largest: float,
    places: np.ndarray,
    cells: np.ndarray,
    fractions: np.ndarray,
) -> None:
    scale = 1.0 / stride
    for i in range(len(points)):
        place = points[i] * scale
        place = 0.0 if place < 0.0 else place  # which NaN is not
        place = largest if place > largest else place
        places[i] = place * stride
        known = place if place > 0.0 else 0.0
        cells[i] = np.int32(known)
        fractions[i] = known - cells[i]


@compiled
def _fetch(
    pairs: np.ndarray,
    width: int,
    count: int,
    channels: np.ndarray,
    cells: np.ndarray,
    fractions: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Fills in the offsets (4, N) at the cell of each point, beside, below, and below beside it;
    where a fraction is zero, those of the cell itself.
    """
    right, down = np.uint32(count), np.uint32(count * width)
    for i in range(len(channels)):
        at = np.uint32((cells[1, i] * width + cells[0, i]) * count + channels[i])
        beside = right if fractions[0, i] > 0 else np.uint32(0)
        below = down if fractions[1, i] > 0 else np.uint32(0)
        offsets[0, i], offsets[1, i] = pairs[at], pairs[at + beside]
        offsets[2, i], offsets[3, i] = pairs[at + below], pairs[at + below + beside]


@compiled
def _mix(floats: np.ndarray, offsets: np.ndarray, points: np.ndarray) -> None:
    for i in range(points.shape[1]):
        across, down = floats[2, i], floats[3, i]
        a, b = (1 - down) * (1 - across), (1 - down) * across
        c, d = down * (1 - across), down * across
        x, y = 2 * i, 2 * i + 1
        points[0, i] = (
            floats[0, i]
            + a * offsets[0, x]
            + b * offsets[1, x]
            + c * offsets[2, x]
            + d * offsets[3, x]
        )
        points[1, i] = (
            floats[1, i]
            + a * offsets[0, y]
            + b * offsets[1, y]
            + c * offsets[2, y]
            + d * offsets[3, y]
        )


def sample(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear samples of a map, each from a channel of its own.

    Args:
        field: (h, w, C) float; cell [i, j] is the point (stride * j, stride * i).
        channels: (N,) int.
        points: (N, 2) float (x, y) in input pixels. A point outside the frame reads the nearest
            point of the frame.

    Returns:
        (N,) float64; NaN where the point or a cell that it reads is NaN.
    """
    return _sample(np.ascontiguousarray(field, np.float32), *_queries(channels, points), stride)


def follow(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    """Where an offset field (h, w, C, 2) sends points: the point plus the offset read there.

    A point outside the frame is first moved into it, because the offset counts from where it was
    read.

    Returns:
        (N, 2) float64 (x, y) in input pixels; NaN where the point or a cell that it reads is NaN.
    """
    return _follow(np.ascontiguousarray(field, np.float32), *_queries(channels, points), stride)


def _queries(channels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(channels, np.int64), np.ascontiguousarray(points, np.float64)


@compiled
def _sample(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    values = np.empty(len(points))
    for i in range(len(points)):
        values[i] = value_at(field, channels[i], points[i, 0], points[i, 1], stride)
    return values


@compiled
def _follow(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    reached = np.empty_like(points)
    for i in range(len(points)):
        reached[i, 0], reached[i, 1] = step_along(
            field, channels[i], points[i, 0], points[i, 1], stride
        )
    return reached


def clamp(points: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
    """(N, 2) float64: the nearest points of the frame that a map of shape (h, w) covers."""
    height, width = shape
    return np.clip(
        np.asarray(points, np.float64), 0.0, ((width - 1) * stride, (height - 1) * stride)
    )


def upsample(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(len(rows), len(columns), ...) float32: a map (h, w, ...) bilinearly at every pair of a
    fractional row and column, in one pass along each axis.
    """

    def along(values: np.ndarray, places: np.ndarray) -> np.ndarray:
        low, high = np.floor(places).astype(np.intp), np.ceil(places).astype(np.intp)
        first, result = values[low], values[high]
        result -= first
        result *= (places - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
        result += first
        return result

    across = along(np.ascontiguousarray(values.swapaxes(0, 1), np.float32), columns)
    return along(np.ascontiguousarray(across.swapaxes(0, 1)), rows)
