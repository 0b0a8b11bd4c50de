"""Image files in, (H, W, 3) uint8 RGB out: every reader of pictures in the project goes through
here.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.image_headers import PNG_MAGIC, image_size, is_webp, is_whole

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""What counts as an image in a folder; a file named outright is read whatever it is called."""

BACKGROUND = (127, 127, 127)
"""RGB behind transparent pixels, and the colour that pads a network input: grey is near zero after
every preprocessing.
"""

MAX_PIXELS = 250_000_000
"""Largest image that is decoded where nothing else is said: above every camera, and 750 MB. A file
of a few kilobytes can hold more.
"""


def read_image(
    path: str | Path,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file.

    Args:
        path: JPEG, PNG, WebP, BMP or TIFF; grey, palette, CMYK, 16 bits and transparency included.
        apply_orientation: turn the picture as its EXIF tag says, as viewers do. False gives the
            pixels as they are stored, which is the frame of COCO's annotations. (OpenCV turns TIFF
            files in both cases.)
        background: RGB that shows through transparent pixels of PNG and WebP.
        max_pixels: largest width x height that is decoded; the header tells, before any memory is
            taken.

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
    return cv2.cvtColor(
        decode_bgr(data, name, apply_orientation, background, max_pixels), cv2.COLOR_BGR2RGB
    )


def decode_bgr(
    data: bytes,
    name: str,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """As `decode_image`, in OpenCV's own order of channels, for what gives the pixels back to
    OpenCV; `background` is RGB all the same.
    """
    if not data:
        raise InputError(f"{name}: must be an image. Received: an empty file")
    size = image_size(data)
    if size and size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name}: must be an image of at most {max_pixels} pixels. Received: {size[0]} x {size[1]}"
        )
    # Some versions of OpenCV fill what is missing with grey and say nothing.
    if not is_whole(data):
        raise InputError(
            f"{name}: must be a whole image. Received: a truncated file of {len(data)} bytes"
        )
    colour = (
        cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    # OpenCV reads rarer forms as well; what tells no size might be of any.
    image = _decode(data, colour) if size else None
    if image is None:
        raise InputError(
            f"{name}: must be a JPEG, PNG, WebP, BMP or TIFF image. Received: {len(data)} bytes that do not decode"
        )
    if data.startswith(PNG_MAGIC) or is_webp(data):
        stored = _decode(data, cv2.IMREAD_UNCHANGED)
        if stored is not None and stored.ndim == 3 and stored.shape[2] == 4:
            alpha = stored[..., 3].astype(np.float32) / np.iinfo(stored.dtype).max
            image = _blend(image, _turn_like(data, alpha, image), background)
    return image


def list_images(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files meant by sources, each once, in the order of the sources.

    A source is a file, a folder (the images directly in it, by name; not those in its subfolders)
    or a glob pattern, where `**` reaches into subfolders. A pattern and a folder give files of
    known `EXTENSIONS` only.

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
                raise InputError(
                    f"{source}: the folder must hold images ({', '.join(sorted(EXTENSIONS))}). Received: none"
                )
        elif path.exists():
            images = [path]
        elif glob.has_magic(str(source)):
            images = _images_among(Path(match) for match in glob.glob(str(source), recursive=True))
            if not images:
                raise InputError(
                    f"{source}: the pattern must match images ({', '.join(sorted(EXTENSIONS))}). Received: no match"
                )
        else:
            raise InputError(f"{source}: no such file or folder")
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        raise InputError("expected image files, folders or patterns. Received: none")
    return list(found.values())


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file())


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
    """Alpha (H, W) as stored, turned as `image` was. OpenCV tells an orientation only by applying
    it, and never to alpha.
    """
    stored = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    # The eight orientations of EXIF are four quarter turns, each with and without mirroring first.
    turns = ((mirror, quarters) for mirror in (False, True) for quarters in range(4))
    found = next(turn for turn in turns if np.array_equal(_turned(stored, *turn), image))
    return _turned(alpha, *found)


def _turned(array: np.ndarray, mirror: bool, quarters: int) -> np.ndarray:
    return np.rot90(array[:, ::-1] if mirror else array, quarters)
