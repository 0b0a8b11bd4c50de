"""Limits on what a file makes this process allocate, checked before it does: a file of a few
kilobytes can announce terabytes.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

from personlab_keras.errors import InputError

_OBJECTS = 100_000
"""Largest number of groups and arrays in an HDF5 file."""


def check_hdf5(path: str | Path, most: int) -> None:
    """Checks that an HDF5 file holds numbers only, of at most `most` bytes once they are read, and
    all of them itself.

    Raises:
        InputError: it does not.
        OSError: it is no HDF5 file.
    """
    import h5py

    total = count = 0
    with h5py.File(path, "r") as file:
        waiting: list[Any] = [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                count += 1
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink) or count > _OBJECTS:
                    raise InputError(f"{path}: must hold plain groups and arrays. Received: {name}")
                each = group[name]
                if isinstance(each, h5py.Group):
                    waiting.append(each)
                    continue
                if not isinstance(each, h5py.Dataset) or each.external or each.is_virtual:
                    raise InputError(f"{path}: must hold its arrays itself. Received: {name}")
                total += each.size * max(1, each.dtype.itemsize)
                check_size(path, total, most)


def check_zip(path: str | Path, most: int) -> None:
    """Checks that a zip file inflates to at most `most` bytes.

    Raises:
        InputError: it does not.
        zipfile.BadZipFile, OSError: it is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        check_size(path, sum(each.file_size for each in archive.infolist()), most)


def check_onnx(path: str | Path, most: int) -> None:
    """Checks that what the nodes of an ONNX file compute from its constants alone takes at most
    `most` bytes: a node of a few bytes can make any number of them. Branches, loops, functions and
    sparse constants are refused, because what they take cannot be read off the file, and exported
    networks have none. What depends on the input is not looked at; nor is a damaged file, which its
    runtime refuses.

    Raises:
        InputError: it takes more, or nobody can tell.
        ImportError: the package onnx is not installed.
    """
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception:  # those of Protobuf have no class in common
        return
    _check_plain_onnx(path, model)
    try:
        # Without propagating data, which would make the constants.
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of the checks in C++
        return
    sizes = {each.name: _bytes_of(each.type.tensor_type) for each in graph.value_info}
    constant = {"", *(tensor.name for tensor in graph.initializer)}
    total = 0
    for node in graph.node:
        if not constant.issuperset(node.input):
            continue
        constant.update(node.output)
        for name in node.output:
            size = sizes.get(name)
            if size is None:
                raise InputError(
                    f"{path}: what it makes of its constants must have sizes that are known "
                    f"beforehand. Received: an unknown one ({node.op_type})"
                )
            total += size
        check_size(path, total, most)


def _check_plain_onnx(path: str | Path, model: Any) -> None:
    import onnx

    hidden = {
        onnx.AttributeProto.GRAPH: "a branch or a loop",
        onnx.AttributeProto.GRAPHS: "a branch or a loop",
        onnx.AttributeProto.SPARSE_TENSOR: "a sparse constant",
        onnx.AttributeProto.SPARSE_TENSORS: "a sparse constant",
    }
    found = [
        f"{hidden[attribute.type]} ({node.op_type})"
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type in hidden
    ]
    found += [f"a function ({function.name})" for function in model.functions]
    found += ["a sparse constant"] * len(model.graph.sparse_initializer)
    if found:
        raise InputError(
            f"{path}: must be a plain chain of operations on its input and constants. "
            f"Received: {found[0]}"
        )


def _bytes_of(tensor: Any) -> int | None:
    """Bytes of a tensor type of ONNX; None if its shape is not known."""
    import onnx

    if not tensor.HasField("shape") or not all(s.HasField("dim_value") for s in tensor.shape.dim):
        return None
    sides = [side.dim_value for side in tensor.shape.dim]
    try:
        return math.prod(sides) * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    except (KeyError, ValueError):  # no type that ONNX knows
        return 0


def check_openvino(path: str | Path, model: Any, most: int) -> None:
    """Checks that what the nodes of an OpenVINO network compute from its constants alone takes at
    most `most` bytes, as `check_onnx` does.

    Raises:
        InputError: it takes more, or nobody can tell.
    """
    constant: set[str] = set()
    total = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in ("If", "Loop", "TensorIterator"):
            raise InputError(f"{path}: must have no branches and no loops. Received: {kind}")
        inputs = [each.get_node().get_friendly_name() for each in node.input_values()]
        if kind == "Constant" or (inputs and constant.issuperset(inputs)):
            constant.add(node.get_friendly_name())
            for output in node.outputs():
                shape = output.get_partial_shape()
                if shape.is_dynamic:
                    raise InputError(
                        f"{path}: what it makes of its constants must have sizes that are known "
                        f"beforehand. Received: an unknown one ({kind})"
                    )
                total += math.prod(shape.to_shape()) * output.get_element_type().size
            check_size(path, total, most)


def check_size(path: str | Path, size: int, most: int) -> None:
    """Raises InputError if a file announces more than `most` bytes."""
    if size > most:
        raise InputError(f"{path}: must hold at most {most} bytes. Received: {size} announced")
