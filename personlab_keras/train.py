"""Training: a network, an optimiser and the records, taken step by step, checkpointed and resumed.

`fit` counts an epoch as `train.log_every` steps; passes over the data are the pipeline's affair.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from personlab_keras.config import Config, TrainConfig, config_to_yaml, load_config
from personlab_keras.data import make_dataset
from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically
from personlab_keras.losses import personlab_losses, total_loss
from personlab_keras.maps import EXTRA_OUTPUTS
from personlab_keras.model import build_model, freeze_batch_norm, freeze_untrained_heads
from personlab_keras.records import Meta, check_meta, read_meta
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.validation import validate

CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"
CHECKPOINTS = "checkpoints"

Log = dict[str, float]


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

    def call(self, image: Any, training: bool = False) -> dict[str, Any]:
        return self.network(image, training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._loss_tracker, *self._means.values()]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        losses = personlab_losses(y, y_pred, self._radius)
        for name, loss in losses.items():
            self._means[name].update_state(loss)
        return total_loss(losses, self._settings)


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

    The workdir gets `config.yaml` (resolved), `checkpoints/`, `log.jsonl` and `tensorboard/`.

    Args:
        init: a network whose weights to start from instead of `model.weights`; ignored when a checkpoint is there.
        report: called with each line of the log: step, learning rate, images per second and mean losses since the line before;
            or step and the metrics of a validation.

    Returns:
        The trained network (averaged weights where `train.ema` is on).

    Raises:
        InputError: the records do not fit the configuration, or the workdir holds a run of another network.
    """
    folder = Path(workdir)
    meta = read_meta(records)
    val_meta = read_meta(val_records) if val_records is not None else None
    for found, place in ((meta, records), (val_meta, val_records)):
        if found is not None:
            check_meta(found, str(place), skeleton=skeleton, radius=config.targets.radius, stride=config.targets.stride)
    config = resolve(config, meta)
    _claim_workdir(folder, config)
    keras.utils.set_random_seed(config.train.seed)
    with distribution(config.train.strategy):
        trainee = build_trainee(config, skeleton, pretrained=init is None and latest_checkpoint(folder) is None)
        if init is not None:
            copy_weights(init, trainee.network)
        step = restore(trainee, folder)
    dataset = make_dataset(
        records,
        config.train.batch_size,
        training=True,
        settings=config.data,
        seed=config.train.seed,
        first_example=step * config.train.batch_size,
    )
    journal = _Journal(folder, step, report)

    def check() -> Log:
        with averaged_weights(trainee):
            return validate(trainee.network, str(val_records), config)

    keeper = _Keeper(config, folder, step, journal, check if val_records is not None else None)
    interval = config.train.log_every
    if step < config.train.steps:
        trainee.fit(
            dataset,
            epochs=-(-config.train.steps // interval),
            initial_epoch=step // interval,
            steps_per_epoch=interval,
            callbacks=[keeper],
            shuffle=False,
            verbose=0,
        )
    elif trainee.optimizer.use_ema:  # `fit` ends by averaging; a run that was over already has to be averaged here
        trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
    return trainee.network


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


def build_optimizer(settings: TrainConfig) -> keras.optimizers.Optimizer:
    """The optimiser of the settings.

    Raises:
        InputError: an unknown optimiser or schedule.
    """
    common: dict[str, Any] = {
        "learning_rate": learning_rate(settings),
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.99,
        "global_clipnorm": settings.clip_norm,
        "weight_decay": settings.weight_decay or None,
    }
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=settings.momentum, **common)
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(**common)
    else:
        raise InputError(f"train.optimizer must be sgd or adam. Received: {settings.optimizer}")
    if settings.weight_decay:
        # Decay is for kernels: scales and shifts have no business near zero.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(settings: TrainConfig) -> Any:
    """Step -> learning rate: a linear rise over `warmup_steps`, then the schedule.

    Raises:
        InputError: an unknown schedule.
    """
    peak, steps = settings.learning_rate, max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "constant":
        after: Any = keras.optimizers.schedules.PiecewiseConstantDecay([settings.steps], [peak, peak])
    elif settings.schedule == "cosine":
        after = keras.optimizers.schedules.CosineDecay(peak, steps)
    elif settings.schedule == "polynomial":
        after = keras.optimizers.schedules.PolynomialDecay(peak, steps, end_learning_rate=0.0, power=0.9)
    else:
        raise InputError(f"train.schedule must be constant, cosine or polynomial. Received: {settings.schedule}")
    return WarmUp(after, peak, settings.warmup_steps) if settings.warmup_steps else after


