"""Writes the network as a LiteRT file."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from personlab_keras.export.file_options import (
    FLOAT16,
    FLOAT32,
    INT8,
    FileOptions,
    input_signature,
    quiet_converters,
)
from personlab_keras.inference.runtimes import INPUT_NAME, SIGNATURE
from personlab_keras.model_directory import DESCRIPTION_FILE


def litert_files(
    network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes
) -> Iterator[bytes]:
    """Yields the content of a LiteRT file for each type of weights.

    Args:
        network: the network as it predicts, with probabilities.
        options: types of weights and the input size.
        images: calibration inputs (1, H, W, 3) uint8 for int8; may be empty.
        description: the content of `personlab.json`.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        with quiet_converters():
            network.export(
                folder,
                format="tf_saved_model",
                input_signature=input_signature(options.input_size),
                verbose=False,
            )
        for weights in options.weights:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
            if weights != FLOAT32:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if weights == FLOAT16:
                converter.target_spec.supported_types = [tf.float16]
            if weights == INT8 and images:
                converter.representative_dataset = lambda: (
                    {INPUT_NAME: image.astype(np.float32)} for image in images
                )
            with quiet_converters():
                flatbuffer = converter.convert()
            yield _with_archive(flatbuffer, description)


def _with_archive(flatbuffer: bytes, description: bytes) -> bytes:
    """Appends a zip archive with `personlab.json` to a LiteRT file, as LiteRT's metadata convention
    stores associated files.
    """
    content = io.BytesIO(flatbuffer)
    content.seek(0, io.SEEK_END)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(DESCRIPTION_FILE, description)
    return content.getvalue()
