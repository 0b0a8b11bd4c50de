"""ArrayRecord files: TFRecord's content with an index, so that opening one reads little and any
record is found at once. They need the package array_record (the extra `grain`).
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from personlab_keras.data.tfrecords import Damage
from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath

_ONE_BY_ONE = "group_size:1,uncompressed"
"""How they are written: a record is read alone, and its JPEG and maps are compressed already."""


def array_record_module() -> Any:
    """The package's reader and writer.

    Raises:
        InputError: it is not installed.
    """
    try:
        from array_record.python import array_record_module
    except ImportError:
        raise InputError(
            "ArrayRecord files need the package array_record: pip install 'personlab-keras[grain]'"
        ) from None
    return array_record_module


class ArrayRecordFile:
    """A file whose records are read in any order, also by several threads.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be opened, or ArrayRecord is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        module = array_record_module()
        try:
            self._path.open("rb").close()  # the package does not say why it cannot open a file
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        try:
            self._reader = module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
            self._count = self._reader.num_records() if self._reader.ok() else 0
        except (RuntimeError, ValueError):
            self._count = 0

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> bytes | Damage:
        """The content of a record; damage is without its place in the file."""
        if number >= self._count:
            return Damage(self._path, number, 0, "the index of the file does not have it")
        try:
            (content,) = self._reader.read([number])
        except (RuntimeError, ValueError):
            return Damage(self._path, number, 0, "its content does not match its checksum")
        return bytes(content)


class BucketArrayRecordFile:
    """As `ArrayRecordFile`, of a file in a bucket. Opening requests its size, its first bytes and
    its index; a record is one request more, for its bytes alone.

    The package reads local files only. So the bytes of a record are put at their place in a sparse
    file with nothing else but the index, which the package then reads and checks.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be read, or ArrayRecord is not installed.
    """

    def __init__(self, path: BucketPath) -> None:
        self._path, self._module = path, array_record_module()
        try:
            self._size = path.size()
            last = max(0, self._size - _BLOCK)
            tail = path.read_range(last, self._size - last)
            head = path.read_range(0, min(_BLOCK_HEADER + _CHUNK_HEADER.size, self._size))
            starts, index = [0], b""
            with contextlib.suppress(IndexError, KeyError, ValueError, struct.error):
                start = _index_start(tail)
                if start < last:
                    index = path.read_range(start, last - start)
                    starts = [*_chunk_starts(index, start), start]
            self._places = [*pairwise(starts)] if starts == sorted(starts) else []
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        self._always = (0, head), (last - len(index), index + tail)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> bytes | Damage:
        """The content of a record; damage is without its place in the file.

        Raises:
            InputError: the bucket does not give it.
        """
        if number >= len(self._places):
            return Damage(self._path, number, 0, "the index of the file does not have it")
        start, end = self._places[number]
        content = self._path.read_range(start, end - start)
        with tempfile.NamedTemporaryFile(prefix="personlab-") as file:
            os.truncate(file.fileno(), self._size)
            for at, part in (*self._always, (start, content)):
                os.pwrite(file.fileno(), part, at)
            record = ArrayRecordFile(file.name).read(number)
        if isinstance(record, Damage):
            return Damage(self._path, number, 0, record.what)
        return record


# The layout of a file (riegeli_records_file_format.md of github.com/google/riegeli, layout.proto of
# ArrayRecord): blocks of 64 KiB, each of which begins with a header; chunks, across blocks, each of
# a header and its data. Written as above, a chunk is a record. The last chunk but one is the index,
# the last, in a block of its own, says where that begins.
_BLOCK = 1 << 16
_BLOCK_HEADER = 24
_CHUNK_HEADER = struct.Struct("<8xQ8xQ8x")
"""Bytes of the data, and 256 times the number of its records."""
_OFFSET = 1 << 3
"""The tag of the first field of the messages of both chunks: where something begins."""


def _index_start(tail: bytes) -> int:
    return _fields(_chunk_records(tail[_BLOCK_HEADER:])[0])[_OFFSET]


def _chunk_starts(index: bytes, at: int) -> Iterator[int]:
    """Where each chunk begins, by the index, which itself begins at `at`."""
    headers = range(-at % _BLOCK, len(index), _BLOCK)
    starts = [0, *(header + _BLOCK_HEADER for header in headers)]
    plain = b"".join(
        index[start:end] for start, end in zip(starts, [*headers, len(index)], strict=True)
    )
    for record in _chunk_records(plain)[1:]:  # the first describes the file
        yield _fields(record)[_OFFSET]


def _chunk_records(chunk: bytes) -> list[bytes]:
    """The records of a chunk that is not compressed: its kind, the bytes that the sizes take, the
    sizes, the records.
    """
    size, count = _CHUNK_HEADER.unpack_from(chunk)
    data = chunk[_CHUNK_HEADER.size : _CHUNK_HEADER.size + size]
    sizes, at = [], 1
    _, at = _varint(data, at)
    for _ in range(count >> 8):
        length, at = _varint(data, at)
        sizes.append(length)
    records = []
    for length in sizes:
        records.append(data[at : at + length])
        at += length
    return records


def _fields(message: bytes) -> dict[int, int]:
    """The numbers of a protocol buffer by their tags, up to the first field of another kind."""
    found, at = {}, 0
    while at < len(message) and message[at] & 7 == 0:
        tag, at = _varint(message, at)
        found[tag], at = _varint(message, at)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


class ArrayRecordWriter:
    """Writes a file record by record; `close` ends it.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        module = array_record_module()
        self._path = path
        Path(path).touch()  # for the system's error, which the package tells as a sentence
        self._writer = module.ArrayRecordWriter(str(path), _ONE_BY_ONE)

    def write(self, content: bytes) -> None:
        self._tried(self._writer.write, content)

    def close(self) -> None:
        self._tried(self._writer.close)

    def _tried(self, function: Any, *arguments: bytes) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise OSError(" ".join(str(error).split(";")[0].split())) from None
