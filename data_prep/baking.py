"""An annotated image -> the records of its views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from data_prep.geometry import (
    View,
    mask_sampler,
    random_view,
    warp_boxes,
    warp_image,
    warp_keypoints,
    whole_image,
)
from personlab_keras.annotations.dataset import AnnotatedImage, Annotation
from personlab_keras.annotations.image_files import read_pixels
from personlab_keras.annotations.masks import decode_segmentation, decompress_segmentation
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.config import Config, TargetsConfig
from personlab_keras.data.records import Record
from personlab_keras.method.coordinates import box_from_coco, map_side
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.method.targets import MAX_PERSONS, CompactTargets, encode


@dataclass(frozen=True)
class People:
    """The non-crowd people of an image as arrays, and what of the image is unknown."""

    ids: np.ndarray  # (P,)
    keypoints: np.ndarray  # (P, K, 3)
    boxes: np.ndarray  # (P, 4), pixel-centre coordinates
    areas: np.ndarray  # (P,)
    masks: tuple[np.ndarray, ...]  # P times (H, W) bool
    annotated: np.ndarray  # (P,) bool
    unknown: tuple[np.ndarray, ...]  # (H, W) bool each: crowds, where nothing is known
    maskless: tuple[np.ndarray, ...]  # (H, W) bool each: the boxes of people without a mask
    complete: bool  # whether everybody in the image is annotated

    @cached_property
    def from_unannotated(self) -> np.ndarray | None:
        """(H, W) float32: distance in pixels from the nearest pixel of a person without keypoints;
        None if there is no such person.
        """
        masks = [mask for mask, known in zip(self.masks, self.annotated, strict=True) if not known]
        if not masks:
            return None
        free = np.logical_not(np.logical_or.reduce(masks)).astype(np.uint8)
        return cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def image_records(
    image: AnnotatedImage,
    folder: Path,
    config: Config,
    skeleton: Skeleton,
    counts: Counter[str],
    tally: Tally,
) -> Iterator[Record]:
    """The records of one image, one per view; adds to the counts, and to the tally what was left
    out or mended.
    """
    pixels = read_pixels(image, folder, config.data.follow_links, tally)
    if pixels is None:
        return
    people = gather_people(image, skeleton, tally)
    counts["images"] += 1
    counts["images without people"] += not image.annotations
    counts["persons"] += len(people.ids)
    counts["persons without keypoints"] += int((~people.annotated).sum())
    counts["crowd regions"] += sum(annotation.crowd for annotation in image.annotations)
    for number in range(config.data.views_per_image):
        counts["views"] += 1
        yield _bake(image, pixels, people, number, config, skeleton)


def gather_people(image: AnnotatedImage, skeleton: Skeleton, tally: Tally) -> People:
    """The people of an image with their masks decoded; adds to the tally what had to be left out or
    guessed.
    """
    unknown: list[np.ndarray] = []
    maskless: list[np.ndarray] = []
    people: list[tuple[Annotation, np.ndarray]] = []
    for annotation in image.annotations:
        place = f"image {image.id}, annotation {annotation.id}"
        mask = _mask(annotation, image, place, tally)
        box = _box(annotation, mask)
        if annotation.crowd:
            unknown.append(_box_mask(box, image) if mask is None else mask)
        elif mask is not None:
            people.append((annotation, mask))
        elif annotation.annotated:
            people.append((annotation, np.zeros((image.height, image.width), bool)))
            maskless.append(_box_mask(box, image))
        elif box is not None:
            # Somebody is there, nobody knows where exactly: unknown, rather than background.
            tally.add(Reason.PERSON_UNKNOWN, place)
            unknown.append(_box_mask(box, image))
        else:
            tally.add(Reason.PERSON_NOWHERE, place)
            unknown.append(np.ones((image.height, image.width), bool))
    if len(people) > MAX_PERSONS:
        # Those beyond the limit become part of the crowd: unknown, rather than background.
        people.sort(key=lambda pair: -_area(*pair))
        for annotation, mask in people[MAX_PERSONS:]:
            tally.add(Reason.PERSON_BEYOND, f"image {image.id}, annotation {annotation.id}")
            unknown.append(mask)
        people = people[:MAX_PERSONS]
    annotations = [annotation for annotation, _ in people]
    boxes = [box for pair in people if (box := _box(*pair)) is not None]
    return People(
        ids=np.array([annotation.id for annotation in annotations], np.int64),
        keypoints=np.array([a.keypoints for a in annotations]).reshape(
            -1, skeleton.keypoint_count, 3
        ),
        boxes=box_from_coco(np.array(boxes).reshape(-1, 4)),
        areas=np.array([_area(*pair) for pair in people]),
        masks=tuple(mask for _, mask in people),
        annotated=np.array([a.annotated for a in annotations], bool),
        unknown=tuple(unknown),
        maskless=tuple(maskless),
        complete=image.complete,
    )


def _mask(
    annotation: Annotation, image: AnnotatedImage, place: str, tally: Tally
) -> np.ndarray | None:
    """(H, W) bool; None where there is none that can be used. A mask without a pixel is none."""
    reason = Reason.CROWD_DAMAGED if annotation.crowd else Reason.MASK_DAMAGED
    if annotation.segmentation is None:
        tally.add(reason if annotation.crowd else Reason.MASK_MISSING, place)
        return None
    try:
        mask, dropped = decode_segmentation(
            decompress_segmentation(annotation.segmentation), image.height, image.width
        )
    except ValueError as error:
        tally.add(reason, f"{place}: {error}")
        return None
    if dropped:
        tally.add(Reason.POLYGON_DROPPED, f"{place}: {dropped}")
    if not mask.any():
        tally.add(reason, f"{place}: not one pixel")
        return None
    return mask


def _box(annotation: Annotation, mask: np.ndarray | None) -> np.ndarray | None:
    """(4,) in COCO's edge coordinates: as annotated, else around the mask, else around the
    keypoints; None where there is nothing.
    """
    if np.isfinite(annotation.box).all():
        return annotation.box
    if mask is not None and mask.any():  # none where it stands for a missing one
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        return np.array(
            [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1], np.float64
        )
    points = annotation.keypoints[annotation.keypoints[:, 2] > 0, :2]
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low + 1.0])


def _box_mask(box: np.ndarray | None, image: AnnotatedImage) -> np.ndarray:
    """(H, W) bool: the pixels of a box in edge coordinates."""
    inside = np.zeros((image.height, image.width), bool)
    if box is not None:
        size = (image.width, image.height)
        x0, y0 = np.clip(np.floor(box[:2]), 0, size).astype(int)
        x1, y1 = np.clip(np.ceil(box[:2] + box[2:]), 0, size).astype(int)
        inside[y0:y1, x0:x1] = True
    return inside


def _area(annotation: Annotation, mask: np.ndarray) -> float:
    """As annotated, else of the mask, else of the box."""
    if np.isfinite(annotation.area):
        return annotation.area
    box = _box(annotation, mask)
    return float(mask.sum()) or (1.0 if box is None else float(box[2] * box[3]))


def _bake(
    image: AnnotatedImage,
    pixels: np.ndarray,
    people: People,
    number: int,
    config: Config,
    skeleton: Skeleton,
) -> Record:
    view = _choose_view(image, number, config)
    targets = view_targets(people, view, config.targets, skeleton)
    red, green, blue = config.data.pad_colour
    warped = warp_image(pixels, view, (blue, green, red))
    _, encoded = cv2.imencode(".jpg", warped, [cv2.IMWRITE_JPEG_QUALITY, config.data.image_quality])
    return Record(
        image_id=image.id,
        view=number,
        image=encoded.tobytes(),
        targets=targets,
        person_ids=people.ids,
        person_boxes=warp_boxes(people.boxes, view),
        person_areas=people.areas * view.scale**2,
    )


def view_targets(
    people: People, view: View, settings: TargetsConfig, skeleton: Skeleton
) -> CompactTargets:
    """What a network should say about a view of the people of an image."""
    cells = map_side(view.side, settings.stride)
    shapes = [mask.shape for mask in (*people.masks, *people.unknown)]
    sample = mask_sampler(view, settings.stride, *shapes[0]) if shapes else None  # nobody there

    def sampled(masks: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([sample(mask) for mask in masks if sample], bool).reshape(-1, cells, cells)

    def anywhere(masks: Sequence[np.ndarray]) -> np.ndarray:
        return np.logical_or.reduce(sampled(masks))

    away = people.from_unannotated if settings.ignore_near_unannotated else None
    return encode(
        keypoints=warp_keypoints(people.keypoints, view, skeleton),
        masks=sampled(people.masks),
        annotated=people.annotated,
        crowd=anywhere(people.unknown),
        view_size=(view.side, view.side),
        radius=settings.radius,
        stride=settings.stride,
        maskless=anywhere(people.maskless),
        near_unannotated=None if away is None else anywhere([away <= settings.radius / view.scale]),
        complete=people.complete,
    )


def _choose_view(image: AnnotatedImage, number: int, config: Config) -> View:
    if number == 0:
        return whole_image(image.width, image.height, config.data.view_size)
    rng = np.random.default_rng((config.data.seed, image.id, number))
    return random_view(image.width, image.height, config.data.view_size, config.data, rng)
