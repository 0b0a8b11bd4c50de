"""Training: takes the steps of a run, with checkpoints from which it can be resumed.

An epoch of `fit` is `train.log_every` steps; passes over the data are left to the pipeline.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import keras

from personlab_keras.config import Config, DataConfig
from personlab_keras.data.pipeline import damage_named, make_dataset, small_images, watch_waits
from personlab_keras.data.records import Meta, check_meta, check_trainable, read_meta
from personlab_keras.errors import InputError, Stopped
from personlab_keras.io.files import Place, as_place
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.model.network import copy_weights, has_batch_norm
from personlab_keras.model_directory import Description
from personlab_keras.training.callback import RunCallback
from personlab_keras.training.checkpoints import (
    Position,
    latest_checkpoint,
    open_saver,
    restore,
)
from personlab_keras.training.devices import connect
from personlab_keras.training.run_log import Log, RunLog
from personlab_keras.training.training_model import build_training_model, put_averages
from personlab_keras.training.workdir import Run, open_workdir, training_state


def train(
    records: str | Place,
    workdir: str | Place,
    config: Config,
    *,
    val_records: str | Place | None = None,
    init: keras.Model | None = None,
    skeleton: Skeleton | None = None,
    report: Callable[[Log], None] = lambda log: None,
    started: Callable[[int, int], None] = lambda step, steps: None,
    stopping: Callable[[], None] = lambda: None,
) -> keras.Model:
    """Trains up to step `train.steps`; resumes from the last checkpoint in the workdir, if any.

    The workdir gets `config.yaml` (resolved), `skeleton.yaml`, `checkpoints/`, `log.jsonl` and
    `tensorboard/`. SIGTERM or Ctrl-C ends the run after the current step with a checkpoint, from
    which the same call resumes; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        init: a network whose weights to start from instead of `model.weights`; when a checkpoint is
            there, only `train.kept_outputs` needs it.
        skeleton: that the records must have; theirs if None.
        report: called with each line of the log: step, learning rate, images per second and mean
            losses since the line before; or step and the metrics of a validation.
        started: called with the step at which the run starts and its last one, before the first.
        stopping: called when a signal asks the run to stop, in the handler of that signal.

    Returns:
        The trained network (averaged weights where `train.ema` is on).

    Raises:
        Stopped: by SIGTERM or Ctrl-C.
        InputError: the records do not fit the configuration; outputs of an initial network are to
            be kept, and none is given; nobody in them has a labelled
            keypoint; batch-norm is to be frozen in a
            network of random weights; the workdir holds a run of another network, or another
            process trains there; a record is damaged; the loss is no longer finite; a checkpoint
            cannot be written.
    """
    folder = as_place(workdir)
    meta = read_meta(records)
    val_meta = read_meta(val_records) if val_records is not None else None
    skeleton = skeleton or meta.skeleton
    for found, place in ((meta, records), (val_meta, val_records)):
        if found is not None:
            check_meta(
                found,
                str(place),
                skeleton=skeleton,
                radius=config.targets.radius,
                stride=config.targets.stride,
            )
    check_meta(meta, records, skeleton=skeleton, online=config.data.online)
    check_trainable(meta, records)
    config = resolve(config, meta)
    settings = config.train
    every_record = (records,) if val_records is None else (records, val_records)
    with (
        connect(settings.strategy) as devices,
        open_workdir(folder, config, skeleton, devices),
        _stop_signals(stopping) as stop,
        damage_named(*every_record, skip_corrupt=config.data.skip_corrupt),
    ):
        devices.check_batch(settings.batch_size)
        if settings.checkpoints == "orbax" and devices.processes > 1:
            raise InputError(
                "train.checkpoints=orbax is for one process. Received: "
                f"{devices.processes} processes; use npz"
            )
        keras.utils.set_random_seed(settings.seed)
        latest = latest_checkpoint(folder)
        random = init is None and latest is None and config.model.weights is None
        with devices.scope():
            training_model = build_training_model(
                config, skeleton, pretrained=init is None and latest is None
            )
            if random and settings.freeze_batch_norm and has_batch_norm(training_model.network):
                raise InputError(
                    "train.freeze_batch_norm keeps the batch-norm statistics of pretrained weights, "
                    "and model.weights=null has none. Set train.freeze_batch_norm=false or name "
                    "weights"
                )
            if training_model.teacher is not None:
                if init is None:
                    raise InputError(
                        "train.kept_outputs keeps outputs of an initial network: name it with "
                        "--init, also to resume a run. Received: none"
                    )
                copy_weights(init, training_model.teacher)
            if init is not None:
                copy_weights(init, training_model.network)
            start = (
                restore(training_state(training_model), latest)
                if latest is not None
                else Position(0, 0)
            )
        if len(set(devices.gather(start.step))) > 1:
            raise InputError(
                f"{folder}: all processes of a run need the same workdir; "
                "these see different checkpoints"
            )
        saver = (
            open_saver(settings.checkpoints, folder, settings.keep_checkpoints)
            if devices.writes
            else None
        )
        log = RunLog(folder, start.step, report) if devices.writes else None
        run = Run(folder, config, records, meta, val_records, devices, init is not None)
        callback = RunCallback(run, start, log, saver, stop.asked)
        started(start.step, settings.steps)
        # A run that was stopped within a log interval first completes that interval.
        for steps in (-start.step % settings.log_every, settings.log_every):
            if not steps or callback.step == settings.steps:
                continue
            dataset = make_dataset(
                records,
                settings.batch_size,
                training=True,
                settings=config.data,
                seed=settings.seed,
                first_example=callback.position.example,
                part=devices.process,
                parts=devices.processes,
            )
            training_model.fit(
                devices.feed(watch_waits(small_images(dataset)), settings.batch_size),
                epochs=1
                if steps < settings.log_every
                else (settings.steps - callback.step) // steps,
                steps_per_epoch=steps,
                callbacks=[callback],
                shuffle=False,
                verbose=0,
            )
            if callback.stopping and callback.step < settings.steps:
                raise Stopped(
                    f"{folder}: stopped at step {callback.step} of {settings.steps}; "
                    "the same command resumes from there",
                    interrupted=stop.number == signal.SIGINT,
                )
            if callback.step < settings.steps:
                callback.take_back_averaging()
        if callback.step > 0:
            put_averages(training_model)
        return training_model.network


class _Stop:
    """Whether a signal asked the run to stop, and which."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.number: int | None = None


