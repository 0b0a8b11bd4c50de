"""Checkpoints: everything that a step changes, in one file that appears whole or not at all."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically

CHECKPOINTS = "checkpoints"
BEST = "best.npz"
"""The checkpoint with the best validation AP so far."""
_STEP = "step"

State = Mapping[str, Any]
"""Variables by name, in a stable order."""


def save(state: State, folder: Path, step: int, keep: int) -> Path:
    """Writes a checkpoint and then removes those older than the latest `keep`.

    Raises:
        InputError: it cannot be written; those before are kept.
    """
    path = folder / CHECKPOINTS / f"step-{step:08d}.npz"
    write_atomically(path, _content(state, step))
    for old in _checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def save_best(state: State, folder: Path, step: int) -> None:
    """Writes the checkpoint of the best validation, in place of the one before."""
    write_atomically(folder / CHECKPOINTS / BEST, _content(state, step))


def restore(state: State, path: Path) -> int:
    """Sets the variables to what a checkpoint holds; returns its step.

    Raises:
        InputError: it is damaged or of another network or optimiser.
    """
    try:
        with np.load(path) as saved:
            values = {name: saved[name] for name in saved.files}
        step = int(values.pop(_STEP))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged checkpoint: {error}. Delete it to go on from the one before") from None
    unlike = sorted(values.keys() ^ state.keys()) or [name for name in state if values[name].shape != tuple(state[name].shape)]
    if unlike:
        raise InputError(f"{path}: a checkpoint of another network or optimiser; first difference: {unlike[0]}")
    for name, variable in state.items():
        variable.assign(values[name])
    return step


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a workdir."""
    return next(reversed(_checkpoints(folder)), None)


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a workdir with the best validation AP; None where nothing was validated."""
    path = folder / CHECKPOINTS / BEST
    return path if path.is_file() else None


def _content(state: State, step: int) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: keras.ops.convert_to_numpy(value) for name, value in state.items()}
    np.savez(buffer, allow_pickle=False, **{_STEP: np.array(step)}, **arrays)
    return buffer.getvalue()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS).glob("step-*.npz"))
