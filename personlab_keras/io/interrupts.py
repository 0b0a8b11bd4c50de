"""Ctrl-C and SIGTERM on the command line: one line, nothing half done left behind, at once.

An exception raised in the middle of TensorFlow or of an import gets lost there, or comes out as
another error. So a command ends in the handler of the signal itself, except where somebody is
prepared for a KeyboardInterrupt (`interrupts_raise`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_unfinished: set[Path] = set()
_raising = 0
_signal = 0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Context manager for a file or folder that is being written under another name: it is removed
    at the end, however that comes.
    """
    _unfinished.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _unfinished.discard(path)


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Context manager in which the first Ctrl-C or SIGTERM raises KeyboardInterrupt, because the
    work inside can be resumed, or other processes have to be ended.
    """
    global _raising
    _raising += 1
    try:
        yield
    finally:
        _raising -= 1


def interrupted() -> bool:
    """Whether a signal has been raised: a library may have made another error of it."""
    return _signal != 0


def interrupted_status() -> int:
    """The exit status of a command that was interrupted: 143 after SIGTERM, else 130."""
    return 128 + (_signal or signal.SIGINT)


@contextlib.contextmanager
def end_on_interrupt(name: str) -> Iterator[None]:
    """Context manager that ends the process with a line on standard error and status 130 when
    Ctrl-C comes, 143 when SIGTERM does. It leaves alone a signal that already means something else.

    Args:
        name: of the command, at the beginning of the line.
    """
    global _signal
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    free = (signal.default_int_handler, signal.SIG_DFL)
    ours = [number for number in _SIGNALS if before[number] in free]
    errors = os.dup(2)  # 2 itself may be silenced while TensorFlow is imported
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        global _signal
        if os.getpid() != process:  # a fork, which a library ends
            os._exit(128 + number)
        if _raising and not _signal:
            _signal = number
            raise KeyboardInterrupt
        for path in list(_unfinished):
            _remove(path)
        shown = "\r\x1b[K\x1b[?25h" if os.isatty(errors) else ""  # a bar hides the cursor
        os.write(errors, f"{shown}{name}: interrupted\n".encode())
        os._exit(128 + number)

    _signal = 0
    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        os.close(errors)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
