"""Shards: which image goes into which, writing one, and the notes by which an interrupted
preparation goes on.

A shard is the unit of work. It is a function of the input alone, whoever writes it and when: images
are dealt to shards, and put in order within, by a hash of (seed, image id).
"""

from __future__ import annotations

import hashlib
import json
import os
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
from personlab_keras.data.tfrecords import frame
from personlab_keras.errors import InputError
from personlab_keras.io.files import write_atomically
from personlab_keras.method.skeleton import Skeleton

STATE = ".unfinished"
"""Folder of the notes, within that of the records; it goes when `meta.json` comes."""
MIN_SHARDS = 16
"""Small sets are cut into about this many shards all the same, so that several workers and readers
share them.
"""


@dataclass(frozen=True)
class Task:
    """A shard that is to be written.

    Attributes:
        name: of the file.
        out: the folder it goes to.
        plan: digest of everything that the records depend on.
        images: that go into it, in order.
        folder: of the images, resolved.
    """

    name: str
    out: Path
    plan: str
    images: tuple[AnnotatedImage, ...]
    folder: Path
    config: Config
    skeleton: Skeleton
    strict: bool


@dataclass(frozen=True)
class Written:
    """What became of a task.

    Attributes:
        shard: the file; of no records and no file where none of the images could be used.
        plan: as in `Task`.
        max_persons: most in one view.
        counts: of what went into it.
        skipped, examples: what was left out or mended, as in `Tally`.
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
    """Name and images of each shard that gets any.

    Args:
        listed: images that the annotation file has, used or not: their number alone decides how
            many shards there are.
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
            f"views-{number:05d}-of-{total:05d}.tfrecord",
            tuple(image for _, image in sorted(part, key=lambda pair: pair[0])),
        )
        for number, part in sorted(dealt.items())
    ]


def write_shard(task: Task) -> Written:
    """Writes a shard whole or not at all, and then the note about it.

    Raises:
        InputError: it cannot be written; or the task is strict and there is a fault.
    """
    cv2.setNumThreads(1)  # the workers share the cores already
    counts: Counter[str] = Counter()
    tally = Tally(task.strict, str(task.folder))
    digest, size, max_persons = hashlib.sha256(), 0, 0
    path = task.out / task.name
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            for image in task.images:
                for record in image_records(
                    image, task.folder, task.config, task.skeleton, counts, tally
                ):
                    framed = frame(write_example(record))
                    file.write(framed)
                    digest.update(framed)
                    size += len(framed)
                    max_persons = max(max_persons, len(record.person_ids))
                    counts["image bytes"] += len(record.image)
            file.flush()
            os.fsync(file.fileno())
        if size:
            os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
    counts["bytes"] = size
    shard = Shard(task.name, counts["views"], size, digest.hexdigest())
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


def _note(task: Task) -> Path:
    return task.out / STATE / f"{task.name}.json"


def finished(task: Task) -> Written | None:
    """What the note about a task says; None where there is none of this plan, or the file is not as
    it says.
    """
    try:
        noted = json.loads(_note(task).read_bytes())
        written = Written(**{**noted, "shard": Shard(**noted["shard"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return written if written.plan == task.plan and is_intact(task.out, written.shard) else None


def is_intact(folder: Path, shard: Shard) -> bool:
    """Whether a shard is as it was written, by length and SHA-256."""
    path = folder / shard.name
    if not shard.records:
        return True
    try:
        if path.stat().st_size != shard.bytes:
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
    except OSError:
        return False


def to_json(value: Any) -> bytes:
    """The one spelling of a value, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
