"""The One-Euro filter (Casiez et al., CHI 2012) on the keypoints of each person: it smooths
keypoints at rest and follows moving ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from personlab_keras.method.person import Person


@dataclass
class OneEuro:
    """A filter for points (K, 2). A point that was missing starts afresh.

    Attributes:
        min_cutoff: cut-off frequency in Hz of a point at rest: lower values smooth more.
        beta: increase of the cut-off with the speed, in Hz per (body height / s).
        speed_cutoff: cut-off frequency in Hz of the speed itself.

    >>> smooth = OneEuro()
    >>> smooth(np.zeros((1, 2)), at=0.0, size=100.0).tolist()
    [[0.0, 0.0]]
    >>> bool(0 < smooth(np.ones((1, 2)), at=0.04, size=100.0)[0, 0] < 1)
    True
    """

    min_cutoff: float = 1.5
    beta: float = 4.0
    speed_cutoff: float = 1.0
    _at: float = field(default=math.nan, init=False)
    _points: np.ndarray | None = field(default=None, init=False)
    _speeds: np.ndarray | None = field(default=None, init=False)

    def __call__(self, points: np.ndarray, at: float, size: float) -> np.ndarray:
        """Filters the points of one frame.

        Args:
            points: (K, 2) in pixels; NaN where missing, in the result as well.
            at: time of the frame in seconds.
            size: height of the person in pixels, the unit of the speed.
        """
        elapsed = at - self._at
        if self._points is None or self._speeds is None or not 0 < elapsed < _LONGEST:
            self._at, self._points, self._speeds = at, points, np.zeros_like(points)
            return points
        speeds = (points - self._points) / elapsed
        share = _share(self.speed_cutoff, elapsed)
        speeds = np.where(np.isfinite(speeds), share * speeds + (1 - share) * self._speeds, 0.0)
        pace = np.linalg.norm(speeds, axis=-1, keepdims=True) / max(size, 1.0)
        weight = _share(self.min_cutoff + self.beta * pace, elapsed)
        smoothed = weight * points + (1 - weight) * self._points
        smoothed = np.where(np.isfinite(smoothed), smoothed, points)
        self._at, self._points, self._speeds = at, smoothed, speeds
        return smoothed


class Smoother:
    """Filters the keypoints of people with ids, each by a filter of its own."""

    def __init__(self) -> None:
        self._filters: dict[int, tuple[OneEuro, float]] = {}

    def __call__(self, people: list[Person], at: float) -> list[Person]:
        """People of one frame at a time in seconds, with smoothed keypoints; those without an id
        are left as they are.
        """
        self._filters = {
            number: kept for number, kept in self._filters.items() if at - kept[1] < _LONGEST
        }
        smoothed = []
        for person in people:
            if person.id is not None:
                smooth = self._filters.get(person.id, (OneEuro(), at))[0]
                self._filters[person.id] = smooth, at
                points = smooth(person.keypoints, at, float(person.box[3]))
                person = replace(person, keypoints=points)
            smoothed.append(person)
        return smoothed


_LONGEST = 1.0
"""Seconds of absence after which the filter of a person starts afresh."""


def _share(cutoff: float | np.ndarray, elapsed: float) -> float | np.ndarray:
    """Weight of a new value in a low-pass filter with this cut-off frequency in Hz."""
    rate = 2 * math.pi * cutoff * elapsed
    return rate / (rate + 1)
