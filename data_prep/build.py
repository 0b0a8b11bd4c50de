"""`personlab prepare`: annotated images -> sharded records with compact targets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.baking import photo_side
from data_prep.engines import Engine, processes
from data_prep.shards import STATE, Task, Written, deal, finished, is_intact, to_json, write_shard
from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.formats import images_folder, read_annotations
from personlab_keras.annotations.image_files import find_image, none_usable
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.config import Config, config_to_dict
from personlab_keras.data.records import META_FILE, Meta, check_trainable, parse_meta, write_meta
from personlab_keras.data.shard_files import ENDINGS
from personlab_keras.errors import InputError
from personlab_keras.io.files import (
    Place,
    as_place,
    remove_tree,
    sole_writer,
    write_atomically,
)
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

__all__ = ["prepare", "write_shard"]

_PLAN_FILE = "plan.json"
_BAKED = (
    "view_size",
    "views_per_image",
    "scale",
    "rotation",
    "flip",
    "negatives",
    "image_quality",
    "shard_records",
    "seed",
    "pad_colour",
    "follow_links",
    "annotation_frame",
)
"""Settings of `data` that determine the records; the others determine how they are read."""


def prepare(
    annotations: str | Path,
    images: str | Path | None,
    out: str | Place,
    config: Config,
    skeleton: Skeleton = COCO_PERSON,
    progress: Callable[[int, int], None] | None = None,
    *,
    engine: Engine | None = None,
    categories: Sequence[str] = (),
    strict: bool = False,
    overwrite: bool = False,
    split: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Meta:
    """Bakes the views of every annotated image into records.

    The records are a function of the input and of the settings listed in `meta.json`: the engine,
    the number of workers and interruptions do not change a single byte. Called again after an
    interruption, or on a finished folder, it keeps the shards whose checksums match and builds the
    others.

    Args:
        annotations: a COCO keypoints file, or a YOLO-pose folder or its data.yaml.
        images: the image folder of a COCO file; None if a YOLO-pose folder names its own.
        out: the records folder, new or left by an earlier identical call.
        progress: called with (images done, total images).
        engine: writes the shards; `data.workers` processes if None.
        categories: as for `read_annotations`.
        strict: whether to fail at the first fault in the data set instead of counting it.
        overwrite: whether to replace records in `out` made from other input or settings.
        split: as for `read_annotations`.
        say: called with each message for the user.

    Raises:
        InputError: as `read_annotations` and `images_folder`; if no image is usable; if `out` holds
            records made from other input or settings, or another process is writing there; with
            `strict`, for the first fault.
        KeyboardInterrupt: with a message that gives the progress and says how to resume.
    """
    target = as_place(out)
    dataset = read_annotations(
        annotations, skeleton, categories, strict, split, config.data.annotation_frame
    )
    config = replace(config, data=replace(config.data, annotation_frame=dataset.frame))
    folder = images_folder(dataset, images, annotations)
    tally = Tally(strict, str(annotations))
    tally.merge(dataset.skipped, dataset.examples)
    chosen = [image for image in dataset.images if image.annotations or config.data.negatives]
    for image in dataset.images if len(chosen) < len(dataset.images) else ():
        if not image.annotations:
            tally.add(Reason.IMAGE_NEGATIVE, f"image {image.id} {image.file_name!r}")
    if not any(image.annotations for image in chosen):
        raise InputError(f"{annotations}: no image with people. Skipped or repaired: {tally}")
    people = [each for image in chosen for each in image.annotations]
    if not any(each.annotated and not each.crowd for each in people):
        crowds = sum(each.crowd for each in people)
        raise InputError(
            f"{annotations}: nobody has a labelled keypoint to train on: {len(people) - crowds} "
            f"persons, {crowds} crowd regions. Skipped or repaired: {tally}"
        )
    faults, links = Tally(strict, str(folder)), config.data.follow_links
    if not any(find_image(image, folder, faults, links) for image in chosen):
        raise none_usable(folder, len(chosen), faults)
    plan = {
        "annotations": {
            "name": Path(annotations).name,
            "bytes": dataset.bytes,
            "sha256": dataset.sha256,
        },
        "categories": list(categories),
        "images": _listing(chosen, folder),
        "data": {
            **{name: config_to_dict(config.data)[name] for name in _BAKED},
            # Defaults of newer settings are omitted, so that older records still match.
            **({"online": True} if config.data.online else {}),
            **(
                {"record_format": config.data.record_format}
                if config.data.record_format != "tfrecord"
                else {}
            ),
        },
        # Unset values are omitted, so that records older than a setting still match.
        "targets": {
            name: value
            for name, value in config_to_dict(config.targets).items()
            if value is not None
        },
        "skeleton": skeleton.to_dict(),
        # Other versions may encode an image differently.
        "libraries": {
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
        },
    }
    digest = hashlib.sha256(to_json(plan)).hexdigest()
    tasks = [
        Task(name, target, digest, part, folder, config, skeleton, strict)
        for name, part in deal(chosen, len(dataset.images), config.data)
    ]
    with sole_writer(target):
        _claim(target, plan, overwrite)
        site = _Site(
            target,
            tasks,
            engine or processes(config.data.workers or os.cpu_count() or 1),
            progress,
            say,
        )
        try:
            if (target / META_FILE).is_file():
                meta = parse_meta(target)
                site.mend(meta)
            else:
                written = site.build()
                meta = _summed_up(written, tally, plan, config, skeleton)
                if meta.records:
                    check_trainable(meta, target)
                    write_meta(target, meta)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(site.how_far()) from None
        remove_tree(target / STATE)
    if not meta.records:
        raise none_usable(folder, len(chosen), tally)
    return meta


class _Site:
    """A records folder under construction."""

    def __init__(
        self,
        target: Place,
        tasks: Sequence[Task],
        engine: Engine,
        progress: Callable[[int, int], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._target, self._tasks, self._engine, self._progress, self._say = (
            target,
            tasks,
            engine,
            progress,
            say,
        )
        self._done = 0

    def how_far(self) -> str:
        """The message for a user who interrupted the build."""
        return (
            f"interrupted with {self._done} of {len(self._tasks)} shards finished; "
            "the same command resumes from there"
        )

    def build(self) -> list[Written]:
        """The result of each task, in order. Finished shards are kept."""
        results = {
            task.name: written for task in self._tasks if (written := finished(task)) is not None
        }
        for written in self._write(
            [task for task in self._tasks if task.name not in results], len(self._tasks)
        ):
            results[written.shard.name] = written
        return [results[task.name] for task in self._tasks]

    def mend(self, meta: Meta) -> None:
        """Rebuilds the shards of a finished folder whose checksums no longer match.

        Raises:
            InputError: if a rebuilt shard differs from the original.
        """
        broken = {shard.name: shard for shard in meta.shards if not is_intact(self._target, shard)}
        for written in self._write(
            [task for task in self._tasks if task.name in broken], len(meta.shards)
        ):
            if written.shard != broken[written.shard.name]:
                raise InputError(
                    f"{self._target / written.shard.name}: the rebuilt shard differs from the original, so an image must have "
                    "changed. Rebuild all records with --overwrite"
                )

    def _write(self, todo: Sequence[Task], total: int) -> Iterator[Written]:
        images = sum(len(task.images) for task in self._tasks)
        self._done = total - len(todo)
        sizes = {task.name: len(task.images) for task in todo}
        if self._done:
            self._say(
                f"{self._target}: {self._done} of {total} shards are already finished and intact"
            )
        seen = images - sum(sizes.values())
        try:
            for written in self._engine(todo) if todo else ():
                self._done += 1
                seen += sizes[written.shard.name]
                if self._progress is not None:
                    self._progress(seen, images)
                yield written
        finally:
            # Left by workers that were stopped by an interrupt or by the failure of another one.
            for unfinished in self._target.glob(".*.part"):
                unfinished.unlink(missing_ok=True)


def _listing(images: Sequence[AnnotatedImage], folder: Path) -> dict[str, Any]:
    """The number of images and a digest of their names and sizes, which detects added, removed and
    replaced files.
    """
    digest = hashlib.sha256()
    for image in images:
        try:
            size = (folder / image.file_name).stat().st_size
        except (OSError, ValueError):
            size = -1
        digest.update(to_json([image.id, image.file_name, size]))
    return {"listed": len(images), "names_and_sizes_sha256": digest.hexdigest()}


def _claim(target: Place, plan: Mapping[str, Any], overwrite: bool) -> None:
    """Removes everything from the folder that does not belong to this plan.

    Raises:
        InputError: if the folder belongs to another plan and `overwrite` is false.
    """
    note = target / STATE / _PLAN_FILE
    before = None
    if (target / META_FILE).is_file() and not overwrite:
        before = _plan_of(target)
    elif note.is_file() and not overwrite:
        with contextlib.suppress(ValueError):
            before = json.loads(note.read_bytes())
    if before is not None and before != plan:
        changes = "; ".join(_differences(before, plan))
        raise InputError(
            f"{target}: holds records made from other input or settings: {changes}. Choose another folder, or use --overwrite"
        )
    if before is None:
        # First: its presence marks a folder as complete.
        (target / META_FILE).unlink(missing_ok=True)
        remove_tree(target / STATE)
        for ending in ENDINGS.values():
            for shard in target.glob(f"views-*-of-*{ending}"):
                shard.unlink()
    if not (target / META_FILE).is_file():
        write_atomically(note, to_json(plan))


def _plan_of(folder: Place) -> Any:
    """The plan of a finished folder, whatever the version of its format."""
    path = folder / META_FILE
    try:
        return json.loads(path.read_bytes())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged. Choose another folder, or use --overwrite") from None


def _differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """The differences between two plans, each as a line."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(
                before.get(key), now.get(key), f"{place}.{key}" if place else key
            )
    elif before != now:
        was, is_ = (
            str(value) if len(str(value)) <= 40 else f"{str(value)[:12]}..."
            for value in (before, now)
        )
        yield f"{place} was {was}, is {is_}"


def _summed_up(
    results: Sequence[Written],
    tally: Tally,
    plan: Mapping[str, Any],
    config: Config,
    skeleton: Skeleton,
) -> Meta:
    counts: Counter[str] = Counter()
    for written in results:
        counts.update(written.counts)
        tally.merge(written.skipped, written.examples)
    return Meta(
        view_size=config.data.view_size,
        stride=config.targets.stride,
        radius=config.targets.radius,
        skeleton=skeleton,
        records=counts["views"],
        shards=tuple(written.shard for written in results if written.shard.records),
        max_persons=max(1, *(written.max_persons for written in results)),
        counts=dict(sorted(counts.items())),
        skipped=dict(sorted(tally.counts.items())),
        source=plan,
        examples=dict(sorted(tally.examples.items())),
        photo_side=photo_side(config) if config.data.online else 0,
    )
