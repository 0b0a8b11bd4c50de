"""Finds the model directory of a name."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from personlab_keras.errors import InputError
from personlab_keras.hub import pins
from personlab_keras.inference import predict
from personlab_keras.inference.predict import Predictor
from personlab_keras.io.files import check_local
from personlab_keras.model.pretrained.catalogue import DEFAULT_MODEL, PUBLISHED
from personlab_keras.model.pretrained.download import cache_folder
from personlab_keras.model_directory import DESCRIPTION_FILE

HUGGING_FACE, KAGGLE = "hf://", "kaggle://"

Progress = Callable[[int, int], None]


def load(
    source: str | Path = DEFAULT_MODEL,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
) -> Predictor:
    """Loads the predictor of a model directory, of an .onnx or .tflite file written by `personlab
    export`, or of a name.

    Args:
        source: a directory written by `personlab export` or `personlab import-weights`, the file,
            or a name as for `model_path`. For a directory, `predict.runtime` selects the runtime.
        overrides: settings `section.key=value` that replace the network's own, for example
            "decode.masks=false".
        progress: called with (bytes received, size in bytes) during a download.

    Raises:
        InputError: as `inference.predict.load` and `model_path`.

    >>> from personlab_keras.io.images import read_image
    >>> predictor = load("exported", ["decode.max_people=2"])
    >>> people = predictor(read_image("photo.jpg"))
    >>> len(people) <= 2
    True
    """
    return predict.load(model_path(source, progress), overrides)


def is_name(source: str | Path) -> bool:
    """Whether a source is a name to fetch a model by, not a path.

    >>> is_name("hf://ann/beetles"), is_name("bodypix-mobilenet-v1-050"), is_name("exported")
    (True, True, False)
    """
    return str(source).startswith((HUGGING_FACE, KAGGLE)) or str(source) in PUBLISHED


def model_path(source: str | Path, progress: Progress | None = None) -> Path:
    """Finds the model directory or file of a name, and fetches it if it is not in the cache.

    Args:
        source: a path that exists; else the name of a released network (docs/model-zoo.md), which
            is downloaded and converted once; `hf://USER/NAME`, with `@REVISION` if wanted;
            `kaggle://OWNER/MODEL/FRAMEWORK/VARIATION`, with `/VERSION` if wanted. Anything else is
            returned as it is.
        progress: called with (bytes received, size in bytes) during a download.

    Raises:
        InputError: the name is close to that of a released network, or the address of a bucket; a
            download fails; what is in the cache is no longer what was received; a package is
            missing.

    >>> model_path("runs/exported").as_posix()
    'runs/exported'
    """
    name = str(source)
    if Path(source).exists():
        return Path(source)
    if name.startswith(HUGGING_FACE):
        from personlab_keras.hub.hugging_face import fetch

        return fetch(name)
    if name.startswith(KAGGLE):
        from personlab_keras.hub.kaggle import fetch

        return fetch(name)
    if name in PUBLISHED:
        return _released(name, progress)
    near = difflib.get_close_matches(name, PUBLISHED, n=1, cutoff=0.8)
    if near and "/" not in name:
        raise InputError(
            f"{name}: neither a model directory nor a released network. Nearest: {near[0]}; "
            "`personlab import-weights --list` prints all"
        )
    check_local(source)
    return Path(source)


def _released(name: str, progress: Progress | None) -> Path:
    """The model directory of a released network in the cache, made at first use."""
    folder = cache_folder() / "models" / name
    if (folder / DESCRIPTION_FILE).is_file():
        pins.verify(folder)
        return folder
    from personlab_keras.io.processes import import_tensorflow_quietly
    from personlab_keras.model.pretrained.download import locate

    locate(name, progress)  # first: without a network there is nothing to load TensorFlow for
    import_tensorflow_quietly()
    from personlab_keras.export.export import import_weights

    unfinished = folder.with_name(f".{name}.{os.getpid()}.part")
    try:
        import_weights(name, unfinished)
        pins.pin(unfinished, name)
        if not (folder / DESCRIPTION_FILE).is_file():  # else another process was faster
            os.replace(unfinished, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
