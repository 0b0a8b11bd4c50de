"""The runtimes of a network: Keras, ONNX Runtime, LiteRT and OpenVINO, all called by
`predict_on_batch`.

A file for another runtime than Keras contains its `personlab.json`: in ONNX as an entry of the
metadata, in LiteRT in the zip archive that LiteRT's metadata convention appends to the file. One
for OpenVINO is a zip archive of its two files and `personlab.json`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from personlab_keras.config import LONGEST_SIDE
from personlab_keras.errors import InputError
from personlab_keras.io.files import SMALL, check_regular
from personlab_keras.io.limits import check_onnx, check_openvino, check_size, check_zip
from personlab_keras.io.processes import import_tensorflow_quietly, silent_standard_error
from personlab_keras.model_directory import DESCRIPTION_FILE, Description, parse_description

KERAS, ONNX, LITERT, OPENVINO = "keras", "onnx", "litert", "openvino"
AUTO = "auto"

FILES = {LITERT: "model.tflite", ONNX: "model.onnx", OPENVINO: "model.openvino"}
"""Name of each runtime's file in a model directory. `auto` takes the first that exists, so the
faster one comes first (docs/runtimes.md).
"""

PACKAGES = {LITERT: "ai_edge_litert", ONNX: "onnxruntime", OPENVINO: "openvino"}
"""The package that runs each kind of file."""

_LARGEST_OPENVINO = 1 << 31
"""Bytes of an OpenVINO file once it is inflated, and of what its graph computes from its constants.
"""

_LARGEST_TENSOR = 1 << 31
"""Numbers in the largest tensor of a LiteRT file."""

_LARGEST_ONNX = 1 << 28
"""Bytes that an ONNX graph may compute from its constants, which are not counted themselves: ONNX
Runtime takes five times as many when it loads constants that are used as shapes.
"""

CPU = "cpu"
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""Values of `predict.providers` -> names in ONNX Runtime."""

_INTERPRETERS = 2
_UNPREPARED = ()

INPUT_NAME = "image"
SIGNATURE = "serving_default"


class Network(Protocol):
    """The interface of a network to the predictor. Keras models have it."""

    def predict_on_batch(self, inputs: np.ndarray, /) -> Mapping[str, Any]:
        """Maps inputs (B, H, W, 3) float32 RGB in 0..255 to flat outputs (B, h, w, channels) by
        their names in `maps.ALL_OUTPUTS`, with probabilities.
        """


@dataclass(frozen=True)
class NetworkFile:
    """A network in a file for ONNX Runtime or LiteRT.

    Attributes:
        path: path of the file.
        runtime: `ONNX` or `LITERT`.
        description: the `personlab.json` in the file.
        batch_size: the only batch size that the network takes; None for any.
        input_size: (width, height) of the only input that it takes; None for any stride * n + 1.
    """

    path: Path
    runtime: str
    description: Description
    batch_size: int | None
    input_size: tuple[int, int] | None

    def open(self, threads: int = 0, providers: Sequence[str] = (CPU,)) -> Network:
        """Loads the network.

        Args:
            threads: CPU threads; 0 for one per available core.
            providers: keys of `PROVIDERS`, in order of preference; for ONNX Runtime only.

        Raises:
            InputError: the installed ONNX Runtime lacks a provider.
        """
        if not threads:
            threads = (
                len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count() or 1
            )
        if self.runtime == ONNX:
            return OnnxNetwork(self, threads, providers)
        if self.runtime == OPENVINO:
            return OpenVinoNetwork(self, threads)
        return LiteRtNetwork(self, threads)


class OnnxNetwork:
    """A `Network` in ONNX Runtime."""

    def __init__(self, file: NetworkFile, threads: int, providers: Sequence[str] = (CPU,)) -> None:
        session = _onnx_session(file.path, threads, optimised=True, providers=providers)
        self._names = [output.name for output in session.get_outputs()]
        self._session, self._path = session, file.path
        self._batch_size = file.batch_size

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        try:
            runs = [
                self._session.run(self._names, {INPUT_NAME: part})
                for part in _parts(inputs, self._batch_size)
            ]
        except Exception as error:  # its errors have no narrower common class
            if "memory" in str(error):
                raise MemoryError(f"{self._path}: {error}") from None
            raise _damaged(self._path, "ONNX", error) from None
        return {name: _joined(parts) for name, *parts in zip(self._names, *runs, strict=True)}


