"""Training: a network, an optimiser and the records, taken step by step, checkpointed and resumed.

`fit` counts an epoch as `train.log_every` steps; passes over the data are the pipeline's affair.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from personlab_keras.checkpoints import CHECKPOINTS, Position, best_checkpoint, latest_checkpoint, restore, save, save_best
from personlab_keras.config import Config, config_to_yaml, load_config
from personlab_keras.data import WAIT, damage_named, make_dataset, training_examples, watch_waits
from personlab_keras.devices import Devices, connect, memory
from personlab_keras.errors import InputError, Stopped
from personlab_keras.files import sole_writer, write_atomically
from personlab_keras.journal import Journal, Log, read_log
from personlab_keras.records import Meta, check_meta, read_meta
from personlab_keras.skeleton import COCO_PERSON, Skeleton, load_skeleton, skeleton_to_yaml
from personlab_keras.trainee import WORST, Trainee, assign, averaged_weights, build_trainee, copies, copy_weights
from personlab_keras.validation import Validation, validate

CONFIG_FILE = "config.yaml"
SKELETON_FILE = "skeleton.yaml"
_JUDGED_BY = "validation/keypoint_AP"


def train(
    records: str | Path,
    workdir: str | Path,
    config: Config,
    *,
    val_records: str | Path | None = None,
    init: keras.Model | None = None,
    skeleton: Skeleton | None = None,
    report: Callable[[Log], None] = lambda log: None,
) -> keras.Model:
    """Trains to `train.steps`, from the last checkpoint in the workdir if there is one.

    The workdir gets `config.yaml` (resolved), `skeleton.yaml`, `checkpoints/`, `log.jsonl` and `tensorboard/`. SIGTERM ends the run after
    the current step with a checkpoint; the same call goes on from there.

    Args:
        init: a network whose weights to start from instead of `model.weights`; ignored when a checkpoint is there.
        skeleton: that the records must have; theirs if None.
        report: called with each line of the log: step, learning rate, images per second and mean losses since the line before;
            or step and the metrics of a validation.

    Returns:
        The trained network (averaged weights where `train.ema` is on).

    Raises:
        Stopped: by SIGTERM.
        InputError: the records do not fit the configuration; the workdir holds a run of another network, or another process trains
            there; a record is damaged; the loss is no longer finite; a checkpoint cannot be written.
    """
    folder = Path(workdir)
    meta = read_meta(records)
    val_meta = read_meta(val_records) if val_records is not None else None
    skeleton = skeleton or meta.skeleton
    for found, place in ((meta, records), (val_meta, val_records)):
        if found is not None:
            check_meta(found, str(place), skeleton=skeleton, radius=config.targets.radius, stride=config.targets.stride)
    config = resolve(config, meta)
    settings = config.train
    every_record = (records,) if val_records is None else (records, val_records)
    with (
        connect(settings.strategy) as devices,
        _workdir(folder, config, skeleton, devices),
        _sigterm() as stop,
        damage_named(*every_record),
    ):
        devices.check_batch(settings.batch_size)
        keras.utils.set_random_seed(settings.seed)
        latest = latest_checkpoint(folder)
        with devices.scope():
            trainee = build_trainee(config, skeleton, pretrained=init is None and latest is None)
            if init is not None:
                copy_weights(init, trainee.network)
            start = restore(_state(trainee), latest) if latest is not None else Position(0, 0)
        if len(set(devices.gather(start.step))) > 1:
            raise InputError(f"{folder}: the processes of a run need one workdir; here some see other checkpoints than others")
        journal = Journal(folder, start.step, report) if devices.writes else None
        keeper = _Keeper(config, folder, start, journal, devices, stop, records, meta, val_records)
        # A run that was stopped between two lines of the log goes to the next one first.
        for steps in (-start.step % settings.log_every, settings.log_every):
            if not steps or keeper.step == settings.steps:
                continue
            dataset = make_dataset(
                records,
                settings.batch_size,
                training=True,
                settings=config.data,
                seed=settings.seed,
                first_example=keeper.position.example,
                part=devices.process,
                parts=devices.processes,
            )
            trainee.fit(
                devices.feed(watch_waits(dataset), settings.batch_size),
                epochs=1 if steps < settings.log_every else (settings.steps - keeper.step) // steps,
                steps_per_epoch=steps,
                callbacks=[keeper],
                shuffle=False,
                verbose=0,
            )
            if keeper.stopping and keeper.step < settings.steps:
                raise Stopped(f"{folder}: stopped at step {keeper.step} of {settings.steps}; the same command goes on from there")
            if keeper.step < settings.steps:
                keeper.take_back_averaging()
        # `fit` ends by averaging; where there was none it is done here.
        if keeper.step == start.step and trainee.optimizer.use_ema:
            trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
        return trainee.network


@contextlib.contextmanager
def _workdir(folder: Path, config: Config, skeleton: Skeleton, devices: Devices) -> Iterator[None]:
    """Within, the workdir is this run's. Of several processes one keeps it."""
    if not devices.writes:
        yield
        return
    with sole_writer(folder):
        _claim_workdir(folder, config, skeleton)
        yield


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, as those who give back machines send it. Only the main thread hears signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def resolve(config: Config, meta: Meta) -> Config:
    """The configuration with what the records decide filled in, and step counts rounded up to whole log intervals."""

    def whole(steps: int) -> int:
        return -(-steps // config.train.log_every) * config.train.log_every

    return replace(
        config,
        data=replace(config.data, view_size=meta.view_size),
        model=replace(config.model, target_stride=meta.stride),
        train=replace(
            config.train,
            steps=whole(config.train.steps),
            checkpoint_every=whole(config.train.checkpoint_every),
            validate_every=whole(config.train.validate_every),
        ),
    )


def _state(trainee: Trainee) -> dict[str, Any]:
    """Everything that a step changes, by name, in a stable order."""
    groups = {"network": trainee.network.variables, "optimizer": trainee.optimizer.variables}
    # By position: names that Keras makes up count on with every network of a process.
    return {f"{group}/{i:05d}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def workdir_skeleton(workdir: str | Path) -> Skeleton:
    """The keypoints that a run finds; COCO's where it began before runs kept theirs.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(workdir) / SKELETON_FILE
    return load_skeleton(path) if path.is_file() else COCO_PERSON


def load_workdir(workdir: str | Path, best: bool = False) -> tuple[keras.Model, Config, int]:
    """The network of a run (averaged weights where it keeps them), its configuration and step.

    Args:
        best: the checkpoint with the best validation AP instead of the latest.

    Raises:
        InputError: the folder holds no run or no such checkpoint.
    """
    folder = Path(workdir)
    path = best_checkpoint(folder) if best else latest_checkpoint(folder)
    if not (folder / CONFIG_FILE).is_file() or path is None:
        wanted = "checkpoint of a validation (--val-records)" if best else f"{CHECKPOINTS}/"
        raise InputError(f"{folder}: no {CONFIG_FILE} with a {wanted} there; a workdir is what `personlab train --workdir` wrote")
    config = load_config(folder / CONFIG_FILE)
    trainee = build_trainee(config, workdir_skeleton(folder), pretrained=False)
    step = restore(_state(trainee), path).step
    if trainee.optimizer.use_ema:
        trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
    return trainee.network, config, step


class _Keeper(keras.callbacks.Callback):
    """After each log interval: the log line, and where due the validation and the checkpoint. Stops where it is told or has to.

    Attributes:
        step: that the run has reached.
        stopping: whether the run was told to end before its last step.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        start: Position,
        journal: Journal | None,
        devices: Devices,
        stop: threading.Event,
        records: str | Path,
        meta: Meta,
        val_records: str | Path | None,
    ) -> None:
        super().__init__()
        self._config, self._settings = config, config.train
        self._folder, self._journal, self._devices, self._stop = folder, journal, devices, stop
        self._records, self._meta, self._val_records = records, meta, val_records
        self._start = start
        self.step = self._begin = start.step
        self.stopping = False
        self._began = 0.0
        # Read in all processes, so that all come to the same end.
        self._least = min(
            (line["loss"] for line in read_log(folder) if "loss" in line and line["step"] <= start.step), default=np.inf
        )
        self._current: list[np.ndarray] = []
        self._copy: keras.Model | None = None

    @property
    def position(self) -> Position:
        """That the run has reached."""
        return self._after(self.step)

    def _after(self, step: int) -> Position:
        return Position(step, self._start.example + (step - self._start.step) * self._settings.batch_size)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin, self._began = self.step, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self._devices.processes == 1 and self._stop.is_set():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        settings = self._settings
        values = {name: np.asarray(value).item() for name, value in (logs or {}).items()}
        worst = {name.removeprefix(WORST): int(values.pop(name)) for name in list(values) if name.startswith(WORST)}
        wait = values.pop(WAIT)
        self._check_losses(values, worst)
        # All processes stop at the same step.
        self.stopping = bool(self._devices.gather(self._stop.is_set()).any())
        self.model.stop_training = self.stopping
        last = self.step >= settings.steps
        whole = self.step % settings.log_every == 0
        if epoch + 1 == self.params["epochs"] and self.model.optimizer.use_ema:
            self._current = copies(self.model.trainable_variables)
        if self._journal is not None and whole:
            self._journal.write(self._line(values, wait))
        validating = self._val_records is not None and whole and not self.stopping
        if validating and (last or self.step % settings.validate_every == 0):
            self._validate()
        if self._journal is not None and (last or self.stopping or self.step % settings.checkpoint_every == 0):
            save(_state(self.model), self._folder, self.position, settings.keep_checkpoints)

    def _line(self, losses: Log, wait: float) -> Log:
        steps, seconds = self.step - self._begin, time.perf_counter() - self._began
        return {
            "step": self.step,
            "images_per_second": round(steps * self._settings.batch_size / seconds, 2),
            "data_wait": round(min(1.0, wait * steps / seconds), 4),
            **{name: round(value) for name, value in memory().items()},
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            **{name if name == "loss" else f"loss/{name}": value for name, value in losses.items()},
        }

    def _validate(self) -> None:
        """Line and pictures of a validation: of the averaged weights, and where `train.validate_raw` of those of this step too."""
        found = self._judge(averaged=True, shown=self._settings.shown_views)
        raw = self._judge(averaged=False) if self._settings.validate_raw else None
        if self._journal is None or found is None:
            return
        figures = {f"validation/{name}": value for name, value in found.figures.items()}
        if raw is not None:
            figures |= {f"validation_raw/{name}": value for name, value in raw.figures.items()}
        best = self._journal.best(_JUDGED_BY)
        self._journal.write({"step": self.step, **figures})
        self._journal.show("validation", self.step, found.overlays)
        if self._journal.best(_JUDGED_BY) > best:
            save_best(_state(self.model), self._folder, self.position)

    def _judge(self, averaged: bool, shown: int = 0) -> Validation | None:
        """By the network that trains, or where that cannot be by a copy of it. All processes hand over weights, one of them judges."""
        with averaged_weights(self.model) if averaged else contextlib.nullcontext():
            if self._devices.keep_network_whole:
                return validate(self.model.network, str(self._val_records), self._config, shown)
            weights = copies(self.model.network.variables)
        if self._journal is None:
            return None
        with self._devices.alone():
            if self._copy is None:
                self._copy = build_trainee(self._config, self._meta.skeleton, pretrained=False).network
            assign(self._copy.variables, weights)
            return validate(self._copy, str(self._val_records), self._config, shown)

    def _check_losses(self, means: Log, worst: dict[str, int]) -> None:
        """Raises:
        InputError: a loss was not finite, or the mean loss of this interval is out of all proportion to those before.
        """
        bad = [name for name in worst if not np.isfinite(means[name])]
        limit = self._settings.loss_limit
        if bad:
            first = min(worst[name] for name in bad)
            parts = [name for name in bad if name != "loss" and worst[name] == first]
            raise InputError(self._blame(first, f"is not finite ({', '.join(parts)})"))
        if limit is not None and means["loss"] > limit * self._least:
            raise InputError(
                self._blame(
                    worst["loss"],
                    f"is the largest of an interval whose mean is {means['loss']:.4g}, more than {limit:g} times (train.loss_limit) "
                    f"the least before, {self._least:.4g}",
                )
            )
        self._least = min(self._least, means["loss"])

    def take_back_averaging(self) -> None:
        """Undoes that `fit` ended in the midst of the run, where the optimiser put the averages in place of the weights."""
        if self.model.optimizer.use_ema:
            assign(self.model.trainable_variables, self._current)

    def _blame(self, within: int, what: str) -> str:
        """What is to be said of the loss of a step, counted from 1 within the interval."""
        step = self._begin + within
        first = self._after(step - 1).example
        examples = training_examples(self._records, self._meta, self._config.data, self._settings.seed, first)
        batch = [
            f"image {int(example['image_id'])} view {int(example['view'])}"
            for example in examples.take(self._settings.batch_size).as_numpy_iterator()
        ]
        kept = latest_checkpoint(self._folder)
        return f"{self._folder}: the loss of step {step} {what}. Its batch: {', '.join(batch)}. " + (
            f"The checkpoint before is kept: {kept.name}" if kept is not None else "There is no checkpoint before it"
        )


def _claim_workdir(folder: Path, config: Config, skeleton: Skeleton) -> None:
    """Writes the resolved configuration and the skeleton, unless the workdir belongs to a run with another network."""
    path = folder / CONFIG_FILE
    if path.is_file() and latest_checkpoint(folder) is not None:
        before = load_config(path)
        for section in ("model", "targets"):
            if getattr(before, section) != getattr(config, section):
                raise InputError(f"{folder}: holds a run with other settings of '{section}'. Choose another --workdir")
        if workdir_skeleton(folder) != skeleton:
            raise InputError(f"{folder}: holds a run of another skeleton than '{skeleton.name}'. Choose another --workdir")
    write_atomically(folder / SKELETON_FILE, skeleton_to_yaml(skeleton).encode())
    write_atomically(path, config_to_yaml(config).encode())
