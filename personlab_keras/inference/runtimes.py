"""Runtimes that a network can run in: Keras, and files that ONNX Runtime and LiteRT take. Each is
called by `predict_on_batch`.

A file is complete by itself: `personlab.json` lies within it, in ONNX as an entry of the metadata,
in LiteRT as a file of the zip archive that its metadata convention appends.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.processes import standard_error_away
from personlab_keras.model_directory import DESCRIPTION_FILE, Description, parse_description

KERAS, ONNX, LITERT, AUTO = "keras", "onnx", "litert", "auto"
RUNTIMES = (AUTO, KERAS, ONNX, LITERT)
"""What `predict.runtime` may be."""

FILES = {LITERT: "model.tflite", ONNX: "model.onnx"}
"""Name of a runtime's file in a model directory. Of several the first is taken, so the faster leads
(docs/runtimes.md).
"""

PACKAGES = {LITERT: "ai_edge_litert", ONNX: "onnxruntime"}
"""What has to be installed to run a file."""

INPUT_NAME = "image"
SIGNATURE = "serving_default"


class Network(Protocol):
    """What a predictor asks of a network. A Keras model is one."""

    def predict_on_batch(self, inputs: np.ndarray, /) -> Mapping[str, Any]:
        """(B, H, W, 3) float32 RGB 0..255 to flat outputs (B, h, w, channels) by name, as
        `maps.ALL_OUTPUTS`, probabilities.
        """


@dataclass(frozen=True)
class NetworkFile:
    """A network in the file of another runtime.

    Attributes:
        path: where it lies.
        runtime: `ONNX` or `LITERT`.
        description: the `personlab.json` within it.
        batch_size: the only number of inputs that it takes together; None for any.
        input_size: (width, height) of the only input that it takes; None for any stride * n + 1.
    """

    path: Path
    runtime: str
    description: Description
    batch_size: int | None
    input_size: tuple[int, int] | None

    def open(self, threads: int = 0) -> Network:
        """The network, ready to run in so many threads; 0 is one per core that this process may
        use.
        """
        if not threads:
            threads = (
                len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count() or 1
            )
        return _NETWORKS[self.runtime](self, threads)


class OnnxNetwork:
    """A network in ONNX Runtime, as `Network` says."""

    def __init__(self, file: NetworkFile, threads: int) -> None:
        session = _onnx_session(file.path, threads, optimised=True)
        self._names = [output.name for output in session.get_outputs()]
        self._session = session
        self._batch_size = file.batch_size

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        runs = [
            self._session.run(self._names, {INPUT_NAME: part})
            for part in _parts(inputs, self._batch_size)
        ]
        return {name: _joined(parts) for name, *parts in zip(self._names, *runs, strict=True)}


class LiteRtNetwork:
    """A network in LiteRT, as `Network` says."""

    def __init__(self, file: NetworkFile, threads: int) -> None:
        self._call = _litert_interpreter(file.path, threads).get_signature_runner(SIGNATURE)
        self._batch_size = file.batch_size
        self._alone = threading.Lock()

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        with self._alone:  # the interpreter holds one input and one result
            runs = [self._call(**{INPUT_NAME: part}) for part in _parts(inputs, self._batch_size)]
        return {name: _joined([run[name] for run in runs]) for name in runs[0]}


def is_network_file(path: str | Path) -> bool:
    """Whether this is named as the file of another runtime, .onnx or .tflite."""
    return Path(path).suffix.lower() in _READERS


def read_network_file(path: str | Path) -> NetworkFile:
    """What a file .onnx or .tflite holds, as `personlab export` writes it.

    Raises:
        InputError: the file is missing, damaged, or no such file; the package that runs it is not
            installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    runtime, read = _READERS[path.suffix.lower()]
    text, shape = read(path)
    if text is None:
        raise InputError(
            f"{path}: holds no {DESCRIPTION_FILE}; a file to predict with is what `personlab export --format` wrote"
        )
    batch_size, height, width, _ = shape
    size = None if width is None or height is None else (width, height)
    return NetworkFile(path, runtime, parse_description(text, str(path)), batch_size, size)


