"""Image files in, JSON and overlays out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.drawing import draw
from personlab_keras.errors import InputError
from personlab_keras.inference.predict import Predictor
from personlab_keras.io.files import write_atomically
from personlab_keras.io.images import list_images, read_image
from personlab_keras.method.person import Person, people_to_dict
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class PredictSummary:
    """What became of a set of image files.

    Attributes:
        done: images predicted.
        people: found in them.
        failed: one line for each image that could not be read, naming it and the reason.
    """

    done: int
    people: int
    failed: tuple[str, ...]


def predict_files(
    predictor: Predictor,
    sources: str | Path | Iterable[str | Path],
    out: str | Path,
    overlays: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Writes `x.json` and `x.overlay.jpg` for every image `x.jpg`, each whole or not at all.

    An image that cannot be read is counted and the others go on.

    Args:
        sources: as for `images.list_images`.
        out: folder for the results, made if missing; results of an earlier run are replaced. See
            `output_names`.
        overlays: whether to draw the people found over their images.
        progress: called with (images handled, images in all).

    Raises:
        InputError: a source matches nothing, `out` is no folder, or a result would overwrite one of
            the images.
    """
    paths = list_images(sources)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: must be a folder for the results. Received: a file")
    stems = [out / name for name in output_names(paths)]
    _check_sources_survive(paths, stems)
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
        for i, people in zip(images, predictor.batch(list(images.values())), strict=True):
            _write_prediction(stems[i], paths[i], images[i], people, predictor.skeleton, overlays)
            done += 1
            people_found += len(people)
        if progress:
            progress(min(first + size, len(paths)), len(paths))
    return PredictSummary(done, people_found, tuple(failed))


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name for the results of each image: the shortest of three forms that tells all of them
    apart.

    The forms are the name without its ending, the whole name, and the path below the deepest folder
    common to all. Names that differ in case only count as the same, as they do on some disks.

    >>> output_names([Path("a/x.jpg"), Path("b/y.jpg")])
    ['x', 'y']
    >>> output_names([Path("a/x.jpg"), Path("a/x.png")])
    ['x.jpg', 'x.png']
    >>> output_names([Path("a/x.jpg"), Path("b/x.jpg")])
    ['a/x.jpg', 'b/x.jpg']
    """
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        if max(Counter(name.casefold() for name in names).values(), default=1) == 1:
            return names
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = next(
        folder
        for folder in absolute[0].parents
        if all(path.is_relative_to(folder) for path in absolute)
    )
    return [path.relative_to(common).as_posix() for path in absolute]


def _check_sources_survive(paths: Sequence[Path], stems: Sequence[Path]) -> None:
    """Results laid beside the images must not replace one of them: an overlay is an image, too."""
    sources = {path.resolve() for path in paths}
    for stem in stems:
        overlay = _overlay_path(stem)
        if overlay.resolve() in sources:
            raise InputError(
                f"{overlay}: must not be both an image to predict and a result. Choose another folder for the results"
            )


def _overlay_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.overlay.jpg")


def _write_prediction(
    stem: Path,
    path: Path,
    image: np.ndarray,
    people: Sequence[Person],
    skeleton: Skeleton,
    overlay: bool,
) -> None:
    height, width = image.shape[:2]
    values = {"image": path.name, **people_to_dict(width, height, people)}
    write_atomically(
        stem.with_name(f"{stem.name}.json"), json.dumps(values, allow_nan=False).encode()
    )
    if overlay:
        drawn = draw(image, people, skeleton)
        _, encoded = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        write_atomically(_overlay_path(stem), encoded.tobytes())
