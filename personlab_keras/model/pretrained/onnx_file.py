"""Reads ONNX files with the `onnx` package (the extra `onnx`), whose parser and checks are
maintained with the format. The published networks are TensorFlow.js models and do not need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.model.pretrained.graph import Graph, Node

_SAME_MEANING = {
    "BatchNormalization": "FusedBatchNormV3",
    "Unsqueeze": "Reshape",
    "Squeeze": "Reshape",
}
"""ONNX op -> TensorFlow's op with the same inputs in the same order."""

_SIDES = ("two whole numbers of at least 1", lambda value: _whole(value, 2))
_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "strides": _SIDES,
    "dilations": _SIDES,
    "kernel_shape": _SIDES,
    "group": ("a whole number of at least 1", lambda value: _whole([value], 1)),
    "epsilon": ("a number", lambda value: isinstance(value, float)),
    "min": ("a number", lambda value: isinstance(value, float)),
    "max": ("a number", lambda value: isinstance(value, float)),
}
"""Attribute that is read -> what it must be, in words and as a test: a file may give any name any
type."""


def read_onnx(path: Path) -> Graph:
    """The graph of an ONNX file in TensorFlow's vocabulary: ops renamed, kernels with channels
    last.

    Raises:
        InputError: if the `onnx` package is not installed, the file is no ONNX model, or its
            weights are in another file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError(
            f"{path}: reading ONNX takes the onnx package: pip install 'personlab-keras[onnx]'"
        ) from None
    try:
        model = onnx.load_model(str(path), load_external_data=False)
        constants = {
            tensor.name: np.array(onnx.numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
        }
        operations = [
            (node, {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute})
            for node in model.graph.node
        ]
        for node, attributes in operations:
            if not node.output:
                raise ValueError(f"a node {node.op_type} without outputs")
            if node.op_type == "Constant" and "value" in attributes:
                value = onnx.numpy_helper.to_array(attributes["value"])
                constants[node.output[0]] = np.array(value)
    except (
        DecodeError,
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        LookupError,
        onnx.checker.ValidationError,
    ) as error:
        raise InputError(
            f"{path}: no ONNX model, or damaged: {' '.join(str(error).split())[:200]}"
        ) from None
    if not operations:
        raise InputError(f"{path}: no ONNX model: it holds no nodes")
    nodes = {
        each.name: Node(each.name, "Placeholder")
        for each in model.graph.input
        if each.name not in constants
    }
    for node, attributes in operations:
        inputs = tuple(node.input)
        if node.op_type == "Constant" and "value" in attributes:
            continue
        name = node.name or node.output[0]
        for output in node.output[:1]:
            nodes[output] = _translated(
                str(path), Node(name, node.op_type, inputs, attributes), constants
            )
    return Graph(str(path), nodes, constants)


def _translated(source: str, node: Node, constants: dict[str, np.ndarray]) -> Node:
    """A node in TensorFlow's terms; the kernel of a convolution is added to the constants with
    channels last.
    """
    for name, (words, fits) in _FORMS.items():
        if name in node.attributes and not fits(node.attributes[name]):
            raise InputError(
                f"{source}: {name} of {node.name} must be {words}. "
                f"Received: {str(node.attributes[name])[:80]!r}"
            )
    if node.op == "Conv":
        return _convolution(source, node, constants)
    if node.op == "Clip" and _limits(node, constants) == (0.0, 6.0):
        return Node(node.name, "Relu6", node.inputs[:1])
    if node.op == "MaxPool":
        return Node(
            node.name,
            node.op,
            node.inputs,
            {"ksize": _sides(node, "kernel_shape"), "strides": _sides(node, "strides")},
        )
    if node.op == "BatchNormalization":
        return Node(
            node.name,
            _SAME_MEANING[node.op],
            node.inputs,
            {"epsilon": node.attributes.get("epsilon", 1e-5)},
        )
    return Node(node.name, _SAME_MEANING.get(node.op, node.op), node.inputs)


def _convolution(source: str, node: Node, constants: dict[str, np.ndarray]) -> Node:
    kernel = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if kernel is None or kernel.ndim != 4:
        raise InputError(
            f"{source}: the kernel of {node.name} must be constant and have four sides"
        )
    groups = node.attributes.get("group", 1)
    depthwise = groups > 1
    if depthwise and (groups != len(kernel) or kernel.shape[1] != 1):
        raise InputError(
            f"{source}: {node.name} must be depthwise or have one group. Received: {groups} groups"
        )
    # (out, in, rows, columns), of depthwise ones (channels, 1, rows, columns).
    constants[f"{node.name}/kernel"] = (
        kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)
    )
    attributes: dict[str, Any] = {name: _sides(node, name) for name in ("strides", "dilations")}
    if len(node.inputs) > 2:
        attributes["fused_ops"] = ("BiasAdd",)
    op = "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D"
    return Node(
        node.name, op, (node.inputs[0], f"{node.name}/kernel", *node.inputs[2:]), attributes
    )


def _whole(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, bytes)
        and len(values) == count
        and all(isinstance(each, int) and each >= 1 for each in values)
    )


def _sides(node: Node, name: str) -> tuple[int, ...]:
    return (1, *node.attributes.get(name, (1, 1)), 1)


def _limits(node: Node, constants: Mapping[str, np.ndarray]) -> tuple[float, float] | None:
    """The limits of a Clip: attributes in older versions of ONNX, inputs in newer ones."""
    if "min" in node.attributes and "max" in node.attributes:
        return float(node.attributes["min"]), float(node.attributes["max"])
    limits = [constants.get(name) for name in node.inputs[1:3]]
    if len(limits) < 2 or any(
        limit is None or limit.size != 1 or limit.dtype.kind not in "iuf" for limit in limits
    ):
        return None
    lowest, highest = (float(limit.item()) for limit in limits if limit is not None)
    return lowest, highest
