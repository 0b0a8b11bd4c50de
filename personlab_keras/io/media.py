"""What the sources of a prediction name: images, videos, cameras and streams."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from personlab_keras.errors import InputError
from personlab_keras.io.images import (
    EXTENSIONS,
    UNREAD_EXTENSIONS,
    VIDEO_EXTENSIONS,
    describe_unread,
    found_in,
    is_odd,
)

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt")
"""Schemes of addresses that are read as streams."""


@dataclass(frozen=True)
class Media:
    """What sources name, each once, in the order of the sources.

    Attributes:
        images: image files.
        videos: video files, numbers of cameras and addresses of streams.
        unread: files in folders and patterns that look like images or videos and are not read.
    """

    images: tuple[Path, ...]
    videos: tuple[str, ...]
    unread: tuple[Path, ...]


def is_video(source: str | Path) -> bool:
    """Whether a source is a video by its extension, the number of a camera, or a stream.

    >>> is_video("clip.MP4"), is_video("0"), is_video("rtsp://camera/1"), is_video("photo.jpg")
    (True, True, True, False)
    """
    text = str(source)
    return text.isdecimal() or is_stream(text) or Path(text).suffix.lower() in VIDEO_EXTENSIONS


def is_stream(source: str | Path) -> bool:
    """Whether a source is the address of a stream.

    >>> is_stream("rtsp://camera.local/1"), is_stream("gs://bucket/x.mp4"), is_stream("clip.mp4")
    (True, False, False)
    """
    scheme, separator, _ = str(source).partition("://")
    return bool(separator) and scheme.lower() in STREAM_SCHEMES


def list_media(sources: str | Path | Iterable[str | Path]) -> Media:
    """Lists what sources name.

    Args:
        sources: files; folders (the images and videos directly in them, sorted by name; subfolders
            are not searched); glob patterns, where `**` matches subfolders; numbers of cameras;
            addresses of streams. A file named explicitly is an image unless its extension is that
            of a video.

    Raises:
        InputError: a source does not exist, or is a folder or pattern without images and videos.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not given:
        raise InputError("expected images, videos, folders, patterns or cameras. Received: none")
    images: dict[str, Path] = {}
    videos: dict[str, str] = {}
    unread: dict[Path, None] = {}
    for source in given:
        # A name with brackets is a pattern only if there is no file of that name.
        path = Path(source)
        is_one = is_video(source) and not glob.has_magic(str(source)) and not path.is_dir()
        if is_one or path.is_file():
            found = [path]
        else:
            there = found_in(source)
            files = [file for file in there if file.is_file()]
            found = [file for file in files if file.suffix.lower() in EXTENSIONS | VIDEO_EXTENSIONS]
            others = [
                file
                for file in there
                if (is_odd(file) and file.suffix.lower() in EXTENSIONS | VIDEO_EXTENSIONS)
                or (file not in found and file.suffix.lower() in UNREAD_EXTENSIONS)
            ]
            unread.update(dict.fromkeys(others))
            if not found:
                holder = "the folder must hold" if path.is_dir() else "the pattern must match"
                received = describe_unread(others) or ("none" if path.is_dir() else "no match")
                raise InputError(f"{source}: {holder} images or videos. Received: {received}")
        for file in found:
            if not is_video(source if is_one else file):
                images.setdefault(os.path.abspath(file), file)
            elif is_one and not path.is_file():  # a camera, a stream, or a missing file
                videos.setdefault(str(source), str(source))
            else:
                videos.setdefault(os.path.abspath(file), str(file))
    return Media(tuple(images.values()), tuple(videos.values()), tuple(unread))
