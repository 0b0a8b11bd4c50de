"""COCO's segmentations (polygons, run lengths as numbers or text) -> pixels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.annotations.values import numbers, shown


def compress_segmentation(segmentation: Any) -> bytes:
    """A segmentation of the file in a fifth of its memory. Inverse: `decompress_segmentation`."""
    try:
        return pickle.dumps(segmentation, protocol=5)
    except RecursionError:
        return pickle.dumps("lists nested too deep")


def decompress_segmentation(packed: bytes) -> Any:
    """Inverse of `compress_segmentation`."""
    return pickle.loads(packed)


def encode_segmentation(segmentation: Any, height: int, width: int) -> tuple[dict[str, Any], int]:
    """COCO's polygons, plain or compressed run lengths -> pycocotools' compressed run lengths, and
    the number of polygons dropped.

    Everything is checked first: pycocotools trusts its input, fills the memory when a polygon
    extends far outside the image, and reads past the end of arrays of odd length.

    Raises:
        ValueError: if it has none of these forms, another size than the image, or no usable part.

    >>> encoded, dropped = encode_segmentation([[0, 0, 2, 0, 2, 2, 0, 2], [1, 1]], 4, 4)
    >>> int(rle.area(encoded)), dropped
    (4, 1)
    """
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if _is_polygon(polygon, height, width)]
        if not polygons:
            raise ValueError("no polygon of at least three points")
        encoded = rle.frPyObjects(polygons, height, width)
        whole = rle.merge(encoded) if len(encoded) > 1 else encoded[0]
        return whole, len(segmentation) - len(polygons)
    if isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
        if segmentation["size"] != [height, width]:
            raise ValueError(
                f"run lengths of size {shown(segmentation['size'])} for an image of {[height, width]}"
            )
        return _from_runs(segmentation["counts"], height, width), 0
    raise ValueError(f"neither polygons nor run lengths: {shown(segmentation)}")


def decode_segmentation(segmentation: Any, height: int, width: int) -> tuple[np.ndarray, int]:
    """As `encode_segmentation`, but returns (H, W) bool pixels."""
    encoded, dropped = encode_segmentation(segmentation, height, width)
    return rle.decode(encoded).view(bool), dropped


def box_pixels(box: np.ndarray | None, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels touched by a box [x, y, width, height] in edge coordinates;
    empty without a box.

    >>> box_pixels(np.array([1.5, 0, 2, 9]), 4, 4)
    (slice(0, 4, None), slice(1, 4, None))
    """
    if box is None:
        return slice(0, 0), slice(0, 0)
    x0, y0 = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(box[:2] + box[2:]), 0, (width, height)).astype(int).tolist()
    return slice(y0, y1), slice(x0, x1)


def _is_polygon(polygon: Any, height: int, width: int) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    values = numbers(polygon, len(polygon))
    if values is None or not np.isfinite(values).all():
        return False
    points = values.reshape(-1, 2)
    return bool(
        (np.abs(points / (width, height) - 0.5) <= 1.5).all()
    )  # at most one image width outside


def _from_runs(counts: Any, height: int, width: int) -> dict[str, Any]:
    """Run lengths down the columns, as numbers or as COCO's text. If there are too few, pycocotools
    leaves memory uninitialised.
    """
    if isinstance(counts, str):
        runs = _run_lengths(counts)
    else:
        values = numbers(counts, len(counts)) if isinstance(counts, list) else None
        if values is None or not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise ValueError("run lengths that are not whole numbers")
        runs = np.clip(values, -1, height * width + 1).astype(np.int64)
    if not len(runs) or runs.min() < 0 or runs.sum() != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width} pixels")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode("ascii")}
    return rle.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


_LONGEST_NUMBER = 10
"""Longest run length in characters: 50 bits, more than any image has pixels."""


def _run_lengths(text: str) -> np.ndarray:
    """Decodes COCO's text: six bits per character, five of them of the number, lowest first; from
    the fourth number on, differences to the second last.
    """
    bits = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(bits):
        return bits
    if bits.min() < 0 or bits.max() >= 64:
        raise ValueError("damaged run lengths")
    ends = np.flatnonzero(bits & 0x20 == 0)
    if not len(ends) or ends[-1] != len(bits) - 1:
        raise ValueError("run lengths that end within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise ValueError("damaged run lengths")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((bits & 0x1F) << shifts, starts)
    negative = bits[ends] & 0x10 != 0
    runs[negative] -= np.int64(1) << (5 * lengths[negative])
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
