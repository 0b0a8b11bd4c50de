"""Values in annotation files: read leniently if the meaning is clear, shown in one line."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

LARGEST_ID = 2**63 - 1
"""Records store ids as int64."""


def shown(value: Any) -> str:
    """A value for a message, short and in ASCII.

    >>> shown("é")
    "'\\\\xe9'"
    """
    try:
        text = ascii(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a large {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def numbers(values: Any, count: int) -> np.ndarray | None:
    """(count,) float64; None unless `values` is a list of exactly that many numbers. Text is not a
    number.

    >>> numbers([1, 2.5], 2)
    array([1. , 2.5])
    >>> numbers([1, "2.5"], 2) is None
    True
    """
    if (
        not isinstance(values, list)
        or len(values) != count
        or not {type(value) for value in values} <= {int, float}
    ):
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return None


def triples(values: Any, count: int) -> np.ndarray | None:
    """(count, 3) float64 from a flat list of 3 * count values or a list of `count` triples, NaN in
    place of every value that is not a number; None for anything else.

    >>> triples([[1, 2, None]], 1)
    array([[ 1.,  2., nan]])
    """
    if not isinstance(values, list):
        return None
    if len(values) == count and all(isinstance(each, list) and len(each) == 3 for each in values):
        values = [value for each in values for value in each]
    if len(values) != 3 * count:
        return None
    read = numbers(values, 3 * count)
    if read is None:
        read = np.array([_number(value) for value in values])
    return read.reshape(count, 3)


def _number(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan


def identifier(value: Any) -> int | None:
    """An id in a file as an integer from 0 to 2**63 - 1; None if it is no id.

    Integers in that range are kept, also when written as text or float. Any other integer or text
    is mapped to a number derived from its characters.

    >>> identifier(7), identifier("7"), identifier(7.0), identifier(None)
    (7, 7, 7, None)
    >>> identifier("frame_0001") == identifier("frame_0001") != identifier("frame_0002")
    True
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        plain = value.strip()
        if plain.isascii() and plain.isdigit() and len(plain) < 20:
            value = int(plain)
    if type(value) is int and 0 <= value <= LARGEST_ID:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        return None
    text = hex(value) if isinstance(value, int) else f"text {value}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & LARGEST_ID


def crowd_flag(value: Any) -> bool | None:
    """Whether `iscrowd` marks a region as a crowd; None if the value is unclear.

    >>> crowd_flag(1), crowd_flag("0"), crowd_flag(None), crowd_flag("perhaps")
    (True, False, False, None)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, str):
        return _CROWD_WORDS.get(value.strip().lower())
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    return None


_CROWD_WORDS = {
    **dict.fromkeys(("", "0", "0.0", "false", "no", "n", "f", "none", "null", "nan"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "t"), True),
}
