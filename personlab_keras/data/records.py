"""The content of a record, written and read by one table, and the `meta.json` beside the shards.
Without TensorFlow: `pipeline.parse_example` parses by the same table in its graph.

The small maps are compressed one by one, so that inflating them runs in the parallel part of the
pipeline and the JPEG is not compressed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from personlab_keras.data.features import only_value, to_array, to_bytes
from personlab_keras.data.geometry import warp_photo
from personlab_keras.data.photos import Photo, photo_features, read_photo
from personlab_keras.data.shard_files import open_shard
from personlab_keras.data.tfrecords import Damage
from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, as_place, file_sizes, read_small, write_atomically
from personlab_keras.io.images import BACKGROUND, decode_image
from personlab_keras.method.coordinates import map_side
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton, checked_skeleton
from personlab_keras.method.targets import MAX_PERSONS, CompactTargets

META_FILE = "meta.json"
FORMAT_VERSION = 3
_READABLE_VERSIONS = (2, 3)
"""Version 2 has no photos for online views."""


@dataclass(frozen=True)
class Record:
    """One view.

    Attributes:
        image_id: COCO id of the image.
        view: number of the view among those of the image; 0 is the whole image.
        image: the view encoded as JPEG or PNG, RGB when decoded; the photo where there is one.
        targets: its compact targets, for P persons.
        person_ids: (P,) int64, COCO annotation ids.
        person_boxes: (P, 4) float32 [x, y, width, height] in view pixels, pixel-centre coordinates,
            not cut at the border.
        person_areas: (P,) float32, COCO areas in square view pixels, not cut at the border.
        regions: (C, 5) float32 [x, y, width, height, area] like those of persons, of crowds and of
            everybody else whom validation has to ignore.
        scale: view pixels per image pixel.
        order: (P + C,) int32, ranks of the persons and then of the regions by annotation id; COCO's
            matching breaks ties by such an order.
        photo: in records for online views, the rest of what `image` then shows; None otherwise.
    """

    image_id: int
    view: int
    image: bytes
    targets: CompactTargets
    person_ids: np.ndarray
    person_boxes: np.ndarray
    person_areas: np.ndarray
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    scale: float = 1.0
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    photo: Photo | None = None


@dataclass(frozen=True)
class Shard:
    """One file of records, as it was when it was written.

    Attributes:
        name: of the file.
        records: in it.
        bytes: its length.
        sha256: of its content, as `sha256sum` prints it.
    """

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Meta:
    """Properties that all records of a folder share; checked when they are read.

    Attributes:
        view_size: side of the square views in pixels.
        stride, radius: of the targets, in view pixels.
        skeleton: names and order of keypoints and edges.
        records: views in the folder.
        shards: the files.
        max_persons: most persons in one view; persons are padded to it, so that shapes are fixed.
        counts: what was read and written, by name.
        skipped: number of entries skipped or repaired, by reason.
        source: digests of annotations and images, and the settings that the views were made by.
        examples: a few of the skipped or repaired entries, by reason.
        photo_side: longest side that a photo may have in records for online views; 0 in records
            of baked views.
    """

    view_size: int
    stride: int
    radius: float
    skeleton: Skeleton
    records: int
    shards: tuple[Shard, ...]
    max_persons: int
    counts: Mapping[str, int]
    skipped: Mapping[str, int]
    source: Mapping[str, Any]
    examples: Mapping[str, Any] = field(default_factory=dict)
    photo_side: int = 0

    @property
    def online(self) -> bool:
        """Whether training takes views of photos at random, instead of reading baked ones."""
        return self.photo_side > 0

    @property
    def pad_colour(self) -> tuple[int, int, int]:
        """RGB colour beyond the image in the views of these records."""
        red, green, blue = self.source.get("data", {}).get("pad_colour", BACKGROUND)
        return red, green, blue

    @property
    def largest_person(self) -> float:
        """`targets.largest_person` of these records; infinite if any person is trained."""
        return float(self.source.get("targets", {}).get("largest_person", float("inf")))

    @property
    def map_side(self) -> int:
        """Cells along a side of the targets."""
        return map_side(self.view_size, self.stride)


ARRAYS: dict[str, tuple[str, tuple[str | int, ...], bool]] = {
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
"""One line per feature beside the image: name -> (dtype of the numbers, shape with "P", "K" and "h"
for what meta.json knows, whether compressed). `write_example`, `read_example` and
`pipeline.parse_example` all walk this table."""

_TARGETS = ("keypoints", "disc_owner", "instance", "ignore")
_JUDGING = {"regions": "float32", "scale": "float32", "order": "int32"}
"""Features that validation alone reads; records written before there were any lack them."""


def view_image(record: Record, meta: Meta) -> np.ndarray:
    """(side, side, 3) uint8 RGB: the view that the targets of a record are of.

    Raises:
        InputError: the image cannot be decoded.
    """
    image = decode_image(record.image, f"image {record.image_id}")
    if record.photo is None:
        return image
    extent = record.photo.extent
    return warp_photo(image, extent, np.eye(2, 3), meta.view_size, meta.pad_colour)


def write_example(record: Record) -> bytes:
    """A serialised tf.train.Example. Inverse: `read_example`."""
    values = {
        **{name: getattr(record.targets, name) for name in _TARGETS},
        **{name: getattr(record, name) for name in ARRAYS if hasattr(record, name)},
    }
    example = _example_class()()
    example.features.feature["image"].bytes_list.value.append(record.image)
    for name, (dtype, _, compressed) in ARRAYS.items():
        raw = to_bytes(values[name], dtype, compressed)
        example.features.feature[name].bytes_list.value.append(raw)
    for name, dtype in _JUDGING.items():
        raw = to_bytes(getattr(record, name), dtype)
        example.features.feature[name].bytes_list.value.append(raw)
    if record.photo is not None:
        for name, raw in photo_features(record.photo).items():
            example.features.feature[name].bytes_list.value.append(raw)
    return example.SerializeToString(deterministic=True)


def read_example(serialized: bytes, meta: Meta) -> Record:
    """The record in a serialised example.

    Raises:
        ValueError: not a record of this folder: no tf.train.Example, or a feature is missing or of
            another size than meta.json says.
    """
    try:
        features = _example_class().FromString(serialized).features.feature
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        raise ValueError(f"no tf.train.Example ({error})") from None
    sizes = {"P": -1, "K": meta.skeleton.keypoint_count, "h": meta.map_side}
    values: dict[str, Any] = {}
    values["image"] = only_value(features, "image")
    for name, (dtype, shape, compressed) in ARRAYS.items():
        known = [sizes[side] if isinstance(side, str) else side for side in shape]
        values[name] = to_array(features, name, dtype, known, compressed)
    persons = {len(values[name]) for name, (_, shape, _) in ARRAYS.items() if "P" in shape}
    if len(persons) > 1 or max(persons) > meta.max_persons:
        raise ValueError(
            f"must hold one number of persons, at most {meta.max_persons}. Received: {sorted(persons)}"
        )
    values |= _judging(features, persons.copy().pop())
    targets = CompactTargets(**{name: values.pop(name) for name in _TARGETS})
    return Record(
        **{**values, "image_id": int(values["image_id"]), "view": int(values["view"])},
        targets=targets,
        photo=read_photo(features, meta.photo_side) if meta.online else None,
    )


def _judging(features: Any, persons: int) -> dict[str, Any]:
    if not all(name in features for name in _JUDGING):
        return {"order": np.arange(persons, dtype=np.int32)}
    try:
        found = {
            name: np.frombuffer(features[name].bytes_list.value[0], dtype)
            for name, dtype in _JUDGING.items()
        }
        regions, (scale,) = found["regions"].reshape(-1, 5), found["scale"]
        if len(found["order"]) != persons + len(regions):
            raise ValueError
    except (IndexError, ValueError):
        raise ValueError(
            "features 'regions', 'scale' and 'order' must be of shapes (C, 5), () and (P + C,)"
        ) from None
    return {"regions": regions, "scale": float(scale), "order": found["order"]}


def read_judging(
    folder: str | Place, meta: Meta
) -> dict[tuple[int, int], tuple[np.ndarray, float, np.ndarray]]:
    """(image id, view) -> `regions`, `scale` and `order` of every sound record."""
    return {
        (record.image_id, record.view): (record.regions, record.scale, record.order)
        for record in read_folder(folder, meta)
        if isinstance(record, Record)
    }


@cache
def _example_class() -> Any:
    """tf.train.Example as far as it is used here, in a pool of its own: TensorFlow may register its
    own beside it.
    """
    label = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def message(
        name: str, *fields: tuple[str, int, int, int, str | None], within: Any = file.message_type
    ) -> Any:
        made = within.add(name=name)
        for field_name, number, kind, repeated, type_name in fields:
            made.field.add(
                name=field_name, number=number, type=kind, label=repeated, type_name=type_name
            )
        return made

    one, many = label.LABEL_OPTIONAL, label.LABEL_REPEATED
    message("BytesList", ("value", 1, label.TYPE_BYTES, many, None))
    message("Feature", ("bytes_list", 1, label.TYPE_MESSAGE, one, ".tensorflow.BytesList"))
    features = message(
        "Features", ("feature", 1, label.TYPE_MESSAGE, many, ".tensorflow.Features.FeatureEntry")
    )
    entry = message(
        "FeatureEntry",
        ("key", 1, label.TYPE_STRING, one, None),
        ("value", 2, label.TYPE_MESSAGE, one, ".tensorflow.Feature"),
        within=features.nested_type,
    )
    entry.options.map_entry = True
    message("Example", ("features", 1, label.TYPE_MESSAGE, one, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def read_folder(folder: str | Place, meta: Meta) -> Iterator[Record | Damage]:
    """The records of a folder in the order of its shards; a `Damage` in place of each damaged one.

    Raises:
        InputError: a shard cannot be opened.
    """
    for shard in meta.shards:
        path = as_place(folder) / shard.name
        file = open_shard(path)
        for number in range(max(len(file), shard.records)):
            content = file.read(number)
            if isinstance(content, Damage):
                yield content
                continue
            try:
                record: Record | Damage = read_example(content, meta)
            except ValueError as error:
                record = Damage(path, number, 0, str(error))
            yield record


def find_damage(records: str | Place, meta: Meta) -> list[Damage]:
    """The damaged records of a folder, all of which is read."""
    return [each for each in read_folder(records, meta) if isinstance(each, Damage)]


def check_damage(damaged: list[Damage], allowed: int, records: str | Place) -> None:
    """Refuses more damage than is allowed.

    Raises:
        InputError: naming the first damaged record.
    """
    if len(damaged) > allowed:
        raise InputError(
            f"{damaged[0]}. Damaged records in {records}: {len(damaged)}; at most {allowed} are skipped (data.skip_corrupt). "
            "`personlab prepare` with the same arguments rebuilds damaged shards"
        )


def write_meta(folder: Place, meta: Meta) -> None:
    """Writes `meta.json`; it appears complete or not at all, and after the shards that it lists."""
    values = {
        "format_version": FORMAT_VERSION,
        **asdict(replace(meta, skeleton=None)),  # type: ignore[arg-type]
        "skeleton": meta.skeleton.to_dict(),
    }
    write_atomically(folder / META_FILE, (json.dumps(values, indent=1) + "\n").encode())


def read_meta(folder: str | Place) -> Meta:
    """The meta data of a records folder.

    Raises:
        InputError: the file is missing, damaged or of another version, or a shard that it lists is
            missing.
    """
    meta = parse_meta(folder)
    there = file_sizes(as_place(folder))
    missing = [shard.name for shard in meta.shards if shard.name not in there]
    if missing:
        path = as_place(folder) / META_FILE
        raise InputError(
            f"{path}: lists {len(meta.shards)} shards of which {len(missing)} are missing, first {missing[0]}"
        )
    return meta


def parse_meta(folder: str | Place) -> Meta:
    """As `read_meta`, without checking that the shards exist.

    Raises:
        InputError: the file is missing, damaged or of another version.
    """
    path = as_place(folder) / META_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: no {META_FILE} there; a records folder is what `personlab prepare --out` wrote"
        )
    try:
        values = json.loads(read_small(path))
        version = values.pop("format_version")
        if type(version) is not int or version not in _READABLE_VERSIONS:
            known = " or ".join(map(str, _READABLE_VERSIONS))
            raise InputError(
                f"{path}: format_version must be {known}. Received: {version!r:.80}. "
                "Prepare the records again"
            )
        _check_meta_fields(values)
        shards = tuple(Shard(**shard) for shard in values["shards"])
        meta = Meta(
            **{
                **values,
                "skeleton": checked_skeleton(values["skeleton"], str(path)),
                "shards": shards,
            }
        )
        _ = meta.map_side
    except InputError as error:
        raise InputError(
            str(error) if str(error).startswith(str(path)) else f"{path}: damaged: {error}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    return meta


def _check_meta_fields(values: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: a field is not what `write_meta` writes.
    """

    def check(name: str, sound: bool, value: Any) -> None:
        if not sound:
            raise ValueError(f"{name} cannot be {value!r:.80}")

    for name in ("view_size", "stride", "records", "max_persons"):
        check(name, type(values[name]) is int and values[name] >= 1, values[name])
    check("max_persons", values["max_persons"] <= MAX_PERSONS, values["max_persons"])
    radius = values["radius"]
    check("radius", type(radius) in (int, float) and 0.0 < radius < float("inf"), radius)
    photo_side = values.get("photo_side", 0)
    check("photo_side", type(photo_side) is int and photo_side >= 0, photo_side)
    for name in ("counts", "skipped"):
        check(
            name,
            isinstance(values[name], dict)
            and all(type(count) is int for count in values[name].values()),
            values[name],
        )
    for name in ("source", "examples"):
        check(name, isinstance(values[name], dict), values[name])
    for some in values["examples"].values():
        check(
            "examples", isinstance(some, list) and all(isinstance(one, str) for one in some), some
        )
    check("shards", isinstance(values["shards"], list), values["shards"])
    for shard in values["shards"]:
        name = shard["name"]
        check(
            "name of a shard",
            isinstance(name, str) and name == Path(name).name and "\0" not in name,
            name,
        )
        for field_name in ("records", "bytes"):
            check(
                f"{field_name} of a shard",
                type(shard[field_name]) is int and shard[field_name] >= 1,
                shard[field_name],
            )
        check("sha256 of a shard", isinstance(shard["sha256"], str), shard["sha256"])
    check(
        "records",
        sum(shard["records"] for shard in values["shards"]) == values["records"],
        values["records"],
    )


