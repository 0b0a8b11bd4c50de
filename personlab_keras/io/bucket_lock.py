"""One writer per folder of a bucket, by a lock file that its holder renews.

A bucket does not know when a process has died. So the holder writes the lock anew every
`RENEWAL_S`, and who finds a lock watches it for `PATIENCE_S`: renewed, its holder lives; unchanged,
it is taken over. This keeps apart two runs that were started by mistake, and lets a killed run be
resumed. It cannot stop a process that was frozen for longer than that and wakes up again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath

RENEWAL_S = 10.0
PATIENCE_S = 35.0
"""Three renewals and a bit, of which a slow network may delay some."""
_LOOKS = 20
"""At a lock, within the patience."""


@contextlib.contextmanager
def lock_folder(folder: BucketPath, lock: BucketPath) -> Iterator[None]:
    """Context manager that holds the lock of a folder.

    Args:
        lock: its file.

    Raises:
        InputError: another process is writing to the folder, or has taken the lock over; the bucket
            cannot be written.
    """
    holder = _Holder(folder, lock)
    holder.take()
    try:
        yield
    finally:
        holder.release()
    if holder.lost.is_set():
        raise InputError(_taken_over(folder))


def _taken_over(folder: BucketPath) -> str:
    return (
        f"{folder}: another process has taken over, because this one did not reach the bucket for "
        f"{PATIENCE_S:g} s"
    )


class _Holder:
    def __init__(self, folder: BucketPath, lock: BucketPath) -> None:
        self._folder, self._lock, self._renewals = folder, lock, 0
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        self._id = uuid.uuid4().hex  # numbers of processes repeat, in containers above all
        self.lost, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew_often, daemon=True)

    def take(self) -> None:
        content = self._content()
        if not self._lock.create(content):
            self._watch()
            self._lock.write_bytes(content)
            if self._lock.read_bytes() != content:  # somebody else has watched it, too
                raise InputError(f"{self._folder}: another process is writing there")
        self._thread.start()

    def release(self) -> None:
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(InputError, OSError):  # a lock that stays is taken over
            if self._is_mine():
                self._lock.unlink()

    def _watch(self) -> None:
        """Returns once the lock belongs to nobody."""
        first = self._read()
        for _ in range(_LOOKS):
            if first is None:
                return
            time.sleep(PATIENCE_S / _LOOKS)
            now = self._read()
            if now is not None and now != first:
                raise InputError(
                    f"{self._folder}: another process is writing there: {_holder_of(now)}"
                )
            first = now

    def _read(self) -> bytes | None:
        try:
            return self._lock.read_bytes()
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        self._renewals += 1
        values = {"holder": self._name, "id": self._id, "renewals": self._renewals}
        return json.dumps(values).encode()

    def _is_mine(self) -> bool:
        content = self._read()
        return content is not None and self._id.encode() in content

    def _renew_often(self) -> None:
        while not self._ending.wait(RENEWAL_S):
            # A network that is away for a while is no reason to end a run.
            with contextlib.suppress(InputError, OSError):
                if not self._is_mine():
                    self.lost.set()
                    logging.getLogger(__name__).warning("%s", _taken_over(self._folder))
                    return
                self._lock.write_bytes(self._content())


def _holder_of(content: bytes) -> str:
    try:
        return str(json.loads(content)["holder"])
    except (ValueError, KeyError, TypeError):
        return "not named"
