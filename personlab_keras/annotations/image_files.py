"""Finds and reads the image files of a data set, counting every fault by reason."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from personlab_keras.annotations.dataset import STORED, TURNED, AnnotatedImage
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.errors import InputError
from personlab_keras.io.exif import exif_orientation
from personlab_keras.io.image_headers import image_size
from personlab_keras.io.images import MAX_PIXELS, decode_bgr

_LARGEST_FILE = 1 << 29
"""Largest image file in bytes: more than `MAX_PIXELS` pixels take in any reasonable format."""


def read_pixels(
    image: AnnotatedImage,
    folder: Path,
    tally: Tally,
    follow_links: bool = False,
    frame: str = STORED,
) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR of an image; None if it is unusable, with the reason added to the tally.

    Args:
        folder: the image folder, resolved.
        follow_links: whether symbolic links may lead out of the folder.
        frame: the frame of the annotations: `STORED` for the stored pixels, regardless of the EXIF
            orientation, as in COCO; `TURNED` for the picture as viewers show it.
    """
    path = find_image(image, folder, tally, follow_links)
    if path is None:
        return None
    place = _place(image)
    try:
        data = path.read_bytes()
    except OSError as error:
        tally.add(Reason.IMAGE_UNREADABLE, f"{place}: {error.strerror}")
        return None
    size = image_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        tally.add(Reason.IMAGE_TOO_LARGE, f"{place}: {size[0]} x {size[1]} pixels")
        return None
    orientation = exif_orientation(data)
    wanted = (image.width, image.height)
    if frame == TURNED and orientation >= 5 and size is not None:
        size = size[::-1]
    if size is None or size == wanted:  # no need to decode an image of another size
        try:
            pixels = decode_bgr(data, place, apply_orientation=frame == TURNED)
        except InputError as error:
            tally.add(Reason.IMAGE_UNREADABLE, str(error))
            return None
        size = (pixels.shape[1], pixels.shape[0])
    if size != wanted:
        other = STORED if frame == TURNED else TURNED
        hint = (
            f"; data.annotation_frame={other} fits"
            if orientation >= 5 and size[::-1] == wanted
            else ""
        )
        tally.add(
            Reason.IMAGE_SIZE,
            f"{place}: {size[0]} x {size[1]}, annotated as {image.width} x {image.height}{hint}",
        )
        return None
    if orientation != 1:
        tally.add(Reason.IMAGE_TURNED, f"{place}: orientation {orientation}")
    return pixels


def find_image(
    image: AnnotatedImage, folder: Path, tally: Tally, follow_links: bool = False
) -> Path | None:
    """The file of an image, without opening it; None if it is unusable, with the reason added to
    the tally.
    """
    place = _place(image)
    path = image_path(folder, image.file_name, follow_links)
    if path is None:
        tally.add(Reason.IMAGE_OUTSIDE, place)
        return None
    try:
        if not path.is_file():
            tally.add(Reason.IMAGE_MISSING, place)
            return None
        length = path.stat().st_size
    except OSError as error:
        tally.add(Reason.IMAGE_UNREADABLE, f"{place}: {error.strerror}")
        return None
    if length > _LARGEST_FILE:
        tally.add(Reason.IMAGE_TOO_LARGE, f"{place}: {length} bytes")
        return None
    if not length:
        tally.add(Reason.IMAGE_EMPTY, place)
        return None
    return path


def _place(image: AnnotatedImage) -> str:
    return f"image {image.id} {image.file_name!r}"


def none_usable(folder: Path, count: int, tally: Tally) -> InputError:
    """The error for a data set without a single usable image."""
    return InputError(f"{folder}: none of {count} images could be used: {tally}")


def image_path(folder: Path, file_name: str, follow_links: bool = False) -> Path | None:
    """Path of an image; None if its name leads out of the folder: absolute, by "..", or through a
    symbolic link.

    Args:
        folder: resolved.
    """
    name = PurePosixPath(file_name)
    if name.is_absolute() or ".." in name.parts:
        return None
    path = folder / name
    links = (folder.joinpath(*name.parts[: depth + 1]) for depth in range(len(name.parts)))
    if follow_links or not any(
        os.path.islink(link) for link in links
    ):  # resolving every name would take longer than reading the files
        return path
    try:
        return path if path.resolve().is_relative_to(folder) else None
    except (OSError, RuntimeError):  # circular links
        return path


HEADER = 1 << 16
"""Bytes at the start of an image file that nearly always include its size."""


def picture_size(path: Path, place: str, tally: Tally, frame: str) -> tuple[int, int] | None:
    """(width, height) of the picture in an image file, in the given frame, from its header if
    possible; None if the file is unusable, which is counted with the example `place`.
    """
    try:
        if not path.is_file():
            tally.add(Reason.IMAGE_MISSING, place)
            return None
        with open(path, "rb") as file:
            data = file.read(HEADER)
            size = image_size(data)
            if size is None:  # long metadata may precede the size
                if path.stat().st_size > _LARGEST_FILE:
                    tally.add(Reason.IMAGE_TOO_LARGE, f"{place}: {path.stat().st_size} bytes")
                    return None
                data += file.read()
                size = image_size(data)
    except OSError as error:
        tally.add(Reason.IMAGE_UNREADABLE, f"{place}: {error.strerror}")
        return None
    if not data:
        tally.add(Reason.IMAGE_EMPTY, place)
        return None
    if size is None:
        try:
            height, width = decode_bgr(data, place, apply_orientation=frame == TURNED).shape[:2]
        except InputError as error:
            tally.add(Reason.IMAGE_UNREADABLE, str(error))
            return None
        return width, height
    width, height = size
    return (height, width) if frame == TURNED and exif_orientation(data) >= 5 else size
