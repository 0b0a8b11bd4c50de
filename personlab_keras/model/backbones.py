"""Backbones: from an image to features whose cell [i, j] at output stride s *is* the image point
(s * j, s * i).

Any of the networks of keras.applications listed in `BACKBONES` is rebuilt at output stride 8, 16 or
32 with the layer names and weight shapes of the original, so that its pretrained weights load
unchanged:

- a stride beyond the output stride becomes 1, and every later spatial layer is dilated by the
  accumulated rate (the layer that loses its stride keeps the previous rate);
- paddings become symmetric, a dilated layer's padding is scaled by its rate, and an unpadded layer
  is padded; otherwise a map would lose cells and the others would shift off their pixels.

The preprocessing is the first layer of a backbone, so it cannot differ between training and
inference.
"""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
from keras import layers

from personlab_keras.errors import InputError
from personlab_keras.io.limits import check_hdf5
from personlab_keras.model.google_backbones import apply_mobilenet, apply_resnet
from personlab_keras.model.layers import (
    AlignedUpsampling,
    CropToMatch,
    DilatedMaxPooling,
    Preprocess,
)

OUTPUT_STRIDES = (8, 16, 32)
"""The output strides at which a backbone can be built."""


@dataclass(frozen=True)
class BackboneSpec:
    """How to build a backbone.

    Attributes:
        application: its name in keras.applications; None for this project's own and for Google's
            released ones.
        preprocessing: a key of `layers.PREPROCESSING`.
        has_alpha: whether it exists in several widths.
    """

    application: str | None
    preprocessing: str
    has_alpha: bool = False


