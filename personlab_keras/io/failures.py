"""What the file system and the memory refuse, in one line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_REFUSALS = ("PermissionDeniedError", "ResourceExhaustedError", "NotFoundError", "UnknownError")
"""TensorFlow's names for what a file system refuses it."""


def failure(error: BaseException, place: str | Path | None = None) -> str | None:
    """One line for an exception by which a file cannot be read or written, or memory runs out; None
    for any other exception.

    >>> failure(PermissionError(13, "Permission denied", "photos"))
    'photos: Permission denied'
    >>> failure(OSError(28, "No space left on device"), place="results")
    'results: No space left on device'
    >>> failure(KeyError("x")) is None
    True

    Args:
        error: the exception.
        place: named where the exception names no file: the folder that is being written.
    """
    if isinstance(error, MemoryError):
        return f"not enough memory: {_line(error) or 'the system gives no more'}"
    if isinstance(error, OSError):
        return _of_system(error, place)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
        return _of_tensorflow(error, place)
    # HDF5 reports what it could not write as it closes its file.
    number = re.search(r"errno = (\d+)", str(error))
    if isinstance(error, (RuntimeError, ValueError)) and number is not None:
        return _at(place, os.strerror(int(number[1])))
    return None


def _of_system(error: OSError, place: str | Path | None) -> str:
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    number = error.errno
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found[1])
    reason = os.strerror(number) if number is not None else _line(error)
    return _at(" -> ".join(_line(name) for name in named) or place, reason)


def _of_tensorflow(error: BaseException, place: str | Path | None) -> str | None:
    if type(error).__name__ not in _REFUSALS:
        return None
    text = _line(error)
    if "OOM" in text or "allocat" in text:
        return f"not enough memory: {text}"
    # "path; No space left on device"
    path, semicolon, reason = text.rpartition("; ")
    if semicolon:
        return _at(place or path, reason)
    return _at(place, text)


def _at(place: str | Path | None, reason: str) -> str:
    return reason if place is None else f"{place}: {reason}"


def _line(value: object, longest: int = 300) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
