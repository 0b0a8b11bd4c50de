"""`personlab prepare`: annotated images -> sharded records with compact targets."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from data_prep.coco import AnnotatedImage, decode_segmentation, read_coco
from data_prep.geometry import View, random_view, sample_mask, warp_boxes, warp_image, warp_keypoints, whole_image
from personlab_keras.config import Config, TargetsConfig, config_to_dict
from personlab_keras.coordinates import box_from_coco, map_side
from personlab_keras.errors import InputError
from personlab_keras.images import read_image
from personlab_keras.records import META_FILE, Meta, Record, write_example, write_meta
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.startup import import_tensorflow_quietly, workers_ignore_interrupts
from personlab_keras.targets import MAX_PERSONS, CompactTargets, encode

MIN_SHARDS = 16
"""Small sets are cut into about this many shards all the same, so that several workers and readers share them."""


@dataclass(frozen=True)
class People:
    """The non-crowd people of an image as arrays, and its crowd region."""

    ids: np.ndarray  # (P,)
    keypoints: np.ndarray  # (P, K, 3)
    boxes: np.ndarray  # (P, 4), pixel-centre coordinates
    areas: np.ndarray  # (P,)
    masks: np.ndarray  # (P, H, W) bool
    annotated: np.ndarray  # (P,) bool
    crowd: np.ndarray  # (H, W) bool


@dataclass(frozen=True)
class _Shard:
    """What a worker is asked to write."""

    path: Path
    images: tuple[AnnotatedImage, ...]
    folder: Path
    config: Config
    skeleton: Skeleton


def prepare(
    annotations: str | Path,
    images: str | Path,
    out: str | Path,
    config: Config,
    skeleton: Skeleton = COCO_PERSON,
    progress: Callable[[int, int], None] | None = None,
) -> Meta:
    """Bakes the views of every annotated image into records.

    The records do not depend on the number of workers: images are shuffled by the seed and cut into shards beforehand, and the
    random views of an image are a function of (seed, image id, number of the view).

    Args:
        annotations: a COCO person keypoints file.
        images: the folder of its images.
        out: a folder that holds no records yet.
        progress: called with (images done, images in all).

    Raises:
        InputError: as `read_coco`; `out` holds records already; the folder is missing or no image in it could be used.
    """
    folder, target = Path(images), Path(out)
    coco = read_coco(annotations, skeleton)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    if (target / META_FILE).exists():
        raise InputError(f"{target}: holds records already. Choose another folder or delete it")
    skipped = Counter(coco.skipped)
    chosen = [image for image in coco.images if image.annotations or config.data.negatives]
    if len(chosen) < len(coco.images):
        skipped["image without people (data.negatives is false)"] += len(coco.images) - len(chosen)
    if not chosen:
        raise InputError(f"{annotations}: no image with people")
    target.mkdir(parents=True, exist_ok=True)
    shards = list(_cut(chosen, target, folder, config, skeleton))
    counts: Counter[str] = Counter()
    written: list[str] = []
    most_persons, done = 1, 0
    try:
        for shard, shard_counts, shard_skipped, persons in _run(shards, config.data.workers):
            counts += shard_counts
            skipped += shard_skipped
            most_persons = max(most_persons, persons)
            done += len(shard.images)
            if shard_counts["views"]:
                written.append(shard.path.name)
            if progress is not None:
                progress(done, len(chosen))
    finally:
        for unfinished in target.glob(".*.part"):
            unfinished.unlink()
    if not counts["views"]:
        raise InputError(f"{folder}: none of {len(chosen)} images could be used: {_reasons(skipped)}")
    meta = Meta(
        view_size=config.data.view_size,
        stride=config.targets.stride,
        radius=config.targets.radius,
        skeleton=skeleton,
        records=counts["views"],
        shards=tuple(sorted(written)),
        max_persons=most_persons,
        counts=dict(sorted(counts.items())),
        skipped=dict(sorted(skipped.items())),
        source={"annotations": Path(annotations).name, "data": config_to_dict(config.data)},
    )
    write_meta(target, meta)
    return meta


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())


def _cut(images: list[AnnotatedImage], target: Path, folder: Path, config: Config, skeleton: Skeleton) -> Iterator[_Shard]:
    order = np.random.default_rng(config.data.seed).permutation(len(images))
    per_shard = max(1, min(config.data.shard_records // config.data.views_per_image, -(-len(images) // MIN_SHARDS)))
    total = -(-len(images) // per_shard)
    for number in range(total):
        part = tuple(images[i] for i in order[number * per_shard : (number + 1) * per_shard])
        yield _Shard(target / f"views-{number:05d}-of-{total:05d}.tfrecord", part, folder, config, skeleton)


def _run(shards: list[_Shard], workers: int) -> Iterable[tuple[_Shard, Counter[str], Counter[str], int]]:
    workers = min(workers or os.cpu_count() or 1, len(shards))
    if workers == 1:
        yield from map(_write_shard, shards)
        return
    # Spawned, not forked: TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=import_tensorflow_quietly) as pool:
        with workers_ignore_interrupts():  # all workers start with the first submission
            futures = [pool.submit(_write_shard, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _write_shard(shard: _Shard) -> tuple[_Shard, Counter[str], Counter[str], int]:
    """Writes one file; returns the counts of what went into it, of what was skipped by reason, and the most persons in a view."""
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    persons = 0
    beside = shard.path.with_name(f".{shard.path.name}.part")
    with tf.io.TFRecordWriter(str(beside)) as writer:
        for image in shard.images:
            for record in image_records(image, shard.folder, shard.config, shard.skeleton, counts, skipped):
                serialized = write_example(record)
                writer.write(serialized)
                persons = max(persons, len(record.person_ids))
                counts["bytes"] += len(serialized)
                counts["image bytes"] += len(record.image)
    if counts["views"]:
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, shard.path)
    else:
        beside.unlink()
    return shard, counts, skipped, persons


def image_records(
    image: AnnotatedImage, folder: Path, config: Config, skeleton: Skeleton, counts: Counter[str], skipped: Counter[str]
) -> Iterator[Record]:
    """The records of one image, one per view; adds to the counts, and to `skipped` by reason."""
    path = folder / image.file_name
    if not path.is_file():
        skipped["image missing"] += 1
        return
    try:
        # COCO annotates the pixels as stored, whatever their orientation tag says.
        pixels = read_image(path, apply_orientation=False)
    except InputError:
        skipped["image unreadable"] += 1
        return
    if pixels.shape[:2] != (image.height, image.width):
        skipped["image of another size than annotated"] += 1
        return
    people = gather_people(image, skeleton, skipped)
    counts["images"] += 1
    counts["images without people"] += not image.annotations
    counts["persons"] += len(people.ids)
    counts["persons without keypoints"] += int((~people.annotated).sum())
    counts["crowd regions"] += sum(annotation.crowd for annotation in image.annotations)
    for number in range(config.data.views_per_image):
        counts["views"] += 1
        yield _bake(image, pixels, people, number, config, skeleton)


def gather_people(image: AnnotatedImage, skeleton: Skeleton, skipped: Counter[str]) -> People:
    """The people of an image with their masks decoded; adds to `skipped`, by reason, what had to be left out."""
    crowd = np.zeros((image.height, image.width), bool)
    people = []
    for annotation in image.annotations:
        mask = np.zeros_like(crowd)
        try:
            if annotation.segmentation is not None:
                mask = decode_segmentation(annotation.segmentation, image.height, image.width)
            else:
                skipped["mask missing (person kept)"] += 1
        except ValueError:
            skipped["mask damaged (person kept)"] += 1
        if annotation.crowd:
            crowd |= mask
        else:
            people.append((annotation, mask))
    if len(people) > MAX_PERSONS:
        # Those beyond the limit become part of the crowd: unknown, rather than background.
        people.sort(key=lambda pair: -pair[0].area)
        skipped[f"person beyond the {MAX_PERSONS} largest of an image (masked as crowd)"] += len(people) - MAX_PERSONS
        for _, mask in people[MAX_PERSONS:]:
            crowd |= mask
        people = people[:MAX_PERSONS]
    annotations = [annotation for annotation, _ in people]
    return People(
        ids=np.array([annotation.id for annotation in annotations], np.int64),
        keypoints=np.array([a.keypoints for a in annotations]).reshape(-1, skeleton.keypoint_count, 3),
        boxes=box_from_coco(np.array([a.box for a in annotations]).reshape(-1, 4)),
        areas=np.array([a.area for a in annotations]),
        masks=np.array([mask for _, mask in people], bool).reshape(-1, image.height, image.width),
        annotated=np.array([a.annotated for a in annotations], bool),
        crowd=crowd,
    )


def _bake(image: AnnotatedImage, pixels: np.ndarray, people: People, number: int, config: Config, skeleton: Skeleton) -> Record:
    view = _choose_view(image, number, config)
    targets = view_targets(people, view, config.targets, skeleton)
    warped = warp_image(pixels, view, config.data.pad_colour)
    _, encoded = cv2.imencode(".jpg", warped[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, config.data.image_quality])
    return Record(
        image_id=image.id,
        view=number,
        image=encoded.tobytes(),
        targets=targets,
        person_ids=people.ids,
        person_boxes=warp_boxes(people.boxes, view),
        person_areas=people.areas * view.scale**2,
    )


def view_targets(people: People, view: View, settings: TargetsConfig, skeleton: Skeleton) -> CompactTargets:
    """What a network should say about a view of the people of an image."""
    cells = map_side(view.side, settings.stride)
    return encode(
        keypoints=warp_keypoints(people.keypoints, view, skeleton),
        masks=np.array([sample_mask(mask, view, settings.stride) for mask in people.masks], bool).reshape(-1, cells, cells),
        annotated=people.annotated,
        crowd=sample_mask(people.crowd, view, settings.stride),
        view_size=(view.side, view.side),
        radius=settings.radius,
        stride=settings.stride,
    )


def _choose_view(image: AnnotatedImage, number: int, config: Config) -> View:
    if number == 0:
        return whole_image(image.width, image.height, config.data.view_size)
    rng = np.random.default_rng((config.data.seed, image.id, number))
    return random_view(image.width, image.height, config.data.view_size, config.data, rng)
