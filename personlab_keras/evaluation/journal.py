"""Results of an evaluation as they come, so that an interrupted one loses nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from personlab_keras.errors import InputError

JOURNAL_FILE = ".results.jsonl"


class Journal:
    """A file of one line per image; open it with `Journal.open`, as a context.

    Attributes:
        entries: image id -> what was added for it, in this process or an earlier one.
        lost: why later entries are in memory only, in one line; None while they are on the disk.
    """

    def __init__(self, file: IO[bytes], path: Path, entries: dict[int, dict[str, Any]]) -> None:
        self.entries = entries
        self.lost: str | None = None
        self._file, self._path = file, path

    @classmethod
    def open(cls, folder: Path, task: str | None) -> Journal:
        """The journal in a folder, which is made if missing.

        Args:
            task: names what is evaluated, and by what. A journal of the same task is continued, any
                other is replaced; None continues none.

        Raises:
            InputError: the folder cannot be made, or another process has the journal open.
        """
        import fcntl  # not on Windows, where everything but training and evaluation works

        path = folder / JOURNAL_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"{folder}: another process evaluates into this folder") from None
        file.seek(0)
        entries, length = _sound_lines(file, task)
        file.truncate(length)
        journal = cls(file, path, entries)
        if not length:
            journal._write({"task": task})
        return journal

    def add(self, image: int, entry: dict[str, Any]) -> None:
        """Adds an image; the line is with the system when this returns, unless `lost`."""
        self._write({"image": image, **entry})
        self.entries[image] = entry

    def _write(self, value: dict[str, Any]) -> None:
        if self.lost is not None:
            return
        line = json.dumps(value).encode() + b"\n"
        try:
            # Without a buffer, which would try again to write when the file is closed.
            if os.write(self._file.fileno(), line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.lost = f"{self._path}: cannot be written: {error.strerror or error}"

    def finish(self) -> None:
        """Removes the file: the results are written elsewhere."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self.entries and self._path.exists():
            os.unlink(self._path)


def _sound_lines(file: IO[bytes], task: str | None) -> tuple[dict[int, dict[str, Any]], int]:
    """The entries of a task, and the length of the file up to the last complete line of them."""
    entries: dict[int, dict[str, Any]] = {}
    length = 0
    for number, line in enumerate(file):
        try:
            if not line.endswith(b"\n"):
                break
            value = json.loads(line)
            if number == 0:
                if task is None or value != {"task": task}:
                    return {}, 0
            else:
                entries[value.pop("image")] = value
        except (ValueError, AttributeError, KeyError):
            break
        length += len(line)
    return entries, length
