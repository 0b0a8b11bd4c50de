"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import keras

from personlab_keras.config import TrainConfig


def build_optimizer(settings: TrainConfig) -> keras.optimizers.Optimizer:
    """The optimizer of the settings."""
    common: dict[str, Any] = {
        "learning_rate": learning_rate(settings),
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.99,
        "global_clipnorm": settings.clip_norm,
        "weight_decay": settings.weight_decay or None,
    }
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=settings.momentum, **common)
    else:
        optimizer = keras.optimizers.Adam(**common)
    if settings.weight_decay:
        # Decay is for kernels: scales and shifts need not be near zero.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(settings: TrainConfig) -> Any:
    """Step -> learning rate: a linear rise over `warmup_steps`, then the schedule."""
    peak, steps = settings.learning_rate, max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "constant":
        after: Any = keras.optimizers.schedules.PiecewiseConstantDecay(
            [settings.steps], [peak, peak]
        )
    elif settings.schedule == "cosine":
        after = keras.optimizers.schedules.CosineDecay(peak, steps)
    else:
        after = keras.optimizers.schedules.PolynomialDecay(
            peak, steps, end_learning_rate=0.0, power=0.9
        )
    return WarmUp(after, peak, settings.warmup_steps) if settings.warmup_steps else after


@keras.saving.register_keras_serializable(package="personlab_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to `peak` over `steps`, then another schedule counted from there."""

    def __init__(
        self, after: keras.optimizers.schedules.LearningRateSchedule, peak: float, steps: int
    ) -> None:
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rising = self.peak * (step + 1.0) / self.steps
        return keras.ops.where(
            step < self.steps, rising, self.after(keras.ops.maximum(step - self.steps, 0.0))
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "after": keras.saving.serialize_keras_object(self.after),
            "peak": self.peak,
            "steps": self.steps,
        }
