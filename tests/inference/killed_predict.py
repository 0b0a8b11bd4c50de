"""Runs `personlab predict` with a stand-in for the network, and ends the process at a given event:
a file that gets its name or reaches the disk, a line of the journal, a call of the network.

    python killed_predict.py OUT EVENTS,... ARGUMENT...

One child process after the other ends at each of the events, by SIGKILL, SIGTERM and SIGINT in
turn; the last one runs to its end. Prints after each: the exit status, the parts in the journal,
and how often the network was called.
"""

import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.cli import main
from personlab_keras.config import PredictConfig
from personlab_keras.inference import predict, video
from personlab_keras.inference.predict import Predictor
from personlab_keras.io.journal import JOURNAL_FILE, Journal
from personlab_keras.method.person import Person, encode_mask
from personlab_keras.results import Result

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
calls = 0
events_left = 0


def guess(pixels: np.ndarray) -> list[Person]:
    """People by the pixels alone, who walk with them."""
    global calls
    calls += 1
    height, width = pixels.shape[:2]
    shift = int(pixels.astype(np.int64).sum()) % 7
    people = []
    for i in range(3):
        x, y = 5 + 30 * i + shift, 4 + 3 * i
        mask = np.zeros((height, width), bool)
        mask[y : y + 30, x : x + 15] = True
        points = (np.array([x, y]) + np.arange(34).reshape(17, 2) * 0.7 + shift / 3).astype("f4")
        scores = np.linspace(0.3, 0.9, 17)
        people.append(Person(points, scores, 0.9 - i / 10 + shift / 100, encode_mask(mask)))
    return people


class StandIn(Predictor):
    def batch(self, images):
        event("network")
        return [Result(guess(image), image, self.skeleton) for image in images]

    def framed_maps(self, image):
        event("network")
        return guess(image)


def event(name: str) -> None:
    global events_left
    events_left -= 1
    if events_left == 0:
        os.kill(os.getpid(), NEXT_SIGNAL)


def counted(function):
    def call(*arguments, **options):
        event(function.__name__)
        result = function(*arguments, **options)
        event(function.__name__)
        return result

    return call


def run(arguments: list[str]) -> int:
    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    Journal.add = counted(Journal.add)
    predict.load = lambda *_: StandIn(model=None, options=PredictConfig(batch_size=3))
    video.decode = lambda maps, *_, **__: maps
    return main(arguments)


if __name__ == "__main__":
    out, events, *rest = sys.argv[1:]
    cv2.setNumThreads(1)  # a process with threads cannot fork
    for number, last in enumerate([*map(int, filter(None, events.split(","))), 0]):
        NEXT_SIGNAL, events_left = SIGNALS[number % 3], last
        child, parent = os.pipe()
        pid = os.fork()
        if pid == 0:
            errors = os.open(f"{out}.errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = run(["predict", *rest, "--out", out])
            os.write(parent, str(calls).encode())
            os._exit(status)
        os.close(parent)
        _, status = os.waitpid(pid, 0)
        seen = os.read(child, 99).decode() or "-"
        journal = Path(out) / JOURNAL_FILE
        parts = journal.read_bytes().count(b"\n") - 1 if journal.is_file() else 0
        print(os.waitstatus_to_exitcode(status), max(0, parts), seen)
