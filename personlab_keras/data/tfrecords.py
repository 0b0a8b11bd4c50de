"""TFRecord files without TensorFlow: their framing, and a reader that reports damaged records and
continues after them.

A record is the length of its content (8 bytes, little-endian), a masked CRC-32C of those, the
content, and a masked CRC-32C of it. Every bit of a file is under one of the two sums. TensorFlow's
own writer would cost each worker seconds of start and 400 MB."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from personlab_keras.errors import InputError

_LENGTH = struct.Struct("<Q")
_SUM = struct.Struct("<I")
_HEADER = _LENGTH.size + _SUM.size


@dataclass(frozen=True)
class Damage:
    """A record that cannot be read.

    Attributes:
        path: of the file.
        record: its number in the file, counted from 0. A record with a destroyed length may
            include its neighbours.
        offset: where it begins, in bytes.
        what: the kind of damage.
    """

    path: Path
    record: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}: record {self.record} (at byte {self.offset}): {self.what}"


def frame(content: bytes) -> bytes:
    """A record as it lies in the file.

    >>> len(frame(b"abc"))
    19
    """
    length = _LENGTH.pack(len(content))
    return b"".join(
        (length, _SUM.pack(_masked_sum(length)), content, _SUM.pack(_masked_sum(content)))
    )


def _masked_sum(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: str | Path) -> Iterator[bytes | Damage]:
    """The contents of the records of a file in order; a `Damage` in place of each damaged one.

    After damage, reading continues at the next place that both checksums confirm as a record.

    Raises:
        InputError: the file cannot be opened.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    yield from _walk(path, data, size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


class RecordFiles:
    """Files of records, read record by record in any order.

    Opening reads the length of every record, 12 bytes each, and nothing else.

    Args:
        paths: the files.

    Raises:
        InputError: a file cannot be read, or a length is damaged.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._files = [Path(path) for path in paths]
        self._places: list[tuple[int, int, int]] = []
        starts = [0]
        for number, path in enumerate(self._files):
            try:
                with open(path, "rb", buffering=0) as file:
                    self._places += ((number, *place) for place in _places(path, file.fileno()))
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from None
            starts.append(len(self._places))
        self.starts = starts
        """Number of the first record of each file, and the number of all records."""
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, number: int) -> bytes:
        """The content of a record; several threads may read.

        Raises:
            ValueError: it does not match its checksum.
        """
        file, at, length = self._places[number]
        content = os.pread(self._descriptor(file), length + _SUM.size, at)
        if len(content) < length + _SUM.size or _SUM.unpack_from(content, length)[0] != _masked_sum(
            content[:length]
        ):
            raise ValueError(f"{self._files[file]}: the record at byte {at} is damaged")
        return content[:length]

    def _descriptor(self, file: int) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = os.open(self._files[file], os.O_RDONLY)
            return self._open[file]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


def _places(path: Path, descriptor: int) -> Iterator[tuple[int, int]]:
    """Where the content of each record of a file begins, and its length."""
    at, size, number = 0, os.fstat(descriptor).st_size, 0
    while at < size:
        header = os.pread(descriptor, _HEADER, at)
        length = _length_at(header, 0, _HEADER) if len(header) == _HEADER else None
        if length is None or at + _HEADER + length + _SUM.size > size:
            raise InputError(f"{Damage(path, number, at, 'its length is damaged')}")
        yield at + _HEADER, length
        at += _HEADER + length + _SUM.size
        number += 1


def _walk(path: Path, data: mmap.mmap, size: int) -> Iterator[bytes | Damage]:
    at = number = 0
    while at < size:
        length = _length_at(data, at, size)
        end = None if length is None else at + _HEADER + length + _SUM.size
        if length is None or end is None or end > size:
            what = (
                "its length is damaged"
                if length is None and size - at >= _HEADER
                else "the file ends within it"
            )
            yield Damage(path, number, at, what)
            at = _next_record(data, at + 1, size)
        else:
            content = data[at + _HEADER : end - _SUM.size]
            sound = _SUM.unpack_from(data, end - _SUM.size)[0] == _masked_sum(content)
            yield (
                content
                if sound
                else Damage(path, number, at, "its content does not match its checksum")
            )
            at = end
        number += 1


def _length_at(data: mmap.mmap | bytes, at: int, size: int) -> int | None:
    """The length that a record at this place declares; None where its checksum does not confirm
    it.
    """
    if at + _HEADER > size:
        return None
    packed = data[at : at + _LENGTH.size]
    confirmed = _SUM.unpack_from(data, at + _LENGTH.size)[0] == _masked_sum(packed)
    return _LENGTH.unpack(packed)[0] if confirmed else None


def _next_record(data: mmap.mmap, start: int, size: int) -> int:
    """Where the next whole record begins; `size` where there is none."""
    # The upper half of a length is zero: four zero bytes are rare in what is compressed.
    zeros = data.find(b"\0\0\0\0", start + 4)
    while zeros >= 0:
        at = zeros - 4
        length = _length_at(data, at, size)
        if length is not None and at + _HEADER + length + _SUM.size <= size:
            return at
        zeros = data.find(b"\0\0\0\0", zeros + 1)
    return size
