"""The network alone as an ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from personlab_keras.export.file_options import (
    FLOAT16,
    FLOAT32,
    INT8,
    FileOptions,
    import_quietly,
    input_signature,
    quiet_converters,
)
from personlab_keras.inference.runtimes import INPUT_NAME
from personlab_keras.model.network import head_name
from personlab_keras.model_directory import DESCRIPTION_FILE

_ONNX_OPSET = 17


_LEAST_WEIGHTS = 256
"""Tensors of fewer values stay float32: nothing is gained by storing them in fewer bits."""


def onnx_files(
    network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes
) -> Iterator[bytes]:
    """The content of a file for each of `options.weights`."""
    onnx = import_quietly("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        signature = input_signature(options.input_size)
        with quiet_converters():
            network.export(
                path,
                format="onnx",
                input_signature=signature,
                opset_version=_ONNX_OPSET,
                verbose=False,
            )
        heads = tuple(head_name(name) for name in network.output)
        for weights in options.weights:
            if weights == INT8 and images:
                with quiet_converters():
                    model = _quantised(path, images, heads)
            else:
                model = onnx.load(path)
                _STORED[weights](model)
            onnx.helper.set_model_props(model, {DESCRIPTION_FILE: description.decode()})
            yield model.SerializeToString()


def _keep(model: Any) -> None:
    """Weights as they are."""


def _store_float16(model: Any) -> None:
    """Weights are stored as float16. When a session starts, the runtime makes float32 of them and
    computes in that as before.
    """
    onnx = import_quietly("onnx")

    def store(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        stored = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        return [stored], [
            onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)
        ]

    _store(model, store)


def _store_int8(model: Any) -> None:
    """Weights are stored as int8 with a scale for each output channel: those of a depthwise
    convolution differ by orders of magnitude. When a session starts, the runtime makes float32 of
    them and computes in that as before."""
    onnx = import_quietly("onnx")

    def store(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        scales = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / np.float32(
            127
        )
        scales[scales == 0] = 1
        stored = onnx.numpy_helper.from_array(
            np.rint(values / scales).astype(np.int8), f"{name}_int8"
        )
        scale = onnx.numpy_helper.from_array(scales, f"{name}_scale")
        # Not DequantizeLinear, which the runtime keeps and computes anew for every image.
        cast = onnx.helper.make_node(
            "Cast", [stored.name], [f"{name}_cast"], to=onnx.TensorProto.FLOAT
        )
        return [stored, scale], [
            cast,
            onnx.helper.make_node("Mul", [f"{name}_cast", scale.name], [name]),
        ]

    _store(model, store)


def _store(model: Any, store: Callable[[str, np.ndarray], tuple[list[Any], list[Any]]]) -> None:
    """Replaces the kernels of convolutions by what `store` makes of each: tensors, and nodes that
    give the kernel again.
    """
    onnx = import_quietly("onnx")
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    first: list[Any] = []
    for tensor in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name in kernels and values.size >= _LEAST_WEIGHTS:
            stored, nodes = store(tensor.name, values)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(stored)
            first += nodes
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(
        [*first, *rest]
    )  # a graph lists a node before those that take its output


def _quantised(path: Path, images: Sequence[np.ndarray], heads: Sequence[str]) -> Any:
    """The network of a file with weights and activations in int8, but for its heads: an offset of
    hundreds of pixels in 256 steps would be off by more than a keypoint may be."""
    onnx = import_quietly("onnx")
    quantization: Any = import_module("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT_NAME: image.astype(np.float32)}

    kept = [
        node.name for node in onnx.load(path).graph.node if any(head in node.name for head in heads)
    ]
    target = path.with_name("quantised.onnx")
    quantization.quantize_static(
        path,
        target,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=kept,
    )
    return onnx.load(target)


_STORED: dict[str, Callable[[Any], None]] = {
    FLOAT32: _keep,
    FLOAT16: _store_float16,
    INT8: _store_int8,
}
