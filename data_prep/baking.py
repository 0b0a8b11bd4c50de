"""An annotated image -> the records of its views."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.image_files import read_pixels
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.annotations.subjects import Subject, region, subjects
from personlab_keras.config import Config, TargetsConfig
from personlab_keras.data.geometry import (
    View,
    extent,
    mask_sampler,
    random_view,
    warp_boxes,
    warp_image,
    warp_keypoints,
    whole_image,
)
from personlab_keras.data.photos import NEAR_UNIT, Photo
from personlab_keras.data.records import Record
from personlab_keras.method.coordinates import box_from_coco, grid, map_side
from personlab_keras.method.person import decode_mask
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.method.targets import (
    IGNORE_CROWD,
    IGNORE_MASKLESS,
    IGNORE_UNANNOTATED,
    MAX_PERSONS,
    OVERLAP,
    CompactTargets,
    encode,
)


@dataclass(frozen=True)
class People:
    """The people of an image as arrays, and the regions without annotations."""

    ids: np.ndarray  # (P,)
    keypoints: np.ndarray  # (P, K, 3)
    boxes: np.ndarray  # (P, 4), pixel-centre coordinates
    areas: np.ndarray  # (P,)
    masks: tuple[np.ndarray, ...]  # P times (H, W) bool
    annotated: np.ndarray  # (P,) bool
    unknown: tuple[np.ndarray, ...]  # (H, W) bool each: crowds, where nothing is known
    # (C, 5) [box in pixel-centre coordinates, area] of whom `unknown` masks, and of the whole image
    # where not everybody in it is annotated
    regions: np.ndarray
    order: np.ndarray  # (P + C,) ranks of people and regions by annotation id
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
    """The records of one image, one per view; adds to the counts, and to the tally what was skipped
    or repaired.
    """
    pixels = read_pixels(
        image, folder, tally, config.data.follow_links, config.data.annotation_frame
    )
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
    """The people of an image with their masks decoded; adds to the tally what was skipped or
    repaired.
    """
    unknown: list[np.ndarray] = []
    maskless: list[np.ndarray] = []
    people: list[Subject] = []
    others: list[Subject] = []
    found = subjects(image, tally)
    ranks = {id(subject): rank for rank, subject in enumerate(found)}
    for subject in found:
        if not subject.person:
            # People are there without exact positions: unknown rather than background.
            unknown.append(region(subject, image))
            others.append(subject)
            continue
        people.append(subject)
        if subject.rle is None:
            maskless.append(region(subject, image))
    if len(people) > MAX_PERSONS:
        # Those beyond the limit become part of the crowd: unknown rather than background.
        people.sort(key=lambda subject: -subject.area)
        for subject in people[MAX_PERSONS:]:
            tally.add(Reason.PERSON_BEYOND, f"image {image.id}, annotation {subject.annotation.id}")
            unknown.append(_person_mask(subject, image))
            others.append(subject)
        people = people[:MAX_PERSONS]
    regions = [_box_and_area(each, image) for each in others]
    ranking = [ranks[id(each)] for each in (*people, *others)]
    if not image.complete:
        # Validation ignores whoever it finds there without annotation.
        everywhere = np.array([0.0, 0.0, image.width, image.height])
        regions.append([*box_from_coco(everywhere).tolist(), float(image.width * image.height)])
        ranking.append(len(found))
    annotations = [subject.annotation for subject in people]
    boxes = [subject.box for subject in people if subject.box is not None]
    return People(
        ids=np.array([annotation.id for annotation in annotations], np.int64),
        keypoints=np.array([a.keypoints for a in annotations]).reshape(
            -1, skeleton.keypoint_count, 3
        ),
        boxes=box_from_coco(np.array(boxes).reshape(-1, 4)),
        areas=np.array([subject.area for subject in people]),
        masks=tuple(_person_mask(subject, image) for subject in people),
        annotated=np.array([a.annotated for a in annotations], bool),
        unknown=tuple(unknown),
        regions=np.array(regions).reshape(-1, 5),
        order=np.argsort(ranking).argsort(),
        maskless=tuple(maskless),
        complete=image.complete,
    )


def _box_and_area(subject: Subject, image: AnnotatedImage) -> list[float]:
    box = np.array([0.0, 0.0, image.width, image.height]) if subject.box is None else subject.box
    return [*box_from_coco(box).tolist(), subject.area]


def _person_mask(subject: Subject, image: AnnotatedImage) -> np.ndarray:
    """(H, W) bool; without a pixel where the mask is unknown."""
    if subject.rle is None:
        return np.zeros((image.height, image.width), bool)
    return decode_mask(subject.rle)


def _bake(
    image: AnnotatedImage,
    pixels: np.ndarray,
    people: People,
    number: int,
    config: Config,
    skeleton: Skeleton,
) -> Record:
    view = _choose_view(image, number, config)
    settings = config.targets
    if config.data.online:
        # Views are taken of it in which somebody is smaller than in this one.
        settings = replace(settings, largest_person=None)
    targets = view_targets(people, view, settings, skeleton)
    red, green, blue = config.data.pad_colour
    if config.data.online:
        shown, photo = _photo(pixels, people, config)
    else:
        shown, photo = warp_image(pixels, view, (blue, green, red)), None
    _, encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, config.data.image_quality])
    return Record(
        image_id=image.id,
        view=number,
        image=encoded.tobytes(),
        targets=targets,
        person_ids=people.ids,
        person_boxes=warp_boxes(people.boxes, view),
        person_areas=people.areas * view.scale**2,
        scale=view.scale,
        order=people.order,
        regions=np.concatenate(
            [warp_boxes(people.regions[:, :4], view), people.regions[:, 4:] * view.scale**2], axis=1
        ),
        photo=photo,
    )


def photo_side(config: Config) -> int:
    """The longest side of stored photos: a view of the largest scale shows no finer detail."""
    return math.ceil(config.data.view_size * max(1.0, config.data.scale[1]))


def _photo(pixels: np.ndarray, people: People, config: Config) -> tuple[np.ndarray, Photo]:
    """The photo as stored, (H, W, 3) uint8, and the annotations of its pixels."""
    height, width = pixels.shape[:2]
    shrink = min(1.0, photo_side(config) / max(height, width))
    stored = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if stored != (height, width):
        pixels = cv2.resize(pixels, stored[::-1], interpolation=cv2.INTER_AREA)
    rows, columns = (
        (np.arange(now) + 0.5) * before // now
        for now, before in zip(stored, (height, width), strict=True)
    )
    at = np.ix_(rows.astype(int), columns.astype(int))

    def sampled(masks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        return (mask[at] for mask in masks)

    ignore, instance = np.zeros(stored, np.uint8), np.zeros(stored, np.uint8)
    for number, mask in enumerate(sampled(people.masks), start=1):
        instance[mask] = np.where(instance[mask], OVERLAP, number)
        if not people.annotated[number - 1]:
            ignore[mask] |= IGNORE_UNANNOTATED
    for mask in sampled(people.maskless):
        ignore[mask & (instance == 0)] |= IGNORE_MASKLESS
    for mask in sampled(people.unknown):
        ignore[mask] |= IGNORE_CROWD
    seen = extent(width, height, config.data.view_size)
    smallest = config.data.scale[0] * float(seen.max()) / max(stored)
    reach = config.targets.radius / smallest
    nearness = np.full(stored, 255, np.uint8)
    away = people.from_unannotated if config.targets.ignore_near_unannotated else None
    if away is not None:
        units = away[at] * (max(stored) / max(height, width) * NEAR_UNIT / reach)
        nearness = np.minimum(np.rint(units), 255).astype(np.uint8)
    return pixels, Photo(seen, instance, ignore, nearness, reach, people.complete)


def view_targets(
    people: People, view: View, settings: TargetsConfig, skeleton: Skeleton
) -> CompactTargets:
    """The targets of one view of an image."""
    cells = map_side(view.side, settings.stride)
    shapes = [mask.shape for mask in (*people.masks, *people.unknown)]
    sample = mask_sampler(view, settings.stride, *shapes[0]) if shapes else None  # nobody there

    def sampled(masks: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([sample(mask) for mask in masks if sample], bool).reshape(-1, cells, cells)

    def anywhere(masks: Sequence[np.ndarray]) -> np.ndarray:
        return np.logical_or.reduce(sampled(masks))

    away = people.from_unannotated if settings.ignore_near_unannotated else None
    too_large = np.sqrt(people.areas) * view.scale > (settings.largest_person or np.inf)
    x, y, width, height = warp_boxes(people.boxes[too_large], view).T[:, :, None, None]
    column, row = np.moveaxis(grid(cells, cells, settings.stride), -1, 0)
    of_larger = ((x <= column) & (column <= x + width) & (y <= row) & (row <= y + height)).any(
        axis=0
    )
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
        complete=people.complete & ~of_larger,
        left_out=too_large,
    )


def _choose_view(image: AnnotatedImage, number: int, config: Config) -> View:
    if number == 0:
        return whole_image(image.width, image.height, config.data.view_size)
    rng = np.random.default_rng((config.data.seed, image.id, number))
    return random_view(image.width, image.height, config.data.view_size, config.data, rng)
