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

from personlab_keras.checkpoints import CHECKPOINTS, best_checkpoint, latest_checkpoint, restore, save, save_best
from personlab_keras.config import Config, TrainConfig, config_to_yaml, load_config
from personlab_keras.data import make_dataset, training_examples
from personlab_keras.devices import distribution, mean_over_replicas, replica_count
from personlab_keras.errors import InputError, Stopped
from personlab_keras.files import sole_writer, write_atomically
from personlab_keras.journal import Journal, Log
from personlab_keras.losses import personlab_losses, total_loss
from personlab_keras.maps import EXTRA_OUTPUTS
from personlab_keras.model import build_model, freeze_batch_norm, freeze_untrained_heads
from personlab_keras.optimisers import build_optimizer
from personlab_keras.records import Meta, check_meta, read_meta
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.validation import validate

CONFIG_FILE = "config.yaml"
_JUDGED_BY = "validation/keypoint_AP"
_NOT_FINITE = "first_non_finite/"


class FirstNonFinite(keras.metrics.Metric):
    """The first step at which a loss was NaN or infinite, counted from 1 since the last reset; 0 where there was none.

    On the device: the loss of every step need not be fetched for it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._seen = self.add_variable(shape=(), initializer="zeros", name="seen")
        self._first = self.add_variable(shape=(), initializer="zeros", name="first")

    def update_state(self, loss: Any) -> None:
        self._seen.assign(self._seen + 1.0)
        seen, first = (keras.ops.convert_to_tensor(variable) for variable in (self._seen, self._first))
        bad = keras.ops.logical_not(keras.ops.isfinite(loss))
        self._first.assign(keras.ops.where(keras.ops.logical_and(bad, first == 0.0), seen, first))

    def result(self) -> Any:
        return keras.ops.convert_to_tensor(self._first)


class Trainee(keras.Model):
    """The network with its loss, as `fit` wants it. Logs each loss as a running mean.

    Args:
        network: as `build_model` makes it.
        settings: loss weights.
        radius: of the discs in pixels, the unit of offset errors.
    """

    def __init__(self, network: keras.Model, settings: TrainConfig, radius: float) -> None:
        super().__init__(name="trainee")
        self.network = network
        self._settings = settings
        self._radius = radius
        # Made here, not on first use: variables may not appear inside a compiled step.
        self._means = {name: keras.metrics.Mean(name=name) for name in network.output if name not in EXTRA_OUTPUTS}
        self._watches = {name: FirstNonFinite(f"{_NOT_FINITE}{name}") for name in self._means}

    def call(self, image: Any, training: bool = False) -> dict[str, Any]:
        return self.network(image, training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_tracker, *self._means.values(), *self._watches.values()]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        losses = personlab_losses(y, y_pred, self._radius, mean_over_replicas)
        for name, loss in losses.items():
            self._means[name].update_state(loss)
            self._watches[name].update_state(mean_over_replicas(loss))  # what one device sees stops all
        # Keras adds up the gradients of devices that share a batch.
        return total_loss(losses, self._settings) / replica_count()


def train(
    records: str | Path,
    workdir: str | Path,
    config: Config,
    *,
    val_records: str | Path | None = None,
    init: keras.Model | None = None,
    skeleton: Skeleton = COCO_PERSON,
    report: Callable[[Log], None] = lambda log: None,
) -> keras.Model:
    """Trains to `train.steps`, from the last checkpoint in the workdir if there is one.

    The workdir gets `config.yaml` (resolved), `checkpoints/`, `log.jsonl` and `tensorboard/`. SIGTERM ends the run after the current
    step with a checkpoint; the same call goes on from there.

    Args:
        init: a network whose weights to start from instead of `model.weights`; ignored when a checkpoint is there.
        report: called with each line of the log: step, learning rate, images per second and mean losses since the line before;
            or step and the metrics of a validation.

    Returns:
        The trained network (averaged weights where `train.ema` is on).

    Raises:
        Stopped: by SIGTERM.
        InputError: the records do not fit the configuration; the workdir holds a run of another network, or another process trains
            there; the loss is no longer finite; a checkpoint cannot be written.
    """
    folder = Path(workdir)
    meta = read_meta(records)
    val_meta = read_meta(val_records) if val_records is not None else None
    for found, place in ((meta, records), (val_meta, val_records)):
        if found is not None:
            check_meta(found, str(place), skeleton=skeleton, radius=config.targets.radius, stride=config.targets.stride)
    config = resolve(config, meta)
    with sole_writer(folder), _sigterm() as stop:
        _claim_workdir(folder, config)
        keras.utils.set_random_seed(config.train.seed)
        latest = latest_checkpoint(folder)
        with distribution(config.train.strategy):
            trainee = build_trainee(config, skeleton, pretrained=init is None and latest is None)
            if init is not None:
                copy_weights(init, trainee.network)
            step = restore(_state(trainee), latest) if latest is not None else 0
        journal = Journal(folder, step, report)

        def check() -> Log:
            with averaged_weights(trainee):
                return validate(trainee.network, str(val_records), config)

        keeper = _Keeper(config, folder, step, journal, check if val_records is not None else None, stop, records, meta)
        interval = config.train.log_every
        # A run that was stopped between two lines of the log goes to the next one first.
        for steps in (-step % interval, interval):
            if not steps or keeper.step == config.train.steps:
                continue
            dataset = make_dataset(
                records,
                config.train.batch_size,
                training=True,
                settings=config.data,
                seed=config.train.seed,
                first_example=keeper.step * config.train.batch_size,
            )
            trainee.fit(
                dataset,
                epochs=1 if steps < interval else (config.train.steps - keeper.step) // interval,
                steps_per_epoch=steps,
                callbacks=[keeper],
                shuffle=False,
                verbose=0,
            )
            if stop.is_set() and keeper.step < config.train.steps:
                raise Stopped(
                    f"{folder}: stopped at step {keeper.step} of {config.train.steps}; the same command goes on from there"
                )
            if keeper.step < config.train.steps:
                keeper.take_back_averaging()
        if keeper.step == step and trainee.optimizer.use_ema:  # `fit` ends by averaging; where there was none it is done here
            trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
        return trainee.network


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


def build_trainee(config: Config, skeleton: Skeleton = COCO_PERSON, pretrained: bool = True) -> Trainee:
    """A compiled network with its optimiser; `pretrained=False` skips loading `model.weights`."""
    policy = keras.config.dtype_policy()
    if config.train.mixed_precision is not None:
        if config.train.mixed_precision not in ("bfloat16", "float16"):
            raise InputError(f"train.mixed_precision must be bfloat16, float16 or null. Received: {config.train.mixed_precision}")
        keras.config.set_dtype_policy(f"mixed_{config.train.mixed_precision}")
    try:
        network = build_model(config.model if pretrained else replace(config.model, weights=None), skeleton)
        freeze_untrained_heads(network)
        if config.train.freeze_batch_norm:
            freeze_batch_norm(network)
        trainee = Trainee(network, config.train, config.targets.radius)
        trainee.compile(optimizer=build_optimizer(config.train), jit_compile=config.train.jit_compile)
    finally:
        keras.config.set_dtype_policy(policy)
    trainee.build((None, None, None, 3))
    trainee.optimizer.build(trainee.trainable_variables)
    return trainee


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Sets the weights of `target` from a network of the same layers; stride and upsampling may differ.

    Raises:
        InputError: the networks differ in the number or shape of their weights.
    """
    theirs, ours = source.variables, target.variables
    different = [f"{a.path} {a.shape}" for a, b in zip(ours, theirs, strict=False) if a.shape != b.shape]
    if len(theirs) != len(ours) or different:
        raise InputError(
            f"the other network has other weights than this configuration: {len(theirs)} arrays where {len(ours)} are due"
            + (f", first difference at {different[0]}" if different else "")
        )
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        ours_one.assign(theirs_one)


