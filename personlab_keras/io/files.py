"""Atomic writes, one writer per folder, and reading of JSON and YAML with errors that name the
file.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from personlab_keras.errors import InputError
from personlab_keras.io.bucket_lock import lock_folder
from personlab_keras.io.buckets import BucketPath, is_bucket
from personlab_keras.io.interrupts import unfinished

_UNFINISHED = ".part"
_OF_A_PROCESS = re.compile(r"\..+\.\d+\.part(\.\w+)?")
"""Names of files that are being written: with the number of the process, and an extension where a
library chooses the format by it.
"""
LOCK_FILE = ".lock"
"""In a folder that one process at a time may write to."""

SMALL = 1 << 26
"""Bytes of the largest JSON file of this project."""
SMALL_YAML = 1 << 20
"""Bytes of the largest YAML file: the parser takes a second for it."""


Place = Path | BucketPath
"""A file or folder on a disk or in a bucket."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")  # one letter alone is a drive of Windows


def as_place(path: str | Place) -> Place:
    """The file or folder that a path or an address names.

    Raises:
        InputError: it is an address of neither gs:// nor s3://.

    >>> as_place("records"), as_place("s3://bucket/records")
    (PosixPath('records'), s3://bucket/records)
    """
    if isinstance(path, BucketPath):
        return path
    if is_bucket(path):
        return BucketPath(path)
    check_local(path)
    return Path(path)


def check_local(path: str | Path) -> None:
    """Checks that a path is no address: as a path it would name a folder here.

    Raises:
        InputError: it is an address.

    >>> check_local("gs://bucket/records")
    Traceback (most recent call last):
        ...
    personlab_keras.errors.InputError: gs://bucket/records: must be a local path; mount the bucket
    """
    # `Path` has collapsed the slashes of an address.
    if _ADDRESS.match(str(path)):
        address = str(path).replace("://", ":/").replace(":/", "://", 1)
        raise InputError(f"{address}: must be a local path; mount the bucket")


def write_atomically(path: str | Place, content: bytes) -> None:
    """Writes a temporary file, flushes it to the disk and renames it, so that a reader sees either
    the old file or the complete new one, even after a crash. In a bucket, every file is so.

    Args:
        path: the file; missing parent folders are created.
        content: the new content.

    Raises:
        InputError: the file cannot be written, for example because the disk is full; the old file
            is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "new" / "a.txt", b"text")
    ...     (Path(folder) / "new" / "a.txt").read_bytes()
    b'text'
    """
    target = as_place(path)
    if isinstance(target, BucketPath):
        target.write_bytes(content)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_UNFINISHED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(temporary), open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def draft(target: Place) -> Iterator[Path]:
    """Context manager for a local file to write, which `publish` then puts in the place of
    `target`: beside it, or in the temporary folder of the system where `target` is in a bucket.
    """
    if isinstance(target, BucketPath):
        with unfinished(Path(tempfile.mkdtemp(prefix="personlab-"))) as folder:
            yield folder / target.name
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}{_UNFINISHED}")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def publish(drafted: Path, target: Place) -> None:
    """Makes a finished draft the content of `target`, as a whole.

    Raises:
        OSError, InputError: it cannot be written.
    """
    if isinstance(target, BucketPath):
        target.upload(drafted)
    else:
        os.replace(drafted, target)


@contextlib.contextmanager
def local_copy(file: Place, *beside: BucketPath) -> Iterator[Path]:
    """Context manager that gives a local file with the same content: a temporary copy, or the file
    itself if it is local. Copies of other files of its folder lie beside that of a file in a
    bucket.

    Raises:
        FileNotFoundError, InputError: a file in a bucket cannot be read.
    """
    if not isinstance(file, BucketPath):
        yield file
        return
    with unfinished(Path(tempfile.mkdtemp(prefix="personlab-"))) as folder:
        for each in (file, *beside):
            each.download(folder / each.name)
        yield folder / file.name


def file_sizes(folder: Place) -> dict[str, int]:
    """Bytes of the files directly in a folder, by name.

    Raises:
        OSError, InputError: it cannot be listed.
    """
    if isinstance(folder, BucketPath):
        return folder.sizes()
    with os.scandir(folder) as entries:
        return {each.name: each.stat().st_size for each in entries if each.is_file()}


