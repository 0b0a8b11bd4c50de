"""Predicts image files and writes a JSON file and an overlay for each."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.inference.predict import Predictor
from personlab_keras.io.files import make_folder, write_atomically
from personlab_keras.io.images import list_images, read_image, silent_opencv, unread_media
from personlab_keras.results import Result
from personlab_keras.results.writers import Found, Writer, mask_png


@dataclass(frozen=True)
class PredictSummary:
    """Counts of a prediction over image files.

    Attributes:
        done: number of images predicted.
        people: number of people found in them.
        failed: a line for each image that could not be read and each overlay that could not be
            written, with its name and the reason.
        unread: files in folders and patterns that look like images or videos and are not read.
    """

    done: int
    people: int
    failed: tuple[str, ...]
    unread: tuple[Path, ...] = ()


def predict_files(
    predictor: Predictor,
    sources: str | Path | Iterable[str | Path],
    out: str | Path,
    overlays: bool = True,
    progress: Callable[[int, int], None] | None = None,
    masks: bool = False,
    writers: Sequence[Writer] = (),
) -> PredictSummary:
    """Writes `x.json`, `x.overlay.jpg` and `x.masks.png` for every image `x.jpg`, each file
    atomically, and what the writers make of it.

    Images that cannot be read, and overlays that cannot be written, are counted and skipped.

    Args:
        predictor: the predictor to use.
        sources: as for `images.list_images`.
        out: folder for the results, created if missing; results of an earlier run are replaced. For
            the names of the files see `output_names`.
        overlays: whether to write overlays.
        progress: called with (images handled, number of images).
        masks: whether to write the instance masks (`results.writers.mask_png`).
        writers: of other formats; the caller finishes them.

    Raises:
        InputError: a source matches no image, `out` is not a folder, or a result would overwrite
            one of the images.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    paths = list_images(given)
    out = Path(out)
    names = output_names(paths)
    stems = [out / name for name in names]
    file_names = relative_names(paths)
    _check_sources_survive(paths, stems)
    make_folder(out)
    done = people_found = 0
    failed: list[str] = []
    size = predictor.options.batch_size
    for first in range(0, len(paths), size):
        images: dict[int, np.ndarray] = {}
        for i in range(first, min(first + size, len(paths))):
            try:
                images[i] = read_image(paths[i])
            except InputError as error:
                failed.append(str(error))
        for i, result in zip(images, predictor.batch(list(images.values())), strict=True):
            result.name = paths[i].name
            _write_json(stems[i], result)
            try:
                if overlays:
                    _write_overlay(stems[i], result)
            except InputError as error:
                failed.append(str(error))
            if masks:
                write_atomically(stems[i].with_name(f"{stems[i].name}.masks.png"), mask_png(result))
            for writer in writers:
                writer.add(Found(result, names[i], file_names[i], paths[i]))
            done += 1
            people_found += len(result)
        if progress:
            progress(min(first + size, len(paths)), len(paths))
    return PredictSummary(done, people_found, tuple(failed), tuple(unread_media(given)))


def output_names(paths: Sequence[Path]) -> list[str]:
    """Chooses a name for the results of each image: the shortest of three forms that no other
    result has.

    The forms are the name without extension, the whole name, and the path below the deepest common
    folder. Names that differ only in case count as equal, as some file systems do not distinguish
    them.

    >>> output_names([Path("a/x.jpg"), Path("b/y.jpg")])
    ['x', 'y']
    >>> output_names([Path("a/x.jpg"), Path("a/x.png"), Path("a/y.jpg")])
    ['x.jpg', 'x.png', 'y']
    >>> output_names([Path("a/x.jpg"), Path("b/x.jpg")])
    ['a/x.jpg', 'b/x.jpg']
    """
    if not paths:
        return []
    below = relative_names(paths)
    forms = [(path.stem, path.name, name) for path, name in zip(paths, below, strict=True)]
    chosen = [0] * len(forms)
    while True:
        names = [form[choice] for form, choice in zip(forms, chosen, strict=True)]
        counts = Counter(name.casefold() for name in names)
        longer = [
            i for i, name in enumerate(names) if counts[name.casefold()] > 1 and chosen[i] < 2
        ]
        if not longer:
            return names
        for i in longer:
            chosen[i] += 1


def relative_names(paths: Sequence[Path]) -> list[str]:
    """The paths below their deepest common folder.

    >>> relative_names([Path("a/b/x.jpg"), Path("a/y.jpg")])
    ['b/x.jpg', 'y.jpg']
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = next(
        folder
        for folder in absolute[0].parents
        if all(path.is_relative_to(folder) for path in absolute)
    )
    return [path.relative_to(common).as_posix() for path in absolute]


def _check_sources_survive(paths: Sequence[Path], stems: Sequence[Path]) -> None:
    """Refuses results that would replace one of the images: overlays are images, too."""
    sources = {os.path.realpath(path) for path in paths}
    for stem in stems:
        overlay = _overlay_path(stem)
        if os.path.realpath(overlay) in sources:
            raise InputError(
                f"{overlay}: must not be both an image to predict and a result. Choose another folder for the results"
            )


def _overlay_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.overlay.jpg")


def _write_json(stem: Path, result: Result) -> None:
    write_atomically(
        stem.with_name(f"{stem.name}.json"),
        json.dumps(result.to_dict(), allow_nan=False).encode(),
    )


def _write_overlay(stem: Path, result: Result) -> None:
    """Raises InputError if the overlay cannot be encoded or written."""
    path = _overlay_path(stem)
    with silent_opencv():
        done, encoded = cv2.imencode(
            ".jpg", result.draw()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]
        )
    if not done:
        raise InputError(
            f"{path}: cannot be encoded as JPEG: {result.width} x {result.height} pixels"
        )
    write_atomically(path, encoded.tobytes())
