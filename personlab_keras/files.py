"""Files appear complete or not at all; what cannot be read is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from personlab_keras.errors import InputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes beside, flushes to the disk, renames: a reader sees the old file or the new one, whole, also after a crash."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


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
