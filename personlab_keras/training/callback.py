"""What happens between the steps of a run: the log, validation, checkpoints, and stopping."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import keras
import numpy as np

from personlab_keras.data.pipeline import WAIT, training_examples
from personlab_keras.data.stream import Part
from personlab_keras.errors import InputError
from personlab_keras.model.network import assign, copies
from personlab_keras.training.checkpoints import (
    Position,
    Saver,
    latest_checkpoint,
    save_best,
)
from personlab_keras.training.devices import memory
from personlab_keras.training.loss_guard import BadStep, LossGuard
from personlab_keras.training.run_log import SCORE, Log, RunLog, read_log
from personlab_keras.training.training_model import (
    WORST,
    averaged_variables,
    averaged_weights,
    build_training_model,
)
from personlab_keras.training.validation import Validation, validate
from personlab_keras.training.workdir import Run, training_state


class RunCallback(keras.callbacks.Callback):
    """Writes the log, validates and saves checkpoints after each log interval, as often as the
    settings say, and ends the run when it was told to stop or its loss went wrong.

    Args:
        run: the run that this belongs to.
        start: position at which this call of `train` starts.
        log, saver: the log and the checkpoints of the run; None in processes that do not write.
        stop: is set when the run has been told to stop.

    Attributes:
        step: the number of steps taken so far.
        stopping: whether the run was told to stop before its last step.
    """

    def __init__(
        self,
        run: Run,
        start: Position,
        log: RunLog | None,
        saver: Saver | None,
        stop: threading.Event,
    ) -> None:
        super().__init__()
        self._run, self._settings, self._devices = run, run.config.train, run.devices
        self._start, self._log, self._saver, self._stop = start, log, saver, stop
        self.step = self._begin = start.step
        self.stopping = False
        self._began = 0.0
        # Every process reads the log, so that all of them end the run at the same step.
        before = (line for line in read_log(run.folder) if line["step"] <= start.step)
        least = min((line["loss"] for line in before if "loss" in line), default=np.inf)
        self._guard = LossGuard(self._settings.loss_limit, least)
        self._current: list[np.ndarray] = []
        self._copy: keras.Model | None = None

    @property
    def position(self) -> Position:
        """Position that the run has reached."""
        return self._after(self.step)

    def _after(self, step: int) -> Position:
        return Position(
            step, self._start.example + (step - self._start.step) * self._settings.batch_size
        )

    def on_train_begin(self, logs: Any = None) -> None:
        # A run must not make the weights that it starts from worse unnoticed.
        if self.step == 0 and self._run.from_trained and self._run.val_records is not None:
            self._validate(averaged=False)

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
        bad = self._guard.check(values, worst)
        if bad is not None:
            raise InputError(self._describe(bad))
        # All processes stop at the same step.
        self.stopping = bool(self._devices.gather(self._stop.is_set()).any())
        self.model.stop_training = self.stopping
        last = self.step >= settings.steps
        whole = self.step % settings.log_every == 0
        if epoch + 1 == self.params["epochs"] and self.model.optimizer.use_ema:
            self._current = copies(averaged_variables(self.model))
        if self._log is not None and whole:
            self._log.write(self._line(values, wait))
        validating = self._run.val_records is not None and whole and not self.stopping
        if validating and (last or self.step % settings.validate_every == 0):
            self._validate(averaged=True)
        if self._saver is not None and (
            last or self.stopping or self.step % settings.checkpoint_every == 0
        ):
            self._saver.save(training_state(self.model), self.position)
            if last or self.stopping:
                self._saver.finish()

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

    def _validate(self, averaged: bool) -> None:
        """Logs figures and pictures of the averaged weights (of the current ones before the first
        step, when there is no average yet), and with `train.validate_raw` the
        figures of the current weights too; keeps the checkpoint if it is the best so far.
        """
        found = self._judge(averaged, shown=self._settings.shown_views)
        raw = self._judge(averaged=False) if averaged and self._settings.validate_raw else None
        if self._log is None or found is None:
            return
        figures = {f"validation/{name}": value for name, value in found.figures.items()}
        if raw is not None:
            figures |= {f"validation_raw/{name}": value for name, value in raw.figures.items()}
        best = self._log.best(SCORE)
        self._log.write({"step": self.step, **figures})
        self._log.show("validation", self.step, found.overlays)
        if self._log.best(SCORE) > best:
            save_best(training_state(self.model), self._run.folder, self.position)

    def _judge(self, averaged: bool, shown: int = 0) -> Validation | None:
        """Validates the network that trains, or a copy of it where several devices or processes
        share that one: all processes then hand over their weights and one of them validates.
        """
        run = self._run
        assert run.val_records is not None
        with averaged_weights(self.model) if averaged else contextlib.nullcontext():
            if self._devices.keep_network_whole:
                return validate(self.model.network, run.val_records, run.config, shown)
            weights = copies(self.model.network.variables)
        if self._log is None:
            return None
        with self._devices.alone():
            if self._copy is None:
                skeleton = run.meta.skeleton
                self._copy = build_training_model(run.config, skeleton, pretrained=False).network
            assign(self._copy.variables, weights)
            return validate(self._copy, run.val_records, run.config, shown)

    def take_back_averaging(self) -> None:
        """Puts the current weights back. Whenever `fit` ends, also in the middle of a run, the
        optimizer replaces them by their averages.
        """
        if self.model.optimizer.use_ema:
            assign(averaged_variables(self.model), self._current)

    def _describe(self, bad: BadStep) -> str:
        """The step, its batch, and the checkpoint from which the run can be resumed."""
        run, step = self._run, self._begin + bad.number
        first = self._after(step - 1).example
        examples = training_examples(
            run.records, run.meta, run.config.data, self._settings.seed, Part(first)
        )
        batch = ", ".join(
            f"image {int(example['image_id'])} view {int(example['view'])}"
            for example in examples.take(self._settings.batch_size).as_numpy_iterator()
        )
        kept = latest_checkpoint(run.folder)
        last = f"The last checkpoint is {kept.name}" if kept else "There is no checkpoint yet"
        return f"{run.folder}: the loss of step {step} {bad.reason}. Its batch: {batch}. {last}"
