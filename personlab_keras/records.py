"""TFRecords: what a record holds, written and parsed by one table, and the `meta.json` beside the shards.

The small maps are compressed one by one, so that inflating them runs in the parallel part of the pipeline and the JPEG is not
compressed twice.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from personlab_keras.coordinates import map_side
from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.targets import CompactTargets

META_FILE = "meta.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Record:
    """One view.

    Attributes:
        image_id: COCO id of the image.
        view: number of the view among those of the image; 0 is the whole image.
        image: the view encoded as JPEG or PNG, RGB when decoded.
        targets: its compact targets, for P persons.
        person_ids: (P,) int64, COCO annotation ids.
        person_boxes: (P, 4) float32 [x, y, width, height] in view pixels, pixel-centre coordinates, not cut at the border.
        person_areas: (P,) float32, COCO areas in square view pixels, not cut at the border.
    """

    image_id: int
    view: int
    image: bytes
    targets: CompactTargets
    person_ids: np.ndarray
    person_boxes: np.ndarray
    person_areas: np.ndarray


@dataclass(frozen=True)
class Meta:
    """What is true of all records of a folder; checked when they are read.

    Attributes:
        view_size: side of the square views in pixels.
        stride, radius: of the targets, in view pixels.
        skeleton: names and order of keypoints and edges.
        records: views in the folder.
        shards: names of the files.
        max_persons: most persons in one view; persons are padded to it, so that shapes are fixed.
        counts: what was read and written, by name.
        skipped: what was left out, by reason.
        source: annotation file and settings that the views were made from.
    """

    view_size: int
    stride: int
    radius: float
    skeleton: Skeleton
    records: int
    shards: tuple[str, ...]
    max_persons: int
    counts: Mapping[str, int]
    skipped: Mapping[str, int]
    source: Mapping[str, Any]

    @property
    def map_side(self) -> int:
        """Cells along a side of the targets."""
        return map_side(self.view_size, self.stride)


# One line per feature: name -> (dtype of the numbers, shape with "P", "K" and "h" for what meta.json knows, compressed?).
# `write_example` and `parse_example` both walk this table.
_ARRAYS: dict[str, tuple[str, tuple[str | int, ...], bool]] = {
    "image_id": ("int64", (), False),
    "view": ("int64", (), False),
    "keypoints": ("float32", ("P", "K", 3), False),
    "disc_owner": ("uint8", ("h", "h", "K"), True),
    "instance": ("uint8", ("h", "h"), True),
    "ignore": ("uint8", ("h", "h"), True),
    "person_ids": ("int64", ("P",), False),
    "person_boxes": ("float32", ("P", 4), False),
    "person_areas": ("float32", ("P",), False),
}


def write_example(record: Record) -> bytes:
    """A serialised tf.train.Example. Inverse: `parse_example`."""
    values = {
        **{name: getattr(record.targets, name) for name in ("keypoints", "disc_owner", "instance", "ignore")},
        **{name: getattr(record, name) for name in _ARRAYS if hasattr(record, name)},
    }
    features = {"image": _bytes_feature(record.image)}
    for name, (dtype, _, compressed) in _ARRAYS.items():
        raw = np.ascontiguousarray(values[name], dtype=dtype).tobytes()
        features[name] = _bytes_feature(zlib.compress(raw, 9) if compressed else raw)
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def parse_example(serialized: tf.Tensor, meta: Meta) -> dict[str, tf.Tensor]:
    """A record as tensors: `image` (encoded bytes) and everything else of `Record` and `CompactTargets` by name.

    Persons are padded with zeros to `meta.max_persons`; `persons` says how many are real. All shapes are static.
    """
    features = tf.io.parse_single_example(
        serialized, {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", *_ARRAYS)}
    )
    sizes = {"P": -1, "K": meta.skeleton.keypoint_count, "h": meta.map_side}
    example = {"image": features["image"]}
    for name, (dtype, shape, compressed) in _ARRAYS.items():
        raw = tf.io.decode_compressed(features[name], "ZLIB") if compressed else features[name]
        known = [sizes[side] if isinstance(side, str) else side for side in shape]
        example[name] = tf.reshape(tf.io.decode_raw(raw, tf.as_dtype(dtype)), known)
        if "P" in shape:
            example["persons"] = tf.shape(example[name])[0]
            padding = [[0, meta.max_persons - example["persons"]]] + [[0, 0]] * (len(shape) - 1)
            example[name] = tf.ensure_shape(tf.pad(example[name], padding), [meta.max_persons, *known[1:]])
    return example


def write_meta(folder: Path, meta: Meta) -> None:
    """Writes `meta.json`; it appears complete or not at all, and after the shards that it lists."""
    values = {"format_version": FORMAT_VERSION, **asdict(replace(meta, skeleton=None)), "skeleton": meta.skeleton.to_dict()}  # type: ignore[arg-type]
    write_atomically(folder / META_FILE, (json.dumps(values, indent=1) + "\n").encode())


def read_meta(folder: str | Path) -> Meta:
    """The meta data of a records folder.

    Raises:
        InputError: there is none, it is damaged or of another version, or a shard that it lists is missing.
    """
    path = Path(folder) / META_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {META_FILE} there; a records folder is what `personlab prepare --out` wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: format_version must be {FORMAT_VERSION}. Received: {version}")
        meta = Meta(**{**values, "skeleton": Skeleton.from_dict(values["skeleton"]), "shards": tuple(values["shards"])})
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    missing = [name for name in meta.shards if not (path.parent / name).is_file()]
    if missing:
        raise InputError(f"{path}: lists {len(meta.shards)} shards of which {len(missing)} are missing, first {missing[0]}")
    return meta


def check_meta(
    meta: Meta, folder: str | Path, *, skeleton: Skeleton = COCO_PERSON, radius: float | None = None, stride: int | None = None
) -> None:
    """Refuses records that were made for something else; None is not compared.

    Raises:
        InputError: naming the field, what is needed and what the folder has.
    """
    if (meta.skeleton.keypoints, meta.skeleton.edges) != (skeleton.keypoints, skeleton.edges):
        raise InputError(
            f"{folder}: records of skeleton '{meta.skeleton.name}' with other keypoints or edges than '{skeleton.name}'"
        )
    for name, wanted in (("radius", radius), ("stride", stride)):
        found = getattr(meta, name)
        if wanted is not None and found != wanted:
            raise InputError(f"{folder}: {name} must be {wanted:g}, as targets.{name} says. The records have: {found:g}")