@contextlib.contextmanager
def _stop_signals(stopping: Callable[[], None]) -> Iterator[_Stop]:
    """Makes the first SIGTERM, which is sent before a machine is taken away, or the first Ctrl-C a
    wish to stop; later ones do what they did before. Only the main thread receives signals.
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _: object) -> None:
        for each in numbers:
            signal.signal(each, before[each])
        stop.number = number
        stop.asked.set()
        stopping()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def resolve(config: Config, meta: Meta) -> Config:
    """The configuration with the settings that the records decide, and step counts rounded up to
    whole log intervals.
    """

    def whole(steps: int) -> int:
        return -(-steps // config.train.log_every) * config.train.log_every

    return replace(
        config,
        data=_data_of(config.data, meta),
        model=replace(config.model, target_stride=meta.stride),
        train=replace(
            config.train,
            steps=whole(config.train.steps),
            checkpoint_every=whole(config.train.checkpoint_every),
            validate_every=whole(config.train.validate_every),
        ),
    )


def _data_of(settings: DataConfig, meta: Meta) -> DataConfig:
    views = 1 if meta.online else settings.views_per_image
    return replace(settings, view_size=meta.view_size, online=meta.online, views_per_image=views)


def starting_config(meta: Meta, initial: Description | None = None) -> Config:
    """The settings of a run before the user changes any.

    The views and targets are those of the records. With initial weights, the network, its radius,
    padding and decoding are theirs; everything else has its default.

    Args:
        meta: of the records to train on.
        initial: description of the network whose weights the run starts from.
    """
    defaults = Config()
    if initial is not None:
        defaults = replace(
            defaults,
            data=replace(defaults.data, pad_colour=initial.config.data.pad_colour),
            # `resolve` sets the stride of the maps to that of the records.
            model=replace(initial.config.model, target_stride=None),
            decode=initial.config.decode,
            predict=initial.config.predict,
        )
    radius = meta.radius if initial is None else initial.radius
    return replace(
        defaults,
        data=_data_of(defaults.data, meta),
        targets=replace(defaults.targets, stride=meta.stride, radius=radius),
    )
