"""Reads the lists of a JSON file of any length, element by element.

Streaming JSON libraries refuse NaN, which Python writes and annotation files contain. Read as a
whole, a quarter of a gigabyte of COCO takes six times as much memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personlab_keras.errors import InputError
from personlab_keras.io.files import check_regular

_CHUNK = 1 << 20
_LARGEST = 1 << 28
"""Longest element or top-level value in characters: no annotation is longer."""
_LONGEST_TOKEN = 32
"""Longest number or name, in characters, that may be cut off at the end of a window."""
_KINDS = {'"': "str", "{": "dict", "[": "list", "t": "bool", "f": "bool", "n": "NoneType"}


@dataclass(frozen=True)
class JsonLists:
    """The contents of a file.

    Attributes:
        found: top-level key -> number of elements if it is a list, otherwise the name of its type.
        bytes, sha256: size and checksum of the file.
    """

    found: Mapping[str, int | str]
    bytes: int
    sha256: str


def read_lists(path: str | Path, handlers: Mapping[str, Callable[[int, Any], None]]) -> JsonLists:
    """Calls handlers[key](number, element) for every element of the top-level lists of a JSON
    object, in the order of the file.

    NaN and infinities are accepted. Memory holds one element at a time.

    Raises:
        InputError: if the file is missing, unreadable or no JSON object, if a handler's key occurs
            twice, or if an element is too long.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            reader = _Reader(file)
            try:
                return JsonLists(_object(reader, handlers), *reader.finish())
            except (UnicodeDecodeError, RecursionError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{path}: not valid JSON: {reader.place(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except _NoObject as error:
        raise InputError(f"{path}: must hold a JSON object. Received: {error}") from None
    except _Twice as error:
        raise InputError(f"{path}: '{error}' must occur once. Received: twice") from None


class _NoObject(Exception):
    pass


class _Twice(Exception):
    pass


def _object(
    reader: _Reader, handlers: Mapping[str, Callable[[int, Any], None]]
) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    first = reader.peek()
    if first != "{":
        value = reader.value()
        raise _NoObject(type(value).__name__)
    reader.take("{")
    if reader.peek() == "}":
        reader.take("}")
        return found
    while True:
        if reader.peek() != '"':
            raise ValueError("expecting a name in double quotes")
        key = reader.value()
        if key in found and key in handlers:
            raise _Twice(key)
        reader.take(":")
        kind = reader.peek()
        if kind == "[":
            found[key] = _list(reader, handlers.get(key, lambda number, element: None))
        else:
            reader.value()
            found[key] = _KINDS.get(kind, "number")
        if reader.take(",}") == "}":
            return found


def _list(reader: _Reader, handler: Callable[[int, Any], None]) -> int:
    reader.take("[")
    if reader.peek() == "]":
        reader.take("]")
        return 0
    number = 0
    while True:
        handler(number, reader.value())
        number += 1
        if reader.take(",]") == "]":
            return number


class _Reader:
    """A window onto the text of a file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._hash = hashlib.sha256()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0
        self._bytes = 0
        self._ended = False

    def _more(self) -> bool:
        """Doubles the window, so that a long element is scanned only a few times."""
        if self._ended:
            return False
        raw = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not raw
        self._hash.update(raw)
        self._bytes += len(raw)
        self._text, self._at = self._text[self._at :] + self._decode.decode(raw, final=not raw), 0
        return True

    def peek(self) -> str:
        """The next character other than white space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> str:
        """Consumes the next character, which must be one of those given."""
        found = self.peek()
        if not found or found not in wanted:
            raise ValueError(f"expecting {' or '.join(wanted)}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Consumes the next value."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                # A number at the end of the window, or before "." or "e+" there, may continue.
                if len(self._text) - end > 2 or not self._more():
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = (
                    error.msg.startswith("Unterminated string")
                    or error.pos > len(self._text) - _LONGEST_TOKEN
                )
                if not cut or len(self._text) - self._at > _LARGEST or not self._more():
                    self._at = error.pos
                    raise ValueError(error.msg) from None

    def finish(self) -> tuple[int, str]:
        """Length and SHA-256 of the file; refuses anything after the object."""
        if self.peek():
            raise ValueError("more behind the object")
        return self._bytes, self._hash.hexdigest()

    def place(self, error: Exception) -> str:
        """A message about a fault, with its approximate position."""
        what = (
            "nested too deep"
            if isinstance(error, RecursionError)
            else " ".join(str(error).split())[:100]
        )
        if isinstance(error, UnicodeDecodeError):
            what = "not in UTF-8"
        left = len(self._text[self._at :].encode(errors="replace"))
        return f"{what}, at about byte {max(0, self._bytes - left)}"
