"""The backbones of Google's released PoseNet and BodyPix: MobileNetV1 and TF-slim's ResNet-50.

Batch-norm is folded into the weights and biases of the convolutions. Strides and paddings are
placed differently from the networks of the same name in keras.applications, so weights are not
interchangeable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from personlab_keras.errors import InputError

MOBILENET_WIDTHS = (0.5, 0.75, 1.0)
"""The released width multipliers."""

RESNET_BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Inner channels and units of the blocks of ResNet-50; a unit gives four times its inner
channels.
"""


def mobilenet_blocks(alpha: float) -> list[tuple[int, int]]:
    """(channels, stride) of the 13 blocks after the first convolution, a depthwise and a pointwise
    convolution each.

    The narrower ones end with two blocks of 512 * alpha channels at stride 1, the full one with
    1024 channels and a last stride.

    Raises:
        InputError: if this width was not released.
    """
    if alpha not in MOBILENET_WIDTHS:
        raise InputError(
            f"model.alpha of mobilenetv1_released must be one of {MOBILENET_WIDTHS}. Received: {alpha}"
        )
    last, last_stride = (1024, 2) if alpha == 1.0 else (512, 1)
    channels = (64, 128, 128, 256, 256, *[512] * 6, last, last)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, last_stride, 1)
    return [(round(count * alpha), stride) for count, stride in zip(channels, strides, strict=True)]


def apply_mobilenet(image: Any, output_stride: int, alpha: float) -> Any:
    """Features of MobileNetV1: (B, H, W, 3) in [-1, 1] to (B, (H-1)/s + 1, (W-1)/s + 1, 512 *
    alpha, or 1024).
    """
    blocks = mobilenet_blocks(alpha)
    (stride, _), *plan = at_output_stride([2, *(stride for _, stride in blocks)], output_stride)
    x = layers.Conv2D(round(32 * alpha), 3, stride, "same", name="conv0")(image)
    x = layers.ReLU(6.0, name="conv0_relu")(x)
    for number, ((channels, _), (stride, rate)) in enumerate(
        zip(blocks, plan, strict=True), start=1
    ):
        name = f"block{number}_depthwise"
        x = layers.DepthwiseConv2D(3, stride, "same", dilation_rate=rate, name=name)(x)
        x = layers.ReLU(6.0, name=f"{name}_relu")(x)
        name = f"block{number}_pointwise"
        x = layers.Conv2D(channels, 1, name=name)(x)
        x = layers.ReLU(6.0, name=f"{name}_relu")(x)
    return x


def apply_resnet(image: Any, output_stride: int, alpha: float = 1.0) -> Any:
    """Features of ResNet-50: (B, H, W, 3) RGB minus its mean to (B, (H-1)/s + 1, (W-1)/s + 1,
    2048).

    Blocks 1 to 3 have their stride in the 3x3 convolution of the last unit, not of the first as in
    keras.applications."""
    units = [
        (
            f"block{block}_unit{unit}",
            channels,
            2 if unit == count and block < len(RESNET_BLOCKS) else 1,
        )
        for block, (channels, count) in enumerate(RESNET_BLOCKS, start=1)
        for unit in range(1, count + 1)
    ]
    (first, _), (pool, _), *plan = at_output_stride(
        [2, 2, *(stride for _, _, stride in units)], output_stride
    )
    x = layers.Conv2D(64, 7, first, "same", name="conv1")(image)
    x = layers.ReLU(name="conv1_relu")(x)
    x = layers.MaxPooling2D(3, pool, "same", name="pool1")(x)
    for (name, channels, _), (stride, rate) in zip(units, plan, strict=True):
        x = _apply_unit(x, channels, stride, rate, name)
    return x


def _apply_unit(x: Any, channels: int, stride: int, rate: int, name: str) -> Any:
    """A bottleneck: 1x1, 3x3, 1x1 beside a shortcut."""
    if x.shape[-1] != 4 * channels:
        shortcut = layers.Conv2D(4 * channels, 1, stride, name=f"{name}_shortcut")(x)
    else:
        shortcut = layers.MaxPooling2D(1, stride, name=f"{name}_subsampled")(x) if stride > 1 else x
    y = layers.ReLU(name=f"{name}_conv1_relu")(layers.Conv2D(channels, 1, name=f"{name}_conv1")(x))
    y = layers.Conv2D(channels, 3, stride, "same", dilation_rate=rate, name=f"{name}_conv2")(y)
    y = layers.ReLU(name=f"{name}_conv2_relu")(y)
    y = layers.Conv2D(4 * channels, 1, name=f"{name}_conv3")(y)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, y]))


def at_output_stride(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """(stride, dilation rate) of each layer of a chain, given their original strides.

    A stride beyond the output stride becomes 1 and multiplies the rate of the later layers. If the
    original strides do not reach the output stride, the last layer takes the rest: its cells are a
    subset of the original ones.

    >>> at_output_stride([2, 2, 1, 2, 1], 4)
    [(2, 1), (2, 1), (1, 1), (1, 1), (1, 2)]
    >>> at_output_stride([2, 2, 1], 8)
    [(2, 1), (2, 1), (2, 1)]
    """
    plan, reached, rate = [], 1, 1
    for stride in strides:
        if reached * stride > output_stride:
            plan.append((1, rate))
            rate *= stride
        else:
            plan.append((stride, rate))
            reached *= stride
    stride, rate = plan[-1]
    plan[-1] = (stride * (output_stride // reached), rate)
    return plan
