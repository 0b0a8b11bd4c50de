"""Pins of fetched models: the revision and the SHA-256 of each file, written when they arrive and
compared before every use.
"""

from __future__ import annotations

import json
from pathlib import Path

from personlab_keras.errors import InputError
from personlab_keras.io.files import read_json, write_atomically
from personlab_keras.model.pretrained.download import sha256
from personlab_keras.model_directory import DESCRIPTION_FILE

PIN_FILE = "pinned.json"

CHECKED = (".json", ".tflite", ".onnx", ".h5")
"""Extensions of the files that are pinned: all from which a network is read."""


def pin(folder: Path, source: str, revision: str | None = None, place: Path | None = None) -> None:
    """Writes the checksums of the files of a model directory.

    Args:
        folder: the model directory.
        source: its name.
        revision: commit or version of the source, if it has one.
        place: file to write instead of `pinned.json` in the folder.
    """
    files = {path.name: sha256(path) for path in _files(folder)}
    values = {"source": source, "revision": revision, "sha256": files}
    write_atomically(place or folder / PIN_FILE, (json.dumps(values, indent=1) + "\n").encode())


def pinned_revision(place: Path) -> str | None:
    """The revision in a pin file; None if there is no such file."""
    return read_json(place).get("revision") if place.is_file() else None


def pinned(folder: Path, source: str, revision: str, place: Path) -> Path:
    """A model directory received from a hub: pinned the first time, verified later.

    Arguments as of `pin`; returns the folder.

    Raises:
        InputError: it is no model directory, or its files are no longer what was received.
    """
    if not (folder / DESCRIPTION_FILE).is_file():
        raise InputError(f"{source}: holds no {DESCRIPTION_FILE}, so it is no model of PersonLab")
    if pinned_revision(place) is not None:
        verify(folder, place)
    else:
        pin(folder, source, revision, place)
    return folder


def first_line(error: Exception) -> str:
    """An error of a hub's library in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def verify(folder: Path, place: Path | None = None) -> None:
    """Compares the files of a model directory with their pins.

    Raises:
        InputError: a file is missing or differs.
    """
    known = read_json(place or folder / PIN_FILE).get("sha256")
    if not isinstance(known, dict):
        raise InputError(f"{place or folder / PIN_FILE}: damaged: no checksums")
    present = {path.name: path for path in _files(folder)}
    for name, checksum in known.items():
        if name not in present or sha256(present[name]) != checksum:
            state = "missing" if name not in present else "damaged: not what was received"
            raise InputError(f"{folder / name}: {state}. Delete {folder} to fetch it again")


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix in CHECKED and path.name != PIN_FILE
    )
