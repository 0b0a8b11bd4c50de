"""Predicts image files and writes a JSON file and an overlay for each."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.inference.journal_people import from_values, to_values
from personlab_keras.inference.predict import Predictor
from personlab_keras.io.files import make_folder, write_atomically
from personlab_keras.io.images import list_images, read_image, silent_opencv, unread_media
from personlab_keras.io.journal import Journal
from personlab_keras.method.skeleton import Skeleton
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
    journal: Journal | None = None,
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
        journal: of this task; images in it are not predicted again, and all others are added to it.

    Raises:
        InputError: a source matches no image, `out` is not a folder, or a result would overwrite
            one of the images.
        KeyboardInterrupt: with a text that says how far it was, if there is a journal.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    paths = list_images(given)
    out = Path(out)
    names = output_names(paths)
    stems = [out / name for name in names]
    file_names = relative_names(paths)
    _check_sources_survive(paths, stems)
    make_folder(out)
    done = people_found = handled = 0
    failed: list[str] = []

    def add(i: int, result: Result, kept: bool) -> None:
        nonlocal done, people_found
        for writer in writers:
            writer.add(Found(result, names[i], file_names[i], paths[i], kept))
        done += 1
        people_found += len(result)

    size = predictor.options.batch_size
    try:
        for first in range(0, len(paths), size):
            # By whole batches: the sums of a network may depend on the images beside one.
            batch = range(first, min(first + size, len(paths)))
            entries = _finished(journal, {i: stems[i] for i in batch}, overlays, masks)
            for i, entry in entries.items():
                failed += entry["failed"]
                if entry["people"] is not None:
                    add(i, _kept_result(entry, paths[i].name, predictor.skeleton), kept=True)
            fresh = {} if entries else _read(paths, batch)
            readable = {i: image for i, image in fresh.items() if not isinstance(image, InputError)}
            results = dict(zip(readable, predictor.batch(list(readable.values())), strict=True))
            for i, image in fresh.items():
                faults = [str(image)] if isinstance(image, InputError) else []
                result = results.get(i)
                if result is not None:
                    result.name = paths[i].name
                    faults = _write(stems[i], result, overlays, masks)
                    add(i, result, kept=False)
                failed += faults
                if journal is not None and i not in journal:
                    journal.add(i, _entry(result, faults))
            handled = batch.stop
            if progress:
                progress(handled, len(paths))
    except KeyboardInterrupt:
        if journal is None:
            raise
        raise KeyboardInterrupt(
            f"interrupted after {handled} of {len(paths)} images; run the same command to resume"
        ) from None
    return PredictSummary(done, people_found, tuple(failed), tuple(unread_media(given)))


def _finished(
    journal: Journal | None, stems: Mapping[int, Path], overlays: bool, masks: bool
) -> dict[int, dict[str, Any]]:
    """The entries of a batch, by number of the image; empty if any of them or of its files is
    missing.
    """
    if journal is None or not all(i in journal for i in stems):
        return {}
    entries = {i: journal[i] for i in stems}
    there = all(
        entry["people"] is None
        or entry["failed"]
        or all(path.is_file() for path in _files(stems[i], overlays, masks))
        for i, entry in entries.items()
    )
    return entries if there else {}


def _entry(result: Result | None, failed: list[str]) -> dict[str, Any]:
    """What a journal keeps of an image; `people` is None if it could not be read."""
    if result is None:
        return {"people": None, "failed": failed}
    size = [result.width, result.height]
    return {"size": size, "people": to_values(result), "failed": failed}


def _kept_result(entry: dict[str, Any], name: str, skeleton: Skeleton) -> Result:
    """The result of an entry, with an image of the right size that has no pixels."""
    width, height = entry["size"]
    nothing = np.broadcast_to(np.uint8(0), (height, width, 3))
    return Result(from_values(entry["people"]), nothing, skeleton, name)


def _read(paths: Sequence[Path], batch: Iterable[int]) -> dict[int, np.ndarray | InputError]:
    """Each image, or why it cannot be read."""
    images: dict[int, np.ndarray | InputError] = {}
    for i in batch:
        try:
            images[i] = read_image(paths[i])
        except InputError as error:
            images[i] = error
    return images


def _files(stem: Path, overlays: bool, masks: bool) -> list[Path]:
    """The files of an image."""
    wanted = {".json": True, ".overlay.jpg": overlays, ".masks.png": masks}
    return [stem.with_name(f"{stem.name}{suffix}") for suffix, is_on in wanted.items() if is_on]


def _write(stem: Path, result: Result, overlays: bool, masks: bool) -> list[str]:
    """Writes the files of an image; returns a line for an overlay that could not be written."""
    failed = []
    _write_json(stem, result)
    try:
        if overlays:
            _write_overlay(stem, result)
    except InputError as error:
        failed.append(str(error))
    if masks:
        write_atomically(stem.with_name(f"{stem.name}.masks.png"), mask_png(result))
    return failed


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
