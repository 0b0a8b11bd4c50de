"""Arrays as the byte strings of a tf.train.Example, little-endian and in C order."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def to_bytes(values: Any, dtype: str, compressed: bool = False) -> bytes:
    """The content of a feature. Inverse: `to_array`."""
    raw = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return _deflate(raw) if compressed else raw


def to_array(
    features: Any, name: str, dtype: str, shape: Sequence[int], compressed: bool = False
) -> np.ndarray:
    """The array in a feature.

    Args:
        features: the map of features of a tf.train.Example.
        shape: -1 for a side that the content decides, where it is not compressed.

    Raises:
        ValueError: the feature is missing, or of another size.
    """
    raw = only_value(features, name)
    try:
        raw = _inflate(raw, int(np.prod(shape))) if compressed else raw
        return np.frombuffer(raw, dtype).reshape(shape)
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"feature '{name}' must be {dtype} of shape {list(shape)}: {error}"
        ) from None


def only_value(features: Any, name: str) -> bytes:
    """The one byte string of a feature.

    Raises:
        ValueError: there is none, or there are several.
    """
    stored: Any = features[name].bytes_list.value if name in features else ()
    if len(stored) != 1:
        raise ValueError(f"feature '{name}' must be one byte string. Received: {len(stored)}")
    return bytes(stored[0])


def _deflate(raw: bytes) -> bytes:
    """In zlib's format, by runs alone: maps are runs of zeros and owners. A view grows by a few
    hundred bytes and takes half the time.
    """
    deflater = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflater.compress(raw) + deflater.flush()


def _inflate(raw: bytes, size: int) -> bytes:
    """At most `size` bytes: a few compressed bytes can hold gigabytes of zeros."""
    inflater = zlib.decompressobj()
    content = inflater.decompress(raw, size + 1)
    if not inflater.eof:
        raise ValueError("does not end where it should")
    return content
