"""Reading maps at points between their cells.

The functions for one point are compiled; those for many are what the rest of the project calls.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def place(
    x: float, y: float, height: int, width: int, stride: int
) -> tuple[int, int, int, int, float, float]:
    """(top, bottom, left, right, share of the lower, share of the right) of the cells around a
    point, moved into the frame.

    A point on a cell has that cell alone: none is read that carries no weight, and none out of
    range."""
    column = min(max(x / stride, 0.0), width - 1.0)
    row = min(max(y / stride, 0.0), height - 1.0)
    left, top = int(column), int(row)
    right_share, lower_share = column - left, row - top
    return top, top + (lower_share > 0), left, left + (right_share > 0), lower_share, right_share


@njit(cache=True)
def value_at(field: np.ndarray, channel: int, x: float, y: float, stride: int) -> float:
    """One channel of a map (h, w, C), bilinearly at a point; as `sample`."""
    if np.isnan(x) or np.isnan(y):
        return np.nan
    top, bottom, left, right, down, across = place(x, y, field.shape[0], field.shape[1], stride)
    upper = field[top, left, channel] * (1 - across) + field[top, right, channel] * across
    lower = field[bottom, left, channel] * (1 - across) + field[bottom, right, channel] * across
    return upper * (1 - down) + lower * down


@njit(cache=True)
def step_along(
    field: np.ndarray, channel: int, x: float, y: float, stride: int
) -> tuple[float, float]:
    """Where one channel of an offset field (h, w, C, 2) sends a point; as `follow`."""
    if np.isnan(x) or np.isnan(y):
        return np.nan, np.nan
    top, bottom, left, right, down, across = place(x, y, field.shape[0], field.shape[1], stride)
    shares = (1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across
    a, b, c, d = (
        field[top, left, channel],
        field[top, right, channel],
        field[bottom, left, channel],
        field[bottom, right, channel],
    )
    return (
        (left + across) * stride
        + shares[0] * a[0]
        + shares[1] * b[0]
        + shares[2] * c[0]
        + shares[3] * d[0],
        (top + down) * stride
        + shares[0] * a[1]
        + shares[1] * b[1]
        + shares[2] * c[1]
        + shares[3] * d[1],
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
    """Where an offset field (h, w, C, 2) sends points: the point that was read plus the offset read
    there.

    A point outside the frame is moved into it first, because the offset is one from where it was
    read.

    Returns:
        (N, 2) float64 (x, y) in input pixels; NaN where the field says nothing.
    """
    return _follow(np.ascontiguousarray(field, np.float32), *_queries(channels, points), stride)


def _queries(channels: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(channels, np.int64), np.ascontiguousarray(points, np.float64)


@njit(cache=True)
def _sample(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    values = np.empty(len(points))
    for i in range(len(points)):
        values[i] = value_at(field, channels[i], points[i, 0], points[i, 1], stride)
    return values


@njit(cache=True)
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
    """(len(rows), len(columns), ...) float32: a map (h, w, ...) read bilinearly at every pair of a
    fractional row and column in it.
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
