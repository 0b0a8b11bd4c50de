"""The EXIF orientation of an image file, read from its metadata without decoding it."""

from __future__ import annotations

import struct

from personlab_keras.io.image_headers import JPEG_MAGIC, PNG_MAGIC, is_webp


def exif_orientation(data: bytes) -> int:
    """EXIF orientation of a JPEG, PNG or WebP file, from 1 (as stored) to 8; 1 if it says none.

    2 mirrors, 3 turns by 180 degrees, 5 to 8 exchange width and height. TIFF is not read: OpenCV
    always applies its orientation.

    >>> exif_orientation(b"not an image")
    1
    """
    try:
        if data.startswith(JPEG_MAGIC):
            exif = _jpeg_exif(data)
        elif data.startswith(PNG_MAGIC):
            exif = _png_exif(data)
        else:
            exif = _webp_exif(data) if is_webp(data) else b""
        found = _orientation(exif.removeprefix(b"Exif\0\0"))
    except struct.error:  # the data ends first
        return 1
    return found if 1 <= found <= 8 else 1


def _jpeg_exif(data: bytes) -> bytes:
    at = 2
    while data[at : at + 1] == b"\xff":
        while data[at + 1 : at + 2] == b"\xff":  # filling
            at += 1
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xDA:  # the scan: metadata stands before it
            return b""
        content = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            return content
        at += 2 + max(2, length)
    return b""


def _png_exif(data: bytes) -> bytes:
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def _webp_exif(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return b""


def _orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        if tag == 0x0112 and kind == 3:
            return struct.unpack_from(f"{order}H", tiff, entry + 8)[0]
    return 1
