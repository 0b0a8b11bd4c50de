"""TensorFlow.js graph models for tests: our networks written as Google published theirs, in every
form their converters gave them, and a second reading of such files, by TensorFlow's own ops."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from personlab_keras.config import ModelConfig
from personlab_keras.method.maps import OUTPUTS
from personlab_keras.model.network import OFFSET_UNIT, build_model

BODYPIX = (*OUTPUTS, "part_heatmaps")
POSENET = ("heatmaps", "short_offsets", "mid_offsets")
STYLES = ("fused", "bias", "batch_norm", "arithmetic")
"""Bias and activation inside the convolution's node; as nodes of their own; as FusedBatchNormV3; as
the sums and products of TF-slim.
"""


def random_network(backbone="mobilenetv1_released", alpha=0.5, stride=16, outputs=BODYPIX, seed=0):
    """A network with random weights, biases included, whose activations neither vanish nor grow."""
    network = build_model(ModelConfig(backbone, alpha, stride, None, outputs))
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            inputs = (
                kernel.shape[0]
                * kernel.shape[1]
                * (1 if "depthwise" in layer.name else kernel.shape[2])
            )
            # Residuals are small beside their shortcuts: sixteen of them add up.
            spread = np.sqrt(2 / inputs) * (
                0.3 if layer.name.endswith(("_conv3", "_head")) else 1.0
            )
            if layer.name == "conv1":  # reads an image of -123..152
                spread /= 100
            middle = -4.0 if layer.name == "heatmaps_head" else 0.0
            layer.set_weights(
                [rng.normal(0, spread, kernel.shape), rng.normal(middle, 0.05, bias.shape)]
            )
    return network


class GraphFile:
    """Collects nodes and weights, and writes them as a model JSON with shards."""

    def __init__(self, style="fused"):
        self.style = style
        self.nodes, self.weights = [], {}
        self.add("image", "Placeholder", [], {})

    def add(self, name, op, inputs, attributes):
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})
        return name

    def weight(self, values):
        # Names that say nothing, as the converter's constant folding leaves them.
        name = f"Const_{len(self.weights)}"
        self.weights[name] = np.asarray(values)
        return self.add(name, "Const", [], {"dtype": {"type": "DT_FLOAT"}})

    def layer(self, name, x, layer, activation, explicit_padding=False, final_name=None):
        """One of our convolutions with its bias and activation, in the file's style; returns the
        name of the result.
        """
        kernel, bias = layer.get_weights()
        return self.convolution(
            name,
            x,
            kernel,
            bias,
            layer.strides[0],
            layer.dilation_rate[0],
            activation,
            explicit_padding,
            final_name,
        )

    def convolution(
        self,
        name,
        x,
        kernel,
        bias,
        stride=1,
        rate=1,
        activation=None,
        explicit_padding=False,
        final_name=None,
    ):
        depthwise = kernel.shape[3] == 1 and kernel.shape[2] > 1 and kernel.shape[0] == 3
        last = final_name or f"{name}/out"
        padding = "SAME"
        margin = rate * (kernel.shape[0] // 2)
        if explicit_padding and margin:
            x = self.add(
                f"{name}/Pad",
                "Pad",
                [x, self.weight(np.int32([[0, 0], [margin] * 2, [margin] * 2, [0, 0]]))],
                {},
            )
            padding = "VALID"
        in_blocks = depthwise and rate > 1 and self.style != "fused"
        if in_blocks:  # as tf.nn.depthwise_conv2d dilates
            block = self.weight(np.int32([rate, rate]))
            # The margins depend on the size of the image: other nodes compute them, which the
            # importer need not know.
            x = self.add(
                f"{name}/SpaceToBatchND",
                "SpaceToBatchND",
                [x, block, "margins"],
                {"margin": _int(margin)},
            )
            padding, rate = "VALID", 1
        attributes = {
            "strides": _ints([1, stride, stride, 1]),
            "dilations": _ints([1, rate, rate, 1]),
            "padding": _text(padding),
            "data_format": _text("NHWC"),
        }
        op = "DepthwiseConv2dNative" if depthwise else "Conv2D"
        if self.style == "fused" and not in_blocks:
            fused = ["BiasAdd", activation] if activation else ["BiasAdd"]
            attributes["fused_ops"] = {"list": {"s": [_text(each)["s"] for each in fused]}}
            op = "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D"
            return self.add(last, op, [x, self.weight(kernel), self.weight(bias)], attributes)
        if self.style == "bias":
            factor, mean, variance = np.ones_like(bias), np.zeros_like(bias), None
        else:
            rng = np.random.default_rng(len(self.nodes))
            factor, mean, variance = (
                rng.uniform(0.5, 2, bias.shape).astype(np.float32) for _ in range(3)
            )
        # The kernel that gives ours once the normalisation is folded into it.
        raw = kernel / (factor[:, None] if depthwise else factor)
        x = self.add(f"{name}/conv", op, [x, self.weight(raw)], attributes)
        if in_blocks:
            x = self.add(
                f"{name}/BatchToSpaceND",
                "BatchToSpaceND",
                [x, block, "margins"],
                {"margin": _int(margin)},
            )
        before_activation = f"{name}/normalised" if activation else last
        x = self._normalised(name, x, bias, factor, mean, variance, before_activation)
        return self.add(last, activation, [x], {}) if activation else x

    def _normalised(self, name, x, bias, factor, mean, variance, last):
        if variance is None:
            return self.add(last, "BiasAdd", [x, self.weight(bias)], {})
        epsilon = np.float32(1e-3)
        gamma, beta = factor * np.sqrt(variance + epsilon), bias + factor * mean
        if self.style == "batch_norm":
            inputs = [x, *map(self.weight, (gamma, beta, mean, variance))]
            return self.add(last, "FusedBatchNormV3", inputs, {"epsilon": {"f": float(epsilon)}})
        folded = f"{name}/batchnorm"
        self.add(f"{folded}/add", "AddV2", [self.weight(variance), self.weight(epsilon)], {})
        self.add(f"{folded}/Rsqrt", "Rsqrt", [f"{folded}/add"], {})
        self.add(f"{folded}/mul", "Mul", [f"{folded}/Rsqrt", self.weight(gamma)], {})
        self.add(f"{folded}/mul_1", "Mul", [x, f"{folded}/mul"], {})
        self.add(f"{folded}/mul_2", "Mul", [self.weight(mean), f"{folded}/mul"], {})
        self.add(f"{folded}/sub", "Sub", [self.weight(beta), f"{folded}/mul_2"], {})
        return self.add(last, "Add", [f"{folded}/mul_1", f"{folded}/sub"], {})

    def write(self, folder, shards=1, quantization=None, name="model-stride16.json"):
        """The JSON in a folder, its weights cut into shards of equal length; floats quantised if a
        type is named.
        """
        folder.mkdir(parents=True, exist_ok=True)
        entries, stored = [], b""
        for weight, values in self.weights.items():
            floats = values.dtype != np.int32
            entry = {
                "name": weight,
                "shape": list(values.shape),
                "dtype": "float32" if floats else "int32",
            }
            data = values.astype("<f4" if floats else "<i4")
            if quantization and floats:
                data, entry["quantization"] = quantised(data, quantization)
            entries.append(entry)
            stored += data.tobytes()
        size = -(-len(stored) // shards)
        paths = [f"group1-shard{i + 1}of{shards}.bin" for i in range(shards)]
        for i, path in enumerate(paths):
            (folder / path).write_bytes(stored[i * size : (i + 1) * size])
        model = {
            "format": "graph-model",
            "modelTopology": {"node": self.nodes, "library": {}, "versions": {}},
            "weightsManifest": [{"paths": paths, "weights": entries}],
        }
        (folder / name).write_text(json.dumps(model))
        return folder / name


def quantised(values, kind):
    """Stored values and the manifest's entry, as the converter makes them."""
    if kind == "float16":
        return values.astype("<f2"), {"dtype": kind, "original_dtype": "float32"}
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / (2 ** (8 * np.dtype(kind).itemsize) - 1) or 1.0
    return np.rint((values - low) / scale).astype(kind), {
        "dtype": kind,
        "min": low,
        "scale": scale,
        "original_dtype": "float32",
    }


