"""Models on the Hugging Face Hub. HF_ENDPOINT and HF_TOKEN of huggingface_hub hold here as well."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from personlab_keras.errors import InputError
from personlab_keras.hub import pins
from personlab_keras.hub.card import model_card
from personlab_keras.inference.runtimes import missing_extra
from personlab_keras.model.pretrained.download import cache_folder
from personlab_keras.model_directory import read_model_directory

SCHEME = "hf://"

_KEPT_BACK = (".*", pins.PIN_FILE, "assets.extra")
"""What is not uploaded: TensorFlow Serving's warm-up requests are larger than the network."""

_WANTED = ["*.json", "*.tflite", "*.onnx", "*.h5"]
"""Files that are fetched: no code, and no SavedModel, which could hold some."""


def fetch(name: str) -> Path:
    """The model directory of `hf://USER/NAME`, or `hf://USER/NAME@REVISION`.

    The first time, the latest revision is fetched and pinned; later it is used from the cache, and
    nothing is asked of the Hub. Another revision must be named.

    Raises:
        InputError: huggingface_hub is not installed; there is no such model, revision or network;
            what is in the cache is no longer what was received.
    """
    hub = _library(name)
    repository, revision = _parts(name)
    place = cache_folder() / "hugging-face"
    record = place / f"{repository.replace('/', '--')}{f'@{revision}' if revision else ''}.json"
    pinned = pins.pinned_revision(record)
    try:
        folder = Path(
            hub.snapshot_download(
                repository,
                revision=pinned or revision,
                allow_patterns=_WANTED,
                cache_dir=place / "files",
                local_files_only=pinned is not None,
                endpoint=_endpoint(),
            )
        )
    except Exception as error:  # its errors, and those of its HTTP library, have no common class
        raise InputError(f"{name}: cannot be fetched: {pins.first_line(error)}") from None
    # The folder of a snapshot is named by its commit.
    return pins.pinned(folder, name, folder.name, record)


def push(folder: str | Path, name: str, private: bool = False) -> str:
    """Uploads a model directory with a model card to `hf://USER/NAME`.

    Args:
        folder: the model directory; a `metrics.json` of `personlab evaluate` in it goes into the
            card.
        name: where to; a repository that does not exist is made.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        InputError: huggingface_hub is not installed, the folder is no model directory, or the
            upload fails.
    """
    hub = _library(name)
    repository, revision = _parts(name)
    directory = read_model_directory(folder)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "model"
        shutil.copytree(directory.folder, staged, ignore=shutil.ignore_patterns(*_KEPT_BACK))
        (staged / "README.md").write_text(model_card(directory, repository), encoding="utf-8")
        try:
            api = hub.HfApi(endpoint=_endpoint())
            api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository,
                folder_path=staged,
                revision=revision,
                commit_message="Upload a model of PersonLab for Keras",
            )
        except Exception as error:  # as above
            raise InputError(f"{name}: cannot be uploaded: {pins.first_line(error)}") from None
    return str(done.commit_url)


def _parts(name: str) -> tuple[str, str | None]:
    """Repository and revision.

    >>> _parts("hf://ann/beetles@v2"), _parts("hf://ann/beetles")
    (('ann/beetles', 'v2'), ('ann/beetles', None))
    """
    repository, _, revision = name.removeprefix(SCHEME).partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise InputError(f"{name}: must be {SCHEME}USER/NAME, or {SCHEME}USER/NAME@REVISION")
    return repository, revision or None


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now; huggingface_hub reads it at import alone."""
    return os.environ.get("HF_ENDPOINT")


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(missing_extra(name, "hub", error)) from None
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()
    return huggingface_hub
