"""How crowded images are, in the levels of the CrowdPose paper.

(The evaluation code that its authors published divides easy from medium at 0.2.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LEVELS = {"easy": (0.0, 0.1), "medium": (0.1, 0.8), "hard": (0.8, math.inf)}
"""Crowd index from, and up to but without."""


def images_by_level(crowd_index: Mapping[int, float]) -> dict[str, set[int]]:
    """Level -> ids of its images.

    >>> images_by_level({1: 0.0, 2: 0.1, 3: 0.79, 4: 1.0})
    {'easy': {1}, 'medium': {2, 3}, 'hard': {4}}
    """
    return {
        level: {image for image, index in crowd_index.items() if low <= index < high}
        for level, (low, high) in LEVELS.items()
    }


def span(level: str) -> str:
    """A level in words.

    >>> span("medium"), span("hard")
    ('crowd index from 0.1 to 0.8', 'crowd index from 0.8')
    """
    low, high = LEVELS[level]
    return f"crowd index from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
