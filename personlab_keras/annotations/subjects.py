"""The people and regions of an image, with missing values filled in.

`prepare` and `evaluate` share them, so that both keep the same people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.annotations.dataset import BOX_FILL, AnnotatedImage, Annotation
from personlab_keras.annotations.masks import (
    box_pixels,
    decompress_segmentation,
    encode_segmentation,
)
from personlab_keras.annotations.reasons import Reason, Tally


@dataclass(frozen=True, slots=True)
class Subject:
    """A person, or a region of people who are not told apart.

    Attributes:
        annotation: the annotation as read.
        rle: the mask as pycocotools' compressed run lengths; None if there is no usable one.
        box: (4,) float64 [x, y, width, height] in COCO's edge coordinates: as annotated, else
            around the mask, else around the labelled keypoints; None without any of them.
        area: square pixels: as annotated, else of the mask, else `BOX_FILL` of the box.
        person: False for a crowd region, and for a person with neither keypoints nor mask.
    """

    annotation: Annotation
    rle: dict[str, Any] | None
    box: np.ndarray | None
    area: float
    person: bool


def subjects(image: AnnotatedImage, tally: Tally) -> list[Subject]:
    """The subjects of an image, one per annotation; repairs are added to the tally.

    >>> from personlab_keras.annotations.dataset import AnnotatedImage, Annotation
    >>> points = np.array([[3.0, 4.0, 2.0], [5.0, 9.0, 2.0]])
    >>> one = Annotation(1, points, np.full(4, np.nan), np.nan, None, crowd=False)
    >>> tally = Tally()
    >>> (found,) = subjects(AnnotatedImage(7, "a.jpg", 20, 20, (one,)), tally)
    >>> found.box.tolist(), round(found.area, 2), found.person, list(tally.counts)
    ([3.0, 4.0, 3.0, 6.0], 9.54, True, ['mask missing (person kept)'])
    """
    found = []
    if not image.complete:
        tally.add(Reason.IMAGE_INCOMPLETE, f"image {image.id} {image.file_name!r}")
    for annotation in image.annotations:
        place = f"image {image.id}, annotation {annotation.id}"
        mask = _mask(annotation, image, place, tally)
        box = _box(annotation, mask)
        person = not annotation.crowd and (mask is not None or annotation.annotated)
        if not (person or annotation.crowd):
            tally.add(Reason.PERSON_NOWHERE if box is None else Reason.PERSON_UNKNOWN, place)
        found.append(Subject(annotation, mask, box, _area(annotation, mask, box, image), person))
    return found


def region(subject: Subject, image: AnnotatedImage) -> np.ndarray:
    """(H, W) bool: the pixels that a subject without a mask makes unknown: those of its box, or all
    if it has none.
    """
    if subject.rle is not None:
        return rle.decode(subject.rle).view(bool)
    rows, columns = box_pixels(subject.box, image.height, image.width)
    inside = np.full((image.height, image.width), subject.box is None)
    inside[rows, columns] = True
    return inside


def _mask(
    annotation: Annotation, image: AnnotatedImage, place: str, tally: Tally
) -> dict[str, Any] | None:
    """The mask; None if it is unusable or empty."""
    reason = Reason.CROWD_DAMAGED if annotation.crowd else Reason.MASK_DAMAGED
    if annotation.segmentation is None:
        tally.add(reason if annotation.crowd else Reason.MASK_MISSING, place)
        return None
    try:
        mask, dropped = encode_segmentation(
            decompress_segmentation(annotation.segmentation), image.height, image.width
        )
    except ValueError as error:
        tally.add(reason, f"{place}: {error}")
        return None
    if dropped:
        tally.add(Reason.POLYGON_DROPPED, f"{place}: {dropped}")
    if not rle.area(mask):
        tally.add(reason, f"{place}: not one pixel")
        return None
    return mask


def _box(annotation: Annotation, mask: dict[str, Any] | None) -> np.ndarray | None:
    if np.isfinite(annotation.box).all():
        return annotation.box
    if mask is not None:
        return rle.toBbox(mask)
    points = annotation.keypoints[annotation.keypoints[:, 2] > 0, :2]
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low + 1.0])


def _area(
    annotation: Annotation,
    mask: dict[str, Any] | None,
    box: np.ndarray | None,
    image: AnnotatedImage,
) -> float:
    if np.isfinite(annotation.area):
        return annotation.area
    if mask is not None:
        return float(rle.area(mask))
    if box is None:
        return 1.0
    return BOX_FILL * min(float(box[2] * box[3]), float(image.width * image.height))
