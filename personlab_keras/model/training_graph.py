"""The order in which training computes a network: the same layers, weights and outputs, with fewer
bytes moved.

- The heads of the same features are one convolution. Apart, each of them reads the features, and
  backward each writes a gradient of their size, which are then added up. Together they do so once.
- A maximum is taken before the rectifier in front of it: it commutes, and leaves a quarter of the
  cells to rectify and to keep for the gradient.

Networks are stored, served and exported as they are built.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from personlab_keras.method.maps import MIDDLE_PREFIX, OUTPUTS
from personlab_keras.model.network import head_name


class JointHeads(layers.Layer):
    """Several 1x1 convolutions of the same features, computed as one.

    Args:
        heads: built convolutions with bias and without activation, of stride 1. They keep their
            weights.
    """

    def __init__(self, heads: Sequence[layers.Conv2D], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = list(heads)

    def call(self, features: Any) -> list[Any]:
        """(B, h, w, C) to (B, h, w, channels) for each head."""
        kernel = ops.concatenate([head.kernel for head in self.heads], axis=-1)
        bias = ops.concatenate([head.bias for head in self.heads])
        ends = itertools.accumulate(head.filters for head in self.heads)
        return ops.split(ops.conv(features, kernel) + bias, list(ends)[:-1], axis=-1)

    def compute_output_shape(self, features_shape: Any) -> Any:
        return [(*features_shape[:-1], head.filters) for head in self.heads]


def training_graph(network: keras.Model) -> keras.Model:
    """A functional model of the layers of a network, with its inputs and outputs.

    Args:
        network: as `build_model` makes it.
    """
    joint = _joint_heads(network)
    late = _late_rectifiers(network)
    outputs: dict[str, Any] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name in joint:
            if layer.name not in outputs:
                heads = joint[layer.name]
                found = JointHeads(heads, dtype="float32", name=f"{layer.name}s")(*args)
                outputs.update(zip((head.name for head in heads), found, strict=True))
            return outputs[layer.name]
        if layer in late.values():
            return args[0]
        result = layer(*args, **kwargs)
        return late[layer.name](result) if layer.name in late else result

    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


def _joint_heads(network: keras.Model) -> dict[str, list[layers.Conv2D]]:
    """Name of a trained head -> all of them that read the same features, where it is not alone."""
    groups: dict[int, list[layers.Conv2D]] = defaultdict(list)
    names = [f"{prefix}{head_name(output)}" for prefix in ("", MIDDLE_PREFIX) for output in OUTPUTS]
    for layer in network.layers:
        if layer.name in names:
            groups[id(layer.input)].append(layer)
    return {head.name: heads for heads in groups.values() if len(heads) > 1 for head in heads}


def _late_rectifiers(network: keras.Model) -> dict[str, Any]:
    """Name of a maximum pooling -> the rectifier in front of it, whose output it alone reads."""
    readers = Counter(
        id(tensor)
        for layer in network.layers
        if not isinstance(layer, layers.InputLayer)
        for tensor in keras.tree.flatten(layer.input)
    )
    found = {}
    for layer in network.layers:
        if isinstance(layer, layers.MaxPooling2D) and readers[id(layer.input)] == 1:
            source = layer.input._keras_history.operation
            if isinstance(source, layers.ReLU) or (
                isinstance(source, layers.Activation)
                and source.activation is keras.activations.relu
            ):
                found[layer.name] = source
    return found
