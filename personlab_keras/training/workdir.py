"""The folder of a run: its configuration, its skeleton, its checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from personlab_keras.config import Config, config_to_yaml, load_config
from personlab_keras.data.records import Meta
from personlab_keras.errors import InputError
from personlab_keras.io.files import (
    LOCK_FILE,
    Place,
    as_place,
    remove_tree,
    sole_writer,
    write_atomically,
)
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton, load_skeleton, skeleton_to_yaml
from personlab_keras.training.checkpoints import (
    AVERAGES,
    CHECKPOINTS,
    best_checkpoint,
    latest_checkpoint,
    restore,
)
from personlab_keras.training.devices import Devices
from personlab_keras.training.training_model import (
    TrainingModel,
    build_training_model,
    put_averages,
)

CONFIG_FILE = "config.yaml"
SKELETON_FILE = "skeleton.yaml"
_BEFORE_START = {CONFIG_FILE, SKELETON_FILE, LOCK_FILE}


@dataclass(frozen=True)
class Run:
    """A run: its folder, its settings, its data and the devices that share it.

    Attributes:
        folder: the workdir.
        config: resolved (`train.resolve`).
        records: folder of the training records.
        meta: of the training records.
        val_records: folder of the validation records; None to train without validation.
        devices: that share every batch.
        from_trained: whether the initial weights are those of a trained network (`--init`).
    """

    folder: Place
    config: Config
    records: str | Place
    meta: Meta
    val_records: str | Place | None
    devices: Devices
    from_trained: bool = False


@contextlib.contextmanager
def open_workdir(
    folder: Place, config: Config, skeleton: Skeleton, devices: Devices
) -> Iterator[None]:
    """Reserves the workdir for this run and writes its configuration and skeleton there. Only one
    of several processes does so.

    Raises:
        InputError: another process trains there, or it holds a run of another network.
    """
    if not devices.writes:
        yield
        return
    new = not folder.exists()
    try:
        with sole_writer(folder):
            _check_same_network(folder, config, skeleton)
            write_atomically(folder / SKELETON_FILE, skeleton_to_yaml(skeleton).encode())
            write_atomically(folder / CONFIG_FILE, config_to_yaml(config).encode())
            yield
    except BaseException:
        # A run that fails before it starts, for want of weights say, leaves nothing behind.
        if new and {path.name for path in folder.glob("*")} <= _BEFORE_START:
            remove_tree(folder)
        raise


def training_state(training_model: TrainingModel) -> dict[str, Any]:
    """Every variable that a step changes, by name, in a stable order."""
    groups = {
        "network": training_model.network.variables,
        "optimizer": training_model.optimizer.variables,
    }
    if training_model.averaged_statistics is not None:
        groups[AVERAGES] = training_model.averaged_statistics.variables
    # By position: Keras numbers the names it makes up through all networks of a process.
    return {
        f"{group}/{i:05d}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def workdir_skeleton(workdir: str | Place) -> Skeleton:
    """The skeleton of a run; COCO's if the run is older than `skeleton.yaml`.

    Raises:
        InputError: the file is damaged.
    """
    path = as_place(workdir) / SKELETON_FILE
    return load_skeleton(path) if path.is_file() else COCO_PERSON


def load_workdir(workdir: str | Place, best: bool = False) -> tuple[keras.Model, Config, int]:
    """The network of a run (averaged weights if it keeps them), its configuration and its step.

    Args:
        best: the checkpoint with the best validation AP instead of the latest.

    Raises:
        InputError: the folder holds no run or no such checkpoint.
    """
    folder = as_place(workdir)
    path = best_checkpoint(folder) if best else latest_checkpoint(folder)
    if not (folder / CONFIG_FILE).is_file() or path is None:
        wanted = "checkpoint of a validation (--val-records)" if best else f"{CHECKPOINTS}/"
        raise InputError(
            f"{folder}: no {CONFIG_FILE} with a {wanted} there; a workdir is a folder that "
            "`personlab train --workdir` wrote"
        )
    config = load_config(folder / CONFIG_FILE)
    training_model = build_training_model(config, workdir_skeleton(folder), pretrained=False)
    step = restore(training_state(training_model), path).step
    if step > 0:  # before the first step there is no average
        put_averages(training_model)
    return training_model.network, config, step


def _check_same_network(folder: Place, config: Config, skeleton: Skeleton) -> None:
    path = folder / CONFIG_FILE
    if not path.is_file() or latest_checkpoint(folder) is None:
        return
    before = load_config(path)
    for section in ("model", "targets"):
        if getattr(before, section) != getattr(config, section):
            raise InputError(
                f"{folder}: holds a run with other settings of '{section}'. Choose another --workdir"
            )
    if workdir_skeleton(folder) != skeleton:
        raise InputError(
            f"{folder}: holds a run of another skeleton than '{skeleton.name}'. "
            "Choose another --workdir"
        )