class LiteRtNetwork:
    """A `Network` in LiteRT.

    An interpreter that gets inputs of another shape prepares itself anew, which takes as long as a
    small image. So there are two of them: images of one size, which the network sees at two scales,
    find theirs prepared.
    """

    def __init__(self, file: NetworkFile, threads: int) -> None:
        self._path, self._threads = file.path, threads
        # By the shape that each is prepared for, the one used last at the end.
        self._runners: dict[tuple[int, ...], Any] = {_UNPREPARED: self._runner()}
        self._batch_size = file.batch_size
        self._lock = threading.Lock()

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:  # an interpreter has one buffer for the input and one for the result
            runs = [self._run(part) for part in _parts(inputs, self._batch_size)]
        return {name: _joined([run[name] for run in runs]) for name in runs[0]}

    def _run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        runners = self._runners
        runner = runners.pop(inputs.shape, None) or runners.pop(_UNPREPARED, None)
        if runner is None:
            full = len(runners) == _INTERPRETERS
            runner = runners.pop(next(iter(runners))) if full else self._runner()
        runners[inputs.shape] = runner
        return runner(**{INPUT_NAME: inputs})

    def _runner(self) -> Any:
        return _litert_interpreter(self._path, self._threads).get_signature_runner(SIGNATURE)


class OpenVinoNetwork:
    """A `Network` in OpenVINO."""

    def __init__(self, file: NetworkFile, threads: int) -> None:
        core, model, _ = _openvino_model(file.path)
        # As in the other runtimes: without the hint, some CPUs compute in bfloat16.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self._network = core.compile_model(model, "CPU", options)
        self._names = [output.get_any_name() for output in self._network.outputs]
        self._batch_size = file.batch_size
        self._lock = threading.Lock()

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:
            runs = [list(self._network(part).values()) for part in _parts(inputs, self._batch_size)]
        return {name: _joined([run[i] for run in runs]) for i, name in enumerate(self._names)}


def is_network_file(path: str | Path) -> bool:
    """Whether a path has the extension of a network file, .onnx or .tflite.

    >>> is_network_file("model.tflite"), is_network_file("exported/")
    (True, False)
    """
    return Path(path).suffix.lower() in _READERS


def read_network_file(path: str | Path) -> NetworkFile:
    """Reads the description of a network file, .onnx or .tflite, written by `personlab export`.

    Raises:
        InputError: the file is missing, corrupt, or was not written by `personlab export`; the
            package that runs it is not installed.
    """
    path = Path(path)
    check_regular(path)
    runtime, read = _READERS[path.suffix.lower()]
    text, shape = read(path)
    if text is None:
        raise InputError(
            f"{path}: holds no {DESCRIPTION_FILE}; only files written by `personlab export --format` can predict"
        )
    batch_size, height, width, _ = shape
    size = None if width is None or height is None else (width, height)
    if size is not None and not 0 < max(size) <= LONGEST_SIDE:
        raise InputError(
            f"{path}: its input must have sides of at most {LONGEST_SIDE} pixels. "
            f"Received: {width} x {height}"
        )
    return NetworkFile(path, runtime, parse_description(text, str(path)), batch_size, size)


def network_files(folder: Path, runtime: str = AUTO) -> list[Path]:
    """Lists the network files of a model directory, fastest first.

    Args:
        folder: the model directory.
        runtime: `AUTO` for the files of all installed runtimes, or a runtime, installed or not.
    """
    named = {name: folder / file for name, file in FILES.items() if runtime in (AUTO, name)}
    return [
        path
        for name, path in named.items()
        if path.is_file() and (runtime == name or find_spec(PACKAGES[name]))
    ]


def missing_extra(what: str, extra: str, error: ImportError) -> str:
    """The error text that says which extra to install."""
    return f"{what}: needs the package {error.name}, which is not installed: pip install 'personlab-keras[{extra}]'"


def limit_keras(threads: int) -> None:
    """Limits Keras to a number of threads in this whole process.

    Raises:
        InputError: TensorFlow already runs with another number of threads, or Keras does not run on
            TensorFlow.
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
            f"predict.threads={threads}: TensorFlow already runs in this process with another number of threads"
        ) from None


def sees_gpu() -> bool:
    """Whether Keras would compute on a GPU or TPU. Keras is imported only if there may be one."""
    if not may_have_accelerator():
        return False
    import_keras_quietly()
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def import_keras_quietly() -> None:
    """Imports Keras and its backend without their messages."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend == "tensorflow" and "tensorflow" not in sys.modules:
        import_tensorflow_quietly()
    with silent_standard_error():
        import_module("keras")


def may_have_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether this machine may have a GPU or TPU: by its device files on Linux, else True."""
    if not sys.platform.startswith("linux"):
        return True
    return any(next(devices.glob(name), None) for name in _ACCELERATOR_DEVICES)


_ACCELERATOR_DEVICES = ("nvidia[0-9]*", "kfd", "dxg", "accel*", "vfio/[0-9]*")
"""Device files of NVIDIA's, AMD's and WSL's GPUs, and of TPUs."""


