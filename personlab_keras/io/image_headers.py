"""Format, size and completeness of an image file, read from its header without decoding it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
GIF_MAGIC = b"GIF8"
_JP2_MAGIC = b"\0\0\0\x0cjP  \r\n\x87\n"


def image_size(data: bytes) -> tuple[int, int] | None:
    """Reads (width, height) in pixels from the header of an image, before EXIF orientation.

    Args:
        data: a JPEG, PNG, WebP, AVIF, JPEG 2000, BMP, TIFF or GIF file, or its beginning up to the
            size.

    Returns:
        The size; None for other formats, a corrupt header, or an empty image.

    >>> image_size(PNG_MAGIC + b"\\0\\0\\0\\rIHDR" + struct.pack(">II", 640, 480))
    (640, 480)
    """
    readers = {
        JPEG_MAGIC: _jpeg_size,
        PNG_MAGIC: _png_size,
        b"RIFF": _webp_size,
        b"BM": _bmp_size,
        b"II": _tiff_size,
        b"MM": _tiff_size,
        GIF_MAGIC: _gif_size,
        _JP2_MAGIC: _jp2_size,
    }
    read = next((reader for start, reader in readers.items() if data.startswith(start)), None)
    if is_avif(data):
        read = _avif_size
    try:
        size = None if read is None else read(data)
    except struct.error:  # the data ends before the size
        return None
    return size if size and min(size) > 0 else None


def is_webp(data: bytes) -> bool:
    """Whether the data is a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def is_avif(data: bytes) -> bool:
    """Whether the data is an AVIF file: an image, or a sequence of which the first is read."""
    return data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis")


def is_whole(data: bytes) -> bool:
    """Whether a JPEG, PNG, WebP, AVIF or JPEG 2000 file is complete. True for other formats, which
    only their decoder can check.
    """
    if is_avif(data) or data.startswith(_JP2_MAGIC):
        return all(end <= len(data) for _, _, end in _boxes(data, 0, len(data)))
    if data.startswith(JPEG_MAGIC):
        return _jpeg_ends(data)
    if data.startswith(PNG_MAGIC):
        return _png_ends(data)
    if is_webp(data):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Start of a segment or end of image: not a stuffed 0xff00 of entropy-coded data, a restart or a
fill byte.
"""


def _jpeg_ends(data: bytes) -> bool:
    """Walks the segments to the end-of-image marker. Searching for its bytes would find the marker
    of an embedded thumbnail.
    """
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        at = found.end()
        if data[at - 1] == 0xD9:
            return True
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return False


def _png_ends(data: bytes) -> bool:
    """Walks the chunks to the last one. Without a chunk of pixels before it, OpenCV takes seconds
    and gigabytes to find nothing.
    """
    at, has_pixels = len(PNG_MAGIC), False
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind == b"IEND":
            return has_pixels
        has_pixels |= kind == b"IDAT"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        # Like libjpeg, skip bytes between segments and any number of 0xff before a marker.
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if not 0 <= at < len(data):
            return None
        marker = data[at]
        # A frame header; 0xC4, 0xC8 and 0xCC are tables, extensions and conditioning.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 4)
            return width, height
        if marker in (0xD9, 0xDA):  # the end, or a scan without a frame
            return None
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1
        else:
            (length,) = struct.unpack_from(">H", data, at + 1)
            at += 1 + max(2, length)


def _png_size(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16] if is_webp(data) else b""
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", data, 24)  # twice 24 bits
        return 1 + (low & 0xFFFFFF), 1 + (low >> 24 | high << 8)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (type, start of content, end) of the boxes of an ISO media or JPEG 2000 file."""
    at = start
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        content = at + 8
        if size == 1:  # the size follows in 64 bits
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        box_end = end if size == 0 else at + max(size, content - at)
        yield kind, content, box_end
        at = box_end


def _box(data: bytes, path: Sequence[bytes], start: int, end: int) -> tuple[int, int]:
    """(start, end) of the content of a box within boxes.

    Raises:
        struct.error: there is no such box.
    """
    for name in path:
        found = [box for box in _boxes(data, start, min(end, len(data))) if box[0] == name]
        if not found:
            raise struct.error
        _, start, end = found[0]
        if name == b"meta":
            start += 4  # version and flags
    return start, end


def _jp2_size(data: bytes) -> tuple[int, int]:
    start, _ = _box(data, (b"jp2h", b"ihdr"), 0, len(data))
    height, width = struct.unpack_from(">II", data, start)
    return width, height


def _avif_size(data: bytes) -> tuple[int, int]:
    """The largest of the spatial extents: alpha and the tiles of a grid have extents, too."""
    start, end = _box(data, (b"meta", b"iprp", b"ipco"), 0, len(data))
    extents = [
        struct.unpack_from(">II", data, content + 4)
        for kind, content, _ in _boxes(data, start, min(end, len(data)))
        if kind == b"ispe"
    ]
    width, height = max(extents, key=lambda extent: extent[0] * extent[1], default=(0, 0))
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # negative if rows are stored from the top


def _gif_size(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """The tags ImageWidth and ImageLength of the first directory of a TIFF or BigTIFF file."""
    order = "<" if data.startswith(b"II") else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 42:
        (directory,), counter, entry = struct.unpack_from(f"{order}I", data, 4), "H", "I"
    elif version == 43:
        (directory,), counter, entry = struct.unpack_from(f"{order}Q", data, 8), "Q", "Q"
    else:
        return None
    if directory > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}{counter}", data, directory)
    tags = {}
    step = 4 + 2 * struct.calcsize(entry)
    for i in range(min(count, 1000)):
        at = directory + struct.calcsize(counter) + i * step
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag in (256, 257) and kind in _TIFF_INTEGERS:
            (tags[tag],) = struct.unpack_from(
                f"{order}{_TIFF_INTEGERS[kind]}", data, at + 4 + struct.calcsize(entry)
            )
    return (tags[256], tags[257]) if len(tags) == 2 else None


_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
