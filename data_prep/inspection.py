"""`personlab inspect`: drawings of every target over its image."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from data_prep.statistics import sound_records
from personlab_keras.data import expand
from personlab_keras.drawing import draw_targets
from personlab_keras.files import write_atomically
from personlab_keras.images import decode_image
from personlab_keras.maps import OUTPUTS, Maps, unpack
from personlab_keras.records import Meta, read_meta


def draw_records(records: str | Path, out: str | Path, count: int, seed: int = 0, skip_corrupt: int = 0) -> list[Path]:
    """Draws the targets of `count` views, chosen by the seed, as `<image id>-<view>.png` into `out`; returns the files.

    Raises:
        InputError: no records folder, or more than `skip_corrupt` damaged records.
    """
    meta = read_meta(records)
    chosen = set(random.Random(seed).sample(range(meta.records), min(count, meta.records)))
    files = []
    for number, record in enumerate(sound_records(records, meta, skip_corrupt, [])):
        if number not in chosen:
            continue
        sheet = draw_targets(
            decode_image(record.image, f"image {record.image_id}"),
            dense_maps(asdict(record.targets), meta),
            meta.skeleton,
            instance=record.targets.instance,
            ignore=record.targets.ignore,
            keypoints=record.targets.keypoints,
        )
        _, encoded = cv2.imencode(".png", sheet[..., ::-1])
        files.append(Path(out) / f"{record.image_id:012d}-{record.view}.png")
        write_atomically(files[-1], encoded.tobytes())
    return files


def dense_maps(targets: dict[str, np.ndarray], meta: Meta) -> Maps:
    """The compact targets of one view, by name, as perfect maps."""
    dense = expand({name: tf.convert_to_tensor(value) for name, value in targets.items()}, meta)
    return unpack({name: dense[name].numpy() for name in OUTPUTS}, meta.stride, meta.skeleton)
