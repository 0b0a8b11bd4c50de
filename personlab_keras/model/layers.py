"""Layers that Keras lacks: preprocessing as part of the network, and maps whose cells stay on
pixels stride * i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from personlab_keras.errors import InputError
from personlab_keras.keras_objects import BACKENDS
from personlab_keras.method.coordinates import map_side

if keras.backend.backend() not in BACKENDS:
    raise InputError(
        f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: {keras.backend.backend()}"
    )


@dataclass(frozen=True)
class Preprocessing:
    """Converts RGB 0..255 to the values a network was trained on: (image, with channels reversed or
    not) * scale + offset.
    """

    scale: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reverse: bool = False


PREPROCESSING: dict[str, Preprocessing] = {
    "tf": Preprocessing(scale=1 / 127.5, offset=(-1.0, -1.0, -1.0)),
    "caffe": Preprocessing(offset=(-103.939, -116.779, -123.68), reverse=True),
    "slim": Preprocessing(offset=(-123.15, -115.90, -103.06)),
    "included": Preprocessing(),
}
"""Mode -> preprocessing. "slim" is that of Google's released ResNet; "included" leaves it to layers
of the network itself.
"""


@keras.saving.register_keras_serializable(package="personlab_keras")
class Preprocess(layers.Layer):
    """Applies a preprocessing to RGB 0..255, and rejects images whose sides are not stride * n + 1.

    Args:
        mode: a key of `PREPROCESSING`.
        stride: output stride of the network.
    """

    def __init__(self, mode: str, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in PREPROCESSING:
            raise InputError(
                f"preprocessing must be one of {', '.join(PREPROCESSING)}. Received: {mode}"
            )
        self.mode = mode
        self.stride = stride

    def call(self, image: Any) -> Any:
        """(B, H, W, 3) float32 to the same shape."""
        for side in image.shape[1:3]:
            if side is not None:
                self._check(side)
        preprocessing = PREPROCESSING[self.mode]
        ordered = ops.flip(image, axis=-1) if preprocessing.reverse else image
        return ordered * preprocessing.scale + ops.convert_to_tensor(
            preprocessing.offset, dtype=self.compute_dtype
        )

    def _check(self, side: int) -> None:
        try:
            map_side(side, self.stride)
        except InputError as error:
            # Keras rewrites the message of an error raised inside a layer unless this is set.
            error._keras_call_info_injected = True  # type: ignore[attr-defined]
            raise

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode, "stride": self.stride}


@keras.saving.register_keras_serializable(package="personlab_keras")
class AlignedUpsampling(layers.Layer):
    """Bilinear upsampling with aligned corners: n cells become factor * (n - 1) + 1, and every old
    cell keeps its point and value.

    (UpSampling2D and ops.image.resize use half-pixel centres, which moves every cell.)

    Args:
        factor: new cells per old one.
    """

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        """(B, h, w, C) to (B, factor * (h - 1) + 1, factor * (w - 1) + 1, C)."""
        batch, height, width, channels = ops.shape(x)
        # Matrix products: on a CPU several times faster than slicing and stacking, and their
        # gradients are products again.
        columns = ops.reshape(
            ops.matmul(self._weights(height), ops.reshape(x, (batch, height, width * channels))),
            (-1, width, channels),
        )
        return ops.reshape(
            ops.matmul(self._weights(width), columns),
            (batch, self._new_count(height), self._new_count(width), channels),
        )

    def _weights(self, count: Any) -> Any:
        """(new cells, `count`): the weight of each old cell in each new one."""
        positions = ops.cast(ops.arange(self._new_count(count)), "float32") / self.factor
        distances = ops.abs(ops.expand_dims(positions, 1) - ops.cast(ops.arange(count), "float32"))
        return ops.cast(ops.maximum(1.0 - distances, 0.0), self.compute_dtype)

    def _new_count(self, count: Any) -> Any:
        return (count - 1) * self.factor + 1

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, *sides, channels = input_shape
        return (
            batch,
            *(None if side is None else self._new_count(side) for side in sides),
            channels,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="personlab_keras")
class CropToMatch(layers.Layer):
    """Crops a map, right and below, to the size of another one of the same stride."""

    def call(self, x: Any, reference: Any) -> Any:
        """(B, h + a, w + b, C) and (B, h, w, D) to (B, h, w, C)."""
        _, height, width, _ = ops.shape(reference)
        return x[:, :height, :width]

    def compute_output_shape(self, x_shape: Any, reference_shape: Any) -> Any:
        return (*reference_shape[:3], x_shape[3])


@keras.saving.register_keras_serializable(package="personlab_keras")
class DilatedMaxPooling(layers.Layer):
    """Maximum over size x size cells `rate` cells apart, at stride 1 and with same padding: a
    pooling layer after a stride that was turned into dilation. Keras has none.

    Args:
        size: odd number of cells per side.
        rate: distance between them.
    """

    def __init__(self, size: int, rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.rate = rate

    def call(self, x: Any) -> Any:
        """(B, h, w, C) to the same shape."""
        return self._along(self._along(x, axis=1), axis=2)

    def _along(self, x: Any, axis: int) -> Any:
        count = ops.shape(x)[axis]
        margin = self.rate * (self.size // 2)
        padding = [(margin, margin) if each == axis else (0, 0) for each in range(4)]
        padded = ops.pad(x, padding, constant_values=float("-inf"))
        starts = [self.rate * part for part in range(self.size)]
        shifted = [
            padded[:, start : start + count] if axis == 1 else padded[:, :, start : start + count]
            for start in starts
        ]
        return ops.max(ops.stack(shifted), axis=0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "rate": self.rate}
