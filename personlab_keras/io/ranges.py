"""Reading parts of a file, on a disk or in a bucket."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import Place


class FileRanges:
    """An open file on a disk.

    Attributes:
        size: its bytes.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, length: int, at: int) -> bytes:
        """Up to `length` bytes from a place; several threads may read.

        Raises:
            OSError: the system does not give them.
        """
        return os.pread(self._descriptor, length, at)

    @contextlib.contextmanager
    def whole(self) -> Iterator[mmap.mmap]:
        """Context manager that gives all bytes, for a search."""
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            yield data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class BucketRanges:
    """A file in a bucket, each read of which is a request for these bytes alone. Attributes and
    methods are those of `FileRanges`.

    Raises:
        FileNotFoundError, InputError: it cannot be read.
    """

    def __init__(self, path: BucketPath) -> None:
        self._path, self.size = path, path.size()

    def read(self, length: int, at: int) -> bytes:
        return self._path.read_range(at, min(length, self.size - at))

    @contextlib.contextmanager
    def whole(self) -> Iterator[bytes]:
        yield self._path.read_bytes()


def open_ranges(path: Place) -> FileRanges | BucketRanges:
    """Opens a file.

    Raises:
        OSError, InputError: it cannot be opened.
    """
    return BucketRanges(path) if isinstance(path, BucketPath) else FileRanges(path)
