"""Shards: assigning images to them, writing them, and the notes that let an interrupted
preparation resume.

A shard is the unit of work and a function of the input alone: a hash of (seed, image id) decides
the shard of an image and its position there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from data_prep.baking import image_records
from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.reasons import Tally
from personlab_keras.config import Config, DataConfig
from personlab_keras.data.records import Shard, write_example
from personlab_keras.data.shard_files import ENDINGS, writing_shard
from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, draft, local_copy, publish, write_atomically
from personlab_keras.method.skeleton import Skeleton

STATE = ".unfinished"
"""Subfolder of the records that holds the notes; removed once `meta.json` is written."""
MIN_SHARDS = 16
"""Approximate number of shards of a small data set, so that several workers and readers can share
it.
"""


@dataclass(frozen=True)
class Task:
    """A shard to be written.

    Attributes:
        name: the file name.
        out: the records folder.
        plan: digest of everything that determines the records.
        images: its images, in order.
        folder: the image folder, resolved.
    """

    name: str
    out: Place
    plan: str
    images: tuple[AnnotatedImage, ...]
    folder: Path
    config: Config
    skeleton: Skeleton
    strict: bool


@dataclass(frozen=True)
class Written:
    """The result of a task.

    Attributes:
        shard: the shard; it has no records and no file if none of its images was usable.
        plan: as in `Task`.
        max_persons: the largest number of persons in one view.
        counts: number of images, persons, views and bytes written.
        skipped, examples: what was skipped or repaired, as in `Tally`.
    """

    shard: Shard
    plan: str
    max_persons: int
    counts: Mapping[str, int]
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]


def deal(
    images: Iterable[AnnotatedImage], listed: int, settings: DataConfig
) -> list[tuple[str, tuple[AnnotatedImage, ...]]]:
    """The name and images of each non-empty shard.

    Args:
        listed: number of images in the annotation file, used or not; it alone determines the number
            of shards.
    """
    per_shard = max(
        1, min(settings.shard_records // settings.views_per_image, -(-listed // MIN_SHARDS))
    )
    total = -(-listed // per_shard)
    dealt: dict[int, list[tuple[bytes, AnnotatedImage]]] = {}
    for image in images:
        lot = hashlib.blake2b(f"{settings.seed}/{image.id}".encode(), digest_size=16).digest()
        dealt.setdefault(int.from_bytes(lot[:8], "big") % total, []).append((lot[8:], image))
    return [
        (
            f"views-{number:05d}-of-{total:05d}{ENDINGS[settings.record_format]}",
            tuple(image for _, image in sorted(part, key=lambda pair: pair[0])),
        )
        for number, part in sorted(dealt.items())
    ]


def write_shard(task: Task) -> Written:
    """Writes a shard atomically, then its note.

    Raises:
        InputError: if it cannot be written, or at the first fault if the task is strict.
    """
    cv2.setNumThreads(1)  # the workers share the cores already
    counts: Counter[str] = Counter()
    tally = Tally(task.strict, str(task.folder))
    max_persons, size, digest = 0, 0, ""
    path = task.out / task.name
    try:
        with draft(path) as drafted:
            with writing_shard(drafted, task.config.data.record_format) as append:
                for image in task.images:
                    for record in image_records(
                        image, task.folder, task.config, task.skeleton, counts, tally
                    ):
                        append(write_example(record))
                        max_persons = max(max_persons, len(record.person_ids))
                        counts["image bytes"] += len(record.image)
            if counts["views"]:
                size, digest = drafted.stat().st_size, _sha256(drafted)
                publish(drafted, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    counts["bytes"] = size
    shard = Shard(task.name, counts["views"], size, digest)
    written = Written(
        shard,
        task.plan,
        max_persons,
        dict(sorted(counts.items())),
        dict(tally.counts),
        tally.examples,
    )
    write_atomically(_note(task), json.dumps(asdict(written)).encode())
    return written


def _note(task: Task) -> Place:
    return task.out / STATE / f"{task.name}.json"


def finished(task: Task) -> Written | None:
    """The result of a task according to its note; None if there is no note, if the note belongs to
    another plan, or if the file does not match it.
    """
    try:
        noted = json.loads(_note(task).read_bytes())
        written = Written(**{**noted, "shard": Shard(**noted["shard"])})
    except InputError:  # a bucket that cannot be read
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return written if written.plan == task.plan and is_intact(task.out, written.shard) else None


def is_intact(folder: Place, shard: Shard) -> bool:
    """Whether the length and the SHA-256 of a shard match."""
    path = folder / shard.name
    if not shard.records:
        return True
    try:
        with local_copy(path) as file:
            return file.stat().st_size == shard.bytes and _sha256(file) == shard.sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(value: Any) -> bytes:
    """The canonical JSON of a value, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
