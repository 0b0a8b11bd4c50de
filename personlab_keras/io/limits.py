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
    `most` bytes. A node of a few bytes can make any number of them. What depends on the input, or
    lies in a branch or a loop, is not looked at; nor is a damaged file, which its runtime refuses.

    Raises:
        InputError: it takes more.
        ImportError: the package onnx is not installed.
    """
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
        # Without propagating data, which would make the constants.
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of Protobuf and of the checks in C++, which have no class in common
        return
    sizes = {each.name: _bytes_of(each.type.tensor_type) for each in graph.value_info}
    constant = {"", *(tensor.name for tensor in graph.initializer)}
    total = 0
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
            total += sum(sizes.get(name, 0) for name in node.output)
            check_size(path, total, most)


def _bytes_of(tensor: Any) -> int:
    """Bytes of a tensor type of ONNX; 0 if its shape is not known."""
    import onnx

    sides = [side.dim_value for side in tensor.shape.dim]
    try:
        return math.prod(sides) * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    except (KeyError, ValueError):  # no type that ONNX knows
        return 0


def check_size(path: str | Path, size: int, most: int) -> None:
    """Raises InputError if a file announces more than `most` bytes."""
    if size > most:
        raise InputError(f"{path}: must hold at most {most} bytes. Received: {size} announced")
