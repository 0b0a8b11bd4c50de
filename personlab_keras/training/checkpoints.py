"""Checkpoints: everything that a step changes, in one file that appears whole or not at all."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, local_copy, write_atomically
from personlab_keras.io.limits import check_zip

CHECKPOINTS = "checkpoints"
AVERAGES = "averaged_statistics"
"""The group of variables that older checkpoints lack; a resumed run then starts new averages."""
BEST = "best.npz"
"""The checkpoint with the best validation AP so far."""
_STEP, _EXAMPLE, _VERSIONS = "step", "example", "versions"


class Position(NamedTuple):
    """Where a run stands."""

    step: int
    """Steps taken."""
    example: int
    """Examples seen, which is the position in the stream of them."""


State = Mapping[str, Any]
"""Variables by name, in a stable order."""


def save(state: State, folder: Place, position: Position, keep: int) -> Place:
    """Writes a checkpoint and then removes those older than the latest `keep`.

    Raises:
        InputError: it cannot be written; those before are kept.
    """
    path = folder / CHECKPOINTS / f"step-{position.step:08d}.npz"
    write_atomically(path, _content(state, position))
    for old in _checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def save_best(state: State, folder: Place, position: Position) -> None:
    """Writes the checkpoint of the best validation, in place of the one before."""
    write_atomically(folder / CHECKPOINTS / BEST, _content(state, position))


def restore(state: State, path: Place) -> Position:
    """Sets the variables to what a checkpoint holds; returns where the run stood.

    Raises:
        InputError: it is damaged or of another network or optimizer.
    """
    held = sum(int(np.prod(each.shape)) * 8 for each in state.values())
    try:
        with local_copy(path) as file:
            check_zip(file, 2 * held + (1 << 20))
            with np.load(file) as saved:
                values = {name: saved[name] for name in saved.files}
        position = Position(int(values.pop(_STEP)), int(values.pop(_EXAMPLE)))
        values.pop(_VERSIONS)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged checkpoint: {error}. Delete it to resume from the one before"
        ) from None
    state = {
        name: variable
        for name, variable in state.items()
        if name in values or not name.startswith(f"{AVERAGES}/")
    }
    unlike = sorted(values.keys() ^ state.keys()) or [
        name for name in state if values[name].shape != tuple(state[name].shape)
    ]
    if unlike:
        raise InputError(
            f"{path}: a checkpoint of another network or optimizer; first difference: {unlike[0]}"
        )
    for name, variable in state.items():
        variable.assign(values[name])
    return position


def latest_checkpoint(folder: Place) -> Place | None:
    """The newest checkpoint of a workdir."""
    return next(reversed(_checkpoints(folder)), None)


def best_checkpoint(folder: Place) -> Place | None:
    """The checkpoint of a workdir with the best validation AP; None where nothing was validated."""
    path = folder / CHECKPOINTS / BEST
    return path if path.is_file() else None


def _content(state: State, position: Position) -> bytes:
    buffer = io.BytesIO()
    # Versions help to explain differences between runs.
    versions = {
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": keras.backend.backend(),
    }
    run = {
        _STEP: np.array(position.step),
        _EXAMPLE: np.array(position.example),
        _VERSIONS: np.array(json.dumps(versions)),
    }
    arrays: dict[str, Any] = {
        name: keras.ops.convert_to_numpy(value) for name, value in state.items()
    }
    np.savez(buffer, allow_pickle=False, **run, **arrays)
    return buffer.getvalue()


def _checkpoints(folder: Place) -> list[Place]:
    return sorted((folder / CHECKPOINTS).glob("step-*.npz"), key=lambda path: path.name)
