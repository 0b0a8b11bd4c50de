"""Writes scenes as images and an annotation file in COCO's person keypoints format."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.files import write_atomically
from personlab_keras.io.processes import workers_ignore_interrupts
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.synthetic.scenes import CATEGORY_ID, SceneOptions, draw_scene

IMAGE_QUALITY = 95


@dataclass(frozen=True)
class DatasetFiles:
    """A written data set: its folder of images, its annotation file, and the number of scenes and
    of people.
    """

    images: Path
    annotations: Path
    scenes: int
    people: int


def write_dataset(
    folder: str | Path,
    scenes: int,
    size: int | tuple[int, int] = 257,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
    options: SceneOptions | None = None,
    skeleton: Skeleton = COCO_PERSON,
) -> DatasetFiles:
    """Writes `images/000001.jpg` ... and `annotations.json` (COCO person keypoints) into a folder,
    which is created.

    Scene i depends only on `seed` and i, not on the number of workers or scenes. The annotations
    are written last and atomically: if they exist, all images do.

    Args:
        folder: folder of the data set.
        scenes: number of scenes.
        size: side of a square scene, or (height, width), in pixels.
        seed: seed of the data set, at least 0.
        workers: number of processes; 0 for one per CPU core, 1 to draw in this process.
        progress: called with the number of scenes written so far.
        options: contents of the scenes; None for `SceneOptions()`.
        skeleton: the joints that become keypoints.

    Raises:
        InputError: the folder already holds annotations, a number is out of range, or as
            `draw_scene`.
        OSError: an image cannot be written.
    """
    if scenes < 1 or workers < 0 or seed < 0:
        raise InputError(
            f"`scenes` must be at least 1, `workers` and `seed` at least 0. Received: {scenes}, {workers}, {seed}"
        )
    images, target = Path(folder) / "images", Path(folder) / "annotations.json"
    if target.exists():
        raise InputError(f"{target}: exists already; choose another folder, or remove it")
    images.mkdir(parents=True, exist_ok=True)

    write = partial(
        _write_scene, images=images, size=size, seed=seed, options=options, skeleton=skeleton
    )
    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for entry, found in _map_in_order(write, scenes, workers or os.cpu_count() or 1):
        image_entries.append(entry)
        annotations += [
            {"id": len(annotations) + i, "image_id": entry["id"], **values}
            for i, values in enumerate(found, start=1)
        ]
        if progress:
            progress(len(image_entries))
    write_atomically(
        target, json.dumps(_coco_document(image_entries, annotations, seed, skeleton)).encode()
    )
    people = sum(not annotation["iscrowd"] for annotation in annotations)
    return DatasetFiles(images=images, annotations=target, scenes=len(image_entries), people=people)


_Written = tuple[dict[str, Any], tuple[dict[str, Any], ...]]


def _map_in_order(
    write: Callable[[int], _Written], scenes: int, workers: int
) -> Iterator[_Written]:
    indices = range(1, scenes + 1)
    if min(workers, scenes) == 1:
        yield from map(write, indices)
        return
    # Spawned, not forked: the parent may run threads, as TensorFlow does.
    with workers_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(
            min(workers, scenes), initializer=cv2.setNumThreads, initargs=(1,)
        )
    with pool:
        yield from pool.imap(write, indices, chunksize=max(1, min(16, scenes // workers)))


def _write_scene(
    index: int,
    images: Path,
    size: int | tuple[int, int],
    seed: int,
    options: SceneOptions | None,
    skeleton: Skeleton,
) -> _Written:
    scene = draw_scene(size, np.random.default_rng([seed, index]), skeleton, options)
    file = images / f"{index:06d}.jpg"
    if not cv2.imwrite(
        str(file), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, IMAGE_QUALITY]
    ):
        raise OSError(f"{file}: cannot be written")
    height, width = scene.image.shape[:2]
    return {
        "id": index,
        "file_name": file.name,
        "height": height,
        "width": width,
        "license": 1,
    }, scene.annotations


def _coco_document(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], seed: int, skeleton: Skeleton
) -> dict[str, Any]:
    return {
        "info": {
            "description": f"Synthetic people drawn by PersonLab for Keras, seed {seed}",
            "version": "1",
        },
        "licenses": [
            {
                "id": 1,
                "name": "Apache License 2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            }
        ],
        "images": images,
        "annotations": annotations,
        "categories": [
            {
                "id": CATEGORY_ID,
                "name": "person",
                "supercategory": "person",
                "keypoints": list(skeleton.keypoints),
                # COCO counts keypoints from one.
                "skeleton": [
                    [skeleton.index(a) + 1, skeleton.index(b) + 1] for a, b in skeleton.edges
                ],
            }
        ],
    }
