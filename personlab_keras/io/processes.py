"""How processes start: TensorFlow without its chatter, workers deaf to Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow with standard error turned away meanwhile. For entry points: the command
    line and its workers.

    No log level silences what TensorFlow prints before it has read any.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with standard_error_away():
        import tensorflow

        # Looking for devices has a good deal to say as well.
        tensorflow.config.list_physical_devices()


@contextlib.contextmanager
def standard_error_away() -> Iterator[None]:
    """Within, nothing that this process writes to standard error is seen, libraries in C
    included.
    """
    kept, away = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(away, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(away)


@contextlib.contextmanager
def workers_ignore_interrupts() -> Iterator[None]:
    """Processes started within are deaf to Ctrl-C, which a terminal sends to all of them: the
    parent alone answers it and ends them.

    It is blocked rather than ignored: one that comes meanwhile is answered afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
