"""Matches the convolutions of a released graph to our layers: the backbone by structure, the heads
by name.

Released offsets are planar, y first (dy of all fields, then dx of all), in input pixels; ours are
(dx, dy) field by field, in units of `model.OFFSET_UNIT`. This module converts the columns of the
heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.method.maps import ALL_OUTPUTS, PROBABILITIES
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.google_backbones import MOBILENET_WIDTHS, RESNET_BLOCKS
from personlab_keras.model.network import OFFSET_UNIT
from personlab_keras.model.pretrained.graph import Convolution, Graph, Node, below

_HEADS = {
    "heatmaps": "float_heatmaps|heatmap_2/BiasAdd|heatmaps",
    "short_offsets": "float_short_offsets|offset_2/BiasAdd|short_offsets",
    "forward": "displacement_fwd_2/BiasAdd|displacement_fwd",
    "backward": "displacement_bwd_2/BiasAdd|displacement_bwd",
    "long_offsets": "float_long_offsets|long_offsets",
    "segmentation": "float_segments|segments",
    "part_heatmaps": "float_part_heatmaps|part_heatmaps",
}
"""Output, or half of the mid-range offsets -> names of its node in BodyPix, in PoseNet and in ONNX
conversions.
"""

RELEASED_EDGES = (
    (0, 1), (1, 3), (0, 2), (2, 4), (0, 5), (5, 7), (7, 9), (5, 11), (11, 13), (13, 15), (0, 6), (6, 8), (8, 10), (6, 12), (12, 14),
    (14, 16),
)  # fmt: skip
"""(parent, child) of each released edge, as indices of COCO's keypoints. Forward offsets are read
at the parent, backward at the child.
"""


@dataclass(frozen=True)
class Binding:
    """The parts of a released graph by our names.

    Attributes:
        backbone: "mobilenetv1_released" or "resnet50_released".
        alpha: its width multiplier.
        output_stride: that of the graph in the file.
        layers: name of a layer of our backbone -> its convolution.
        heads: output -> kernel (1, 1, channels, columns) and bias (columns,) of its head in our
            layout, in the order of our outputs.
    """

    backbone: str
    alpha: float
    output_stride: int
    layers: Mapping[str, Convolution]
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]]


def bind(graph: Graph) -> Binding:
    """Finds the heads and follows the graph from them down to the image.

    Raises:
        InputError: if the graph is not a released network.
    """
    heads = _find_heads(graph)
    features = {head.source for head in heads.values()}
    if len(features) != 1:
        raise _unknown(graph, f"its heads read {len(features)} different tensors")
    (tensor,) = features
    last = below(graph, tensor)
    layers = (
        _resnet_layers(graph, tensor) if isinstance(last, Node) else _mobilenet_layers(graph, last)
    )
    first = layers["conv0" if "conv0" in layers else "conv1"]
    if graph.node(first.source).op != "Placeholder":
        raise _unknown(
            graph,
            f"{graph.node(first.source).name} stands between the image and the first convolution",
        )
    strides = [
        convolution.stride for name, convolution in layers.items() if not name.endswith("_shortcut")
    ]
    if "conv0" in layers:
        alpha = first.kernel.shape[3] / 32
        if alpha not in MOBILENET_WIDTHS:
            raise _unknown(
                graph,
                f"a MobileNetV1 of width {alpha:g}; known are {', '.join(map(str, MOBILENET_WIDTHS))}",
            )
        return Binding(
            "mobilenetv1_released",
            alpha,
            int(np.prod(strides)),
            layers,
            _to_our_layout(graph, heads),
        )
    return Binding(
        "resnet50_released", 1.0, 2 * int(np.prod(strides)), layers, _to_our_layout(graph, heads)
    )


def _find_heads(graph: Graph) -> dict[str, Convolution]:
    heads = {}
    for output, names in _HEADS.items():
        pattern = re.compile(f"(?:^|/)(?:{names})$")
        tensor = next(
            (
                tensor
                for tensor, node in graph.nodes.items()
                if pattern.search(node.name) or pattern.search(tensor)
            ),
            None,
        )
        if tensor is None:
            continue
        head = below(graph, tensor)
        if (
            isinstance(head, Node)
            or head.depthwise
            or head.kernel.shape[:2] != (1, 1)
            or head.activation
        ):
            raise _unknown(
                graph, f"{graph.node(tensor).name} is no 1x1 convolution of the features"
            )
        heads[output] = head
    missing = [
        name for name in ("heatmaps", "short_offsets", "forward", "backward") if name not in heads
    ]
    if missing:
        raise _unknown(
            graph, f"it has no head of {missing[0]} ({' or '.join(_HEADS[missing[0]].split('|'))})"
        )
    return heads


def _mobilenet_layers(graph: Graph, last: Convolution) -> dict[str, Convolution]:
    """The depthwise and pointwise convolutions from the image on, by the names of our layers."""
    chain: list[Convolution] = [last]
    while graph.node(chain[-1].source).op != "Placeholder" and len(chain) <= len(graph.nodes):
        before = below(graph, chain[-1].source)
        if isinstance(before, Node) and before.op == "Placeholder":
            break
        if isinstance(before, Node):
            raise _unknown(graph, f"{before.name} ({before.op}) does not belong to a MobileNetV1")
        chain.append(before)
    names = [
        "conv0",
        *(
            f"block{number}_{kind}"
            for number in range(1, 14)
            for kind in ("depthwise", "pointwise")
        ),
    ]
    if len(chain) != len(names):
        raise _unknown(
            graph, f"a chain of {len(chain)} convolutions, where a MobileNetV1 has {len(names)}"
        )
    return dict(zip(names, reversed(chain), strict=True))


def _resnet_layers(graph: Graph, features: str) -> dict[str, Convolution]:
    """The convolutions of the residual units, by the names of our layers, from the image on."""
    layers: dict[str, Convolution] = {}
    tensor = features
    names = [
        f"block{block}_unit{unit}"
        for block, (_, count) in enumerate(RESNET_BLOCKS, start=1)
        for unit in range(1, count + 1)
    ]
    for name in reversed(names):
        addition = below(graph, tensor)
        if isinstance(addition, Convolution) or addition.op not in ("Add", "AddV2"):
            raise _unknown(graph, f"{name} of a ResNet-50 was looked for at {addition.name}")
        branches = [below(graph, branch) for branch in addition.inputs]
        residual = next(
            (chain for branch in branches if (chain := _residual(graph, branch)) is not None), None
        )
        if residual is None:
            raise _unknown(graph, f"{addition.name} adds up no residual unit")
        for number, convolution in enumerate(residual, start=1):
            layers[f"{name}_conv{number}"] = convolution
        shortcut = next(
            (
                branch
                for branch in branches
                if branch is not residual[-1] and isinstance(branch, Convolution)
            ),
            None,
        )
        if shortcut is not None and shortcut.name != residual[-1].name:
            layers[f"{name}_shortcut"] = shortcut
        tensor = residual[0].source
    pool = below(graph, tensor)
    first = (
        below(graph, pool.inputs[0]) if isinstance(pool, Node) and pool.op == "MaxPool" else None
    )
    if not isinstance(first, Convolution):
        raise _unknown(
            graph, "it does not begin with a convolution and a pool, as a ResNet-50 does"
        )
    layers["conv1"] = first
    return dict(reversed(layers.items()))


def _residual(graph: Graph, last: Convolution | Node) -> list[Convolution] | None:
    """The three convolutions of the bottleneck (1x1, 3x3, 1x1) that ends in `last`; None if `last`
    is a shortcut.
    """
    chain = [last]
    for _ in range(2):
        if isinstance(chain[0], Node) or graph.node(chain[0].source).op == "Placeholder":
            return None
        chain.insert(0, below(graph, chain[0].source))
    found = [each for each in chain if isinstance(each, Convolution)]
    return found if [each.kernel.shape[0] for each in found] == [1, 3, 1] else None


def _to_our_layout(
    graph: Graph, heads: Mapping[str, Convolution]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of every output, in our column order and unit."""
    known = COCO_PERSON.edge_indices.tolist()
    edges = [
        RELEASED_EDGES.index((parent, child)) for parent, child in known[: len(RELEASED_EDGES)]
    ]
    bound: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for output in ALL_OUTPUTS:
        if output == "mid_offsets":
            # Our directed edges are the released ones from parent to child, then the same from
            # child to parent.
            parts = [
                _columns(graph, heads[half], _interleaved(edges), 2 * len(edges))
                for half in ("forward", "backward")
            ]
            kernel, bias = (np.concatenate(pair, axis=-1) for pair in zip(*parts, strict=True))
        elif output in heads:
            count = ALL_OUTPUTS[output](COCO_PERSON)
            order = (
                list(range(count)) if output in PROBABILITIES else _interleaved(range(count // 2))
            )
            kernel, bias = _columns(graph, heads[output], order, count)
        else:
            continue
        unit = 1.0 if output in PROBABILITIES else OFFSET_UNIT
        bound[output] = (kernel / np.float32(unit), bias / np.float32(unit))
    return bound


def _interleaved(fields: list[int] | range) -> list[int]:
    """Planar columns (dy of every field, then dx) in the order dx, dy of each of `fields`.

    >>> _interleaved(range(3))
    [3, 0, 4, 1, 5, 2]
    """
    return [column for field in fields for column in (len(fields) + field, field)]


def _columns(
    graph: Graph, head: Convolution, order: list[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    if len(head.bias) != count:
        raise _unknown(graph, f"{head.name} must have {count} channels. Received: {len(head.bias)}")
    return head.kernel[..., order], head.bias[order]


def _unknown(graph: Graph, reason: str) -> InputError:
    return InputError(f"{graph.source}: no PoseNet or BodyPix network that is known here: {reason}")
