"""Exports a network in several formats: a model directory, ONNX and LiteRT files, with weights of
fewer bits on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from personlab_keras.config import Config
from personlab_keras.errors import InputError
from personlab_keras.export.export import export_model, read_source
from personlab_keras.export.file_options import FLOAT32, INT8, WEIGHTS, FileOptions, import_quietly
from personlab_keras.export.litert import litert_files
from personlab_keras.export.onnx import onnx_files
from personlab_keras.export.openvino import openvino_files
from personlab_keras.inference.input_fit import fit_for
from personlab_keras.inference.runtimes import FILES, LITERT, ONNX, OPENVINO, missing_extra
from personlab_keras.io.files import Place, write_atomically
from personlab_keras.io.images import list_images, read_image
from personlab_keras.method.coordinates import map_side
from personlab_keras.model.network import inference_model
from personlab_keras.model_directory import DESCRIPTION_FILE, describe

SAVED_MODEL = "saved_model"
FORMATS = (SAVED_MODEL, LITERT, ONNX, OPENVINO)

CALIBRATION_IMAGES = 64
"""Number of calibration images to use; evenly spaced ones if there are more."""


def export_formats(
    source: str | Place,
    out: str | Path,
    formats: Sequence[str],
    options: FileOptions | None = None,
    overrides: Sequence[str] = (),
    best: bool = False,
) -> list[Path]:
    """Exports a run or a model directory in several formats.

    `saved_model` writes the model directory `out`. `onnx` and `litert` write model.onnx and
    model.tflite into the folder `out`, with float16 or int8 before the extension for weights of
    fewer bits. The folder is the model directory written by the same call, the source itself, or a
    folder that is not a model directory.

    Args:
        source, overrides, best: as for `export.read_source`.
        out: folder of the results.
        formats: values of `FORMATS`.
        options: options of the LiteRT and ONNX files; None if there are none to write.

    Returns:
        The paths of the model directory, if written, and the files. Each is written atomically.

    Raises:
        InputError: as `read_source` and `export_model`; a format or type of weights is unknown; an
            input side is not stride * n + 1; there is no image for the calibration; a package is
            missing; `out` is a model directory other than the source.
    """
    chosen = options or FileOptions()
    check_export(source, out, formats, options, overrides)
    folder = Path(out)
    makers = [(name, _MAKERS[name]) for name in FILES if name in formats]
    read = read_source(source, overrides, best)
    if chosen.input_size is not None:
        for side in chosen.input_size:
            map_side(side, read.config.model.output_stride)
    images = _representative_inputs(read.config, chosen) if chosen.calibration else []
    description = describe(read.config, read.skeleton, read.provenance)
    written = []
    if SAVED_MODEL in formats:
        written.append(
            export_model(read.network, read.config, read.skeleton, folder, read.provenance)
        )
    for name, make in makers:
        network = inference_model(read.network)
        contents = make(network, chosen, images, description)
        for weights in chosen.weights:
            path = folder / file_name(name, weights)
            write_atomically(path, next(contents))
            written.append(path)
    return written


def check_export(
    source: str | Place,
    out: str | Path,
    formats: Sequence[str],
    options: FileOptions | None,
    overrides: Sequence[str],
) -> None:
    """Checks all of an export that can be checked without its source, which may be a download.

    Args:
        source, out, formats, options, overrides: as in `export_formats`.

    Raises:
        InputError: as `export_formats`.
    """
    _check_names("--format", formats, FORMATS)
    chosen = options or FileOptions()
    _check_names("--weights", chosen.weights, WEIGHTS)
    files = [name for name in FILES if name in formats]
    if options is not None and not files:
        raise InputError(
            f"--weights, --input-size and --calibration need --format {LITERT} or {ONNX}. Received: --format {SAVED_MODEL}"
        )
    if chosen.calibration and INT8 not in chosen.weights:
        raise InputError(
            f"--calibration needs --weights {INT8}. Received: --weights {','.join(chosen.weights)}"
        )
    folder = Path(out)
    if SAVED_MODEL not in formats:
        _check_folder(folder, Path(str(source)), overrides)
    for name in files:
        _check_packages(name, chosen)
    if chosen.calibration:
        list_images(chosen.calibration)


def file_name(runtime: str, weights: str = FLOAT32) -> str:
    """The name of a network file.

    >>> file_name("onnx"), file_name("litert", "int8")
    ('model.onnx', 'model.int8.tflite')
    """
    stem, _, extension = FILES[runtime].partition(".")
    return FILES[runtime] if weights == FLOAT32 else f"{stem}.{weights}.{extension}"


def parse_input_size(text: str) -> tuple[int, int]:
    """Parses (width, height) from WIDTHxHEIGHT, or from one number for both.

    >>> parse_input_size("801x609"), parse_input_size("401")
    ((801, 609), (401, 401))

    Raises:
        InputError: the text has another form.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(
            f"--input-size must be WIDTHxHEIGHT in pixels, or one number for both. Received: {text}"
        )
    return int(sides[0]), int(sides[-1])


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names or not set(names) <= set(known) or len(set(names)) != len(names):
        raise InputError(
            f"{option} must be a comma-separated list of {', '.join(known)}, each at most once. Received: {','.join(names)}"
        )


def _check_folder(folder: Path, source: Path, overrides: Sequence[str]) -> None:
    """Refuses to add files to the model directory of another network or other settings, whose
    predictions they would replace.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: must be a folder. Received: a file")
    if not (folder / DESCRIPTION_FILE).is_file():
        return
    if not source.exists() or not folder.samefile(source):
        raise InputError(
            f"{folder}: is a model directory, to which only files of its own network can be added: name it as the source, "
            f"choose another folder, or add {SAVED_MODEL} to --format to replace it"
        )
    if overrides:
        raise InputError(
            f"{folder}: changed settings need another folder. Received: --set {overrides[0]}"
        )


def _check_packages(runtime: str, options: FileOptions) -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(
            f"--format {runtime} needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: {backend}"
        )
    if runtime == OPENVINO and options.weights != (FLOAT32,):
        raise InputError(
            f"--format {OPENVINO} stores float32 weights alone. Received: --weights {','.join(options.weights)}"
        )
    needed = {ONNX: ["tf2onnx", "onnx"], OPENVINO: ["openvino"]}.get(runtime, [])
    if runtime == ONNX and INT8 in options.weights:
        needed.append("onnxruntime")
    for package in needed:
        try:
            import_quietly(package)
        except ImportError as error:
            raise InputError(missing_extra(f"--format {runtime}", runtime, error)) from None


def _representative_inputs(config: Config, options: FileOptions) -> list[np.ndarray]:
    """Network inputs (1, H, W, 3) uint8 of the calibration images, fitted as `predict` does."""
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


_MAKERS = {LITERT: litert_files, ONNX: onnx_files, OPENVINO: openvino_files}
