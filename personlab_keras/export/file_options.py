"""Shared by the LiteRT and ONNX files: their options, the network's input, silenced converters."""

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
"""Types of stored weights."""


@dataclass(frozen=True)
class FileOptions:
    """Options of LiteRT and ONNX files.

    Attributes:
        weights: values of `WEIGHTS`; a file is written for each.
        input_size: (width, height) of the only input, one image at a time; None for any batch and
            size.
        calibration: images, or folders of images, that give the ranges of activations for int8;
            without them, only the weights are int8.
    """

    weights: tuple[str, ...] = (FLOAT32,)
    input_size: tuple[int, int] | None = None
    calibration: tuple[str, ...] = ()


def input_signature(input_size: tuple[int, int] | None) -> list[keras.InputSpec]:
    """The network's input of (width, height), or of any batch and size, for `keras.Model.export`.

    >>> input_signature((401, 305))[0].shape, input_signature(None)[0].shape
    ((1, 305, 401, 3), (None, None, None, 3))
    """
    width, height = input_size or (None, None)
    batch = None if input_size is None else 1
    return [keras.InputSpec(shape=(batch, height, width, 3), dtype="float32", name=INPUT_NAME)]


def import_quietly(package: str) -> Any:
    """Imports a package without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(package)


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Silences the messages of converters; their errors are exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), silent_standard_error():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
