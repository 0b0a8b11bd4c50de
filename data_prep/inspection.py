"""`personlab inspect`: what a records folder holds, in numbers and in drawings of every target over its image."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from personlab_keras.data import expand, stored_examples
from personlab_keras.drawing import draw_targets
from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically
from personlab_keras.maps import OUTPUTS, Maps, unpack
from personlab_keras.records import Meta, read_meta
from personlab_keras.targets import IGNORE_CROWD, IGNORE_UNANNOTATED, OVERLAP


def summary(records: str | Path) -> dict[str, Any]:
    """Counts of a records folder, read from its records and not from what was said when they were written.

    Returns: views, persons, labelled keypoints by name, cells by kind as shares of all, bytes per view, the `skipped` reasons.

    Raises:
        InputError: no records folder, or a damaged shard.
    """
    meta = read_meta(records)
    counts: Counter[str] = Counter()
    labelled = np.zeros(meta.skeleton.keypoint_count, np.int64)
    cells: Counter[str] = Counter()
    for example in _arrays(records, meta):
        persons = int(example["persons"])
        counts["views"] += 1
        counts["persons"] += persons
        counts["views without people"] += persons == 0
        labelled += example["keypoints"][:persons, :, 2].sum(axis=0).astype(np.int64)
        cells["all"] += example["instance"].size
        cells["person"] += int((example["instance"] > 0).sum())
        cells["overlap"] += int((example["instance"] == OVERLAP).sum())
        cells["crowd"] += int((example["ignore"] & IGNORE_CROWD > 0).sum())
        cells["unannotated person"] += int((example["ignore"] & IGNORE_UNANNOTATED > 0).sum())
    if counts["views"] != meta.records:
        raise InputError(f"{records}: meta.json says {meta.records} views. The shards hold {counts['views']}")
    size = sum((Path(records) / name).stat().st_size for name in meta.shards)
    dense = 2 * meta.map_side**2 * sum(channels(meta.skeleton) for channels in OUTPUTS.values())
    return {
        **counts,
        "shards": len(meta.shards),
        "view_size": meta.view_size,
        "stride": meta.stride,
        "radius": meta.radius,
        "bytes per view": round(size / meta.records),
        "bytes of targets per view": round((size - meta.counts["image bytes"]) / meta.records),
        "bytes of dense float16 targets per view": dense,
        "labelled keypoints": dict(zip(meta.skeleton.keypoints, labelled.tolist(), strict=True)),
        "share of cells": {name: round(count / cells["all"], 4) for name, count in cells.items() if name != "all"},
        "skipped": dict(meta.skipped),
    }


def draw_records(records: str | Path, out: str | Path, count: int, seed: int = 0) -> list[Path]:
    """Draws the targets of `count` views, chosen by the seed, as `<image id>-<view>.png` into `out`; returns the files."""
    meta = read_meta(records)
    chosen = set(random.Random(seed).sample(range(meta.records), min(count, meta.records)))
    files = []
    for number, example in enumerate(_arrays(records, meta)):
        if number not in chosen:
            continue
        sheet = draw_targets(
            example["image"],
            dense_maps(example, meta),
            meta.skeleton,
            instance=example["instance"],
            ignore=example["ignore"],
            keypoints=example["keypoints"][: int(example["persons"])],
        )
        _, encoded = cv2.imencode(".png", sheet[..., ::-1])
        files.append(Path(out) / f"{int(example['image_id']):012d}-{int(example['view'])}.png")
        write_atomically(files[-1], encoded.tobytes())
    return files


def dense_maps(example: dict[str, np.ndarray], meta: Meta) -> Maps:
    """The targets of one parsed example as perfect maps."""
    dense = expand({name: tf.convert_to_tensor(value) for name, value in example.items()}, meta)
    return unpack({name: dense[name].numpy() for name in OUTPUTS}, meta.stride, meta.skeleton)


def _arrays(records: str | Path, meta: Meta) -> Any:
    try:
        yield from stored_examples(records, meta).as_numpy_iterator()
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"{records}: a damaged shard: {str(error).splitlines()[0][:200]}") from None