def mobilenet_file(network, style="fused"):
    """A network on `mobilenetv1_released` as PoseNet's and BodyPix' files have it."""
    file = GraphFile(style)
    x = file.layer("Conv2d_0", "image", network.get_layer("conv0"), "Relu6")
    for number in range(1, 14):
        for kind in ("depthwise", "pointwise"):
            x = file.layer(
                f"Conv2d_{number}_{kind}", x, network.get_layer(f"block{number}_{kind}"), "Relu6"
            )
    _add_heads(file, network, x, "MobilenetV1")
    return file


def resnet_file(network, style="fused"):
    """A network on `resnet50_released`, its convolutions padded explicitly and shortcuts subsampled
    by pools, as in TF-slim.
    """
    file = GraphFile(style)
    x = file.layer("conv1", "image", network.get_layer("conv1"), "Relu", explicit_padding=True)
    x = file.add("pool1", "MaxPool", [x], _pool(3, 2))
    for block, count in enumerate((3, 4, 6, 3), start=1):
        for unit in range(1, count + 1):
            name = f"block{block}_unit{unit}"
            second = network.get_layer(f"{name}_conv2")
            shortcut = x
            if unit == 1:
                shortcut = file.layer(
                    f"{name}/shortcut", x, network.get_layer(f"{name}_shortcut"), None
                )
            elif second.strides[0] > 1:
                shortcut = file.add(
                    f"{name}/shortcut/MaxPool", "MaxPool", [x], _pool(1, second.strides[0])
                )
            y = file.layer(f"{name}/conv1", x, network.get_layer(f"{name}_conv1"), "Relu")
            y = file.layer(f"{name}/conv2", y, second, "Relu", explicit_padding=True)
            y = file.layer(f"{name}/conv3", y, network.get_layer(f"{name}_conv3"), None)
            # TensorFlow's optimizer exchanges the two as it likes.
            branches = [shortcut, y] if unit % 2 else [y, shortcut]
            x = file.add(
                f"{name}/Relu", "Relu", [file.add(f"{name}/add", "AddV2", branches, {})], {}
            )
    _add_heads(file, network, x, "resnet_v1_50")
    return file


