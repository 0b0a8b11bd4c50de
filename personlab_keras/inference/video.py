"""Videos and cameras: people frame by frame, in constant memory, while the network is already busy
with the next frame.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from personlab_keras.decoder import decode
from personlab_keras.drawing import draw
from personlab_keras.errors import InputError
from personlab_keras.inference.predict import Predictor
from personlab_keras.inference.predict_files import output_names

VIDEO_EXTENSIONS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
_AHEAD = 4
"""Frames that each stage may be ahead of the next."""
_CAMERA_RATE = 25.0
"""Frames per second of the overlay of a camera that does not tell its own rate."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class StreamSummary:
    """What became of a video.

    Attributes:
        frames: predicted.
        announced: frames that the file says it has, 0 where it does not say.
        people: found, over all frames.
        seconds: that it took.
        interrupted: whether Ctrl-C ended it; what was done until then is kept.
    """

    frames: int
    announced: int
    people: int
    seconds: float
    interrupted: bool


def is_video(source: str) -> bool:
    """Whether a source is a video by the ending of its name, or the number of a camera.

    >>> is_video("clip.MP4"), is_video("0"), is_video("photo.jpg")
    (True, True, False)
    """
    return source.isdecimal() or Path(source).suffix.lower() in VIDEO_EXTENSIONS


def video_names(sources: Sequence[str]) -> list[str]:
    """A name for the results of each video, as `predict.output_names`; of camera 0 "camera0".

    >>> video_names(["a/clip.mp4", "b/clip.mp4", "0"])
    ['a/clip.mp4', 'b/clip.mp4', 'camera0']
    """
    return output_names(
        [Path(f"camera{source}" if source.isdecimal() else source) for source in sources]
    )


def predict_video(
    predictor: Predictor,
    source: str,
    stem: str | Path,
    overlay: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> StreamSummary:
    """Writes `stem.jsonl` and `stem.overlay.mp4` for a video or a camera.

    A line of the JSON for each frame: "frame" from 0, "time" in seconds from the beginning,
    "people" as in the JSON of images, best first. Lines are written as frames are done. The overlay
    appears under its name when it is finished, which Ctrl-C does as well. Reading, network, and
    decoding with drawing each have a thread.

    Args:
        source: a file, or the number of a camera.
        stem: of the results, their path without ending; its folder is made if missing, results of
            an earlier run are replaced.
        overlay: whether to draw the people found over the frames.
        progress: called with (frames done, frames announced).

    Raises:
        InputError: the source cannot be read as a video or has no frame; results cannot be written.
    """
    stem = Path(stem)
    capture = _open(source)
    announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    rate = capture.get(cv2.CAP_PROP_FPS)
    lines = _folder(stem.parent) / f"{stem.name}.jsonl"
    film = (
        _Film(lines.with_name(f"{stem.name}.overlay.mp4"), rate if rate > 0 else _CAMERA_RATE)
        if overlay
        else None
    )
    frames = people_found = 0
    interrupted = False
    began = time.perf_counter()
    seen = ahead(
        (
            (frame, moment, predictor.framed_maps(frame))
            for frame, moment in ahead(_frames(capture), _AHEAD)
        ),
        _AHEAD,
    )
    try:
        with open(lines, "w", encoding="utf-8") as file:
            for frame, moment, passes in seen:
                people = decode(
                    passes, predictor.skeleton, predictor.decode_options, radius=predictor.radius
                )
                record = {
                    "frame": frames,
                    "time": round(moment, 4),
                    "people": [person.to_dict() for person in people],
                }
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
                if film is not None:
                    film.add(draw(frame, people, predictor.skeleton))
                frames += 1
                people_found += len(people)
                if progress:
                    progress(frames, announced)
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        raise InputError(f"{lines}: cannot be written: {error.strerror}") from None
    finally:
        seen.close()
        capture.release()
        if film is not None:
            film.finish()
    if not frames and not interrupted:
        lines.unlink()
        raise InputError(f"{source}: must be a video with frames that can be read. Received: none")
    return StreamSummary(frames, announced, people_found, time.perf_counter() - began, interrupted)


def ahead(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """The items in their order, made by a thread of its own, at most `count` ahead of whoever takes
    them.

    What is raised there is raised here. Closing ends the thread and closes `items`.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(count)
    unwanted = threading.Event()

    def hand_over(last: bool, item: Any) -> bool:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                made.put((last, item), timeout=0.1)
                return True
        return False

    def make() -> None:
        ending: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    if not hand_over(False, item):
                        break
        except BaseException as error:  # whatever it is, it is for the one who waits
            ending = error
        hand_over(True, ending)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            last, item = made.get()
            if last and item is not None:
                raise item
            if last:
                return
            yield item
    finally:
        unwanted.set()
        thread.join()


def _open(source: str) -> cv2.VideoCapture:
    if not source.isdecimal() and not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    # What is wrong is said below, in one line.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # FFmpeg alone: another of OpenCV's readers takes %d in a name for a series of images.
        capture = (
            cv2.VideoCapture(int(source))
            if source.isdecimal()
            else cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
        )
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        what = "a camera of this machine" if source.isdecimal() else "a video that OpenCV can read"
        raise InputError(f"{source}: must be {what}")
    return capture


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: must be a folder for the results: {error.strerror}") from None
    return out


def _frames(capture: cv2.VideoCapture) -> Generator[tuple[np.ndarray, float], None, None]:
    """Each frame, (H, W, 3) uint8 RGB, and its time in seconds."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield (
            np.ascontiguousarray(frame[..., ::-1]),
            capture.get(cv2.CAP_PROP_POS_MSEC) / 1000,
        )  # of the frame just read


class _Film:
    """A video that appears under its name when it is finished."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._beside = path.with_name(
            f".{path.stem}.{os.getpid()}.part{path.suffix}"
        )  # OpenCV goes by the ending
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        # The codec wants even sides.
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            self._writer = cv2.VideoWriter(
                str(self._beside), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, (width, height)
            )
            if not self._writer.isOpened():
                raise InputError(f"{self._path}: cannot be written")
        self._writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.release()
            if self._beside.is_file():
                os.replace(self._beside, self._path)
