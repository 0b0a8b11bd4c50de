"""ArrayRecord files: TFRecord's content with an index, so that opening one reads little and any
record is found at once. They need the package array_record (the extra `grain`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personlab_keras.data.tfrecords import Damage
from personlab_keras.errors import InputError

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
