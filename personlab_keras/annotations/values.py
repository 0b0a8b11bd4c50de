"""Values of annotation files: read with suspicion, shown in one line."""

from __future__ import annotations

from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """A value for a message: short, and in ASCII whatever it holds."""
    try:
        text = ascii(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a large {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def numbers(values: Any, count: int) -> np.ndarray | None:
    """(count,) float64; None if these are not so many numbers. A text that looks like a number is
    none.
    """
    if (
        not isinstance(values, list)
        or len(values) != count
        or not {type(value) for value in values} <= {int, float}
    ):
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return None
