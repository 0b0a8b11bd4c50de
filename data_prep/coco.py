"""Reading COCO keypoint annotations, with everything that is wrong in real files named or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.errors import InputError
from personlab_keras.files import read_json
from personlab_keras.skeleton import Skeleton


@dataclass(frozen=True)
class Annotation:
    """One person or one crowd region, as COCO has it.

    Attributes:
        id: of the annotation.
        keypoints: (K, 3) float64 [x, y, visibility] in image pixels; zeros where nothing was annotated.
        box: (4,) float64 [x, y, width, height] in COCO's edge coordinates.
        area: in square pixels.
        segmentation: polygons, or a run-length form, as in the file; None where there is none.
        crowd: whether it is a region of several people that nobody told apart.
    """

    id: int
    keypoints: np.ndarray
    box: np.ndarray
    area: float
    segmentation: Any
    crowd: bool

    @property
    def annotated(self) -> bool:
        """Whether any keypoint was annotated."""
        return bool((self.keypoints[:, 2] > 0).any())


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of the file with its people."""

    id: int
    file_name: str
    width: int
    height: int
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class CocoFile:
    """An annotation file: its images in order of id, and what was left out of it, by reason."""

    images: tuple[AnnotatedImage, ...]
    skipped: Mapping[str, int]


def read_coco(path: str | Path, skeleton: Skeleton) -> CocoFile:
    """Reads an annotation file of COCO's person keypoints format.

    Annotations of other categories, and annotations of images that the file does not list, are left out and counted.

    Raises:
        InputError: the file is missing or no such JSON; it lists no images or no annotations; no category has this skeleton's
            keypoints; a field is missing or of another form.
    """
    content = read_json(path)
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field), list) or not content[field]:
            came = (
                "nothing" if field not in content else "an empty list" if content[field] == [] else type(content[field]).__name__
            )
            raise InputError(f"{path}: '{field}' must be a list with at least one entry. Received: {came}")
    category = _person_category(content["categories"], skeleton, path)
    skipped: Counter[str] = Counter()
    people: dict[int, list[Annotation]] = {}
    for number, entry in enumerate(content["images"]):
        identity, _, _, _ = _image_fields(entry, number, path)
        if identity in people:
            raise InputError(f"{path}: images[{number}].id must be unique. Received: {identity} twice")
        people[identity] = []
    for number, entry in enumerate(content["annotations"]):
        place = f"{path}: annotations[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"{place} must be an object. Received: {type(entry).__name__}")
        if entry.get("category_id") != category:
            skipped["annotation of another category"] += 1
        elif entry.get("image_id") not in people:
            skipped["annotation of an unknown image"] += 1
        else:
            people[entry["image_id"]].append(_annotation(entry, skeleton, place))
    images = (_image_fields(entry, number, path) for number, entry in enumerate(content["images"]))
    return CocoFile(
        images=tuple(AnnotatedImage(*fields, tuple(people[fields[0]])) for fields in sorted(images)),
        skipped=dict(skipped),
    )


def _person_category(categories: list[Any], skeleton: Skeleton, path: str | Path) -> int:
    named = {entry.get("id"): tuple(entry.get("keypoints", ())) for entry in categories if isinstance(entry, dict)}
    for identity, keypoints in named.items():
        if isinstance(identity, int) and keypoints == skeleton.keypoints:
            return identity
    came = next((keypoints for keypoints in named.values() if keypoints), None)
    raise InputError(
        f"{path}: no category has the {skeleton.keypoint_count} keypoints of '{skeleton.name}', in their order. "
        f"Received: {', '.join(came) if came else 'categories without keypoints (an instances file?)'}"
    )


def _image_fields(entry: Any, number: int, path: str | Path) -> tuple[int, str, int, int]:
    def field(name: str, kind: type) -> Any:
        value = entry.get(name) if isinstance(entry, dict) else None
        if type(value) is not kind:
            raise InputError(f"{path}: images[{number}].{name} must be a {kind.__name__}. Received: {value!r}")
        return value

    width, height = field("width", int), field("height", int)
    if min(width, height) < 1:
        raise InputError(f"{path}: images[{number}] must have a size of at least one pixel. Received: {width} x {height}")
    return field("id", int), field("file_name", str), width, height


def _annotation(entry: dict[str, Any], skeleton: Skeleton, place: str) -> Annotation:
    count = skeleton.keypoint_count
    crowd = bool(entry.get("iscrowd", 0))
    # Crowd regions may come without keypoints.
    keypoints = _numbers(entry.get("keypoints", [0] * (3 * count) if crowd else None), 3 * count, f"{place}.keypoints")
    box = _numbers(entry.get("bbox"), 4, f"{place}.bbox")
    identity, area = entry.get("id"), entry.get("area", box[2] * box[3])
    if type(identity) is not int:
        raise InputError(f"{place}.id must be an int. Received: {identity!r}")
    if isinstance(area, bool) or not isinstance(area, (int, float)):
        raise InputError(f"{place}.area must be a number. Received: {area!r}")
    return Annotation(identity, keypoints.reshape(count, 3), box, float(area), entry.get("segmentation") or None, crowd)


def _numbers(values: Any, count: int, place: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.shape != (count,) or not np.isfinite(array).all():
        came = f"{len(values)} values" if isinstance(values, list) and len(values) != count else repr(values)
        raise InputError(f"{place} must be {count} finite numbers. Received: {came[:120]}")
    return array


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool from COCO's polygons, plain run lengths or compressed run lengths.

    Raises:
        ValueError: none of those forms, or of another size than the image.
    """
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if isinstance(polygon, list) and len(polygon) >= 6]
        if not polygons:
            raise ValueError("no polygon of at least three points")
        encoded = rle.merge(rle.frPyObjects(polygons, height, width))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths of size {segmentation['size']}")
        plain = isinstance(segmentation["counts"], list)
        encoded = rle.frPyObjects(segmentation, height, width) if plain else segmentation
    else:
        raise ValueError("neither polygons nor run lengths")
    try:
        return rle.decode(encoded).astype(bool)
    except Exception as error:  # pycocotools raises bare Exceptions of several kinds on damaged counts
        raise ValueError(f"damaged run lengths: {error}") from None
