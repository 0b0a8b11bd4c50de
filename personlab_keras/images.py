"""Image files in, (H, W, 3) uint8 RGB out: every reader of pictures in the project goes through here."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.config import DataConfig
from personlab_keras.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""What counts as an image in a folder; a file named outright is read whatever it is called."""

BACKGROUND = DataConfig.pad_colour
"""RGB behind transparent pixels: the same grey that pads the network's input."""

MAX_PIXELS = 250_000_000
"""Largest image that is decoded where nothing else is said: above every camera, and 750 MB. A file of a few kilobytes can hold more."""


def read_image(
    path: str | Path,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file.

    Args:
        path: JPEG, PNG, WebP, BMP or TIFF; grey, palette, CMYK, 16 bits and transparency included.
        apply_orientation: turn the picture as its EXIF tag says, as viewers do. False gives the pixels as they are stored,
            which is the frame of COCO's annotations. (OpenCV turns TIFF files in both cases.)
        background: RGB that shows through transparent pixels of PNG and WebP.
        max_pixels: largest width x height that is decoded; the header tells, before any memory is taken.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, too large or no image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from None
    return decode_image(data, str(path), apply_orientation, background, max_pixels)


def decode_image(
    data: bytes,
    name: str,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """As `read_image`, from the bytes of a file; `name` stands for it in errors.

    Raises:
        InputError: the bytes are empty, truncated, an image of too many pixels or none.
    """
    # Forty times as fast as a reversed copy.
    return cv2.cvtColor(decode_bgr(data, name, apply_orientation, background, max_pixels), cv2.COLOR_BGR2RGB)


def decode_bgr(
    data: bytes,
    name: str,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """As `decode_image`, in OpenCV's own order of channels, for what gives the pixels back to OpenCV; `background` is RGB all the same."""
    if not data:
        raise InputError(f"{name}: must be an image. Received: an empty file")
    size = image_size(data)
    if size and size[0] * size[1] > max_pixels:
        raise InputError(f"{name}: must be an image of at most {max_pixels} pixels. Received: {size[0]} x {size[1]}")
    # Some versions of OpenCV fill what is missing with grey and say nothing.
    if not _is_whole(data):
        raise InputError(f"{name}: must be a whole image. Received: a truncated file of {len(data)} bytes")
    colour = cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # OpenCV reads rarer forms as well; what tells no size might be of any.
    image = _decode(data, colour) if size else None
    if image is None:
        raise InputError(f"{name}: must be a JPEG, PNG, WebP, BMP or TIFF image. Received: {len(data)} bytes that do not decode")
    if data.startswith(_PNG) or _is_webp(data):
        stored = _decode(data, cv2.IMREAD_UNCHANGED)
        if stored is not None and stored.ndim == 3 and stored.shape[2] == 4:
            alpha = stored[..., 3].astype(np.float32) / np.iinfo(stored.dtype).max
            image = _blend(image, _turn_like(data, alpha, image), background)
    return image


def image_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels as stored, before any EXIF orientation, by the header of an image; nothing is decoded.

    Args:
        data: a JPEG, PNG, WebP, BMP, TIFF or GIF, whole or from its beginning to where it tells the size.

    Returns:
        None for anything else, and where the header is broken or tells no area.
    """
    readers = {
        _JPEG: _jpeg_size,
        _PNG: _png_size,
        b"RIFF": _webp_size,
        b"BM": _bmp_size,
        b"II": _tiff_size,
        b"MM": _tiff_size,
        b"GIF8": _gif_size,
    }
    read = next((reader for start, reader in readers.items() if data.startswith(start)), None)
    try:
        size = None if read is None else read(data)
    except struct.error:  # the data ends first
        return None
    return size if size and min(size) > 0 else None


def list_images(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files meant by sources, each once, in the order of the sources.

    A source is a file, a folder (the images directly in it, by name; not those in its subfolders) or a glob pattern, where
    `**` reaches into subfolders. A pattern and a folder give files of known `EXTENSIONS` only.

    Raises:
        InputError: a source does not exist, matches nothing, or is a folder without images.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found: dict[str, Path] = {}
    for source in given:
        # A file whose name holds brackets is a file first, a pattern only if there is no such file.
        path = Path(source)
        if path.is_dir():
            images = _images_among(path.iterdir())
            if not images:
                raise InputError(f"{source}: the folder must hold images ({', '.join(sorted(EXTENSIONS))}). Received: none")
        elif path.exists():
            images = [path]
        elif glob.has_magic(str(source)):
            images = _images_among(Path(match) for match in glob.glob(str(source), recursive=True))
            if not images:
                raise InputError(f"{source}: the pattern must match images ({', '.join(sorted(EXTENSIONS))}). Received: no match")
        else:
            raise InputError(f"{source}: no such file or folder")
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        raise InputError("expected image files, folders or patterns. Received: none")
    return list(found.values())


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file())


_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_whole(data: bytes) -> bool:
    """Whether the container reaches its own end; True for containers that are left to the decoder."""
    if data.startswith(_JPEG):
        return _jpeg_ends(data)
    if data.startswith(_PNG):
        return _png_ends(data)
    if _is_webp(data):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Of a segment, or of the end: neither a stuffed 0xff00 of entropy-coded data, nor a restart, nor filling."""


def _jpeg_ends(data: bytes) -> bool:
    """Walks the segments to the end-of-image marker. A search for its bytes would find that of an embedded thumbnail."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        at = found.end()
        if data[at - 1] == 0xD9:
            return True
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return False


def _png_ends(data: bytes) -> bool:
    at = len(_PNG)
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        # As libjpeg does: what stands between segments is passed over, however many 0xff announce the next one.
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if not 0 <= at < len(data):
            return None
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header; not tables, extensions, conditioning
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
    kind = data[12:16] if _is_webp(data) else b""
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


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # negative where the rows run downwards


def _gif_size(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """By the tags ImageWidth and ImageLength of the first directory, in TIFF and in BigTIFF."""
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
            (tags[tag],) = struct.unpack_from(f"{order}{_TIFF_INTEGERS[kind]}", data, at + 4 + struct.calcsize(entry))
    return (tags[256], tags[257]) if len(tags) == 2 else None


_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        with _silent_opencv():
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """Keeps OpenCV's log of a broken file from standing beside our own single line about it."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _blend(image: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """BGR (H, W, 3) over an RGB background by alpha (H, W) in [0, 1]."""
    behind = np.array(background[::-1], np.float32)
    return np.rint(behind + (image - behind) * alpha[..., None]).astype(np.uint8)


def _turn_like(data: bytes, alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Alpha (H, W) as stored, turned as `image` was. OpenCV tells an orientation only by applying it, and never to alpha."""
    stored = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    # The eight orientations of EXIF are four quarter turns, each with and without mirroring first.
    turns = ((mirror, quarters) for mirror in (False, True) for quarters in range(4))
    found = next(turn for turn in turns if np.array_equal(_turned(stored, *turn), image))
    return _turned(alpha, *found)


def _turned(array: np.ndarray, mirror: bool, quarters: int) -> np.ndarray:
    return np.rot90(array[:, ::-1] if mirror else array, quarters)
