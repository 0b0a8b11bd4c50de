"""What happens between the steps of a run: the log, validation, checkpoints, and stopping."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from personlab_keras.config import Config
from personlab_keras.data.pipeline import WAIT, training_examples
from personlab_keras.data.records import Meta
from personlab_keras.errors import InputError
from personlab_keras.model.network import assign, copies
from personlab_keras.training.checkpoints import Position, latest_checkpoint, save, save_best
from personlab_keras.training.devices import Devices, memory
from personlab_keras.training.run_log import Log, RunLog, read_log
from personlab_keras.training.training_model import WORST, averaged_weights, build_training_model
from personlab_keras.training.validation import Validation, validate
from personlab_keras.training.workdir import training_state

_BEST_BY = "validation/keypoint_AP"


class RunCallback(keras.callbacks.Callback):
    """After each log interval: the log line, and where due the validation and the checkpoint. Stops
    where it is told or has to.

    Attributes:
        step: that the run has reached.
        stopping: whether the run was told to end before its last step.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        start: Position,
        log: RunLog | None,
        devices: Devices,
        stop: threading.Event,
        records: str | Path,
        meta: Meta,
        val_records: str | Path | None,
    ) -> None:
        super().__init__()
        self._config, self._settings = config, config.train
        self._folder, self._log, self._devices, self._stop = folder, log, devices, stop
        self._records, self._meta, self._val_records = records, meta, val_records
        self._start = start
        self.step = self._begin = start.step
        self.stopping = False
        self._began = 0.0
        # Read in all processes, so that all come to the same end.
        self._least = min(
            (
                line["loss"]
                for line in read_log(folder)
                if "loss" in line and line["step"] <= start.step
            ),
            default=np.inf,
        )
        self._current: list[np.ndarray] = []
        self._copy: keras.Model | None = None

    @property
    def position(self) -> Position:
        """That the run has reached."""
        return self._after(self.step)

    def _after(self, step: int) -> Position:
        return Position(
            step, self._start.example + (step - self._start.step) * self._settings.batch_size
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin, self._began = self.step, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self._devices.processes == 1 and self._stop.is_set():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        settings = self._settings
        values = {name: np.asarray(value).item() for name, value in (logs or {}).items()}
        worst = {
            name.removeprefix(WORST): int(values.pop(name))
            for name in list(values)
            if name.startswith(WORST)
        }
        wait = values.pop(WAIT)
        self._check_losses(values, worst)
        # All processes stop at the same step.
        self.stopping = bool(self._devices.gather(self._stop.is_set()).any())
        self.model.stop_training = self.stopping
        last = self.step >= settings.steps
        whole = self.step % settings.log_every == 0
        if epoch + 1 == self.params["epochs"] and self.model.optimizer.use_ema:
            self._current = copies(self.model.trainable_variables)
        if self._log is not None and whole:
            self._log.write(self._line(values, wait))
        validating = self._val_records is not None and whole and not self.stopping
        if validating and (last or self.step % settings.validate_every == 0):
            self._validate()
        if self._log is not None and (
            last or self.stopping or self.step % settings.checkpoint_every == 0
        ):
            save(training_state(self.model), self._folder, self.position, settings.keep_checkpoints)

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
        """Line and pictures of a validation: of the averaged weights, and where
        `train.validate_raw` of those of this step too.
        """
        found = self._judge(averaged=True, shown=self._settings.shown_views)
        raw = self._judge(averaged=False) if self._settings.validate_raw else None
        if self._log is None or found is None:
            return
        figures = {f"validation/{name}": value for name, value in found.figures.items()}
        if raw is not None:
            figures |= {f"validation_raw/{name}": value for name, value in raw.figures.items()}
        best = self._log.best(_BEST_BY)
        self._log.write({"step": self.step, **figures})
        self._log.show("validation", self.step, found.overlays)
        if self._log.best(_BEST_BY) > best:
            save_best(training_state(self.model), self._folder, self.position)

    def _judge(self, averaged: bool, shown: int = 0) -> Validation | None:
        """By the network that trains, or where that cannot be by a copy of it. All processes hand
        over weights, one of them judges.
        """
        with averaged_weights(self.model) if averaged else contextlib.nullcontext():
            if self._devices.keep_network_whole:
                return validate(self.model.network, str(self._val_records), self._config, shown)
            weights = copies(self.model.network.variables)
        if self._log is None:
            return None
        with self._devices.alone():
            if self._copy is None:
                self._copy = build_training_model(
                    self._config, self._meta.skeleton, pretrained=False
                ).network
            assign(self._copy.variables, weights)
            return validate(self._copy, str(self._val_records), self._config, shown)

    def _check_losses(self, means: Log, worst: dict[str, int]) -> None:
        """Raises:
        InputError: a loss was not finite, or the mean loss of this interval is out of all
        proportion to those before."""
        bad = [name for name in worst if not np.isfinite(means[name])]
        limit = self._settings.loss_limit
        if bad:
            first = min(worst[name] for name in bad)
            parts = [name for name in bad if name != "loss" and worst[name] == first]
            raise InputError(self._describe_bad_step(first, f"is not finite ({', '.join(parts)})"))
        if limit is not None and means["loss"] > limit * self._least:
            raise InputError(
                self._describe_bad_step(
                    worst["loss"],
                    f"is the largest of an interval whose mean is {means['loss']:.4g}, more than {limit:g} times (train.loss_limit) "
                    f"the least before, {self._least:.4g}",
                )
            )
        self._least = min(self._least, means["loss"])

    def take_back_averaging(self) -> None:
        """Undoes that `fit` ended in the midst of the run, where the optimizer put the averages in
        place of the weights.
        """
        if self.model.optimizer.use_ema:
            assign(self.model.trainable_variables, self._current)

    def _describe_bad_step(self, within: int, what: str) -> str:
        """What is to be said of the loss of a step, counted from 1 within the interval."""
        step = self._begin + within
        first = self._after(step - 1).example
        examples = training_examples(
            self._records, self._meta, self._config.data, self._settings.seed, first
        )
        batch = [
            f"image {int(example['image_id'])} view {int(example['view'])}"
            for example in examples.take(self._settings.batch_size).as_numpy_iterator()
        ]
        kept = latest_checkpoint(self._folder)
        return (
            f"{self._folder}: the loss of step {step} {what}. Its batch: {', '.join(batch)}. "
            + (
                f"The checkpoint before is kept: {kept.name}"
                if kept is not None
                else "There is no checkpoint before it"
            )
        )