def _add_heads(file, network, features, scope):
    """The heads in the released layout: offsets planar, y first, in pixels; forward and backward
    displacements apart.
    """
    bodypix = "long_offsets" in network.output
    names = {
        "heatmaps": "float_heatmaps" if bodypix else f"{scope}/heatmap_2/BiasAdd",
        "short_offsets": "float_short_offsets" if bodypix else f"{scope}/offset_2/BiasAdd",
        "long_offsets": "float_long_offsets",
        "segmentation": "float_segments",
        "part_heatmaps": "float_part_heatmaps",
    }
    # Not in our order of outputs, nor in any other.
    for output in sorted(network.output):
        kernel, bias = network.get_layer(f"{output}_head").get_weights()
        if output == "mid_offsets":
            for half, part in (("fwd", slice(0, 32)), ("bwd", slice(32, 64))):
                name = f"{scope}/displacement_{half}_2/BiasAdd"
                file.convolution(
                    name, features, *_planar(kernel[..., part], bias[part]), final_name=name
                )
            continue
        if output.endswith("offsets"):
            kernel, bias = _planar(kernel, bias)
        file.convolution(names[output], features, kernel, bias, final_name=names[output])


def _planar(kernel, bias):
    """(dx, dy) pairs in units -> all dy, then all dx, in pixels."""
    return tuple(
        np.concatenate([values[..., 1::2], values[..., 0::2]], axis=-1) * np.float32(OFFSET_UNIT)
        for values in (kernel, bias)
    )


