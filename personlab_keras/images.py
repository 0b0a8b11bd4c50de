"""Image files in, (H, W, 3) uint8 RGB out: every reader of pictures in the project goes through here."""

from __future__ import annotations

import contextlib
import glob
import os
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


def read_image(path: str | Path, apply_orientation: bool = True, background: tuple[int, int, int] = BACKGROUND) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file.

    Args:
        path: JPEG, PNG, WebP, BMP or TIFF; grey, palette, CMYK, 16 bits and transparency included.
        apply_orientation: turn the picture as its EXIF tag says, as viewers do. False gives the pixels as they are stored,
            which is the frame of COCO's annotations. (OpenCV turns TIFF files in both cases.)
        background: RGB that shows through transparent pixels of PNG and WebP.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated or no image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from None
    return decode_image(data, str(path), apply_orientation, background)


def decode_image(
    data: bytes, name: str, apply_orientation: bool = True, background: tuple[int, int, int] = BACKGROUND
) -> np.ndarray:
    """As `read_image`, from the bytes of a file; `name` stands for it in errors.

    Raises:
        InputError: the bytes are empty, truncated or no image.
    """
    if not data:
        raise InputError(f"{name}: must be an image. Received: an empty file")
    # Some versions of OpenCV fill what is missing with grey and say nothing.
    if not _is_whole(data):
        raise InputError(f"{name}: must be a whole image. Received: a truncated file of {len(data)} bytes")
    colour = cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(data, colour)
    if image is None:
        raise InputError(f"{name}: must be a JPEG, PNG, WebP, BMP or TIFF image. Received: {len(data)} bytes that do not decode")
    if data.startswith(_PNG) or _is_webp(data):
        stored = _decode(data, cv2.IMREAD_UNCHANGED)
        if stored is not None and stored.ndim == 3 and stored.shape[2] == 4:
            alpha = stored[..., 3].astype(np.float32) / np.iinfo(stored.dtype).max
            image = _blend(image, _turn_like(data, alpha, image), background)
    return np.ascontiguousarray(image[..., ::-1])


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


def _jpeg_ends(data: bytes) -> bool:
    """Walks the segments to the end-of-image marker. A search for its bytes would find that of an embedded thumbnail."""
    at = 2
    while True:
        # Entropy-coded data follows a scan header: it ends at a marker that is neither a stuffed 0xff00 nor a restart.
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return False
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _png_ends(data: bytes) -> bool:
    at = len(_PNG)
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


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
