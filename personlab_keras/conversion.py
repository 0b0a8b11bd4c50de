"""Networks written as files of other runtimes, ONNX and LiteRT, with their weights in fewer bits where asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from personlab_keras.config import Config
from personlab_keras.coordinates import map_side
from personlab_keras.description import DESCRIPTION_FILE
from personlab_keras.errors import InputError
from personlab_keras.export import describe, export_model, read_source
from personlab_keras.files import write_atomically
from personlab_keras.fitting import fit_for
from personlab_keras.images import list_images, read_image
from personlab_keras.model import head_name, inference_model
from personlab_keras.runtimes import FILES, INPUT_NAME, LITERT, ONNX, SIGNATURE, missing_extra
from personlab_keras.startup import standard_error_away

SAVED_MODEL = "saved_model"
FORMATS = (SAVED_MODEL, LITERT, ONNX)
FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
WEIGHTS = (FLOAT32, FLOAT16, INT8)

CALIBRATION_IMAGES = 64
"""Most images of a calibration folder that are looked at; of more, so many evenly spaced ones."""

_ONNX_OPSET = 17
_LEAST_WEIGHTS = 256
"""Tensors of fewer values stay float32: nothing is gained by storing them in fewer bits."""


@dataclass(frozen=True)
class FileOptions:
    """What the files of other runtimes are to be like.

    Attributes:
        weights: of `WEIGHTS`; a file for each.
        input_size: (width, height) of the only input, one image at a time; None for any batch and size.
        calibration: images, or folders of them, that show int8 what values to expect; without any, only the weights are int8.
    """

    weights: tuple[str, ...] = (FLOAT32,)
    input_size: tuple[int, int] | None = None
    calibration: tuple[str, ...] = ()


def export_formats(
    source: str | Path,
    out: str | Path,
    formats: Sequence[str],
    options: FileOptions | None = None,
    overrides: Sequence[str] = (),
    best: bool = False,
) -> list[Path]:
    """Exports a run or a model directory in several formats.

    `saved_model` writes the model directory `out`. `onnx` and `litert` write model.onnx and model.tflite into the folder `out`,
    with float16 or int8 before the ending where weights have fewer bits: beside the SavedModel made by the same call, or into the
    model directory that is the source itself, or into a folder that is none.

    Args:
        source, overrides, best: as for `export.read_source`.
        formats: of `FORMATS`.
        options: of the files; for `saved_model` alone to be left out.

    Returns:
        The directory, if it was written, and the files. Each appears whole or not at all.

    Raises:
        InputError: as `read_source` and `export_model`; an unknown format or kind of weights; a size that is no stride * n + 1; no
            image to calibrate with; a package is missing; `out` is another model directory than the source.
    """
    _check_names("--format", formats, FORMATS)
    chosen = options or FileOptions()
    _check_names("--weights", chosen.weights, WEIGHTS)
    makers = [(name, _MAKERS[name]) for name in FILES if name in formats]
    if options is not None and not makers:
        raise InputError(
            f"--weights, --input-size and --calibration are of {LITERT} and {ONNX}. Received: --format {SAVED_MODEL}"
        )
    if chosen.calibration and INT8 not in chosen.weights:
        raise InputError(f"--calibration is of --weights {INT8}. Received: --weights {','.join(chosen.weights)}")
    folder = Path(out)
    if SAVED_MODEL not in formats:
        _check_folder(folder, Path(source), overrides)
    for name, _ in makers:
        _check_packages(name, chosen)
    read = read_source(source, overrides, best)
    if chosen.input_size is not None:
        for side in chosen.input_size:
            map_side(side, read.config.model.output_stride)
    images = _representative_inputs(read.config, chosen) if chosen.calibration else []
    description = describe(read.config, read.skeleton, read.provenance)
    written = []
    if SAVED_MODEL in formats:
        written.append(export_model(read.network, read.config, read.skeleton, folder, read.provenance))
    for name, make in makers:
        network = inference_model(read.network)
        contents = make(network, chosen, images, description)
        for weights in chosen.weights:
            path = folder / file_name(name, weights)
            write_atomically(path, next(contents))
            written.append(path)
    return written


def file_name(runtime: str, weights: str = FLOAT32) -> str:
    """Name of a network's file.

    >>> file_name("onnx"), file_name("litert", "int8")
    ('model.onnx', 'model.int8.tflite')
    """
    stem, _, ending = FILES[runtime].partition(".")
    return FILES[runtime] if weights == FLOAT32 else f"{stem}.{weights}.{ending}"


def parse_input_size(text: str) -> tuple[int, int]:
    """(width, height) from WIDTHxHEIGHT, or from one number for both.

    >>> parse_input_size("801x609"), parse_input_size("401")
    ((801, 609), (401, 401))

    Raises:
        InputError: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"--input-size must be WIDTHxHEIGHT in pixels, or one number for both. Received: {text}")
    return int(sides[0]), int(sides[-1])


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names or not set(names) <= set(known) or len(set(names)) != len(names):
        raise InputError(f"{option} must be of {', '.join(known)}, each once, between commas. Received: {','.join(names)}")


