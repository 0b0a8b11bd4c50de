"""Predicts videos, cameras and streams frame by frame in constant memory. Reading, the network and
decoding run in parallel, each a few frames ahead of the next.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np

from personlab_keras.decoder import decode
from personlab_keras.errors import InputError
from personlab_keras.inference.capture import RECONNECTS, Capture, result_path
from personlab_keras.inference.journal_people import from_values, to_values
from personlab_keras.inference.predict import Predictor
from personlab_keras.inference.predict_files import output_names
from personlab_keras.io.files import write_atomically
from personlab_keras.io.journal import Journal
from personlab_keras.method.person import Person
from personlab_keras.results import Result
from personlab_keras.results.writers import Found, Writer, mask_png
from personlab_keras.tracking import Tracker

_AHEAD = 4
"""Number of frames that each stage may be ahead of the next."""
_CAMERA_RATE = 25.0
"""Frames per second of the overlay if the camera does not report its rate."""
_LARGEST_MPEG4_NUMBER = 65535

Item = TypeVar("Item")


@dataclass(frozen=True)
class VideoSummary:
    """Counts of a prediction over a video.

    Attributes:
        frames: number of frames predicted.
        announced: number of frames according to the file; 0 if unknown.
        people: number of people found, over all frames.
        seconds: elapsed time.
        interrupted: whether Ctrl-C stopped it; results up to then are kept.
        damaged: numbers of the frames that could not be decoded, with readable ones after them.
        reconnected: how often a stream that broke off was opened again.
        overlay_error: why the overlay is missing or incomplete; None if it is complete or was not
            requested.
        kept: how many of the frames an interrupted run had predicted.
    """

    frames: int
    announced: int
    people: int
    seconds: float
    interrupted: bool
    damaged: tuple[int, ...] = ()
    reconnected: int = 0
    overlay_error: str | None = None
    kept: int = 0


def video_names(sources: Sequence[str]) -> list[str]:
    """Chooses a name for the results of each video, as `predict_files.output_names` does; cameras
    and streams are named by `capture.result_path`.

    >>> video_names(["a/clip.mp4", "b/clip.mp4", "0"])
    ['a/clip.mp4', 'b/clip.mp4', 'camera0']
    """
    return output_names([result_path(source) for source in sources])


def predict_video(
    predictor: Predictor,
    source: str,
    stem: str | Path,
    overlay: bool = True,
    progress: Callable[[int, int], None] | None = None,
    reconnects: int = RECONNECTS,
    masks: bool = False,
    writers: Sequence[Writer] = (),
    track: bool = False,
    smooth: bool = False,
    journal: Journal | None = None,
) -> VideoSummary:
    """Writes `stem.jsonl` and `stem.overlay.mp4` for a video, a camera or a stream.

    The JSON has a line per frame, written as soon as the frame is decoded: "frame" counts from 0,
    "time" is in seconds from the start, the rest is as in the JSON of images. Damaged frames are
    skipped and their numbers left out. The overlay gets its name when it is complete; Ctrl-C
    completes it, too. An overlay that cannot be written does not stop the JSON. Reading, the
    network, and decoding with drawing run in a thread each.

    With a journal, frames that an interrupted run has predicted do not go through the network
    again. All that follows is done anew: a video file cannot be continued, and a tracker has to see
    every frame.

    Args:
        predictor: the predictor to use.
        source: a file, the number of a camera, or the address of a stream.
        stem: path of the results without extension; its folder is created if missing, results of
            an earlier run are replaced.
        overlay: whether to write the overlay.
        progress: called with (frames predicted, frames announced).
        reconnects: number of attempts in a row to open a stream that broke off.
        masks: whether to write the instance masks of each frame, `stem.masks/000000.png`.
        writers: of other formats; the caller finishes them.
        track: whether people get ids (`tracking.Tracker`).
        smooth: whether the keypoints of tracked people are smoothed.
        journal: of this task; frames in it are not predicted again, and all others are added to it.
            It is ignored for cameras and streams, which cannot be read twice.

    Raises:
        InputError: the source is not a readable video or has no frames; a result would overwrite
            it; the JSON cannot be written.
    """
    stem = Path(stem)
    capture = Capture(source, reconnects)
    name = result_path(source).name
    lines = _folder(stem.parent) / f"{stem.name}.jsonl"
    overlay_path = lines.with_name(f"{stem.name}.overlay.mp4")
    if os.path.realpath(overlay_path) == os.path.realpath(source):
        raise InputError(
            f"{source}: must not be both a video to predict and a result. Choose another folder for the results"
        )
    rate = overlay_rate(capture.rate)
    overlay_file = OverlayFile(overlay_path, rate) if overlay else None
    tracker = Tracker(rate, predictor.skeleton, smooth) if track else None
    if not os.path.isfile(source):
        journal = None

    def is_kept(number: int) -> bool:
        return journal is not None and _key(source, number) in journal

    frames = ahead(capture.frames(), _AHEAD)
    predicted = ahead(
        (
            (number, frame, at, None if is_kept(number) else predictor.framed_maps(frame))
            for number, frame, at in frames
        ),
        _AHEAD,
    )
    done = people_found = kept = 0
    interrupted = False
    began = time.perf_counter()
    try:
        with _lines(lines, is_kept(0)) as file:
            for number, frame, at, maps in predicted:
                people: Sequence[Person]
                if maps is None and journal is not None:
                    people = from_values(journal[_key(source, number)]["people"])
                    kept += 1
                else:
                    assert maps is not None
                    people = decode(
                        maps, predictor.skeleton, predictor.decode_options, radius=predictor.radius
                    )
                found = people
                if tracker is not None:
                    people = tracker.update(people, at)
                result = Result(people, frame, predictor.skeleton, name, number, at)
                file.write(json.dumps(result.to_dict(), allow_nan=False).encode() + b"\n")
                file.flush()
                if overlay_file is not None:
                    overlay_file.add(result.draw())
                numbered = f"{number:06d}"
                if masks and maps is not None:
                    path = stem.with_name(f"{stem.name}.masks") / f"{numbered}.png"
                    write_atomically(path, mask_png(result))
                for writer in writers:
                    place = f"{stem.name}/{numbered}"
                    writer.add(Found(result, place, f"{place}.jpg", None, kept=maps is None))
                if journal is not None and maps is not None:
                    journal.add(_key(source, number), {"people": to_values(found)})
                done += 1
                people_found += len(result)
                if progress:
                    progress(done, capture.announced)
            file.truncate()
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        raise InputError(f"{lines}: cannot be written: {error.strerror}") from None
    finally:
        capture.stop()
        predicted.close()
        capture.close()
        if overlay_file is not None:
            overlay_file.finish()
    if not done and not interrupted:
        lines.unlink()
        raise InputError(f"{source}: must be a video with readable frames. Received: none")
    seconds = time.perf_counter() - began
    overlay_error = None if overlay_file is None else overlay_file.error
    return VideoSummary(
        done,
        capture.announced,
        people_found,
        seconds,
        interrupted,
        tuple(capture.damaged),
        capture.reconnected,
        overlay_error,
        kept,
    )


def _key(source: str, number: int) -> str:
    """Of a frame in the journal of a run with several videos."""
    return f"{os.path.abspath(source)} {number}"


def _lines(path: Path, resuming: bool) -> IO[bytes]:
    """The file of the lines. That of an interrupted run is written over: it never holds fewer
    frames than before.
    """
    return open(path, "r+b" if resuming and path.is_file() else "wb")


def overlay_rate(rate: float) -> float:
    """The frame rate of an overlay: MPEG-4 stores rates as fractions of 16-bit integers, so a rate
    gets as many decimals as fit. Unknown rates, as of some cameras, become 25.

    >>> overlay_rate(30.0), overlay_rate(23.976), overlay_rate(239.814), overlay_rate(0.0)
    (30.0, 23.976, 239.81, 25.0)
    """
    if not 0 < rate < math.inf:
        return _CAMERA_RATE
    digits = next((n for n in (3, 2, 1) if round(rate * 10**n) <= _LARGEST_MPEG4_NUMBER), 0)
    return min(max(round(rate, digits), 0.001), float(_LARGEST_MPEG4_NUMBER))


def ahead(items: Generator[Item, None, None], count: int) -> Generator[Item, None, None]:
    """Runs a generator in a thread of its own, at most `count` items ahead of the consumer.

    Exceptions of the generator are raised here. Closing ends the thread and closes `items`.

    >>> list(ahead((i * i for i in range(4)), 2))
    [0, 1, 4, 9]
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(count)
    closed = threading.Event()

    def hand_over(last: bool, item: Any) -> bool:
        while not closed.is_set():
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
        except BaseException as error:  # raised again in the consumer
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
        closed.set()
        thread.join()


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: must be a folder for the results: {error.strerror}") from None
    return out


