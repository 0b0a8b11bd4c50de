"""Frames of videos, cameras and streams. Damaged frames are skipped and noted; a stream that breaks
off is opened again.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.images import silent_opencv
from personlab_keras.io.media import is_stream

RECONNECTS = 10
"""Default number of attempts to open a stream that broke off."""

_MOST_DAMAGED = 1000
"""Number of failed reads in a row after which a video has ended, whatever its header announces."""
_WAITS = (0.2, 1.0, 2.0, 5.0)
"""Seconds before the first attempts to reconnect; the last holds for all others."""


class Capture:
    """An open video, camera or stream.

    Attributes:
        announced: number of frames according to the file; 0 if unknown.
        rate: frames per second as reported; 0 if unknown.
        damaged: numbers of the frames that could not be decoded, with readable ones after them.
        reconnected: how often a stream was opened again.

    Args:
        source: a file, the number of a camera, or the address of a stream.
        reconnects: number of attempts in a row to open a stream that broke off.

    Raises:
        InputError: the source cannot be opened.
    """

    def __init__(self, source: str, reconnects: int = RECONNECTS) -> None:
        if reconnects < 0:
            raise InputError(f"--reconnects must be at least 0. Received: {reconnects}")
        self._source, self._reconnects = source, reconnects
        self._capture = _open(source)
        self._stopped = threading.Event()
        # An unknown number is reported as a negative one.
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.is_live = is_stream(source) and not self.announced
        self.damaged: list[int] = []
        self.reconnected = 0

    def frames(self) -> Generator[tuple[int, np.ndarray, float], None, None]:
        """Yields the number of each frame, its pixels (H, W, 3) uint8 RGB and its time in seconds:
        from the start of a file; of a stream, since its first frame arrived.
        """
        number = failed = 0
        began: float | None = None
        while not self._stopped.is_set():
            is_read, frame = self._capture.read()
            if not is_read:
                if self.is_live:
                    if not self._reconnect():
                        return
                    continue
                # A read fails at the end as well as at a damaged frame. So it is tried again as
                # often as there may be frames left.
                failed += 1
                if failed >= min(self.announced - number, _MOST_DAMAGED):
                    return
                continue
            self.damaged.extend(range(number, number + failed))
            number, failed = number + failed, 0
            if self.is_live:
                now = time.monotonic()
                began = now if began is None else began
                at = now - began
            else:
                # OpenCV reports the time of the frame just read.
                at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield number, np.ascontiguousarray(frame[..., ::-1]), at
            number += 1

    def stop(self) -> None:
        """Ends `frames`, also while it waits to reconnect. May be called from another thread."""
        self._stopped.set()

    def close(self) -> None:
        """Closes the source; `frames` must have ended."""
        self._capture.release()

    def _reconnect(self) -> bool:
        self._capture.release()
        for attempt in range(self._reconnects):
            if self._stopped.wait(_WAITS[min(attempt, len(_WAITS) - 1)]):
                return False
            try:
                self._capture = _open(self._source)
            except InputError:
                continue
            self.reconnected += 1
            return True
        return False


def result_path(source: str) -> Path:
    """The path by which the results of a video are named: that of a file; "camera0" for camera 0;
    host and path of a stream.

    >>> result_path("0").stem, result_path("rtsp://me:secret@gate.local:554/main/1?x=2").stem
    ('camera0', 'gate.local_main_1')
    """
    if source.isdecimal():
        return Path(f"camera{source}")
    if is_stream(source):
        parts = urlsplit(source)
        name = re.sub(r"[^\w.-]+", "_", f"{parts.hostname or ''}{parts.path}").strip("_.")
        return Path(f"{name}.stream")
    return Path(source)


def _open(source: str) -> cv2.VideoCapture:
    is_file = not source.isdecimal() and not is_stream(source)
    if is_file and not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    # FFmpeg's messages are silenced; errors are reported below in one line.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with silent_opencv():
        # FFmpeg only: another of OpenCV's readers takes %d in a name for a sequence of images.
        capture = (
            cv2.VideoCapture(int(source))
            if source.isdecimal()
            else cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
        )
    if not capture.isOpened():
        if source.isdecimal():
            rule = "must be a camera of this machine"
        elif is_file:
            rule = "must be a video that OpenCV can read"
        else:
            rule = "cannot be opened as a stream"
        raise InputError(f"{source}: {rule}")
    return capture
