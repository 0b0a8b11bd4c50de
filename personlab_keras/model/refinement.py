"""Refinement of offset fields inside the network (METHOD: Refinement).

A field F leads from a cell x to the point x' = x + F(x). One step replaces it by the field that
leads to x' + G(x'), with G sampled bilinearly. A point beyond the border is first moved to the
nearest point of the border, as in the decoder (`decoder.sampling.step_along`). Gradients flow into
G and, through the point where G is sampled, into F.

Two functions sample G. Gathers are fast on CPUs and GPUs. A TPU gathers and scatters one element at
a time, so there products with sparse matrices are faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

Sample = Callable[[Any, Any, Any], Any]


def sample(fields: Any, x: Any, y: Any) -> Any:
    """Samples fields bilinearly at positions between cells; positions beyond the border are
    clamped.

    Args:
        fields: (B, h, w, F, 2) float.
        x: (B, h, w, F) float, in cells: the column at which each field is sampled for each cell. No
            value, not even NaN, causes a read outside the map.
        y: (B, h, w, F) float, in cells: the row.

    Returns:
        (B, h, w, F, 2) float.
    """
    batch, height, width, count, _ = ops.shape(fields)
    left, right, across = _neighbours(x, width)
    top, bottom, down = _neighbours(y, height)
    if keras.distribution.distribution() is not None:
        # Devices share the batch. Gathering image by image is slower on a CPU, but saves them
        # from exchanging it.
        values = ops.reshape(fields, (batch, height * width, count, 2))

        def read(row: Any, column: Any) -> Any:
            cells = ops.reshape(row * width + column, (batch, height * width, count, 1))
            return ops.reshape(ops.take_along_axis(values, cells, axis=1), ops.shape(fields))
    else:
        values = ops.reshape(fields, (-1, 2))
        images = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
        kinds = ops.arange(count, dtype="int32")

        def read(row: Any, column: Any) -> Any:
            cells = (images * height + row) * width + column
            return ops.take(values, cells * count + kinds, axis=0)

    upper = _between(read(top, left), read(top, right), across)
    lower = _between(read(bottom, left), read(bottom, right), across)
    return _between(upper, lower, down)


def sample_by_products(fields: Any, x: Any, y: Any) -> Any:
    """As `sample`, by products with matrices that hold a 1 for each cell read.

    The work grows with the square of the number of cells. A product in bfloat16, as TPUs
    compute those of float32, rounds the fields to 8 bits; positions and weights stay exact.
    """
    batch, height, width, count, _ = ops.shape(fields)
    cells = height * width

    def by_field(values: Any, *inner: int) -> Any:
        """(B, h, w, F, ...) to (B * F, ..., cells)."""
        apart = ops.moveaxis(ops.reshape(values, (batch, cells, count, *inner)), 1, -1)
        return ops.reshape(apart, (batch * count, *inner, cells))

    read = _reader(height, width)
    # Positions beyond the border have no gradient.
    inside = (by_field(_within(x, width)), by_field(_within(y, height)))
    values = read(by_field(fields, 2), *inside)
    apart = ops.moveaxis(ops.reshape(values, (batch, count, 2, cells)), -1, 1)
    return ops.reshape(apart, (batch, height, width, count, 2))


def _reader(height: int, width: int) -> Callable[[Any, Any, Any], Any]:
    """A function of fields (N, 2, cells) and positions x, y (N, P) on the map, in cells, to values
    (N, 2, P).

    The gradient with respect to the positions is known once the four cells around them are read, so
    it is kept instead of the matrices.
    """
    cells = height * width
    corners = (0, 1, width, width + 1)  # from the upper left one, in the order of memory

    def around(x: Any, y: Any) -> tuple[Any, Any, Any]:
        """A matrix (N, cells, P) that selects the upper left cell, and the distance from it."""
        left = ops.minimum(ops.floor(x), max(width - 2, 0))
        top = ops.minimum(ops.floor(y), max(height - 2, 0))
        every = ops.reshape(ops.arange(cells, dtype=x.dtype), (1, cells, 1))
        chosen = ops.equal(every, ops.expand_dims(top * width + left, 1))
        part = (ops.expand_dims(x - left, 1), ops.expand_dims(y - top, 1))
        return ops.cast(chosen, x.dtype), *part

    @ops.custom_gradient
    def read(fields: Any, x: Any, y: Any) -> Any:
        chosen, across, down = around(x, y)
        shifted = [
            ops.pad(fields[:, :, by:], ((0, 0), (0, 0), (0, min(by, cells)))) for by in corners
        ]
        found = ops.einsum("nkq,nqp->nkp", ops.concatenate(shifted, axis=1), chosen)
        upper_left, upper_right, lower_left, lower_right = ops.split(found, 4, axis=1)
        upper = upper_left + (upper_right - upper_left) * across
        lower = lower_left + (lower_right - lower_left) * across
        slope_x = (upper_right - upper_left) * (1.0 - down) + (lower_right - lower_left) * down
        slope_y = lower - upper

        def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any, Any]:
            g = arguments[0] if upstream is None else upstream
            chosen, across, down = around(x, y)
            left, right, up = g * (1.0 - across), g * across, 1.0 - down
            parts = ops.concatenate([left * up, right * up, left * down, right * down], axis=1)
            spread = ops.split(ops.einsum("nkp,nqp->nkq", parts, chosen), 4, axis=1)
            back = sum(
                ops.pad(part, ((0, 0), (0, 0), (by, 0)))[:, :, :cells]
                for part, by in zip(spread, corners, strict=True)
            )
            return back, ops.sum(g * slope_x, axis=1), ops.sum(g * slope_y, axis=1)

        return upper + slope_y * down, gradient

    return read


def refine(field: Any, source: Any, stride: int, sample: Sample = sample) -> Any:
    """One step: x -> p + G(p) - x, where p is the point of the frame nearest to x + F(x).

    Args:
        field: F, (B, h, w, F, 2) float, (dx, dy) in input pixels.
        source: G, (B, h, w, F, 2) float, likewise.
        stride: input pixels per cell.
        sample: `sample` or `sample_by_products`.

    Returns:
        (B, h, w, F, 2) float, (dx, dy) in input pixels.
    """
    _, height, width, _, _ = ops.shape(field)
    columns = ops.reshape(ops.cast(ops.arange(width), field.dtype), (-1, 1))
    rows = ops.reshape(ops.cast(ops.arange(height), field.dtype), (-1, 1, 1))
    x = _within(columns + field[..., 0] / stride, width)
    y = _within(rows + field[..., 1] / stride, height)
    return ops.stack([x - columns, y - rows], axis=-1) * stride + sample(source, x, y)


class Refinement(layers.Layer):
    """The common part of both refinements.

    Attributes:
        by_products: whether G is sampled by products. It does not change the result and is not
            saved.
    """

    by_products = False

    def _refine(self, field: Any, source: Any) -> Any:
        return refine(
            field, source, self.stride, sample_by_products if self.by_products else sample
        )


@keras.saving.register_keras_serializable(package="personlab_keras")
class MidRefinement(Refinement):
    """Refines mid-range offsets by the short-range offsets of the keypoint at the *end* of each
    edge.

    Args:
        steps: number of steps.
        stride: input pixels per cell.
        targets: (2E,) the keypoint at the end of each directed edge.
    """

    def __init__(self, steps: int, stride: int, targets: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.stride = stride
        self.targets = list(targets)

    def call(self, mid_offsets: Any, short_offsets: Any) -> Any:
        """(B, h, w, 4E) and (B, h, w, 2K) to (B, h, w, 4E), all float (dx, dy) in input pixels."""
        field = _pairs(mid_offsets)
        source = _pairs(short_offsets)
        source = (
            ops.stack([source[:, :, :, target] for target in self.targets], axis=3)
            if self.by_products  # without gathers, too
            else ops.take(source, ops.convert_to_tensor(self.targets, dtype="int32"), axis=3)
        )
        for _ in range(self.steps):
            field = self._refine(field, source)
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
class LongRefinement(Refinement):
    """Refines long-range offsets, first by the long-range offsets themselves, then by the
    short-range ones.

    Args:
        steps: number of steps of each kind.
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
                field = self._refine(field, source)
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
    """The two cells around a position along an axis of `count` cells, int32, and its distance from
    the first, 0 to 1.
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
