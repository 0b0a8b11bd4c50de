"""TFRecord files without TensorFlow: their framing, and a reader that reports damaged records.

A record is the length of its content (8 bytes, little-endian), a masked CRC-32C of those, the
content, and a masked CRC-32C of it. Every bit of a file is under one of the two sums. TensorFlow's
own writer would cost each worker seconds of start and 400 MB."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c

from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, as_place
from personlab_keras.io.ranges import open_ranges

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

    path: Place
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


class TfrecordFile:
    """A file whose records are read in any order, also by several threads.

    Opening reads the length of every record, 12 bytes each, and nothing else: in a bucket, by a
    request for each. After a damaged length, the next record begins where both checksums confirm
    one.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be opened.
    """

    def __init__(self, path: str | Place) -> None:
        self._path = as_place(path)
        try:
            self._file = open_ranges(self._path)
            self._size = self._file.size
            self._places = list(self._find_places())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> bytes | Damage:
        """The content of a record.

        Raises:
            InputError: the system does not give it.
        """
        if number >= len(self._places):
            return Damage(self._path, number, self._size, "the file ends before it")
        place = self._places[number]
        if isinstance(place, Damage):
            return place
        at, length = place
        try:
            content = self._file.read(length + _SUM.size, at + _HEADER)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror or error}") from None
        if len(content) < length + _SUM.size:
            return Damage(self._path, number, at, "the file ends within it")
        if _SUM.unpack_from(content, length)[0] != _masked_sum(content[:length]):
            return Damage(self._path, number, at, "its content does not match its checksum")
        return content[:length]

    def _find_places(self) -> Iterator[tuple[int, int] | Damage]:
        """(where it begins, length of its content) of every record."""
        at, number, size = 0, 0, self._size
        while at < size:
            header = self._file.read(_HEADER, at)
            length = _length_at(header, 0, len(header))
            end = None if length is None else at + _HEADER + length + _SUM.size
            if length is None or end is None or end > size:
                cut = length is not None or len(header) < _HEADER
                what = "the file ends within it" if cut else "its length is damaged"
                yield Damage(self._path, number, at, what)
                with self._file.whole() as data:
                    at = _next_record(data, at + 1, size)
            else:
                yield at, length
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


def _next_record(data: mmap.mmap | bytes, start: int, size: int) -> int:
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
