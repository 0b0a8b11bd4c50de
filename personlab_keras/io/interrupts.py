"""Ctrl-C on the command line: one line, nothing half done left behind, at once.

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
_interrupted = False


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
    """Context manager in which the first Ctrl-C raises KeyboardInterrupt, because the work inside
    can be resumed, or other processes have to be ended.
    """
    global _raising
    _raising += 1
    try:
        yield
    finally:
        _raising -= 1


def interrupted() -> bool:
    """Whether a Ctrl-C has been raised: a library may have made another error of it."""
    return _interrupted


@contextlib.contextmanager
def end_on_interrupt(name: str) -> Iterator[None]:
    """Context manager that ends the process with status 130 and a line on standard error when
    Ctrl-C comes. It does nothing where Ctrl-C already means something else.

    Args:
        name: of the command, at the beginning of the line.
    """
    global _interrupted
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    errors = os.dup(2)  # 2 itself may be silenced while TensorFlow is imported

    def handle(number: int, frame: FrameType | None) -> None:
        global _interrupted
        if _raising and not _interrupted:
            _interrupted = True
            raise KeyboardInterrupt
        for path in list(_unfinished):
            _remove(path)
        shown = "\r\x1b[K\x1b[?25h" if os.isatty(errors) else ""  # a bar hides the cursor
        os.write(errors, f"{shown}{name}: interrupted\n".encode())
        os._exit(130)

    _interrupted = False
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(errors)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
