"""`personlab inspect --out`: drawings of every target over its image, and the page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from data_prep.page import page
from data_prep.statistics import sound_records, summary
from personlab_keras.data.pipeline import expand
from personlab_keras.data.records import Meta, Record, read_meta, view_image
from personlab_keras.drawing import draw_targets
from personlab_keras.io.files import Place, as_place, write_atomically
from personlab_keras.method.maps import OUTPUTS, Maps, unpack


def inspect(
    records: str | Place,
    out: str | Path,
    count: int,
    sheet: int,
    seed: int = 0,
    skip_corrupt: int = 0,
) -> dict[str, Any]:
    """Writes `index.html`, a page for looking through the records, and its drawings beside it.

    Args:
        count: number of views whose targets are drawn.
        sheet: number of views on the contact sheet.
        seed: selects the views.

    Returns:
        The statistics, as returned by `summary`.

    Raises:
        InputError: if `records` is no records folder, or has more than `skip_corrupt` damaged
            records.
    """
    counts = summary(records, skip_corrupt)
    drawings = draw_records(records, out, count, seed, skip_corrupt)
    meta = read_meta(records)
    views = list(_chosen(records, meta, sheet, seed, skip_corrupt))
    write_atomically(
        Path(out) / "index.html",
        page(f"Records: {as_place(records)}", counts, views, meta, drawings).encode(),
    )
    return counts


def _chosen(
    records: str | Place, meta: Meta, count: int, seed: int, skip_corrupt: int
) -> Iterator[Record]:
    wanted = set(random.Random(seed).sample(range(meta.records), min(count, meta.records)))
    for number, record in enumerate(sound_records(records, meta, skip_corrupt, [])):
        if number in wanted:
            yield record


def draw_records(
    records: str | Place, out: str | Path, count: int, seed: int = 0, skip_corrupt: int = 0
) -> list[Path]:
    """Draws the targets of `count` views, selected by the seed, as `<image id>-<view>.png` in
    `out`; returns the files.

    Raises:
        InputError: if `records` is no records folder, or has more than `skip_corrupt` damaged
            records.
    """
    meta = read_meta(records)
    files = []
    for record in _chosen(records, meta, count, seed, skip_corrupt):
        drawing = draw_targets(
            view_image(record, meta),
            dense_maps(asdict(record.targets), meta),
            meta.skeleton,
            instance=record.targets.instance,
            ignore=record.targets.ignore,
            keypoints=record.targets.keypoints,
        )
        _, encoded = cv2.imencode(".png", drawing[..., ::-1])
        files.append(Path(out) / f"{record.image_id:012d}-{record.view}.png")
        write_atomically(files[-1], encoded.tobytes())
    return files


def dense_maps(targets: dict[str, np.ndarray], meta: Meta) -> Maps:
    """The compact targets of one view, by name, expanded to maps."""
    dense = expand({name: tf.convert_to_tensor(value) for name, value in targets.items()}, meta)
    return unpack({name: dense[name].numpy() for name in OUTPUTS}, meta.stride, meta.skeleton)
