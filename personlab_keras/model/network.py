"""The network: a backbone and its heads, five as in the method, or those of an imported network.

`build_model` builds the network that is trained, and `inference_model` the one that is exported and
served, with the same weights."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers

from personlab_keras.config import ModelConfig
from personlab_keras.errors import InputError
from personlab_keras.method.maps import (
    ALL_OUTPUTS,
    EXTRA_OUTPUTS,
    MIDDLE_PREFIX,
    OUTPUTS,
    PROBABILITIES,
)
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.model.backbones import build_backbone
from personlab_keras.model.layers import AlignedUpsampling
from personlab_keras.model.refinement import LongRefinement, MidRefinement

OFFSET_UNIT = 32.0
"""Input pixels per unit of the output of an offset head's convolution, the paper's R. Offsets reach
hundreds of pixels: without this factor they are learnt slowly, and at another pace than the
heatmaps. Compared with a head in pixels, a step of Adam moves an offset this many times as far, and
a step of SGD the square of it. A head trained in pixels is imported by dividing its kernel and bias
by this number."""

HEATMAP_PRIOR = 0.02
"""Probability that untrained heatmaps show everywhere: about the share of a view that lies within
the discs of a keypoint. Starting at one half, the first steps would be spent on learning that most
of an image is no keypoint."""


def build_model(config: ModelConfig, skeleton: Skeleton = COCO_PERSON) -> keras.Model:
    """The network as it is trained.

    Args:
        config: what to build. The backbone computes in the global Keras dtype policy, the heads in
            float32.
        skeleton: decides the number of channels.

    Returns:
        A functional model from "image" (B, H, W, 3) float32 RGB 0..255, sides output_stride * n +
        1, to a dict with the keys of `config.outputs`, flat and float32, at `config.target_stride`;
        those of `maps.PROBABILITIES` are logits. With a middle layer also "middle_<output>" for
        each that is trained, from that layer's features.

    Raises:
        InputError: as `build_backbone`; a middle layer that this backbone does not have.

    >>> model = build_model(ModelConfig(backbone="small", alpha=0.25, weights=None))
    >>> model.output["mid_offsets"].shape
    (None, None, None, 64)
    """
    backbone = build_backbone(config.backbone, config.output_stride, config.alpha, config.weights)
    return attach_heads(backbone, config, skeleton)


def attach_heads(
    backbone: keras.Model, config: ModelConfig, skeleton: Skeleton = COCO_PERSON
) -> keras.Model:
    """As `build_model`, on a backbone of your own: "image" to features at `config.output_stride`,
    laid out as `coordinates` says. `config.backbone`, `alpha` and `weights` are not read.
    """
    target_stride = config.output_stride if config.target_stride is None else config.target_stride
    outputs = _apply_heads(
        backbone.output, config.output_stride, target_stride, config, skeleton, prefix=""
    )
    if config.middle_layer is not None:
        features = _middle_features(backbone, config.middle_layer)
        stride = _stride_of(backbone, features, config.output_stride)
        if stride > config.output_stride:
            raise InputError(
                f"model.middle_layer must be no coarser than model.output_stride ({config.output_stride}). "
                f"Received: {config.middle_layer}, of stride {stride}"
            )
        outputs |= _apply_heads(
            features, stride, target_stride, config, skeleton, prefix=MIDDLE_PREFIX
        )
    return keras.Model(backbone.input, outputs, name="personlab")


def inference_model(model: keras.Model) -> keras.Model:
    """The network as it is served: same weights, without the outputs of a middle layer, logits
    turned into probabilities.
    """
    outputs = {
        name: layers.Activation("sigmoid", dtype="float32", name=f"{name}_probability")(output)
        if name in PROBABILITIES
        else output
        for name, output in model.output.items()
        if name in ALL_OUTPUTS
    }
    return keras.Model(model.input, outputs, name="personlab_inference")


def freeze_batch_norm(model: keras.Model) -> None:
    """Makes every batch-norm layer use its loaded statistics, in training too, and keep them, its
    scales and its shifts.
    """
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = (
                False  # for this layer Keras takes that to mean inference mode as well
            )


def has_batch_norm(model: keras.Model) -> bool:
    """Whether any layer normalises by statistics of the batches."""
    return any(isinstance(layer, layers.BatchNormalization) for layer in model.layers)


def freeze_untrained_heads(model: keras.Model) -> None:
    """Keeps the weights of heads that no record holds targets for."""
    for name in model.output.keys() & EXTRA_OUTPUTS.keys():
        model.get_layer(head_name(name)).trainable = False


def head_name(output: str) -> str:
    """Name of the convolution that gives an output.

    >>> head_name("mid_offsets")
    'mid_offsets_head'
    """
    return f"{output}_head"


def _apply_heads(
    features: Any,
    stride: int,
    target_stride: int,
    config: ModelConfig,
    skeleton: Skeleton,
    prefix: str,
) -> dict[str, Any]:
    """Features at `stride` to the outputs at `target_stride`, all names behind `prefix`; behind
    one, those that are trained.
    """
    outputs = {}
    for name, channels in (OUTPUTS if prefix else ALL_OUTPUTS).items():
        if name not in config.outputs:
            continue
        output = _apply_head(features, channels(skeleton), name, prefix)
        outputs[name] = _apply_stride(output, stride, target_stride, f"{prefix}{name}")
    short = outputs["short_offsets"]
    if config.mid_refinements:
        targets = skeleton.edge_indices[:, 1].tolist()
        refined = f"{prefix}mid_offsets_refined"
        refinement = MidRefinement(
            config.mid_refinements, target_stride, targets, dtype="float32", name=refined
        )
        outputs["mid_offsets"] = refinement(outputs["mid_offsets"], short)
    if config.long_refinements:
        refined = f"{prefix}long_offsets_refined"
        refinement = LongRefinement(
            config.long_refinements, target_stride, dtype="float32", name=refined
        )
        outputs["long_offsets"] = refinement(outputs["long_offsets"], short)
    return {f"{prefix}{name}": output for name, output in outputs.items()}


def _apply_head(features: Any, channels: int, name: str, prefix: str) -> Any:
    """One 1x1 convolution in float32, "<prefix><name>_head"; offsets in input pixels."""
    bias = math.log(HEATMAP_PRIOR / (1 - HEATMAP_PRIOR)) if name == "heatmaps" else 0.0
    output = layers.Conv2D(
        channels,
        1,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(bias),
        dtype="float32",
        name=f"{prefix}{head_name(name)}",
    )(features)
    if name in PROBABILITIES:
        return output
    return layers.Rescaling(OFFSET_UNIT, dtype="float32", name=f"{prefix}{name}_in_pixels")(output)


def _apply_stride(x: Any, stride: int, target_stride: int, name: str) -> Any:
    """A map brought from one stride to another; cells that exist at both keep their values."""
    if stride > target_stride:
        # After the head, not before: a 1x1 convolution and an interpolation may be exchanged, and
        # this order computes less.
        return AlignedUpsampling(
            stride // target_stride, dtype="float32", name=f"{name}_upsampled"
        )(x)
    if stride < target_stride:
        return layers.MaxPooling2D(
            1, target_stride // stride, dtype="float32", name=f"{name}_subsampled"
        )(x)
    return x


def _middle_features(backbone: keras.Model, name: str) -> Any:
    known = [layer.name for layer in backbone.layers]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or known[-3:]
        raise InputError(
            f"model.middle_layer must name a layer of {backbone.name}. Received: {name}. Nearest: {', '.join(near)}"
        )
    features = backbone.get_layer(name).output
    if len(features.shape) != 4 or features.shape[1:3] != (None, None):
        raise InputError(
            f"model.middle_layer must name a layer that gives a map. Received: {name}, which gives {features.shape}"
        )
    return features


def _stride_of(backbone: keras.Model, features: Any, output_stride: int) -> int:
    """Input pixels per cell of an inner tensor of the backbone, found by following one image
    shape.
    """
    side = 2 * output_stride + 1
    _, height, _, _ = keras.Model(backbone.input, features).compute_output_shape((1, side, side, 3))
    return (side - 1) // (height - 1)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Sets the weights of `target` to those of the same names in `source`.

    Stride, upsampling and refinement have no weights and may differ. Heads of a middle layer serve
    training alone: `target` keeps its own where `source` has none, and does without those that it
    lacks.

    Raises:
        InputError: any other weight is missing on one side, or of another shape.
    """
    theirs, ours = weights_by_name(source), weights_by_name(target)
    for name in sorted(theirs.keys() ^ ours.keys()):
        if not name.startswith(MIDDLE_PREFIX):
            side = "lacks" if name in ours else "has"
            raise InputError(
                f"the weights are those of another network: it {side} {name} "
                f"({len(theirs)} arrays, where {len(ours)} are expected)"
            )
    shared = [name for name in ours if name in theirs]
    for name in shared:
        if ours[name].shape != theirs[name].shape:
            raise InputError(
                f"the weights are those of another network: {name} must have shape "
                f"{tuple(ours[name].shape)}. Received: {tuple(theirs[name].shape)}"
            )
    assign([ours[name] for name in shared], copies([theirs[name] for name in shared]))


def weights_by_name(model: keras.Model) -> dict[str, Any]:
    """The variables of a network by "<layer>/<variable>".

    Keras numbers the layers that nobody named ("conv2d_7") through all networks of a process. Here
    they are numbered within the network, so that two networks of one kind have the same names.
    """
    unnamed: Counter[str] = Counter()
    found = {}
    for layer in model.layers:
        name, kind = layer.name, re.sub(r"_\d+$", "", layer.name)
        if kind.replace("_", "") == type(layer).__name__.lower():
            unnamed[kind] += 1
            name = f"{kind}_{unnamed[kind]}"
        for variable in layer.variables:
            rest = variable.path.removeprefix(layer.name)
            found[name + re.sub(r"seed_generator_\d+", "seed_generator", rest)] = variable
    return found


def copies(variables: list[Any]) -> list[np.ndarray]:
    """The values of variables, which later steps leave alone."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: list[Any], values: list[np.ndarray]) -> None:
    """Sets each variable to its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
