"""Reading maps at points between their cells."""

from __future__ import annotations

import numpy as np


def sample(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear samples of a map, each from a channel of its own.

    Args:
        field: (h, w, C) or (h, w, C, D) float; cell [i, j] is the point (stride * j, stride * i).
        channels: (N,) int.
        points: (N, 2) float (x, y) in input pixels. A point outside the frame reads the nearest point of the frame.

    Returns:
        (N,) or (N, D) float64; NaN where the point or a cell that it reads is NaN.
    """
    height, width, count = field.shape[:3]
    cells = clamp(points, field.shape[:2], stride) / stride
    # Between floor and ceil no weight falls on a cell out of range, and a point on a cell reads that cell alone.
    known = np.nan_to_num(cells)
    low, high = np.floor(known).astype(np.intp), np.ceil(known).astype(np.intp)
    x, y = (cells - low).T.reshape(2, -1, *(1,) * (field.ndim - 3))
    flat = field.reshape(height * width * count, *field.shape[3:])

    def read(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return flat.take((rows * width + columns) * count + channels, axis=0)

    upper = read(low[:, 1], low[:, 0]) * (1 - x) + read(low[:, 1], high[:, 0]) * x
    lower = read(high[:, 1], low[:, 0]) * (1 - x) + read(high[:, 1], high[:, 0]) * x
    return upper * (1 - y) + lower * y


def follow(field: np.ndarray, channels: np.ndarray, points: np.ndarray, stride: int) -> np.ndarray:
    """Where an offset field (h, w, C, 2) sends points: the point that was read plus the offset read there.

    A point outside the frame is moved into it first, because the offset is one from where it was read.

    Returns:
        (N, 2) float64 (x, y) in input pixels; NaN where the field says nothing.
    """
    return clamp(points, field.shape[:2], stride) + sample(field, channels, points, stride)


def clamp(points: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
    """(N, 2) float64: the nearest points of the frame that a map of shape (h, w) covers."""
    height, width = shape
    return np.clip(np.asarray(points, np.float64), 0.0, ((width - 1) * stride, (height - 1) * stride))


def upsample(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(len(rows), len(columns), ...) float32: a map (h, w, ...) read bilinearly at every pair of a fractional row and column in it."""

    def along(values: np.ndarray, places: np.ndarray) -> np.ndarray:
        low, high = np.floor(places).astype(np.intp), np.ceil(places).astype(np.intp)
        first, result = values[low], values[high]
        result -= first
        result *= (places - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
        result += first
        return result

    across = along(np.ascontiguousarray(values.swapaxes(0, 1), np.float32), columns)
    return along(np.ascontiguousarray(across.swapaxes(0, 1)), rows)
