"""People and body parts over an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from personlab_keras.drawing.strokes import (
    check_image,
    distinct_colours,
    draw_number,
    draw_skeleton,
    keypoint_colours,
    paint_mask,
    person_colour,
)
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton


def draw(
    image: np.ndarray,
    people: Sequence[Person],
    skeleton: Skeleton = COCO_PERSON,
    min_keypoint_score: float = 0.1,
) -> np.ndarray:
    """Draws people over an image: translucent masks with contours, limbs and joints.

    A mask has the colour of its person: of the id if there is one, which is then written beside the
    person, else of the index, or another one if that is close to the colour of a better neighbour.
    Limbs have the colour of their side of the body. Line widths scale with the sizes of the person
    and of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        people: in the frame of the image, best first; the best is drawn last, on top.
        skeleton: names the sides and edges.
        min_keypoint_score: keypoints with a lower score, and NaN, are not drawn.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image has the wrong shape or type, a person and the skeleton differ in the
            number of keypoints, or a mask does not have the size of the image.

    >>> nose_and_eye = np.full((17, 2), np.nan)
    >>> nose_and_eye[:2] = (48, 48), (60, 40)
    >>> person = Person(nose_and_eye, np.isfinite(nose_and_eye[:, 0]).astype(float), score=0.9)
    >>> drawn = draw(np.zeros((97, 97, 3), np.uint8), [person])
    >>> bool(drawn[44, 54].any()), bool(drawn[80, 80].any())
    (True, False)
    """
    check_image(image)
    for person in people:
        _check_person(person, skeleton, image)
    canvas = np.ascontiguousarray(image).copy()
    boxes = np.array([person.box for person in people]).reshape(-1, 4)
    colours = [
        by_place if person.id is None else person_colour(person.id)
        for person, by_place in zip(people, distinct_colours(boxes), strict=True)
    ]
    ranked = list(zip(people, colours, strict=True))[::-1]
    for person, colour in ranked:
        if (mask := person.mask) is not None:
            paint_mask(canvas, mask, colour)
    colours_by_keypoint = keypoint_colours(skeleton)
    for person, colour in ranked:
        shown = person.found & (person.keypoint_scores >= min_keypoint_score)
        draw_skeleton(canvas, person.keypoints, shown, skeleton, colours_by_keypoint, colour)
    for person, colour in ranked:
        if person.id is not None:
            draw_number(canvas, person.id, person.box, colour)
    return canvas


def draw_parts(image: np.ndarray, maps: Maps, min_probability: float = 0.5) -> np.ndarray:
    """Colours every person pixel by its most probable body part (`person_colour` of the channel).

    Args:
        image: (H, W, 3) uint8 RGB, the network input that the maps belong to; not modified.
        maps: of a network with part heatmaps and segmentation.
        min_probability: lowest person probability of a coloured pixel.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image has the wrong shape or type, or not the size that the maps belong to;
            the maps have no part heatmaps or no segmentation.
    """
    check_image(image)
    if image.shape[:2] != maps.image_shape:
        raise ValueError(
            f"`image` must be {maps.image_shape} for these maps. Received: {image.shape[:2]}"
        )
    if maps.part_heatmaps is None or maps.segmentation is None:
        raise ValueError(
            "`maps` must have part heatmaps and segmentation. Received: maps of a network without"
        )
    best = np.full(image.shape[:2], -1.0, np.float32)
    parts = np.zeros(image.shape[:2], np.uint8)
    # One part at a time: all 24 at the resolution of a photo would take a gigabyte.
    for part in range(maps.part_heatmaps.shape[2]):
        probability = _at_pixels(maps.part_heatmaps[..., part], maps.stride)
        better = probability > best
        best[better], parts[better] = probability[better], part
    person = _at_pixels(maps.segmentation, maps.stride) >= min_probability
    colours = np.array(
        [person_colour(part) for part in range(maps.part_heatmaps.shape[2])], np.float32
    )
    drawn = np.ascontiguousarray(image).copy()
    drawn[person] = np.rint(drawn[person] * 0.35 + colours[parts[person]] * 0.65).astype(np.uint8)
    return drawn


def _at_pixels(cells: np.ndarray, stride: int) -> np.ndarray:
    """Bilinear interpolation of cells (h, w) at every pixel of the network input; cell [i, j] is
    the pixel (stride * j, stride * i).
    """
    height, width = ((side - 1) * stride + 1 for side in cells.shape)
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32) / stride, np.arange(height, dtype=np.float32) / stride
    )
    return cv2.remap(
        np.ascontiguousarray(cells, np.float32),
        columns,
        rows,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _check_person(person: Person, skeleton: Skeleton, image: np.ndarray) -> None:
    if len(person.keypoints) != skeleton.keypoint_count:
        raise ValueError(
            f"people must have the {skeleton.keypoint_count} keypoints of the skeleton. Received: {len(person.keypoints)}"
        )
    if person.rle is not None and tuple(person.rle["size"]) != image.shape[:2]:
        raise ValueError(
            f"masks must be {image.shape[:2]} like the image. Received: {tuple(person.rle['size'])}"
        )