def network_files(folder: Path, runtime: str = AUTO) -> list[Path]:
    """The files of a model directory that can run, the fastest first: in any runtime that is
    installed, or in this one.
    """
    named = {name: folder / file for name, file in FILES.items() if runtime in (AUTO, name)}
    return [
        path
        for name, path in named.items()
        if path.is_file() and (runtime == name or find_spec(PACKAGES[name]))
    ]


def missing_extra(what: str, extra: str, error: ImportError) -> str:
    """The line that says what to install."""
    return f"{what}: needs the package {error.name}, which is not installed: pip install 'personlab-keras[{extra}]'"


def limit_keras(threads: int) -> None:
    """Has Keras compute in so many threads, here and in all that this process does with it.

    Raises:
        InputError: it runs already with others, or not on TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"predict.threads must be 0 where Keras runs on {keras.backend.backend()}. Received: {threads}"
        )
    import tensorflow as tf

    settings = tf.config.threading
    if settings.get_intra_op_parallelism_threads() == threads:
        return
    try:
        settings.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        raise InputError(
            f"predict.threads={threads}: TensorFlow runs already in this process with other threads"
        ) from None


def sees_gpu() -> bool:
    """Whether Keras would compute on a GPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _parts(inputs: np.ndarray, batch_size: int | None) -> list[np.ndarray]:
    size = batch_size or len(inputs)
    return [inputs[first : first + size] for first in range(0, len(inputs), size)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_onnx(path: Path) -> tuple[str | None, list[int | None]]:
    session = _onnx_session(path, threads=1, optimised=False)
    text = session.get_modelmeta().custom_metadata_map.get(DESCRIPTION_FILE)
    return text, [side if isinstance(side, int) else None for side in session.get_inputs()[0].shape]


def _onnx_session(path: Path, threads: int, optimised: bool) -> Any:
    onnxruntime = _runtime(ONNX, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal comes as an exception
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no other class in common
        raise _damaged(path, "ONNX", error) from None


def _read_litert(path: Path) -> tuple[bytes | None, list[int | None]]:
    _runtime(LITERT, path)
    try:
        with zipfile.ZipFile(path) as archive:
            text = (
                archive.read(DESCRIPTION_FILE) if DESCRIPTION_FILE in archive.namelist() else None
            )
    except (
        zipfile.BadZipFile
    ):  # the end of the archive is that of the file: one that was cut has lost it
        raise _damaged(path, "LiteRT", f"no archive with {DESCRIPTION_FILE} at its end") from None
    shape = _litert_interpreter(path, threads=1).get_input_details()[0]["shape_signature"]
    return text, [None if side < 0 else int(side) for side in shape]


def _litert_interpreter(path: Path, threads: int) -> Any:
    interpreter = _runtime(LITERT, path, ".interpreter")
    try:
        with standard_error_away():  # allocating, it tells which of its parts will compute
            made = interpreter.Interpreter(model_path=str(path), num_threads=threads)
            made.allocate_tensors()
            return made
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, "LiteRT", error) from None


def _runtime(runtime: str, path: Path, module: str = "") -> ModuleType:
    try:
        return import_module(PACKAGES[runtime] + module)
    except ImportError as error:
        raise InputError(missing_extra(str(path), runtime, error)) from None


def _damaged(path: Path, kind: str, reason: Exception | str) -> InputError:
    return InputError(f"{path}: damaged, or no {kind} file: {' '.join(str(reason).split())[:200]}")


_READERS = {".onnx": (ONNX, _read_onnx), ".tflite": (LITERT, _read_litert)}
_NETWORKS: dict[str, Callable[[NetworkFile, int], Network]] = {
    ONNX: OnnxNetwork,
    LITERT: LiteRtNetwork,
}
