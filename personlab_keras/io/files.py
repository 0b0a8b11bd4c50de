"""Files appear complete or not at all; what cannot be read is named."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from personlab_keras.errors import InputError

_UNFINISHED = ".part"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes beside, flushes to the disk, renames: a reader sees the old file or the new one,
    whole, also after a crash.

    Raises:
        InputError: it cannot be written, say for want of space; the old file is as it was.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}{_UNFINISHED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Within, no other process can be the writer of a folder; unfinished files that a killed one
    left there are removed first.

    Raises:
        InputError: another process is.
    """
    import fcntl  # not on Windows, where everything but training still works

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the system gives it back, however the process ends
        except BlockingIOError:
            raise InputError(f"{folder}: another process is writing there") from None
        for unfinished in folder.rglob(f".*{_UNFINISHED}"):
            unfinished.unlink()
        yield


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file is missing, cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object. Received: {type(content).__name__}")
    return content


def read_yaml(path: str | Path, shipped: Path, what: str) -> Any:
    """The content of a YAML file, or of one that is shipped.

    Args:
        path: the file; or the name of a shipped one, with or without its ending.
        shipped: folder of the shipped ones.
        what: the file is, in errors: "configuration" or "skeleton".

    Raises:
        InputError: there is no such file, it cannot be read, or is no YAML.
    """
    file = Path(path)
    if not file.is_file():
        file = shipped / f"{file.name.removesuffix('.yaml')}.yaml"
        if Path(path).parent != Path(".") or not file.is_file():
            names = ", ".join(sorted(known.stem for known in shipped.glob("*.yaml")))
            raise InputError(
                f"{path}: no such {what} file, and none shipped of that name. Shipped: {names}"
            )
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    # Besides its own errors YAML raises those of dates that are none, lists as names and lists in
    # themselves.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())[:200]}") from None
