"""Compiles the decoder's loops by Numba, cached where a cache can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable) -> Any:
    """Compiles a function when it is first called.

    Machine code is cached in NUMBA_CACHE_DIR if it is set, else beside the module, else in the
    user's cache folder. If none of them can be written, as in a read-only container without a home,
    every process compiles anew.

    >>> compiled(lambda x: x + 1)(1)
    2
    """
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no folder for the cache
        return njit(function)
