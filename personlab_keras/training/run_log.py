"""The log of a run: one JSON line per interval and validation, and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import Place, as_place, write_atomically

LOG_FILE = "log.jsonl"

SCORE = "validation/keypoint_AP"
"""The figure by which the best checkpoint is chosen."""

Log = dict[str, float]


class RunLog:
    """Lines of the log: to `log.jsonl`, to TensorBoard, and to whoever watches. In a bucket, where
    nothing can be appended to, `log.jsonl` is written anew for each, and there is no TensorBoard.

    Args:
        folder: of the run.
        step: from which it is resumed; lines after it are dropped.
        report: called with each line.
    """

    def __init__(self, folder: Place, step: int, report: Callable[[Log], None]) -> None:
        self._path = folder / LOG_FILE
        self._report = report
        self.lines = [line for line in read_log(folder) if line["step"] <= step]
        self._write_anew()
        self._board = (
            None
            if isinstance(folder, BucketPath)
            else tf.summary.create_file_writer(str(folder / "tensorboard"))
        )

    def write(self, log: Log) -> None:
        """Appends a line. It holds the step and figures by name."""
        self.lines.append(log)
        if isinstance(self._path, BucketPath):
            self._write_anew()
        else:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(log) + "\n")
        if self._board is not None:
            with self._board.as_default(step=int(log["step"])):
                for name, value in log.items():
                    if name != "step":
                        tf.summary.scalar(name, value)
            self._board.flush()
        self._report(log)

    def show(self, name: str, step: int, images: Sequence[np.ndarray]) -> None:
        """Gives TensorBoard pictures: (H, W, 3) uint8 each, of one size."""
        if len(images) and self._board is not None:
            with self._board.as_default(step=step):
                tf.summary.image(name, np.stack(images), max_outputs=len(images))
            self._board.flush()

    def _write_anew(self) -> None:
        write_atomically(
            self._path, "".join(json.dumps(line) + "\n" for line in self.lines).encode()
        )

    def best(self, name: str) -> float:
        """The largest value of a figure so far; -inf where there is none."""
        return max((line[name] for line in self.lines if name in line), default=float("-inf"))


def read_log(workdir: str | Place) -> list[Log]:
    """The lines of a run's log, in order; an unfinished last line is left out."""
    path = as_place(workdir) / LOG_FILE
    lines = path.read_bytes().decode().split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1]]


def verdict(lines: Sequence[Log]) -> str | None:
    """What the validations of a run say of it, in one line; None without any after a step.

    >>> print(verdict([{"step": 0, SCORE: 0.25}, {"step": 100, SCORE: 0.2}]))  # doctest: +ELLIPSIS
    keypoint AP .250 before training, .200 after it: no validated step is better ...
    """
    scores = {int(line["step"]): line[SCORE] for line in lines if SCORE in line}
    if not scores or max(scores) == 0:
        return None
    last, best = max(scores), max(scores, key=lambda step: (scores[step], -step))

    def figure(step: int) -> str:
        return f"{scores[step]:.3f}".removeprefix("0")

    before = f"{figure(0)} before training, " if 0 in scores else ""
    said = f"keypoint AP {before}{figure(last)} after it"
    if best == 0:
        return (
            f"{said}: no validated step is better than the initial weights, "
            "which `personlab export --best` exports"
        )
    if best != last:
        return f"{said}; best at step {best}, {figure(best)} (`personlab export --best`)"
    return said