class OverlayFile:
    """A video file that gets its name when it is complete. An error is kept in `error` and ends the
    file, not the caller.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.error: str | None = None
        self._path, self._rate = path, rate
        # OpenCV chooses the container by the extension.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def add(self, frame: np.ndarray) -> None:
        """Writes a frame (H, W, 3) uint8 RGB."""
        if self.error is not None:
            return
        # The codec takes even sides only.
        height, width = (side - side % 2 for side in frame.shape[:2])
        try:
            if self._writer is None:
                self._writer, self._size = self._open(width, height), (width, height)
            picture = np.ascontiguousarray(frame[:height, :width, ::-1])
            if self._size != (width, height):  # as after a stream was opened again
                picture = cv2.resize(picture, self._size)
            self._writer.write(picture)
            self._frames += 1
        except (cv2.error, OSError) as error:
            self._fail(error)

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        writer = cv2.VideoWriter(
            str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, (width, height)
        )
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write {width} x {height} pixels at {self._rate:g} Hz")
        return writer

    def _fail(self, error: Exception) -> None:
        self.error = f"{self._path}: the overlay cannot be written: {error}"

    def finish(self) -> None:
        """Completes the file and gives it its name."""
        try:
            if self._writer is not None:
                self._writer.release()
                # OpenCV does not report a full disk; a file that ends early has no index.
                if self.error is None and not _has_frames(self._temporary):
                    raise OSError("the file is incomplete")
            if self.error is None and self._frames:
                os.replace(self._temporary, self._path)
        except (cv2.error, OSError) as error:
            self._fail(error)
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)


def _has_frames(path: Path) -> bool:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return bool(capture.isOpened() and capture.read()[0])
    finally:
        capture.release()
