"""Checkpoints: everything that a step changes, in a file or a folder that appears whole or not at
all.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.failures import failure
from personlab_keras.io.files import Place, local_copy, remove_tree, write_atomically
from personlab_keras.io.limits import check_zip

CHECKPOINTS = "checkpoints"
AVERAGES = "averaged_statistics"
"""The group of variables that older checkpoints lack; a resumed run then starts new averages."""
BEST = "best.npz"
"""The checkpoint with the best validation AP so far."""
_ORBAX = ".orbax"
"""Ending of the folders that Orbax writes."""
_STEP, _EXAMPLE, _VERSIONS = "step", "example", "versions"


class Position(NamedTuple):
    """Where a run stands."""

    step: int
    """Steps taken."""
    example: int
    """Examples seen, which is the position in the stream of them."""


State = Mapping[str, Any]
"""Variables by name, in a stable order."""


class Saver:
    """Writes the checkpoints of a run, and removes those older than the latest `keep`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Place, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, state: State, position: Position) -> None:
        """Writes a checkpoint.

        Raises:
            InputError: it, or the one before, cannot be written; those older are kept.
        """
        path = self._folder / CHECKPOINTS / f"step-{position.step:08d}.npz"
        write_atomically(path, _content(state, position))
        self._remove_old()

    def finish(self) -> None:
        """Returns once the last checkpoint is on the disk.

        Raises:
            InputError: it cannot be written.
        """

    def _remove_old(self) -> None:
        for old in _checkpoints(self._folder)[: -self._keep]:
            if old.suffix == ".npz":
                old.unlink()
            else:
                remove_tree(old)


class OrbaxSaver(Saver):
    """A `Saver` that copies the state and writes it, by Orbax, while the run goes on. What cannot
    be written is reported by the next call.

    Raises:
        InputError: Keras does not run on JAX, the run is in a bucket, or Orbax is not installed.
    """

    def __init__(self, folder: Place, keep: int) -> None:
        super().__init__(folder, keep)
        if isinstance(folder, BucketPath):
            raise InputError(
                f"{folder}: train.checkpoints=orbax needs a workdir on a disk; use npz in a bucket"
            )
        if keras.backend.backend() != "jax":
            raise InputError(
                "train.checkpoints=orbax needs KERAS_BACKEND=jax. Received: "
                f"{keras.backend.backend()}"
            )
        orbax = _orbax()
        self._path: Place | None = None
        self._checkpointer = orbax.AsyncCheckpointer(orbax.CompositeCheckpointHandler())
        for unfinished in (folder / CHECKPOINTS).glob(f"step-*{_ORBAX}.orbax-checkpoint-tmp*"):
            remove_tree(unfinished)  # of a killed process

    def save(self, state: State, position: Position) -> None:
        self.finish()
        self._path = self._folder / CHECKPOINTS / f"step-{position.step:08d}{_ORBAX}"
        arguments = _orbax().args
        content = arguments.Composite(
            state=arguments.StandardSave(_arrays(state)),
            position=arguments.JsonSave(position._asdict()),
            versions=arguments.JsonSave(_versions()),
        )
        with self._named():
            self._checkpointer.save(Path(str(self._path)).absolute(), args=content, force=True)

    def finish(self) -> None:
        with self._named():
            self._checkpointer.wait_until_finished()
        self._remove_old()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of Orbax and of what it writes with
            line = failure(error) or " ".join(str(error).split())[:300]
            raise InputError(f"{self._path}: cannot be written: {line}") from None


def open_saver(form: str, folder: Place, keep: int) -> Saver:
    """The saver for a form of checkpoints (`train.checkpoints`).

    Raises:
        InputError: as `OrbaxSaver`.
    """
    return OrbaxSaver(folder, keep) if form == "orbax" else Saver(folder, keep)


def save_best(state: State, folder: Place, position: Position) -> None:
    """Writes the checkpoint of the best validation, in place of the one before."""
    write_atomically(folder / CHECKPOINTS / BEST, _content(state, position))


def restore(state: State, path: Place) -> Position:
    """Sets the variables to what a checkpoint holds; returns where the run stood.

    Raises:
        InputError: it is damaged or of another network or optimizer.
    """
    held = sum(int(np.prod(each.shape)) * 8 for each in state.values())
    read = _read_orbax if path.suffix == _ORBAX else _read_npz
    try:
        values, position = read(path, 2 * held + (1 << 20))
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged checkpoint: {' '.join(str(error).split())[:300]}. Delete it to resume "
            "from the one before"
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


def _read_npz(path: Place, most: int) -> tuple[dict[str, np.ndarray], Position]:
    with local_copy(path) as file:
        check_zip(file, most)
        with np.load(file) as saved:
            values = {name: saved[name] for name in saved.files}
    values.pop(_VERSIONS)
    return values, Position(int(values.pop(_STEP)), int(values.pop(_EXAMPLE)))


def _read_orbax(path: Place, most: int) -> tuple[dict[str, np.ndarray], Position]:
    orbax = _orbax()
    reader = orbax.Checkpointer(
        orbax.CompositeCheckpointHandler(),
        multiprocessing_options=orbax.options.MultiprocessingOptions(primary_host=None),
    )
    found = reader.restore(
        Path(str(path)).absolute(),
        args=orbax.args.Composite(
            state=orbax.args.StandardRestore(), position=orbax.args.JsonRestore()
        ),
    )
    values = {name: np.asarray(value) for name, value in found["state"].items()}
    return values, Position(int(found["position"][_STEP]), int(found["position"][_EXAMPLE]))


def latest_checkpoint(folder: Place) -> Place | None:
    """The newest checkpoint of a workdir."""
    return next(reversed(_checkpoints(folder)), None)


def best_checkpoint(folder: Place) -> Place | None:
    """The checkpoint of a workdir with the best validation AP; None where nothing was validated."""
    path = folder / CHECKPOINTS / BEST
    return path if path.is_file() else None


def _content(state: State, position: Position) -> bytes:
    buffer = io.BytesIO()
    run = {
        _STEP: np.array(position.step),
        _EXAMPLE: np.array(position.example),
        _VERSIONS: np.array(json.dumps(_versions())),
    }
    np.savez(buffer, allow_pickle=False, **run, **_arrays(state))
    return buffer.getvalue()


def _arrays(state: State) -> dict[str, Any]:
    return {name: keras.ops.convert_to_numpy(value) for name, value in state.items()}


def _versions() -> dict[str, str]:
    """Help to explain differences between runs."""
    return {
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": keras.backend.backend(),
    }


def _orbax() -> Any:
    """Orbax.

    Raises:
        InputError: it is not installed.
    """
    try:
        import orbax.checkpoint
    except ImportError:
        raise InputError(
            "checkpoints of Orbax need the package orbax-checkpoint: "
            "pip install 'personlab-keras[orbax]'"
        ) from None
    return orbax.checkpoint


def _checkpoints(folder: Place) -> list[Place]:
    found = [
        path for form in (".npz", _ORBAX) for path in (folder / CHECKPOINTS).glob(f"step-*{form}")
    ]
    return sorted(found, key=lambda path: path.name)
