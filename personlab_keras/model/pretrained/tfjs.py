"""Reads TensorFlow.js graph models: a JSON with nodes and a weights manifest, and weight shards
beside it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.files import read_json
from personlab_keras.model.pretrained.graph import Graph, Node

_STORED = {
    "float32": "<f4",
    "float16": "<f2",
    "int32": "<i4",
    "uint8": "u1",
    "uint16": "<u2",
    "bool": "?",
}
"""dtype in a manifest -> dtype in the shards."""


def read_tfjs(path: Path) -> Graph:
    """The graph of a model JSON, with weights read from its shards and dequantised to float32.

    Raises:
        InputError: if the JSON is damaged or no graph model, or a shard is missing, truncated or
            too long.
    """
    model = read_json(path)
    try:
        nodes = model["modelTopology"]["node"]
        constants: dict[str, np.ndarray] = {}
        for group in model["weightsManifest"]:
            constants |= _read_group(path, group)
        return Graph(str(path), {node["name"]: _node(node) for node in nodes}, constants)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        if not is_graph_model(model):
            raise InputError(
                f"{path}: no TensorFlow.js graph model; that is a JSON with modelTopology.node and weightsManifest"
            ) from None
        raise InputError(
            f"{path}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None


def is_graph_model(model: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the two parts of a graph model."""
    topology = model.get("modelTopology")
    return isinstance(topology, dict) and "node" in topology and "weightsManifest" in model


def shard_names(model: Mapping[str, Any], source: str) -> list[str]:
    """Paths of the shards of a graph model, relative to its JSON.

    Raises:
        InputError: if there are none, or one leads out of the folder.
    """
    try:
        names = [name for group in model["weightsManifest"] for name in group["paths"]]
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError("paths must be texts")
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{source}: no TensorFlow.js graph model: weightsManifest: {type(error).__name__}: {error}"
        ) from None
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
            raise InputError(
                f"{source}: a shard must lie beside the JSON that names it. Received: {name}"
            )
    return names


def stored_bytes(model: Mapping[str, Any], source: str) -> int:
    """The total size in bytes of the shards of a graph model.

    Raises:
        InputError: if the manifest is damaged.
    """
    try:
        return sum(
            _entry_bytes(source, entry)
            for group in model["weightsManifest"]
            for entry in group["weights"]
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{source}: damaged: weightsManifest: {type(error).__name__}: {error}"
        ) from None


def _entry_bytes(source: str, entry: Mapping[str, Any]) -> int:
    if any(side < 0 for side in entry["shape"]):
        raise ValueError(f"the weight {entry['name']} has a negative side")
    return _stored_dtype(source, entry).itemsize * math.prod(entry["shape"])


def _read_group(path: Path, group: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one group of the manifest, whose shards are contiguous."""
    names = shard_names({"weightsManifest": [group]}, str(path))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{path}: names {len(names)} shards of which {len(missing)} are missing, first {missing[0]}"
        )
    stored = b"".join((path.parent / name).read_bytes() for name in names)
    due = stored_bytes({"weightsManifest": [group]}, str(path))
    if len(stored) != due:
        raise InputError(
            f"{path}: its {len(names)} shards ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) must hold {due} bytes: "
            f"truncated, or of another network. Received: {len(stored)}"
        )
    arrays, start = {}, 0
    for entry in group["weights"]:
        values = np.frombuffer(
            stored, _stored_dtype(str(path), entry), math.prod(entry["shape"]), start
        )
        arrays[entry["name"]] = _dequantised(values.reshape(entry["shape"]), entry)
        start += _entry_bytes(str(path), entry)
    return arrays


def _stored_dtype(source: str, entry: Mapping[str, Any]) -> np.dtype:
    name = entry.get("quantization", entry)["dtype"]
    if name not in _STORED:
        raise InputError(
            f"{source}: the weight {entry['name']} must be of one of {', '.join(_STORED)}. Received: {name}"
        )
    return np.dtype(_STORED[name])


def _dequantised(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Dequantises stored values: value * scale + min, if there is a scale."""
    quantization = entry.get("quantization", {})
    real = values.astype(np.float32)
    if "scale" in quantization:
        real = (
            values * np.float64(quantization["scale"]) + np.float64(quantization["min"])
        ).astype(np.float32)
    return np.rint(real).astype(np.int64) if entry["dtype"] == "int32" else real


def _node(node: Mapping[str, Any]) -> Node:
    # "^name" only orders execution; "name:0" is the first output of name.
    inputs = tuple(
        name.removesuffix(":0") for name in node.get("input", ()) if not name.startswith("^")
    )
    attributes = {name: _attribute(value) for name, value in node.get("attr", {}).items()}
    return Node(node["name"], node["op"], inputs, attributes)


def _attribute(value: Mapping[str, Any]) -> Any:
    """The plain value of a TensorFlow attribute in JSON, where integers are strings and strings are
    base64; None for tensors and shapes.
    """
    for kind, convert in (("s", _text), ("i", int), ("f", float), ("b", bool)):
        if kind in value:
            return convert(value[kind])
    if "list" in value:
        for kind, convert in (("s", _text), ("i", int), ("f", float)):
            if kind in value["list"]:
                return tuple(convert(item) for item in value["list"][kind])
        return ()
    return None


def _text(encoded: str) -> str:
    return base64.b64decode(encoded, validate=True).decode()
