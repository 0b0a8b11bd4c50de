"""Writes the network as an ONNX file."""

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
_SMALLEST_STORED = 256
"""Tensors with fewer values stay float32: fewer bits would save nothing."""


def onnx_files(
    network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes
) -> Iterator[bytes]:
    """Yields the content of an ONNX file for each type of weights.

    Args:
        network: the network as it predicts, with probabilities.
        options: types of weights and the input size.
        images: calibration inputs (1, H, W, 3) uint8 for int8; may be empty.
        description: the content of `personlab.json`.
    """
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


def _store_float32(model: Any) -> None:
    """Leaves the weights as they are."""


def _store_float16(model: Any) -> None:
    """Stores weights as float16. When a session starts, ONNX Runtime converts them back to float32
    and computes as before.
    """
    onnx = import_quietly("onnx")

    def store(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        stored = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        return [stored], [
            onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)
        ]

    _store(model, store)


def _store_int8(model: Any) -> None:
    """Stores weights as int8 with a scale per output channel, since the channels of a depthwise
    convolution differ by orders of magnitude. When a session starts, ONNX Runtime converts them
    back to float32 and computes as before."""
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
        # Not DequantizeLinear, which ONNX Runtime would compute again for every image.
        cast = onnx.helper.make_node(
            "Cast", [stored.name], [f"{name}_cast"], to=onnx.TensorProto.FLOAT
        )
        return [stored, scale], [
            cast,
            onnx.helper.make_node("Mul", [f"{name}_cast", scale.name], [name]),
        ]

    _store(model, store)


def _store(model: Any, store: Callable[[str, np.ndarray], tuple[list[Any], list[Any]]]) -> None:
    """Replaces the kernels of convolutions by smaller tensors and the nodes that restore them.

    Args:
        model: an ONNX model; modified.
        store: maps the name and values of a kernel to the tensors and nodes that replace it.
    """
    onnx = import_quietly("onnx")
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    first: list[Any] = []
    for tensor in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name in kernels and values.size >= _SMALLEST_STORED:
            stored, nodes = store(tensor.name, values)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(stored)
            first += nodes
    rest = list(model.graph.node)
    del model.graph.node[:]
    # A graph lists a node before the nodes that use its output.
    model.graph.node.extend([*first, *rest])


def _quantised(path: Path, images: Sequence[np.ndarray], heads: Sequence[str]) -> Any:
    """Quantises weights and activations to int8, except in the heads: an offset of hundreds of
    pixels in 256 steps would have a larger error than a keypoint may have."""
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
    FLOAT32: _store_float32,
    FLOAT16: _store_float16,
    INT8: _store_int8,
}
