"""Reads image files as (H, W, 3) uint8 RGB arrays and lists the images that sources name. All image
reading goes through this module.
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
"""Extensions of images in folders and patterns; a file named explicitly may have any extension."""

BACKGROUND = (127, 127, 127)
"""Default RGB behind transparent pixels and in the padding of network inputs. Grey is close to zero
after every kind of preprocessing.
"""

MAX_PIXELS = 250_000_000
"""Default for the largest image to decode: more than any camera makes, and 750 MB in memory. A file
of a few kilobytes can announce more.
"""


def read_image(
    path: str | Path,
    apply_orientation: bool = True,
    background: tuple[int, int, int] = BACKGROUND,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads an image file as (H, W, 3) uint8 RGB.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file, including greyscale, palette, CMYK, 16-bit and
            transparent images.
        apply_orientation: whether to rotate the image by its EXIF tag, as viewers do. False keeps
            the stored pixels, the frame of COCO's annotations. (OpenCV rotates TIFF files in both
            cases.)
        background: RGB behind transparent pixels of PNG and WebP files.
        max_pixels: largest width x height to decode, checked in the header before memory is
            allocated.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, too large or not an image.

    >>> read_image("photo.jpg").shape
    (97, 97, 3)
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
    """As `read_image`, from the bytes of a file; `name` stands for the file in error messages.

    >>> png = cv2.imencode(".png", np.full((2, 3, 3), (30, 20, 10), np.uint8))[1].tobytes()
    >>> decode_image(png, "grey.png").shape, decode_image(png, "grey.png")[0, 0].tolist()
    ((2, 3, 3), [10, 20, 30])

    Raises:
        InputError: the bytes are empty, truncated, too many pixels or not an image.
    """
    # Forty times as fast as copying the channels in reverse order.
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
    """As `decode_image`, in OpenCV's channel order BGR for callers that pass the pixels on to
    OpenCV. `background` is still RGB.
    """
    if not data:
        raise InputError(f"{name}: must be an image. Received: an empty file")
    size = image_size(data)
    if size and size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name}: must be an image of at most {max_pixels} pixels. Received: {size[0]} x {size[1]}"
        )
    # Some versions of OpenCV silently fill the missing part with grey.
    if not is_whole(data):
        raise InputError(
            f"{name}: must be a whole image. Received: a truncated file of {len(data)} bytes"
        )
    colour = (
        cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    # OpenCV reads other formats as well, but their size cannot be checked first.
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
    """Lists the image files that sources name, each once, in the order of the sources.

    Args:
        sources: files, folders (the images directly in them, sorted by name; subfolders are not
            searched) or glob patterns, where `**` matches subfolders. Folders and patterns give
            files with known `EXTENSIONS` only.

    Raises:
        InputError: a source does not exist, matches no image, or is a folder without images.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found: dict[str, Path] = {}
    for source in given:
        # A name with brackets is a pattern only if there is no file of that name.
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
    """Silences OpenCV's log about a corrupt file, which is reported in one line of our own."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _blend(image: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Blends a BGR image (H, W, 3) over an RGB background by alpha (H, W) in [0, 1]."""
    behind = np.array(background[::-1], np.float32)
    return np.rint(behind + (image - behind) * alpha[..., None]).astype(np.uint8)


def _turn_like(data: bytes, alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Rotates a stored alpha channel (H, W) as `image` was rotated. OpenCV reveals the EXIF
    orientation only by applying it, and never applies it to alpha.
    """
    stored = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    # The eight EXIF orientations are four quarter turns, each with and without mirroring first.
    turns = ((mirror, quarters) for mirror in (False, True) for quarters in range(4))
    found = next(turn for turn in turns if np.array_equal(_turned(stored, *turn), image))
    return _turned(alpha, *found)


def _turned(array: np.ndarray, mirror: bool, quarters: int) -> np.ndarray:
    return np.rot90(array[:, ::-1] if mirror else array, quarters)
