"""`personlab inspect`: statistics of a records folder, computed from the records themselves rather
than taken from `meta.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from personlab_keras.data.records import Meta, Record, check_damage, read_folder, read_meta
from personlab_keras.data.tfrecords import Damage
from personlab_keras.io.files import Place, as_place, file_sizes
from personlab_keras.method.maps import OUTPUTS
from personlab_keras.method.targets import (
    IGNORE_CROWD,
    IGNORE_MASKLESS,
    IGNORE_UNANNOTATED,
    OVERLAP,
)

_SCALES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Bounds of the size histogram: the square root of a person's area, as a fraction of the view's
side.
"""


def summary(records: str | Place, skip_corrupt: int = 0) -> dict[str, Any]:
    """Statistics of a records folder.

    Returns:
        Numbers of views, persons and labelled keypoints by name; histograms (value or range ->
        count); cells by kind, as fractions of all cells; bytes per view; what was skipped, by
        reason; and the damaged records.

    Raises:
        InputError: if it is no records folder, or has more than `skip_corrupt` damaged records.
    """
    meta = read_meta(records)
    counts: Counter[str] = Counter()
    cells: Counter[str] = Counter()
    people: Counter[int] = Counter()
    labels: Counter[int] = Counter()
    sizes = np.zeros(len(_SCALES) + 1, np.int64)
    labelled = np.zeros(meta.skeleton.keypoint_count, np.int64)
    damaged: list[Damage] = []
    for record in sound_records(records, meta, skip_corrupt, damaged):
        targets, persons = record.targets, len(record.person_ids)
        counts["views"] += 1
        counts["persons"] += persons
        counts["views without people"] += persons == 0
        counts["image bytes"] += len(record.image)
        people[persons] += 1
        labels.update(targets.keypoints[:, :, 2].sum(axis=1).astype(int).tolist())
        sides = np.sqrt(np.maximum(record.person_areas, 0.0)) / meta.view_size
        sizes += np.bincount(np.searchsorted(_SCALES, sides), minlength=len(sizes))
        labelled += targets.keypoints[:, :, 2].sum(axis=0).astype(np.int64)
        cells["all"] += targets.instance.size
        for name, found in {
            "person": targets.instance > 0,
            "overlap": targets.instance == OVERLAP,
            "within a disc": targets.disc_owner.any(axis=2),
            "crowd": targets.ignore & IGNORE_CROWD,
            "unannotated person": targets.ignore & IGNORE_UNANNOTATED,
            "person without mask": targets.ignore & IGNORE_MASKLESS,
        }.items():
            cells[name] += int(np.count_nonzero(found))
    lengths = file_sizes(as_place(records))
    size = sum(lengths[shard.name] for shard in meta.shards)
    views, dense = (
        max(1, counts["views"]),
        sum(channels(meta.skeleton) for channels in OUTPUTS.values()),
    )
    return {
        **{name: counts[name] for name in ("views", "persons", "views without people")},
        "shards": len(meta.shards),
        "view_size": meta.view_size,
        "stride": meta.stride,
        "radius": meta.radius,
        "skeleton": meta.skeleton.name,
        "bytes per view": round(size / views),
        "bytes of targets per view": round((size - counts["image bytes"]) / views),
        "bytes of dense float16 targets per view": 2 * meta.map_side**2 * dense,
        "labelled keypoints": dict(zip(meta.skeleton.keypoints, labelled.tolist(), strict=True)),
        "people per view": {
            str(number): people[number] for number in range(max(people, default=0) + 1)
        },
        "labelled keypoints per person": {
            str(number): labels[number] for number in range(meta.skeleton.keypoint_count + 1)
        },
        "sizes of people": dict(zip(_size_names(), sizes.tolist(), strict=True)),
        "share of cells": {
            name: round(count / max(1, cells["all"]), 4)
            for name, count in cells.items()
            if name != "all"
        },
        "skipped": dict(meta.skipped),
        "examples": {reason: list(examples) for reason, examples in meta.examples.items()},
        "damaged": [str(each) for each in damaged],
    }


def _size_names() -> list[str]:
    bounds = [f"{bound:.1%}" for bound in _SCALES]
    return [
        f"up to {bounds[0]}",
        *(f"{a} to {b}" for a, b in pairwise(bounds)),
        f"over {bounds[-1]}",
    ]


def sound_records(
    records: str | Place, meta: Meta, skip_corrupt: int, damaged: list[Damage]
) -> Iterator[Record]:
    """The intact records of a folder, in order; the others are added to `damaged`.

    Raises:
        InputError: if more than `skip_corrupt` are damaged.
    """
    for record in read_folder(records, meta):
        if isinstance(record, Damage):
            damaged.append(record)
            if len(damaged) > skip_corrupt:
                check_damage(damaged, skip_corrupt, records)
        else:
            yield record
