"""Reads image files as (H, W, 3) uint8 RGB arrays and lists the images that sources name. All image
reading goes through this module.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.image_headers import (
    GIF_MAGIC,
    PNG_MAGIC,
    image_size,
    is_avif,
    is_webp,
    is_whole,
)

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jp2", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff"}
)
"""Extensions of images in folders and patterns; a file named explicitly may have any extension."""

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp", ".3g2", ".wmv"}
    | {".flv", ".ts", ".mts", ".m2ts", ".ogv"}
)
"""Extensions of videos."""

UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".jxl", ".jxr", ".j2k", ".svg", ".ico", ".tga", ".psd", ".exr", ".hdr"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Extensions of images that are not read."""

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
            transparent images; also AVIF, JPEG 2000 and GIF if OpenCV was built with them.
        apply_orientation: whether to rotate the image by its EXIF tag, as viewers do. False keeps
            the stored pixels, the frame of COCO's annotations. (OpenCV rotates TIFF files in both
            cases.)
        background: RGB behind transparent pixels.
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
            f"{name}: must be a JPEG, PNG, WebP, AVIF, JPEG 2000, GIF, BMP or TIFF image. "
            f"Received: {len(data)} bytes that do not decode"
        )
    if data.startswith((PNG_MAGIC, GIF_MAGIC)) or is_webp(data) or is_avif(data):
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
        if path.is_file():
            images = [path]
        else:
            files = files_of(source)
            images = _with_extension(files, EXTENSIONS)
            if not images:
                holder = "the folder must hold" if path.is_dir() else "the pattern must match"
                received = describe_unread(unread_media([source])) or (
                    "none" if path.is_dir() else "no match"
                )
                raise InputError(
                    f"{source}: {holder} images ({', '.join(sorted(EXTENSIONS))}). Received: {received}"
                )
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        raise InputError("expected image files, folders or patterns. Received: none")
    return list(found.values())


def unread_media(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """Lists what `list_images` skips in folders and patterns although its extension is that of an
    image or video: files of other formats, links that lead nowhere, pipes and devices.

    Args:
        sources: as for `list_images`.

    Raises:
        InputError: a source does not exist.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    folders = [source for source in given if not Path(source).is_file()]
    found = [
        path
        for source in folders
        for path in _with_extension(
            found_in(source), EXTENSIONS | VIDEO_EXTENSIONS | UNREAD_EXTENSIONS
        )
        if path.suffix.lower() not in EXTENSIONS or is_odd(path)
    ]
    return list(dict.fromkeys(found))


def describe_unread(paths: Sequence[Path]) -> str:
    """Counts and names files that are not read; empty if there are none.

    >>> describe_unread([Path("photos/a.HEIC"), Path("photos/b.mp4")])
    '2 other files that look like images or videos: a.HEIC, b.mp4'
    """
    if not paths:
        return ""
    names = ", ".join(path.name + _oddity(path) for path in paths[:_NAMED])
    rest = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    looks = (
        "file that looks like an image or video"
        if len(paths) == 1
        else ("files that look like images or videos")
    )
    return f"{len(paths)} other {looks}: {names}{rest}"


_NAMED = 10
"""Number of unread files that are named."""


def is_odd(path: Path) -> bool:
    """Whether a path cannot be read as a file: a link that leads nowhere, a pipe or a device."""
    return not path.is_file() and not path.is_dir()


def _oddity(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return " (a link that leads nowhere)"
    return " (a pipe or a device)" if path.exists() and is_odd(path) else ""


def files_of(source: str | Path) -> list[Path]:
    """The files directly in a folder, or those that a pattern matches."""
    return [path for path in found_in(source) if path.is_file()]


def found_in(source: str | Path) -> list[Path]:
    """What lies directly in a folder, or what a pattern matches."""
    path = Path(source)
    if path.is_dir():
        found: Iterable[Path] = path.iterdir()
    elif glob.has_magic(str(source)):
        found = (Path(match) for match in glob.glob(str(source), recursive=True))
    else:
        raise InputError(f"{source}: no such file or folder")
    return sorted(found)


def _with_extension(paths: Iterable[Path], extensions: AbstractSet[str]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in extensions]


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        with silent_opencv():
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


@contextlib.contextmanager
def silent_opencv() -> Iterator[None]:
    """Silences OpenCV's log of errors that are reported in one line of our own."""
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