def check_trainable(meta: Meta, folder: str | Place) -> None:
    """Refuses records from which no keypoint can be learned.

    Raises:
        InputError: nobody in them has a labelled keypoint, with the counts.
    """
    persons, without = (meta.counts.get(name) for name in ("persons", "persons without keypoints"))
    if persons is not None and persons == without:
        raise InputError(
            f"{folder}: nobody has a labelled keypoint to train on: {persons} persons, "
            f"{meta.counts.get('crowd regions', 0)} crowd regions in {meta.counts.get('images')} images"
        )


def check_meta(
    meta: Meta,
    folder: str | Place,
    *,
    skeleton: Skeleton = COCO_PERSON,
    radius: float | None = None,
    stride: int | None = None,
    online: bool = False,
) -> None:
    """Refuses records that were made for something else; None is not compared.

    Args:
        online: whether views have to be taken of photos. Records for that give them in any case.

    Raises:
        InputError: naming the field, what is needed and what the folder has.
    """
    if online and not meta.online:
        raise InputError(
            f"{folder}: data.online=true needs records of photos, and these hold baked views. "
            "Prepare them with --set data.online=true --set data.views_per_image=1"
        )
    if (meta.skeleton.keypoints, meta.skeleton.edges) != (skeleton.keypoints, skeleton.edges):
        raise InputError(
            f"{folder}: records of skeleton '{meta.skeleton.name}' with other keypoints or edges than '{skeleton.name}'"
        )
    for name, wanted in (("radius", radius), ("stride", stride)):
        found = getattr(meta, name)
        if wanted is not None and found != wanted:
            raise InputError(
                f"{folder}: {name} must be {wanted:g}, as targets.{name} says. The records have: {found:g}"
            )
