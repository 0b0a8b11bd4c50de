"""Limits on what a file makes this process allocate, checked before it does: a file of a few
kilobytes can announce terabytes.
"""

from __future__ import annotations

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


def check_size(path: str | Path, size: int, most: int) -> None:
    """Raises InputError if a file announces more than `most` bytes."""
    if size > most:
        raise InputError(f"{path}: must hold at most {most} bytes. Received: {size} announced")