def _parts(inputs: np.ndarray, batch_size: int | None) -> list[np.ndarray]:
    size = batch_size or len(inputs)
    return [inputs[first : first + size] for first in range(0, len(inputs), size)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_onnx(path: Path) -> tuple[str | None, list[int | None]]:
    with contextlib.suppress(ImportError):  # ONNX Runtime alone is enough to predict
        check_onnx(path, _LARGEST_ONNX)
    session = _onnx_session(path, threads=1, optimised=False)
    text = session.get_modelmeta().custom_metadata_map.get(DESCRIPTION_FILE)
    shape = session.get_inputs()[0].shape
    return text, [side if isinstance(side, int) else None for side in shape]


def _onnx_session(
    path: Path, threads: int, optimised: bool, providers: Sequence[str] = (CPU,)
) -> Any:
    onnxruntime = _runtime(ONNX, path)
    present = onnxruntime.get_available_providers()
    missing = [name for name in providers if PROVIDERS[name] not in present]
    if missing:
        has = [name for name, full in PROVIDERS.items() if full in present]
        raise InputError(
            f"predict.providers: the installed ONNX Runtime has no {', '.join(missing)}. "
            f"It has: {', '.join(has)}"
        )
    _limit_onnx_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=[PROVIDERS[name] for name in providers]
        )
    except Exception as error:  # its errors have no narrower common class
        raise _damaged(path, "ONNX", error) from None


@functools.cache
def _limit_onnx_memory() -> None:
    """Lets the sessions of this process take half of the machine's memory: a graph that wants more
    ends in an error, not the machine.
    """
    import onnxruntime

    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": most}))


def _read_litert(path: Path) -> tuple[bytes | None, list[int | None]]:
    _runtime(LITERT, path)
    try:
        with zipfile.ZipFile(path) as archive:
            text = None
            if DESCRIPTION_FILE in archive.namelist():
                check_size(path, archive.getinfo(DESCRIPTION_FILE).file_size, SMALL)
                text = archive.read(DESCRIPTION_FILE)
    except zipfile.BadZipFile:  # the archive is at the end, which a truncated file has lost
        raise _damaged(path, "LiteRT", f"no archive with {DESCRIPTION_FILE} at its end") from None
    shape = _litert_interpreter(path, threads=1).get_input_details()[0]["shape_signature"]
    return text, [None if side < 0 else int(side) for side in shape]


def _litert_interpreter(path: Path, threads: int) -> Any:
    interpreter = _runtime(LITERT, path, ".interpreter")
    try:
        with silent_standard_error():  # LiteRT prints which delegate it uses
            made = interpreter.Interpreter(model_path=str(path), num_threads=threads)
            for tensor in made.get_tensor_details():
                check_size(path, math.prod(map(int, tensor["shape"])), _LARGEST_TENSOR)
            made.allocate_tensors()
            return made
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, "LiteRT", error) from None


OPENVINO_PARTS = ("model.xml", "model.bin")
"""Files in the archive of an OpenVINO network, beside its `personlab.json`."""


def _openvino_model(path: Path) -> tuple[Any, Any, bytes | None]:
    openvino = _runtime(OPENVINO, path)
    try:
        check_zip(path, _LARGEST_OPENVINO)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            graph, weights = (archive.read(name) for name in OPENVINO_PARTS)
            text = archive.read(DESCRIPTION_FILE) if DESCRIPTION_FILE in names else None
        core = openvino.Core()
        model = core.read_model(model=graph, weights=weights)
        check_openvino(path, model, _LARGEST_OPENVINO)
        return core, model, text
    except (zipfile.BadZipFile, KeyError, RuntimeError, ValueError) as error:
        raise _damaged(path, "OpenVINO", error) from None


def _read_openvino(path: Path) -> tuple[bytes | None, list[int | None]]:
    _, model, text = _openvino_model(path)
    shape = model.inputs[0].get_partial_shape()
    return text, [None if side.is_dynamic else side.get_length() for side in shape]


def _runtime(runtime: str, path: Path, module: str = "") -> ModuleType:
    try:
        return import_module(PACKAGES[runtime] + module)
    except ImportError as error:
        raise InputError(missing_extra(str(path), runtime, error)) from None


def _damaged(path: Path, kind: str, reason: Exception | str) -> InputError:
    return InputError(
        f"{path}: damaged, or not a {kind} file: {' '.join(str(reason).split())[:200]}"
    )


_READERS = {
    ".onnx": (ONNX, _read_onnx),
    ".tflite": (LITERT, _read_litert),
    ".openvino": (OPENVINO, _read_openvino),
}