def _check_folder(folder: Path, source: Path, overrides: Sequence[str]) -> None:
    """A file beside the SavedModel of another network, or of other settings, would answer in its place."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: must be a folder. Received: a file")
    if not (folder / DESCRIPTION_FILE).is_file():
        return
    if not source.exists() or not folder.samefile(source):
        raise InputError(
            f"{folder}: is a model directory, and files of other runtimes are added to one from itself: name it as the source, "
            f"choose another folder, or let --format hold {SAVED_MODEL} to replace it"
        )
    if overrides:
        raise InputError(f"{folder}: changed settings need a folder of their own. Received: --set {overrides[0]}")


def _check_packages(runtime: str, options: FileOptions) -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(f"--format {runtime} needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: {backend}")
    needed = ["tf2onnx", "onnx"] if runtime == ONNX else []
    if runtime == ONNX and INT8 in options.weights:
        needed.append("onnxruntime")
    for package in needed:
        try:
            _import_quietly(package)
        except ImportError as error:
            raise InputError(missing_extra(f"--format {runtime}", runtime, error)) from None


def _representative_inputs(config: Config, options: FileOptions) -> list[np.ndarray]:
    """Inputs (1, H, W, 3) uint8 of the images to calibrate with, fitted as `predict` does."""
    paths = list_images(options.calibration)
    spaced = np.linspace(0, len(paths) - 1, min(len(paths), CALIBRATION_IMAGES)).round().astype(int)
    inputs = []
    for path in (paths[i] for i in spaced):
        image = read_image(path)
        fit = fit_for(
            image.shape[1],
            image.shape[0],
            config.predict.longer_side,
            config.model.output_stride,
            config.predict.upscale,
            config.data.pad_colour,
            input_size=options.input_size,
        )
        inputs.append(fit.apply(image)[None])
    return inputs


def _signature(input_size: tuple[int, int] | None) -> list[keras.InputSpec]:
    width, height = input_size or (None, None)
    batch = None if input_size is None else 1
    return [keras.InputSpec(shape=(batch, height, width, 3), dtype="float32", name=INPUT_NAME)]


# ----------------------------------------------------------------------------------------------------------------- LiteRT


def _litert_files(
    network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes
) -> Iterator[bytes]:
    """The content of a file for each of `options.weights`."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        with _quietly():
            network.export(folder, format="tf_saved_model", input_signature=_signature(options.input_size), verbose=False)
        for weights in options.weights:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
            if weights != FLOAT32:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if weights == FLOAT16:
                converter.target_spec.supported_types = [tf.float16]
            if weights == INT8 and images:
                converter.representative_dataset = lambda: ({INPUT_NAME: image.astype(np.float32)} for image in images)
            with _quietly():
                flatbuffer = converter.convert()
            yield _with_archive(flatbuffer, description)


