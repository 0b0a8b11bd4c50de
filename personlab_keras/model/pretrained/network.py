"""Reads a released network from a name, an address, a file or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from personlab_keras.config import ModelConfig
from personlab_keras.errors import InputError
from personlab_keras.io.files import read_json
from personlab_keras.model.backbones import OUTPUT_STRIDES
from personlab_keras.model.network import build_model, head_name
from personlab_keras.model.pretrained.binding import Binding, bind
from personlab_keras.model.pretrained.catalogue import LICENCE
from personlab_keras.model.pretrained.download import Progress, locate, sha256
from personlab_keras.model.pretrained.graph import Convolution, Graph
from personlab_keras.model.pretrained.onnx_file import read_onnx
from personlab_keras.model.pretrained.tfjs import read_tfjs, shard_names

RELEASED_RADIUS = 32.0
"""R of all released networks in input pixels, as in the paper."""

RELEASED_LONGER_SIDE = 1201
"""Longer side in pixels of the input of a released network: the best single size in
docs/results.md.
"""

RELEASED_SCALES = 1.0, 0.5
"""Sizes at which a released network sees each image, relative to `RELEASED_LONGER_SIDE`. It finds
people of up to 350 px of its input well; larger ones need the smaller size.
"""


@dataclass(frozen=True)
class Imported:
    """An imported network.

    Attributes:
        network: as for training, with logits, at the output stride of the file.
        config: its configuration.
        provenance: source and licence of the weights, and size and SHA-256 of each file.
    """

    network: keras.Model
    config: ModelConfig
    provenance: Mapping[str, Any]


def read_network(source: str | Path, progress: Progress | None = None) -> Imported:
    """Reads a released network.

    Args:
        source: the name of a published network (`catalogue.PUBLISHED`), an http(s) address, a tfjs
            model JSON, an ONNX file, or a folder that holds one of them.
        progress: called with (bytes received, total bytes) during a download.

    Raises:
        InputError: if the source is none of these or is unavailable, or the file is damaged or not
            a released network.
    """
    path, origin = locate(source, progress)
    graph = read_onnx(path) if path.suffix == ".onnx" else read_tfjs(path)
    binding = bind(graph)
    if binding.output_stride not in OUTPUT_STRIDES:
        raise InputError(
            f"{path}: its output stride must be one of {OUTPUT_STRIDES}. Received: {binding.output_stride}"
        )
    config = ModelConfig(
        binding.backbone,
        binding.alpha,
        binding.output_stride,
        weights=None,
        outputs=tuple(binding.heads),
    )
    network = build_model(config)
    _load(network, binding, graph)
    files = {
        file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in _files(path)
    }
    return Imported(network, config, {"source": origin, "licence": LICENCE, "files": files})


def _files(path: Path) -> list[Path]:
    shards = [] if path.suffix == ".onnx" else shard_names(read_json(path), str(path))
    return [path, *(path.parent / name for name in shards)]


def _load(network: keras.Model, binding: Binding, graph: Graph) -> None:
    """Sets the weights of the network after checking that every layer matches the graph."""
    for name, convolution in binding.layers.items():
        layer = network.get_layer(name)
        _check(layer, _activation_of(network, name), convolution, graph.source)
        layer.set_weights([convolution.kernel, convolution.bias])
    for output, (kernel, bias) in binding.heads.items():
        head = network.get_layer(head_name(output))
        if kernel.shape != tuple(head.kernel.shape):
            raise InputError(
                f"{graph.source}: the head of {output} must be {tuple(head.kernel.shape)}. Received: {kernel.shape}"
            )
        head.set_weights([kernel, bias])


def _activation_of(network: keras.Model, name: str) -> str | None:
    """TensorFlow's name of the activation after a layer of a released backbone, or None."""
    known = {layer.name: layer for layer in network.layers}
    relu = known.get(f"{name}_relu")
    return None if relu is None else "Relu" if relu.max_value is None else "Relu6"


def _check(layer: Any, activation: str | None, found: Convolution, source: str) -> None:
    ours = {
        "kernel": tuple(layer.kernel.shape),
        "stride": layer.strides[0],
        "dilation": layer.dilation_rate[0],
        "activation": activation,
    }
    theirs = {
        "kernel": found.kernel.shape,
        "stride": found.stride,
        "dilation": found.rate,
        "activation": found.activation,
    }
    for what, due in ours.items():
        if theirs[what] != due:
            raise InputError(
                f"{source}: the {what} of {found.name} ({layer.name}) must be {due}. Received: {theirs[what]}"
            )