BACKBONES: dict[str, BackboneSpec] = {
    "small": BackboneSpec(None, "tf", has_alpha=True),
    "mobilenet": BackboneSpec("MobileNet", "tf", has_alpha=True),
    "mobilenetv2": BackboneSpec("MobileNetV2", "tf", has_alpha=True),
    "mobilenetv3small": BackboneSpec("MobileNetV3Small", "included", has_alpha=True),
    "mobilenetv3large": BackboneSpec("MobileNetV3Large", "included", has_alpha=True),
    **{f"resnet{depth}": BackboneSpec(f"ResNet{depth}", "caffe") for depth in (50, 101, 152)},
    **{f"resnet{depth}v2": BackboneSpec(f"ResNet{depth}V2", "tf") for depth in (50, 101, 152)},
    **{
        f"efficientnetb{size}": BackboneSpec(f"EfficientNetB{size}", "included")
        for size in range(8)
    },
    **{
        f"efficientnetv2{size}": BackboneSpec(f"EfficientNetV2{size.upper()}", "included")
        for size in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    "xception": BackboneSpec("Xception", "tf"),
    "mobilenetv1_released": BackboneSpec(None, "tf", has_alpha=True),
    "resnet50_released": BackboneSpec(None, "slim"),
}
"""Name as in `model.backbone` -> spec."""

_UNALIGNABLE = {
    "vgg": "its 2x2 pools lie between pixels",
    "densenet": "its 2x2 pools lie between pixels",
    "convnext": "its 4x4 and 2x2 patches lie between pixels",
    "nasnet": "it crops and pads by halves of a stride",
    "inception": "its average pools cannot be dilated",
}
"""Name prefix in keras.applications -> why the cells of that family cannot lie on pixels stride *
i.
"""


def build_backbone(
    name: str, output_stride: int, alpha: float = 1.0, weights: str | None = None
) -> keras.Model:
    """Builds a functional model from "image" (B, H, W, 3) float32 RGB 0..255 to features (B,
    (H-1)/s + 1, (W-1)/s + 1, C).

    Args:
        name: a key of `BACKBONES`.
        output_stride: s, one of 8, 16, 32.
        alpha: width multiplier, 1.0 for backbones that have none.
        weights: None for random ones, "imagenet" for those of keras.applications, or the path of a
            Keras weights file: one saved from this backbone (`.weights.h5`), or one of
            keras.applications without top (`.h5`).

    Raises:
        InputError: if the name, stride or width is not supported, or the weights are missing,
            unreadable or of another network. Calling the model on an image whose side is not
            s * n + 1 raises it, too.
    """
    spec = _spec(name)
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(
            f"model.output_stride must be one of {OUTPUT_STRIDES}. Received: {output_stride}"
        )
    if alpha <= 0 or (alpha != 1.0 and not spec.has_alpha):
        rule = (
            "a positive width multiplier" if spec.has_alpha else f"1.0: {name} comes in one width"
        )
        raise InputError(f"model.alpha must be {rule}. Received: {alpha}")
    image = keras.Input((None, None, 3), name="image", dtype="float32")
    preprocessed = Preprocess(
        spec.preprocessing, output_stride, dtype="float32", name="preprocess"
    )(image)
    if spec.application is None:
        own = {
            "small": _apply_small,
            "mobilenetv1_released": apply_mobilenet,
            "resnet50_released": apply_resnet,
        }
        backbone = keras.Model(image, own[name](preprocessed, output_stride, alpha), name=name)
    else:
        backbone = rebuild_at_stride(_application(name, alpha, None, preprocessed), output_stride)
    if weights is not None:
        _load_weights(backbone, name, alpha, weights, preprocessed)
    return backbone


def _spec(name: str) -> BackboneSpec:
    if name in BACKBONES:
        return BACKBONES[name]
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    for family, reason in _UNALIGNABLE.items():
        if plain.startswith(family):
            raise InputError(
                f"model.backbone: {name} cannot be used, {reason}. Known: {', '.join(BACKBONES)}"
            )
    near = difflib.get_close_matches(plain, BACKBONES, n=3) or list(BACKBONES)
    raise InputError(
        f"model.backbone must be a known name. Received: {name}. Nearest: {', '.join(near)}"
    )


def _application(name: str, alpha: float, weights: str | None, image: Any) -> keras.Model:
    spec = BACKBONES[name]
    width = {"alpha": alpha} if spec.has_alpha else {}
    return getattr(keras.applications, str(spec.application))(
        include_top=False, weights=weights, input_tensor=image, **width
    )


# --- weights


def _load_weights(
    backbone: keras.Model, name: str, alpha: float, weights: str, preprocessed: Any
) -> None:
    if weights == "imagenet":
        if BACKBONES[name].application is None:
            raise InputError(
                f"model.weights: there are no imagenet weights of {name}. Use model.weights=null or the path of a file"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # the MobileNets warn that their weights were trained at another image size
                original = _application(name, alpha, weights, preprocessed)
        except (
            Exception
        ) as error:  # keras.utils.get_file reports every failed download as a bare Exception
            raise InputError(
                f"model.weights: imagenet weights of {name} could not be loaded ({_one_line(error)}). "
                "Use model.weights=PATH of a local file of them, or model.weights=null to start from random weights"
            ) from None
        backbone.set_weights(original.get_weights())
        return
    if not Path(weights).is_file():
        raise InputError(
            f"model.weights must be 'imagenet', null or the path of a Keras weights file. Received: {weights}: no such file"
        )
    if not weights.endswith(".h5"):
        raise InputError(
            f"model.weights: a Keras weights file ends in .weights.h5 or .h5. Received: {weights}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about each missing layer, before the error that sums them up
            check_hdf5(weights, 4 * sum(each.nbytes for each in backbone.get_weights()) + (1 << 20))
            backbone.load_weights(weights)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"model.weights: {weights} holds no weights of {name} with alpha {alpha}: {_one_line(error)}"
        ) from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- networks of keras.applications


@dataclass(frozen=True)
class _Scale:
    """The geometry of a tensor in the rebuilt network: pixels per cell, dilation rate of the
    kernels that read it, and whether it is the output of a padding layer."""

    stride: int = 1
    rate: int = 1
    padded: bool = False


def rebuild_at_stride(original: keras.Model, output_stride: int) -> keras.Model:
    """A copy of a network with random weights, at a smaller output stride and with its cells on
    pixels stride * i.

    Names and weight shapes are those of the original, so `set_weights` accepts its weights.

    Raises:
        InputError: if the network has a layer whose cells cannot lie on such pixels.
    """
    scales: dict[str, _Scale] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = [
            tensor
            for tensor in keras.tree.flatten((args, kwargs))
            if isinstance(tensor, keras.KerasTensor)
        ]
        known = [scales[tensor.name] for tensor in inputs if tensor.name in scales]
        before = _Scale(
            max((s.stride for s in known), default=1),
            max((s.rate for s in known), default=1),
            any(s.padded for s in known),
        )
        unpadded = _unpadded(layer, args[0]) if before.padded else None
        if unpadded is not None:
            before, args = replace(before, padded=False), (unpadded, *args[1:])
        aligned, after = _aligned(layer, before, output_stride)
        result = aligned(*args, **kwargs)
        if isinstance(layer, layers.Normalization) and original.name.startswith("efficientnetb"):
            result = layers.Rescaling(_EFFICIENTNET_INPUT_SCALE, name="input_scale")(result)
        for tensor in keras.tree.flatten(result):
            scales[tensor.name] = after
        return result

    clone = keras.models.clone_model(original, call_function=call)
    return keras.Model(clone.inputs[0], clone.output, name=original.name)


def _unpadded(layer: Any, padded: Any) -> Any:
    """The input of the zero padding before a max pooling, if it has no negative values: the pooling
    can then pad by itself, without a copy. None otherwise.
    """
    if not isinstance(layer, layers.MaxPooling2D):
        return None
    tensor = padded._keras_history.operation.input
    source = tensor._keras_history.operation
    positive = isinstance(source, layers.ReLU) or getattr(source, "activation", None) in (
        keras.activations.relu,
    )
    return tensor if positive else None


_EFFICIENTNET_INPUT_SCALE = [1 / variance**0.5 for variance in (0.229, 0.224, 0.225)]
"""Rescaling that keras.applications applies after the normalisation, but only if it loads the
imagenet weights itself, which were trained with it. Here it is always applied, because a network
must not depend on where its weights came from."""


def _aligned(layer: Any, before: _Scale, output_stride: int) -> tuple[Any, _Scale]:
    """The layer adapted to a tensor of scale `before`, and the scale of its output."""
    if isinstance(layer, layers.ZeroPadding2D):
        # Before a stride-2 layer, keras.applications pads by (k // 2 - 1, k // 2), which suits even
        # sides only.
        sides = [max(pair) * before.rate for pair in layer.padding]
        return _changed(layer, padding=sides), replace(before, padded=True)
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)):
        kernel, dilation = layer.kernel_size, {"dilation_rate": before.rate}
    elif isinstance(layer, layers.MaxPooling2D):
        kernel, dilation = layer.pool_size, {}
    elif isinstance(
        layer,
        (layers.AveragePooling2D, layers.Conv2DTranspose, layers.Cropping2D, layers.UpSampling2D),
    ):
        raise InputError(
            f"layer {layer.name} ({type(layer).__name__}) cannot be aligned with pixels stride * i"
        )
    else:
        return layer, replace(before, padded=False)

    if any(size % 2 == 0 for size in kernel):
        raise InputError(
            f"layer {layer.name} cannot be aligned with pixels stride * i: its kernel {kernel} has no centre"
        )
    step = layer.strides[0]
    beyond = step > 1 and before.stride * step > output_stride
    after = _Scale(before.stride * (1 if beyond else step), before.rate * (step if beyond else 1))
    changes: dict[str, Any] = {"strides": 1} if beyond else {}
    if max(kernel) > 1:
        if layer.padding == "valid" and not before.padded:
            changes["padding"] = "same"
        if before.rate > 1:
            if not dilation:
                return DilatedMaxPooling(kernel[0], before.rate, name=layer.name), after
            changes |= dilation
    return _changed(layer, **changes), after