@keras.saving.register_keras_serializable(package="personlab_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to `peak` over `steps`, then another schedule counted from there."""

    def __init__(self, after: keras.optimizers.schedules.LearningRateSchedule, peak: float, steps: int) -> None:
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rising = self.peak * (step + 1.0) / self.steps
        return keras.ops.where(step < self.steps, rising, self.after(keras.ops.maximum(step - self.steps, 0.0)))

    def get_config(self) -> dict[str, Any]:
        return {"after": keras.saving.serialize_keras_object(self.after), "peak": self.peak, "steps": self.steps}


@contextlib.contextmanager
def distribution(name: str) -> Iterator[None]:
    """The devices to train on: see `train.strategy`. On the JAX backend all devices share each batch ('auto', 'mirrored').

    Raises:
        InputError: an unknown name, or no TPU where one is asked for.
    """
    if name not in ("auto", "single", "mirrored", "tpu"):
        raise InputError(f"train.strategy must be auto, single, mirrored or tpu. Received: {name}")
    if keras.backend.backend() == "jax":
        if name != "single" and len(keras.distribution.list_devices()) > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
        return
    strategy: Any = None
    if name == "tpu" or (name == "auto" and "TPU_NAME" in os.environ):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise InputError(f"train.strategy: no TPU can be reached: {str(error).splitlines()[0]}") from None
        strategy = tf.distribute.TPUStrategy(resolver)
    elif name == "mirrored" or (name == "auto" and len(tf.config.list_physical_devices("GPU")) > 1):
        strategy = tf.distribute.MirroredStrategy()
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        yield


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

    def copies() -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    def assign(values: list[np.ndarray]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    current = copies()
    trainee.optimizer.finalize_variable_values(variables)
    # On JAX the weights now share memory with the averages, which a prediction would give away.
    assign(copies())
    try:
        yield
    finally:
        assign(current)


def _state(trainee: Trainee) -> dict[str, Any]:
    """Everything that a step changes, by name, in a stable order."""
    groups = {"network": trainee.network.variables, "optimizer": trainee.optimizer.variables}
    # By position: names that Keras makes up count on with every network of a process.
    return {f"{group}/{i:05d}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def save(trainee: Trainee, folder: Path, step: int, keep: int) -> Path:
    """Writes a checkpoint and then removes those older than the latest `keep`."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: keras.ops.convert_to_numpy(variable) for name, variable in _state(trainee).items()})
    path = folder / CHECKPOINTS / f"step-{step:08d}.npz"
    write_atomically(path, buffer.getvalue())
    for old in _checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def restore(trainee: Trainee, folder: Path) -> int:
    """Loads the latest checkpoint; returns its step, 0 where there is none.

    Raises:
        InputError: it is damaged or of another network or optimiser.
    """
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    state = _state(trainee)
    try:
        with np.load(path) as saved:
            values = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged checkpoint: {error}. Delete it to go on from the one before") from None
    unlike = sorted(values.keys() ^ state.keys()) or [name for name in state if values[name].shape != tuple(state[name].shape)]
    if unlike:
        raise InputError(f"{path}: a checkpoint of another network or optimiser; first difference: {unlike[0]}")
    for name, variable in state.items():
        variable.assign(values[name])
    return int(path.stem.removeprefix("step-"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a workdir."""
    return next(reversed(_checkpoints(folder)), None)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS).glob("step-*.npz"))


def load_workdir(workdir: str | Path, skeleton: Skeleton = COCO_PERSON) -> tuple[keras.Model, Config, int]:
    """The network of a run at its latest checkpoint (averaged weights where it keeps them), its configuration and step.

    Raises:
        InputError: the folder holds no run or no checkpoint.
    """
    folder = Path(workdir)
    if not (folder / CONFIG_FILE).is_file() or latest_checkpoint(folder) is None:
        raise InputError(
            f"{folder}: no {CONFIG_FILE} with {CHECKPOINTS}/ there; a workdir is what `personlab train --workdir` wrote"
        )
    config = load_config(folder / CONFIG_FILE)
    trainee = build_trainee(config, skeleton, pretrained=False)
    step = restore(trainee, folder)
    if trainee.optimizer.use_ema:
        trainee.optimizer.finalize_variable_values(trainee.trainable_variables)
    return trainee.network, config, step


def _claim_workdir(folder: Path, config: Config) -> None:
    """Writes the resolved configuration, unless the workdir belongs to a run with another network."""
    path = folder / CONFIG_FILE
    if path.is_file() and latest_checkpoint(folder) is not None:
        before = load_config(path)
        for section in ("model", "targets"):
            if getattr(before, section) != getattr(config, section):
                raise InputError(f"{folder}: holds a run with other settings of '{section}'. Choose another --workdir")
    write_atomically(path, config_to_yaml(config).encode())


class _Journal:
    """Lines of the log: to `log.jsonl`, to TensorBoard, and to whoever watches. Lines after the step resumed from are dropped."""

    def __init__(self, folder: Path, step: int, report: Callable[[Log], None]) -> None:
        self._path = folder / LOG_FILE
        self._report = report
        lines = [line for line in read_log(folder) if line["step"] <= step]
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._board = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, log: Log) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(log) + "\n")
        with self._board.as_default(step=int(log["step"])):
            for name, value in log.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        self._board.flush()
        self._report(log)


def read_log(workdir: str | Path) -> list[Log]:
    """The lines of a run's log, in order; an unfinished last line is left out."""
    path = Path(workdir) / LOG_FILE
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1]]


class _Keeper(keras.callbacks.Callback):
    """After each log interval: the log line, and where due the validation and the checkpoint."""

    def __init__(self, config: Config, folder: Path, step: int, journal: _Journal, check: Callable[[], Log] | None) -> None:
        super().__init__()
        self._settings, self._folder, self._journal, self._check = config.train, folder, journal, check
        self._step = step
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        settings = self._settings
        self._step += settings.log_every
        last = self._step >= settings.steps
        rate = settings.log_every * settings.batch_size / (time.perf_counter() - self._began)
        losses = {f"{name}" if name == "loss" else f"loss/{name}": float(value) for name, value in (logs or {}).items()}
        speed = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._journal.write({"step": self._step, "images_per_second": round(rate, 2), "learning_rate": speed, **losses})
        if self._check is not None and (last or self._step % settings.validate_every == 0):
            self._journal.write({"step": self._step, **{f"validation/{name}": value for name, value in self._check().items()}})
        if last or self._step % settings.checkpoint_every == 0:
            save(self.model, self._folder, self._step, settings.keep_checkpoints)
