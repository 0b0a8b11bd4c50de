"""Frozen graphs of convolutions, independent of the file format, and the search from a tensor for
the convolution that produces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personlab_keras.errors import InputError


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: its name in the file.
        op: its name in TensorFlow.
        inputs: names of its input tensors.
        attributes: by TensorFlow's names, of plain Python types; strides, dilations and ksize
            are (1, rows, columns, 1).
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A network as stored in a file.

    Attributes:
        source: the file, for messages.
        nodes: name of a tensor -> the node that produces it.
        constants: name of a tensor -> its values. Kernels are (rows, columns, in, out), depthwise
            ones (rows, columns, channels, 1).
    """

    source: str
    nodes: Mapping[str, Node]
    constants: Mapping[str, np.ndarray]

    def node(self, tensor: str) -> Node:
        """The node that produces a tensor.

        Raises:
            InputError: if the graph has none.
        """
        if tensor not in self.nodes:
            raise InputError(f"{self.source}: damaged: no node makes {tensor}")
        return self.nodes[tensor]


@dataclass(frozen=True)
class Convolution:
    """A convolution into which everything up to its activation is folded.

    Attributes:
        name: that of its node.
        kernel: (rows, columns, in, out), or (rows, columns, channels, 1) of a depthwise one;
            float32.
        bias: (out,) float32.
        depthwise: whether each channel has its own kernel.
        stride, rate: along both axes.
        activation: "Relu", "Relu6" or None.
        source: its input tensor.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray
    depthwise: bool
    stride: int
    rate: int
    activation: str | None
    source: str


_PLAIN = ("Conv2D", "_FusedConv2D")
_DEPTHWISE = ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
_ACTIVATIONS = ("Relu", "Relu6")
_ADDITIONS = ("Add", "AddV2")
_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_UNCHANGING = ("Identity", "Transpose", "Reshape", "BatchToSpaceND")
"""Ops that pass on the channel values of their first input."""
_PADDINGS = ("Pad", "PadV2", "SpaceToBatchND", "Identity", "Transpose")
"""Ops allowed between a convolution and its input. TensorFlow dilates depthwise convolutions by
SpaceToBatchND.
"""


def below(graph: Graph, tensor: str) -> Convolution | Node:
    """The producer of a tensor: the nearest convolution, addition of two branches, pooling or
    input.

    Biases and batch-norm in any form, fused into the convolution or as nodes between, are folded
    into the convolution.

    Raises:
        InputError: if an op is unknown, a node is missing, or their order cannot be folded.
    """
    scale: Any = 1.0
    shift: Any = 0.0
    activation, touched = None, False
    for _ in range(len(graph.nodes) + 1):  # a damaged file may have cycles
        node = graph.node(tensor)
        if node.op in _PLAIN + _DEPTHWISE:
            return _fold(graph, node, scale, shift, activation, touched)
        if node.op in _ACTIVATIONS:
            if activation or touched:
                raise InputError(
                    f"{graph.source}: the activation {node.name} must come last before the next convolution"
                )
            activation = node.op
        elif node.op == "Placeholder" or (
            node.op == "MaxPool" and max(node.attributes["ksize"]) > 1
        ):
            return node
        elif (
            node.op not in _UNCHANGING and node.op != "MaxPool"
        ):  # a MaxPool of size 1 picks every other cell
            known = _affine(graph, node)
            if known is None:
                return node
            factor, summand, tensor = known
            scale, shift, touched = scale * factor, shift + scale * summand, True
            continue
        tensor = _input(graph, node, 0)
    raise InputError(f"{graph.source}: damaged: the graph runs in circles at {tensor}")


def _affine(graph: Graph, node: Node) -> tuple[Any, Any, str] | None:
    """(factor, summand, input tensor) of a node that scales and shifts channels; None for the
    addition of two branches.
    """
    tensor = _input(graph, node, 0)
    if node.op in _BATCH_NORMS:
        gamma, beta, mean, variance = (_constant_input(graph, node, i) for i in range(1, 5))
        factor = gamma / np.sqrt(variance + node.attributes["epsilon"])
        return factor, beta - mean * factor, tensor
    if node.op == "BiasAdd":
        return 1.0, _constant_input(graph, node, 1), tensor
    if node.op in (*_ADDITIONS, "Sub", "Mul"):
        value = constant(graph, _input(graph, node, 1))
        if value is None and node.op != "Sub":
            value, tensor = constant(graph, tensor), _input(graph, node, 1)
        if value is None and node.op in _ADDITIONS:
            return None
        if value is not None:
            value = value.reshape(-1)
            return (
                (value, 0.0, tensor)
                if node.op == "Mul"
                else (1.0, -value if node.op == "Sub" else value, tensor)
            )
    raise InputError(f"{graph.source}: the op {node.op} of node {node.name} is not known here")


def constant(graph: Graph, tensor: str) -> np.ndarray | None:
    """The values (float64) of a tensor computed from constants alone, as in unfolded batch-norm;
    None for others.
    """
    if tensor in graph.constants:
        return graph.constants[tensor].astype(np.float64)
    node = graph.node(tensor)
    operation = {"Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply}.get(
        node.op
    )
    if operation is not None:
        first, second = (constant(graph, _input(graph, node, i)) for i in (0, 1))
        return None if first is None or second is None else operation(first, second)
    if node.op in ("Identity", "Rsqrt"):
        value = constant(graph, _input(graph, node, 0))
        return value if value is None or node.op == "Identity" else value**-0.5
    return None


def _fold(
    graph: Graph, node: Node, scale: Any, shift: Any, activation: str | None, touched: bool
) -> Convolution:
    depthwise = node.op in _DEPTHWISE
    kernel = _constant_input(graph, node, 1, flat=False)
    if kernel.ndim != 4 or (depthwise and kernel.shape[3] != 1):
        raise InputError(
            f"{graph.source}: the kernel of {node.name} must be (rows, columns, in, out). Received: {kernel.shape}"
        )
    if node.attributes.get("data_format", "NHWC") != "NHWC":
        raise InputError(
            f"{graph.source}: {node.name} must have channels last (NHWC). Received: {node.attributes['data_format']}"
        )
    channels = kernel.shape[2 if depthwise else 3]
    bias: Any = 0.0
    for op in node.attributes.get("fused_ops", ()):
        if op in _ACTIVATIONS:
            if activation or touched:
                raise InputError(
                    f"{graph.source}: the activation of {node.name} must come last before the next convolution"
                )
            activation = op
        elif op == "BiasAdd":
            bias = _constant_input(graph, node, 2)
        elif op in _BATCH_NORMS:
            gamma, beta, mean, variance = (_constant_input(graph, node, i) for i in range(2, 6))
            factor = gamma / np.sqrt(variance + node.attributes["epsilon"])
            bias, shift, scale = 0.0, shift + scale * (beta - mean * factor), scale * factor
        else:
            raise InputError(
                f"{graph.source}: the op {op}, fused into node {node.name}, is not known here"
            )
    for values in (scale, shift, bias):
        if np.size(values) not in (1, channels):
            raise InputError(
                f"{graph.source}: {node.name} has {channels} channels, but {np.size(values)} scales or biases"
            )
    scale = np.broadcast_to(scale, channels)
    source, rate = _input(graph, node, 0), _along_sides(graph, node, "dilations")
    for _ in range(len(graph.nodes)):
        reader = graph.node(source)
        if reader.op not in _PADDINGS:
            break
        if reader.op == "SpaceToBatchND":
            rate *= int(_constant_input(graph, reader, 1).max())
        source = _input(graph, reader, 0)
    folded = (
        kernel * (scale[:, None] if depthwise else scale),
        np.broadcast_to(scale * bias + shift, channels),
    )
    if not all(np.isfinite(values).all() for values in folded):
        raise InputError(f"{graph.source}: damaged: weights of {node.name} are not finite")
    weights, biases = (values.astype(np.float32) for values in folded)
    return Convolution(
        node.name,
        weights,
        biases,
        depthwise,
        _along_sides(graph, node, "strides"),
        rate,
        activation,
        source,
    )


def _input(graph: Graph, node: Node, position: int) -> str:
    if position >= len(node.inputs):
        raise InputError(
            f"{graph.source}: damaged: node {node.name} ({node.op}) lacks input {position}"
        )
    return node.inputs[position]


def _constant_input(graph: Graph, node: Node, position: int, flat: bool = True) -> np.ndarray:
    value = constant(graph, _input(graph, node, position))
    if value is None:
        raise InputError(
            f"{graph.source}: input {position} of node {node.name} ({node.op}) must be constant"
        )
    return value.reshape(-1) if flat else value


def _along_sides(graph: Graph, node: Node, name: str) -> int:
    """The common value of strides or dilations (1, rows, columns, 1)."""
    values = set(node.attributes.get(name, (1, 1, 1, 1))[1:3])
    if len(values) != 1:
        raise InputError(
            f"{graph.source}: {name} of {node.name} must be alike along both sides. Received: {sorted(values)}"
        )
    return int(values.pop())
