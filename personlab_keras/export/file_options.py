"""What the files of other runtimes have in common: their options, their input, quiet converters."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras

from personlab_keras.inference.runtimes import INPUT_NAME
from personlab_keras.io.processes import silent_standard_error

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"


WEIGHTS = (FLOAT32, FLOAT16, INT8)


@dataclass(frozen=True)
class FileOptions:
    """What the files of other runtimes are to be like.

    Attributes:
        weights: of `WEIGHTS`; a file for each.
        input_size: (width, height) of the only input, one image at a time; None for any batch and
            size.
        calibration: images, or folders of them, that show int8 what values to expect; without any,
            only the weights are int8.
    """

    weights: tuple[str, ...] = (FLOAT32,)
    input_size: tuple[int, int] | None = None
    calibration: tuple[str, ...] = ()


def input_signature(input_size: tuple[int, int] | None) -> list[keras.InputSpec]:
    width, height = input_size or (None, None)
    batch = None if input_size is None else 1
    return [keras.InputSpec(shape=(batch, height, width, 3), dtype="float32", name=INPUT_NAME)]


def import_quietly(package: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(package)


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Converters tell of every step; what matters comes as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), silent_standard_error():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
