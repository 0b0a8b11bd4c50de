"""COCO's segmentations: polygons, run lengths as numbers and as text -> pixels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.annotations.values import numbers, shown


def compress_segmentation(segmentation: Any) -> bytes:
    """A segmentation as the file has it in a fifth of the memory. Inverse:
    `decompress_segmentation`.
    """
    try:
        return pickle.dumps(segmentation, protocol=5)
    except RecursionError:
        return pickle.dumps("lists nested too deep")


def decompress_segmentation(packed: bytes) -> Any:
    """The inverse of `compress_segmentation`."""
    return pickle.loads(packed)


def decode_segmentation(segmentation: Any, height: int, width: int) -> tuple[np.ndarray, int]:
    """(H, W) bool from COCO's polygons, plain run lengths or compressed run lengths; and how many
    polygons were of no use.

    Raises:
        ValueError: none of those forms, of another size than the image, or nothing of it can be
            used.
    """
    if isinstance(segmentation, list):
        # pycocotools walks along every edge in steps of a fifth of a pixel and trusts what it is
        # given: what lies far outside would take all memory, NaN and an odd number of values read
        # beyond their array.
        polygons = [polygon for polygon in segmentation if _is_polygon(polygon, height, width)]
        if not polygons:
            raise ValueError("no polygon of at least three points")
        encoded = rle.frPyObjects(polygons, height, width)
        return rle.decode(rle.merge(encoded) if len(encoded) > 1 else encoded[0]).view(bool), len(
            segmentation
        ) - len(polygons)
    if isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
        if segmentation["size"] != [height, width]:
            raise ValueError(
                f"run lengths of size {shown(segmentation['size'])} for an image of {[height, width]}"
            )
        return _from_runs(segmentation["counts"], height, width), 0
    raise ValueError(f"neither polygons nor run lengths: {shown(segmentation)}")


def _is_polygon(polygon: Any, height: int, width: int) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    values = numbers(polygon, len(polygon))
    if values is None or not np.isfinite(values).all():
        return False
    points = values.reshape(-1, 2)
    return bool(
        (np.abs(points / (width, height) - 0.5) <= 1.5).all()
    )  # no further outside than the image is wide


def _from_runs(counts: Any, height: int, width: int) -> np.ndarray:
    """Run lengths down the columns, as numbers or in COCO's text. Read here: pycocotools leaves
    memory as it was where they are too few.
    """
    if isinstance(counts, str):
        runs = _run_lengths(counts)
    else:
        values = numbers(counts, len(counts)) if isinstance(counts, list) else None
        if values is None or not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise ValueError("run lengths that are not whole numbers")
        runs = [int(value) for value in values]
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width} pixels")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def _run_lengths(text: str) -> list[int]:
    """COCO's text: six bits a character, five of them of the number, lowest first; from the third
    on, the difference to the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("damaged run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return runs