def _with_archive(flatbuffer: bytes, description: bytes) -> bytes:
    """A LiteRT file followed by an archive with `personlab.json`, as LiteRT's metadata convention has associated files."""
    content = io.BytesIO(flatbuffer)
    content.seek(0, io.SEEK_END)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(DESCRIPTION_FILE, description)
    return content.getvalue()


# ------------------------------------------------------------------------------------------------------------------- ONNX


def _onnx_files(network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes) -> Iterator[bytes]:
    """The content of a file for each of `options.weights`."""
    onnx = _import_quietly("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        signature = _signature(options.input_size)
        with _quietly():
            network.export(path, format="onnx", input_signature=signature, opset_version=_ONNX_OPSET, verbose=False)
        heads = tuple(head_name(name) for name in network.output)
        for weights in options.weights:
            if weights == INT8 and images:
                with _quietly():
                    model = _quantised(path, images, heads)
            else:
                model = onnx.load(path)
                _STORED[weights](model)
            onnx.helper.set_model_props(model, {DESCRIPTION_FILE: description.decode()})
            yield model.SerializeToString()


def _keep(model: Any) -> None:
    """Weights as they are."""


def _store_float16(model: Any) -> None:
    """Weights are stored as float16. When a session starts, the runtime makes float32 of them and computes in that as before."""
    onnx = _import_quietly("onnx")

    def store(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        stored = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        return [stored], [onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)]

    _store(model, store)


def _store_int8(model: Any) -> None:
    """Weights are stored as int8 with a scale for each output channel: those of a depthwise convolution differ by orders of magnitude.
    When a session starts, the runtime makes float32 of them and computes in that as before."""
    onnx = _import_quietly("onnx")

    def store(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        scales = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / np.float32(127)
        scales[scales == 0] = 1
        stored = onnx.numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{name}_int8")
        scale = onnx.numpy_helper.from_array(scales, f"{name}_scale")
        # Not DequantizeLinear, which the runtime keeps and computes anew for every image.
        cast = onnx.helper.make_node("Cast", [stored.name], [f"{name}_cast"], to=onnx.TensorProto.FLOAT)
        return [stored, scale], [cast, onnx.helper.make_node("Mul", [f"{name}_cast", scale.name], [name])]

    _store(model, store)


def _store(model: Any, store: Callable[[str, np.ndarray], tuple[list[Any], list[Any]]]) -> None:
    """Replaces the kernels of convolutions by what `store` makes of each: tensors, and nodes that give the kernel again."""
    onnx = _import_quietly("onnx")
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    first: list[Any] = []
    for tensor in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name in kernels and values.size >= _LEAST_WEIGHTS:
            stored, nodes = store(tensor.name, values)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.extend(stored)
            first += nodes
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*first, *rest])  # a graph lists a node before those that take its output


def _quantised(path: Path, images: Sequence[np.ndarray], heads: Sequence[str]) -> Any:
    """The network of a file with weights and activations in int8, but for its heads: an offset of hundreds of pixels in 256 steps
    would be off by more than a keypoint may be."""
    onnx = _import_quietly("onnx")
    quantization: Any = import_module("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT_NAME: image.astype(np.float32)}

    kept = [node.name for node in onnx.load(path).graph.node if any(head in node.name for head in heads)]
    target = path.with_name("quantised.onnx")
    quantization.quantize_static(
        path,
        target,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=kept,
    )
    return onnx.load(target)


_STORED: dict[str, Callable[[Any], None]] = {FLOAT32: _keep, FLOAT16: _store_float16, INT8: _store_int8}
_MAKERS = {LITERT: _litert_files, ONNX: _onnx_files}


def _import_quietly(package: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(package)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Converters tell of every step; what matters comes as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), standard_error_away():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
