"""Starting processes: importing TensorFlow without its messages, workers that ignore Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow with standard error silenced, for entry points: the command line and its
    workers. No log level silences what TensorFlow prints before it reads the log level.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_standard_error():
        if os.environ.get("KERAS_BACKEND") == "torch":
            import keras  # noqa: F401  after TensorFlow, PyTorch's compiler would end the process

        import tensorflow

        # The first search for devices prints messages, too.
        tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def silent_standard_error() -> Iterator[None]:
    """Discards everything that this process, C libraries included, writes to standard error."""
    kept, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(devnull)


@contextlib.contextmanager
def workers_ignore_interrupts() -> Iterator[None]:
    """Processes started inside this context ignore Ctrl-C, which a terminal sends to all of them;
    the parent alone handles it and stops its workers.

    The signal is blocked rather than ignored, so the parent handles one that arrives meanwhile
    afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