def _changed(layer: Any, **changes: Any) -> Any:
    return layer.__class__.from_config(layer.get_config() | changes)


# --- own network


def _apply_small(image: Any, output_stride: int, alpha: float) -> Any:
    """A residual network of plain 3x3 convolutions for training on a CPU within minutes.

    It avoids depthwise convolutions and deep stacks at fine strides, which are slow there. The
    dilated blocks at stride 16 have a receptive field of 591 pixels, more than a person in the
    demo; at output stride 8 their upsampled features are joined with finer ones."""

    def width(channels: int) -> int:
        return max(8, 8 * round(channels * alpha / 8))

    x = _apply_conv(image, width(16), strides=2, name="stem")
    x = _apply_conv(x, width(32), strides=2, name="stride4_down")
    x = _apply_block(x, name="stride4_block1")
    x = _apply_conv(x, width(64), strides=2, name="stride8_down")
    fine = x = _apply_block(x, name="stride8_block1")
    # Symmetric for an odd number of cells. Of an even number the last lies between two cells of
    # stride 16, as it does on images of 8 * n + 1 pixels with odd n: then one cell more to the
    # right and below is computed.
    x = layers.ZeroPadding2D(((1, 2), (1, 2)), name="stride16_pad")(x)
    x = _apply_conv(x, width(128), strides=2, padding="valid", name="stride16_down")
    for number, rate in enumerate((1, 2, 4, 1), start=1):
        x = _apply_block(x, rate, name=f"stride16_block{number}")
    if output_stride == 8:
        x = _apply_conv(x, width(96), kernel_size=1, activation=None, name="context")
        x = CropToMatch(name="context_cropped")(
            AlignedUpsampling(2, name="context_upsampled")(x), fine
        )
        x = layers.Add(name="join")(
            [x, _apply_conv(fine, width(96), kernel_size=1, activation=None, name="fine")]
        )
        x = _apply_conv(layers.ReLU(name="join_relu")(x), width(96), name="joined")
    elif output_stride == 32:
        x = _apply_conv(x, width(192), strides=2, name="stride32_down")
        x = _apply_block(x, name="stride32_block1")
    return x


def _apply_conv(
    x: Any,
    channels: int,
    name: str,
    kernel_size: int = 3,
    strides: int = 1,
    padding: str = "same",
    rate: int = 1,
    activation: str | None = "relu",
) -> Any:
    """Convolution, batch-norm, activation; `name` is that of the result."""
    x = layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding,
        dilation_rate=rate,
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(
        momentum=0.9, epsilon=1e-3, name=f"{name}_bn" if activation else name
    )(x)
    return layers.Activation(activation, name=name)(x) if activation else x


def _apply_block(x: Any, rate: int = 1, *, name: str) -> Any:
    """Two 3x3 convolutions beside the identity."""
    channels = x.shape[-1]
    y = _apply_conv(x, channels, rate=rate, name=f"{name}_first")
    y = _apply_conv(y, channels, rate=rate, activation=None, name=f"{name}_second")
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_add")([x, y]))
