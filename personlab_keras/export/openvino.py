"""Writes the network for OpenVINO."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from personlab_keras.export.file_options import FileOptions, input_signature, quiet_converters
from personlab_keras.inference.runtimes import OPENVINO_PARTS
from personlab_keras.model_directory import DESCRIPTION_FILE


def openvino_files(
    network: keras.Model, options: FileOptions, images: Sequence[np.ndarray], description: bytes
) -> Iterator[bytes]:
    """Yields a zip archive of OpenVINO's two files and `personlab.json`, with float32 weights.

    Args:
        network: the network as it predicts, with probabilities.
        options: the input size.
        images: not used.
        description: the content of `personlab.json`.
    """
    graph, weights = OPENVINO_PARTS
    with tempfile.TemporaryDirectory() as folder:
        with quiet_converters():
            network.export(
                str(Path(folder, graph)),
                format="openvino",
                input_signature=input_signature(options.input_size),
                verbose=False,
            )
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in (graph, weights):
                archive.writestr(name, Path(folder, name).read_bytes())
            archive.writestr(DESCRIPTION_FILE, description)
    yield content.getvalue()
