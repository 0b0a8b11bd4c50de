"""Ends a run whose loss is no longer finite or has exploded, and names the step to blame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from personlab_keras.training.run_log import Log


class BadStep(NamedTuple):
    """A step after which it makes no sense to continue.

    Attributes:
        number: counted from 1 within the log interval.
        reason: predicate of a sentence about the loss of that step.
    """

    number: int
    reason: str


class LossGuard:
    """Compares the losses of each log interval with those of the intervals before.

    Args:
        limit: largest allowed ratio of an interval's mean loss to the least so far
            (`train.loss_limit`); None for any.
        least: the least mean loss of the intervals before a resumed run stopped.

    >>> guard = LossGuard(limit=20.0)
    >>> guard.check({"loss": 1.5}, {"loss": 3})
    >>> guard.check({"loss": float("nan"), "heatmaps": float("nan")}, {"loss": 2, "heatmaps": 2})
    BadStep(number=2, reason='is not finite (heatmaps)')
    """

    def __init__(self, limit: float | None, least: float = np.inf) -> None:
        self._limit = limit
        self._least = least

    def check(self, means: Log, worst: Mapping[str, int]) -> BadStep | None:
        """The step that ends the run, if there is one.

        Args:
            means: the mean of every loss over the interval; "loss" is the total.
            worst: for the same names, the step of the largest loss.
        """
        bad = [name for name in worst if not np.isfinite(means[name])]
        if bad:
            first = min(worst[name] for name in bad)
            parts = [name for name in bad if name != "loss" and worst[name] == first]
            return BadStep(first, f"is not finite ({', '.join(parts)})")
        if self._limit is not None and means["loss"] > self._limit * self._least:
            return BadStep(
                worst["loss"],
                f"is the largest of an interval whose mean is {means['loss']:.4g}, more than "
                f"{self._limit:g} times (train.loss_limit) the least before, {self._least:.4g}",
            )
        self._least = min(self._least, means["loss"])
        return None
