"""Shards as files of records, whatever their format (`data.record_format`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from personlab_keras.data.array_records import (
    ArrayRecordFile,
    ArrayRecordWriter,
    BucketArrayRecordFile,
)
from personlab_keras.data.tfrecords import Damage, TfrecordFile, frame
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import Place, as_place

ENDINGS = {"tfrecord": ".tfrecord", "array_record": ".array_record"}
"""Endings of the files by format."""
ShardFile = TfrecordFile | ArrayRecordFile | BucketArrayRecordFile


def open_shard(path: str | Place) -> ShardFile:
    """A shard whose records can be read in any order, of the format that its ending names.

    Raises:
        InputError: it cannot be opened.
    """
    file = as_place(path)
    if file.suffix != ENDINGS["array_record"]:
        return TfrecordFile(file)
    return BucketArrayRecordFile(file) if isinstance(file, BucketPath) else ArrayRecordFile(file)


def read_shard(path: str | Place) -> Iterator[bytes | Damage]:
    """The contents of the records of a shard in order; a `Damage` in place of each damaged one.

    Raises:
        InputError: it cannot be opened.
    """
    shard = open_shard(path)
    for number in range(len(shard)):
        yield shard.read(number)


@contextmanager
def writing_shard(path: Path, record_format: str) -> Iterator[Callable[[bytes], object]]:
    """Context manager that gives a function which appends a record to a new shard. At its end the
    shard is on the disk.

    Raises:
        InputError: the package for the format is not installed.
        OSError: it cannot be written.
    """
    if record_format == "array_record":
        writer = ArrayRecordWriter(path)
        yield writer.write
        writer.close()
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    else:
        with open(path, "wb") as file:
            yield lambda content: file.write(frame(content))
            file.flush()
            os.fsync(file.fileno())