def _text(text):
    return {"s": base64.b64encode(text.encode()).decode()}


def _int(value):
    return {"i": str(value)}


def _ints(values):
    return {"list": {"i": [str(value) for value in values]}}


def _pool(size, stride):
    return {
        "ksize": _ints([1, size, size, 1]),
        "strides": _ints([1, stride, stride, 1]),
        "padding": _text("SAME"),
    }


# --- second reading


def run_by_tensorflow(path, image):
    """Outputs of the nodes that no other node reads, by name, of an unquantised model JSON, its ops
    executed one after another.
    """
    model = json.loads(Path(path).read_text())
    values = {"margins": None}
    for group in model["weightsManifest"]:
        stored = b"".join((Path(path).parent / name).read_bytes() for name in group["paths"])
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            kind = {"float32": "<f4", "int32": "<i4"}[entry["dtype"]]
            values[entry["name"]] = np.frombuffer(stored[: 4 * count], kind).reshape(entry["shape"])
            stored = stored[4 * count :]
    nodes = model["modelTopology"]["node"]
    for node in nodes:
        if node["op"] == "Placeholder":
            values[node["name"]] = tf.constant(image)
        elif node["op"] != "Const":
            values[node["name"]] = _run(node, [values[name] for name in node["input"]])
    read = {name for node in nodes for name in node.get("input", [])}
    return {
        node["name"]: values[node["name"]].numpy() for node in nodes if node["name"] not in read
    }


def _run(node, inputs):
    op, x = node["op"], inputs[0]

    def text(name):
        return base64.b64decode(node["attr"][name]["s"]).decode()

    def numbers(name):
        return [int(each) for each in node["attr"][name]["list"]["i"]]

    if "Conv2" in op:
        arguments = {"strides": numbers("strides"), "padding": text("padding")}
        if "Depthwise" in op:
            y = tf.nn.depthwise_conv2d(
                x, inputs[1], dilations=numbers("dilations")[1:3], **arguments
            )
        else:
            y = tf.nn.conv2d(x, inputs[1], dilations=numbers("dilations"), **arguments)
        for fused in node["attr"].get("fused_ops", {}).get("list", {}).get("s", []):
            y = {"BiasAdd": lambda y: y + inputs[2], "Relu6": tf.nn.relu6, "Relu": tf.nn.relu}[
                base64.b64decode(fused).decode()
            ](y)
        return y
    if op in ("SpaceToBatchND", "BatchToSpaceND"):
        return _in_blocks(op, x, inputs[1], int(node["attr"]["margin"]["i"]))
    if op == "FusedBatchNormV3":
        scale, offset, mean, variance = inputs[1:]
        return tf.nn.batch_normalization(
            x, mean, variance, offset, scale, node["attr"]["epsilon"]["f"]
        )
    if op == "MaxPool":
        return tf.nn.max_pool2d(x, numbers("ksize"), numbers("strides"), text("padding"))
    simple = {
        "BiasAdd": tf.add, "Add": tf.add, "AddV2": tf.add, "Sub": tf.subtract, "Mul": tf.multiply, "Rsqrt": tf.math.rsqrt,
        "Relu": tf.nn.relu, "Relu6": tf.nn.relu6, "Pad": tf.pad,
    }  # fmt: skip
    return simple[op](*inputs)


_SIDES = []
"""Height and width before each SpaceToBatchND that awaits its BatchToSpaceND."""


def _in_blocks(op, x, block, margin):
    rate = int(block[0])
    if op == "SpaceToBatchND":
        sides = x.shape[1:3]
        _SIDES.append(sides)
        return tf.space_to_batch(
            x, block, [[margin, margin + (-(side + 2 * margin)) % rate] for side in sides]
        )
    sides = _SIDES.pop()
    return tf.batch_to_space(x, block, [[0, (-(side + 2 * margin)) % rate] for side in sides])
