"""Results as they come, so that an interrupted run loses none."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from personlab_keras.errors import InputError
from personlab_keras.io.files import lock_file, make_folder, remove_unfinished

JOURNAL_FILE = ".results.jsonl"

Key = int | str


class Journal:
    """A file with a line for each finished part of a task; open it with `Journal.open`, as a
    context. What is in it stays on the disk until it is asked for.

    Attributes:
        replaced: whether there were results of another task in the folder.
        lost: why later entries are in memory only, in one line; None while they are on the disk.
    """

    def __init__(
        self, file: IO[bytes], path: Path, places: dict[Key, tuple[int, int]], replaced: bool
    ) -> None:
        self.replaced = replaced
        self.lost: str | None = None
        self._file, self._path, self._places = file, path, places
        self._unwritten: dict[Key, dict[str, Any]] = {}

    @classmethod
    def open(cls, folder: Path, task: str | None) -> Journal:
        """The journal in a folder, which is made if missing.

        Args:
            task: names what is done, and by what. A journal of the same task is continued, any
                other is replaced; None continues none. What an interrupted task left half written
                in the folder is removed.

        Raises:
            InputError: the folder cannot be made, or another process has the journal open.
        """
        path = make_folder(folder) / JOURNAL_FILE
        try:
            file = open(path, "a+b")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            with contextlib.suppress(ImportError):  # Windows has no such lock
                lock_file(file, folder)
        except InputError:
            file.close()
            raise
        file.seek(0)
        found = file.read(1)
        file.seek(0)
        places, length = _sound_lines(file, task)
        file.truncate(length)
        if found:
            remove_unfinished(folder)
        journal = cls(file, path, places, replaced=bool(found and not length))
        if not length:
            journal._write({"task": task})
        return journal

    def add(self, key: Key, entry: dict[str, Any]) -> None:
        """Adds a part; the line is with the system when this returns, unless `lost`."""
        place = self._write({"key": key, **entry})
        if place is None:
            self._unwritten[key] = entry
        else:
            self._places[key] = place

    def __contains__(self, key: Key) -> bool:
        return key in self._places or key in self._unwritten

    def __len__(self) -> int:
        """Number of parts."""
        return len(self._places) + len(self._unwritten)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """What was added for a part, in this process or an earlier one."""
        if key in self._unwritten:
            return self._unwritten[key]
        start, length = self._places[key]
        self._file.seek(start)
        entry: dict[str, Any] = json.loads(self._file.read(length))
        del entry["key"]
        return entry

    def _write(self, value: dict[str, Any]) -> tuple[int, int] | None:
        """Start and length of the line in the file."""
        if self.lost is not None:
            return None
        line = json.dumps(value).encode() + b"\n"
        try:
            # Without a buffer, which would try again to write when the file is closed.
            if os.write(self._file.fileno(), line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.lost = f"{self._path}: cannot be written: {error.strerror or error}"
            return None
        return os.fstat(self._file.fileno()).st_size - len(line), len(line)

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
        if not len(self):
            self.finish()
        self._file.close()


def task(plan: Any, files: Iterable[str | Path]) -> str:
    """A name of a task: SHA-256 of plain values, and of the sizes and times of its files."""
    states: list[list[Any]] = []
    for file in files:
        try:
            status = os.stat(file)
            states.append([str(file), status.st_size, status.st_mtime_ns])
        except (OSError, ValueError):
            states.append([str(file), -1, -1])
    return hashlib.sha256(json.dumps([plan, states]).encode()).hexdigest()


def fingerprint(path: str | Path) -> str:
    """SHA-256 over the names and bytes of a file, or of all files of a folder."""
    root = Path(path)
    files = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            inner = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(root) if file != root else ''} {inner}\n".encode())
    return digest.hexdigest()


def _sound_lines(file: IO[bytes], task: str | None) -> tuple[dict[Key, tuple[int, int]], int]:
    """Start and length of the line of each part of a task, and the length of the file up to the
    last complete line of them.
    """
    places: dict[Key, tuple[int, int]] = {}
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
                places[value["key"]] = length, len(line)
        except (ValueError, TypeError, KeyError):
            break
        length += len(line)
    return places, length