def remove_tree(folder: Place) -> None:
    """Deletes a folder with all that is in it, as far as possible."""
    if isinstance(folder, BucketPath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: str | Path) -> Path:
    """Makes a folder for results, with its parents, if it is missing.

    Raises:
        InputError: it cannot be made, or not written to.
    """
    check_local(folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        kind = "a file" if os.path.exists(folder) else "a link that leads nowhere"
        raise InputError(f"{folder}: must be a folder for the results. Received: {kind}") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written to: {os.strerror(errno.EACCES)}")
    return Path(folder)


def check_there(*paths: str | Path | None) -> None:
    """Checks that files or folders exist, before something slow; None is passed over.

    Raises:
        InputError: one does not exist, or is a link that leads nowhere.
    """
    for path in paths:
        if path is not None and not os.path.exists(path):
            kind = "a link that leads nowhere" if os.path.islink(path) else "no such file or folder"
            raise InputError(f"{path}: {kind}")


def check_apart(out: str | Place, sources: Iterable[str | Path]) -> None:
    """Checks that results do not go where they would be sources of the next run.

    Args:
        out: the folder of the results.
        sources: files, folders (read without their subfolders) and glob patterns.

    Raises:
        InputError: `out` is one of the folders, or lies below the part of a pattern before its
            first wildcard.
    """
    if is_bucket(out):  # which is no source of those who call this
        return
    target = Path(os.path.realpath(str(out)))
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = target == Path(os.path.realpath(path))
        elif glob.has_magic(str(source)):
            parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
            inside = target.is_relative_to(os.path.realpath(Path(*parts)))
        else:
            continue
        if inside:
            raise InputError(
                f"--out must lie outside of the sources, or the results would be sources of the "
                f"next run. Received: {out}, with {source}"
            )


@contextlib.contextmanager
def sole_writer(folder: Place) -> Iterator[None]:
    """Context manager that makes this process the only writer of a folder. Unfinished files of a
    killed process are removed first. `bucket_lock` says what that means in a bucket.

    Args:
        folder: created if missing.

    Raises:
        InputError: another process is writing to the folder.
    """
    if isinstance(folder, BucketPath):
        with lock_folder(folder, folder / LOCK_FILE):
            yield
        return
    make_folder(folder)
    with open(folder / LOCK_FILE, "w", encoding="ascii") as lock:
        lock_file(lock, folder)
        remove_unfinished(folder)
        yield


def lock_file(file: IO[Any], folder: Path) -> None:
    """Locks an open file of a folder until it is closed or the process ends, however it does.

    Raises:
        InputError: another process has locked it.
        ImportError: on Windows, which has no such lock.
    """
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is writing there") from None


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left half written in a folder and all below it, so that no
    other process may be writing there.
    """
    for path in folder.rglob(f".*{_UNFINISHED}*"):
        if _OF_A_PROCESS.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def check_regular(path: str | Path) -> None:
    """Checks that a file can be read to its end: opening a pipe would wait for a writer.

    Raises:
        InputError: there is no such file, or it is a folder, a pipe or a device.
        OSError: the system does not say.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path}: must be a file. Received: {kind}")


def read_small(path: str | Place, most: int = SMALL) -> bytes:
    """The content of a file that describes others, or sets something.

    Raises:
        InputError: it is missing, unreadable, no regular file, or larger than `most` bytes.
    """
    file = as_place(path)
    try:
        if isinstance(file, BucketPath):
            content = file.read_bytes() if file.size() <= most else bytes(most + 1)
        else:
            check_regular(file)
            with open(file, "rb") as opened:
                content = opened.read(most + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > most:
        raise InputError(f"{path}: must have at most {most} bytes")
    return content


def read_json(path: str | Place) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        InputError: the file is missing or unreadable, or does not hold a JSON object.
    """
    try:
        content = json.loads(read_small(path))
    except RecursionError:
        raise InputError(f"{path}: not valid JSON: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object. Received: {type(content).__name__}")
    return content


def read_yaml(path: str | Place, shipped: Path, what: str) -> Any:
    """Reads a YAML file of the user, or one that comes with the package.

    Args:
        path: the file, or the name of a packaged one, with or without its extension.
        shipped: folder of the packaged files.
        what: kind of file for error messages: "configuration" or "skeleton".

    Raises:
        InputError: the file does not exist, is unreadable, or is not YAML.
    """
    file = as_place(path)
    if not file.is_file():
        named, file = file, shipped / f"{file.name.removesuffix('.yaml')}.yaml"
        if named.parent != Path(".") or not file.is_file():
            names = ", ".join(sorted(known.stem for known in shipped.glob("*.yaml")))
            raise InputError(
                f"{path}: no such {what} file, and none shipped of that name. Shipped: {names}"
            )
    return parse_yaml(read_small(file, SMALL_YAML), str(path))


def parse_yaml(text: str | bytes, source: str) -> Any:
    """The value of a YAML document; `source` names it in errors.

    >>> parse_yaml("{steps: 3, steps: 4}", "a.yaml")
    Traceback (most recent call last):
        ...
    personlab_keras.errors.InputError: a.yaml: not valid YAML: key 'steps' twice (line 1, column 12)

    Raises:
        InputError: it is not YAML, has a key twice, or repeats parts of itself by so many aliases
            that it stands for more than a million values.
    """
    try:
        return yaml.load(text, _CheckedLoader)
    # Besides its own errors, YAML raises these for invalid dates, lists as keys and recursion.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{source}: not valid YAML: {' '.join(str(error).split())[:200]}"
        ) from None


class _CheckedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys and lets a few lines of aliases
    stand for billions of values, with a check of both before any value is made.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _check_keys(node)
            _check_size(node)
        return node


def _check_keys(root: yaml.Node) -> None:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        names = set()
        for key, value in node.value:
            waiting += [key, value]
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in names:
                place = f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
                raise ValueError(f"key {key.value!r} twice ({place})")
            names.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))


_MOST_VALUES = 1_000_000


def _check_size(root: yaml.Node) -> None:
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = 0  # for an alias inside of what it stands for
            parts = node.value if isinstance(node, yaml.SequenceNode) else sum(node.value, ())
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if size(root) > _MOST_VALUES:
        raise ValueError(f"aliases that stand for more than {_MOST_VALUES} values")
