"""Models on Kaggle, by kagglehub, whose own settings (KAGGLEHUB_CACHE, credentials) hold here."""

from __future__ import annotations

import logging
from pathlib import Path

from personlab_keras.errors import InputError
from personlab_keras.hub import pins
from personlab_keras.inference.runtimes import missing_extra
from personlab_keras.model.pretrained.download import cache_folder

SCHEME = "kaggle://"


def fetch(name: str) -> Path:
    """The model directory of `kaggle://OWNER/MODEL/FRAMEWORK/VARIATION`, with `/VERSION` if wanted.

    The first time, the latest version is fetched and pinned; later that version is used.

    Raises:
        InputError: kagglehub is not installed; there is no such model or network; what is in the
            cache is no longer what was received.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise InputError(missing_extra(name, "hub", error)) from None
    logging.getLogger("kagglehub").setLevel(logging.ERROR)
    handle = name.removeprefix(SCHEME)
    if len(handle.split("/")) not in (4, 5):
        raise InputError(f"{name}: must be {SCHEME}OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]")
    record = cache_folder() / "kaggle" / f"{handle.replace('/', '--')}.json"
    pinned = pins.pinned_revision(record)
    if pinned is not None and len(handle.split("/")) == 4:
        handle = f"{handle}/{pinned}"
    try:
        folder = Path(kagglehub.model_download(handle))
    except Exception as error:  # its errors have no common class
        raise InputError(f"{name}: cannot be fetched: {pins.first_line(error)}") from None
    # The folder of a version is named by its number.
    return pins.pinned(folder, name, folder.name, record)
