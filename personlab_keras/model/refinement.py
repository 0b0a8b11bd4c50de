"""Refinement of offset fields inside the network (METHOD: Refinement).

A field F leads from a cell x to the point x' = x + F(x). One step replaces it by the field that
leads to x' + G(x'), with G sampled bilinearly. A point beyond the border is first moved to the
nearest point of the border, as in the decoder (`decoder.sampling.step_along`). Gradients flow into
G and, through the point where G is sampled, into F.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


def sample(fields: Any, x: Any, y: Any) -> Any:
    """Fields at positions between cells, bilinearly; positions beyond the border count as on it.

    Args:
        fields: (B, h, w, F, 2) float.
        x: (B, h, w, F) float, in cells: the column at which each field is sampled for each cell. No
            value, NaN neither, leads to a read outside the map.
        y: (B, h, w, F) float, in cells: the row.

    Returns:
        (B, h, w, F, 2) float.
    """
    batch, height, width, count, _ = ops.shape(fields)
    left, right, across = _neighbours(x, width)
    top, bottom, down = _neighbours(y, height)
    values = ops.reshape(fields, (-1, 2))
    images = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
    kinds = ops.arange(count, dtype="int32")

    def read(row: Any, column: Any) -> Any:
        return ops.take(values, ((images * height + row) * width + column) * count + kinds, axis=0)

    upper = _between(read(top, left), read(top, right), across)
    lower = _between(read(bottom, left), read(bottom, right), across)
    return _between(upper, lower, down)


def refine(field: Any, source: Any, stride: int) -> Any:
    """One step: x -> p + G(p) - x, where p is the point of the frame nearest to x + F(x).

    Args:
        field: F, (B, h, w, F, 2) float, (dx, dy) in input pixels.
        source: G, (B, h, w, F, 2) float, likewise.
        stride: input pixels per cell.

    Returns:
        (B, h, w, F, 2) float, (dx, dy) in input pixels.
    """
    _, height, width, _, _ = ops.shape(field)
    columns = ops.reshape(ops.cast(ops.arange(width), field.dtype), (-1, 1))
    rows = ops.reshape(ops.cast(ops.arange(height), field.dtype), (-1, 1, 1))
    x = _within(columns + field[..., 0] / stride, width)
    y = _within(rows + field[..., 1] / stride, height)
    return ops.stack([x - columns, y - rows], axis=-1) * stride + sample(source, x, y)


@keras.saving.register_keras_serializable(package="personlab_keras")
class MidRefinement(layers.Layer):
    """Refines mid-range offsets by the short-range offsets of the keypoint that each edge leads
    *to*.

    Args:
        steps: how often.
        stride: input pixels per cell.
        targets: (2E,) the keypoint that each directed edge leads to.
    """

    def __init__(self, steps: int, stride: int, targets: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.stride = stride
        self.targets = list(targets)

    def call(self, mid_offsets: Any, short_offsets: Any) -> Any:
        """(B, h, w, 4E) and (B, h, w, 2K) to (B, h, w, 4E), all float (dx, dy) in input pixels."""
        field = _pairs(mid_offsets)
        source = ops.take(
            _pairs(short_offsets), ops.convert_to_tensor(self.targets, dtype="int32"), axis=3
        )
        for _ in range(self.steps):
            field = refine(field, source, self.stride)
        return ops.reshape(field, ops.shape(mid_offsets))

    def compute_output_shape(self, mid_offsets_shape: Any, short_offsets_shape: Any) -> Any:
        return mid_offsets_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "steps": self.steps,
            "stride": self.stride,
            "targets": self.targets,
        }


@keras.saving.register_keras_serializable(package="personlab_keras")
class LongRefinement(layers.Layer):
    """Refines long-range offsets, first by the network's own long-range offsets, then as often by
    the short-range ones.

    Args:
        steps: how often by each.
        stride: input pixels per cell.
    """

    def __init__(self, steps: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.stride = stride

    def call(self, long_offsets: Any, short_offsets: Any) -> Any:
        """(B, h, w, 2K) twice to (B, h, w, 2K), all float (dx, dy) in input pixels."""
        field = _pairs(long_offsets)
        for source in (field, _pairs(short_offsets)):
            for _ in range(self.steps):
                field = refine(field, source, self.stride)
        return ops.reshape(field, ops.shape(long_offsets))

    def compute_output_shape(self, long_offsets_shape: Any, short_offsets_shape: Any) -> Any:
        return long_offsets_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps, "stride": self.stride}


def _pairs(offsets: Any) -> Any:
    """(B, h, w, 2F) to (B, h, w, F, 2)."""
    batch, height, width, channels = ops.shape(offsets)
    return ops.reshape(offsets, (batch, height, width, channels // 2, 2))


def _neighbours(position: Any, count: Any) -> tuple[Any, Any, Any]:
    """The two cells around a position along an axis of `count` cells, int32, and how far beyond the
    first it lies, 0 to 1.
    """
    # The integers are clipped as well as the position: `count` - 1 - tiny is `count` - 1 in
    # float32, and NaN becomes any integer.
    inside = _within(position, count)
    first = ops.clip(ops.cast(ops.floor(inside), "int32"), 0, count - 1)
    return first, ops.minimum(first + 1, count - 1), inside - ops.cast(first, position.dtype)


def _within(position: Any, count: Any) -> Any:
    """The nearest position on an axis of `count` cells."""
    return ops.clip(position, 0.0, ops.cast(count - 1, position.dtype))


def _between(first: Any, second: Any, part: Any) -> Any:
    return first + (second - first) * ops.expand_dims(part, -1)