@contextlib.contextmanager
def averaged_weights(trainee: Trainee) -> Iterator[None]:
    """Within, the network has its Polyak-averaged weights, where the optimiser keeps them."""
    if not trainee.optimizer.use_ema:
        yield
        return
    variables = trainee.trainable_variables
    current = _copies(variables)
    trainee.optimizer.finalize_variable_values(variables)
    # On JAX the weights now share memory with the averages, which a prediction would give away.
    _assign(variables, _copies(variables))
    try:
        yield
    finally:
        _assign(variables, current)


def _copies(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _state(trainee: Trainee) -> dict[str, Any]:
    """Everything that a step changes, by name, in a stable order."""
    groups = {"network": trainee.network.variables, "optimizer": trainee.optimizer.variables}
    # By position: names that Keras makes up count on with every network of a process.
    return {f"{group}/{i:05d}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def load_workdir(workdir: str | Path, skeleton: Skeleton = COCO_PERSON, best: bool = False) -> tuple[keras.Model, Config, int]:
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
    trainee = build_trainee(config, skeleton, pretrained=False)
    step = restore(_state(trainee), path)
    if trainee.optimizer.use_ema:
        trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
    return trainee.network, config, step


class _Keeper(keras.callbacks.Callback):
    """After each log interval: the log line, and where due the validation and the checkpoint. Stops where it is told or has to.

    Attributes:
        step: that the run has reached.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        step: int,
        journal: Journal,
        check: Callable[[], Log] | None,
        stop: threading.Event,
        records: str | Path,
        meta: Meta,
    ) -> None:
        super().__init__()
        self._config, self._settings = config, config.train
        self._folder, self._journal, self._check, self._stop = folder, journal, check, stop
        self._records, self._meta = records, meta
        self.step = self._begin = step
        self._began = 0.0
        self._current: list[np.ndarray] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin, self._began = self.step, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self._stop.is_set():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        settings, means = self._settings, {name: float(value) for name, value in (logs or {}).items()}
        watches = {name: int(means.pop(name)) for name in list(means) if name.startswith(_NOT_FINITE)}
        if first := min(filter(None, watches.values()), default=0):
            parts = [name.removeprefix(_NOT_FINITE) for name, step in watches.items() if step == first]
            raise InputError(self._not_finite(self._begin + first, parts))
        last = self.step >= settings.steps
        whole = self.step % settings.log_every == 0
        if whole:
            rate = (self.step - self._begin) * settings.batch_size / (time.perf_counter() - self._began)
            losses = {name if name == "loss" else f"loss/{name}": value for name, value in means.items()}
            speed = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._journal.write({"step": self.step, "images_per_second": round(rate, 2), "learning_rate": speed, **losses})
        if epoch + 1 == self.params["epochs"] and self.model.optimizer.use_ema:
            self._current = _copies(self.model.trainable_variables)
        stopping = self._stop.is_set()
        if self._check is not None and whole and not stopping and (last or self.step % settings.validate_every == 0):
            best = self._journal.best(_JUDGED_BY)
            self._journal.write({"step": self.step, **{f"validation/{name}": value for name, value in self._check().items()}})
            if self._journal.best(_JUDGED_BY) > best:
                save_best(_state(self.model), self._folder, self.step)
        if last or stopping or self.step % settings.checkpoint_every == 0:
            save(_state(self.model), self._folder, self.step, settings.keep_checkpoints)

    def take_back_averaging(self) -> None:
        """Undoes that `fit` ended in the midst of the run, where the optimiser put the averages in place of the weights."""
        if self.model.optimizer.use_ema:
            _assign(self.model.trainable_variables, self._current)

    def _not_finite(self, step: int, parts: list[str]) -> str:
        """What is to be said of a step of which these losses were not finite."""
        first = (step - 1) * self._settings.batch_size
        examples = training_examples(self._records, self._meta, self._config.data, self._settings.seed, first)
        batch = [
            f"image {int(example['image_id'])} view {int(example['view'])}"
            for example in examples.take(self._settings.batch_size).as_numpy_iterator()
        ]
        kept = latest_checkpoint(self._folder)
        return f"{self._folder}: the loss of step {step} is not finite ({', '.join(parts)}). Its batch: {', '.join(batch)}. " + (
            f"The checkpoint before is kept: {kept.name}" if kept is not None else "There is no checkpoint before it"
        )


def _claim_workdir(folder: Path, config: Config) -> None:
    """Writes the resolved configuration, unless the workdir belongs to a run with another network."""
    path = folder / CONFIG_FILE
    if path.is_file() and latest_checkpoint(folder) is not None:
        before = load_config(path)
        for section in ("model", "targets"):
            if getattr(before, section) != getattr(config, section):
                raise InputError(f"{folder}: holds a run with other settings of '{section}'. Choose another --workdir")
    write_atomically(path, config_to_yaml(config).encode())
