"""Draws a scene of articulated people with exact masks and keypoints in COCO's format.

Keypoints are the joints as drawn, masks are the visible pixels of each person, and hidden joints
are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.errors import InputError
from personlab_keras.method.person import encode_mask
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.synthetic.body import BODY_PARTS, CARRIERS
from personlab_keras.synthetic.canvas import (
    MAX_LAYERS,
    Canvas,
    draw_backdrop,
    draw_thing,
    photograph,
)
from personlab_keras.synthetic.casting import draw_figure
from personlab_keras.synthetic.puppet import Figure

CATEGORY_ID = 1
"""COCO's id of the category person."""
SMALLEST_SIDE = 33
CROWD_LAYER = MAX_LAYERS
"""The layer of crowds; each layer below it is for one person."""

HIDDEN, VISIBLE = 1, 2
"""COCO's flags of a labelled keypoint."""


@dataclass(frozen=True)
class SceneOptions:
    """Contents of scenes. Probabilities are per scene unless stated otherwise.

    Raises:
        InputError: a range is reversed, a probability is outside 0..1, or the canvas has too few
            layers for the people.
    """

    people: tuple[int, int] = (1, 3)
    """Fewest and most people to place; there are fewer if no room is left."""
    height: tuple[float, float] = (0.36, 0.84)
    """Standing height of a person, as a share of the scene's shorter side."""
    empty: float = 0.05
    """Probability of a scene without people."""
    crowd: float = 0.05
    """Probability of a group of small people in the distance, annotated as one crowd region."""
    unannotated: float = 0.05
    """Probability that one of the people has a mask but no keypoints."""
    occluders: float = 0.35
    """Probability that an object hides a part of a person."""
    cut: float = 0.15
    """Probability per person of standing partly outside the image."""
    fully_labelled: bool = False
    """Whether all people have all keypoints inside the image and labelled. Overrides the
    probabilities of empty scenes, crowds, unannotated and cut people."""
    isolated: bool = False
    """Whether the boxes of people do not touch; a crowd may still stand behind them."""

    def __post_init__(self) -> None:
        for name in ("people", "height"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise InputError(
                    f"`{name}` must be a range (low, high), 0 <= low <= high. Received: {(low, high)}"
                )
        if self.people[1] >= CROWD_LAYER:
            raise InputError(f"`people` must be at most {CROWD_LAYER - 1}. Received: {self.people}")
        for name in ("empty", "crowd", "unannotated", "occluders", "cut"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"`{name}` must be a probability. Received: {getattr(self, name)}")


@dataclass(frozen=True)
class Scene:
    """An image with its annotations.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        annotations: COCO annotations without `id` and `image_id`, people from far to near:
            `category_id`, `iscrowd`, `segmentation` (compressed RLE of the visible pixels, counts
            as text), `area` in pixels, `bbox` [x, y, width, height] in edge coordinates,
            `keypoints` [x, y, v] * K with pixel centres at integers (v 2 visible, 1 hidden, 0
            outside the image or not annotated, then x = y = 0), `num_keypoints`. Masks are
            disjoint.
    """

    image: np.ndarray
    annotations: tuple[dict[str, Any], ...]


def draw_scene(
    size: int | tuple[int, int],
    rng: np.random.Generator,
    skeleton: Skeleton = COCO_PERSON,
    options: SceneOptions | None = None,
) -> Scene:
    """Draws one scene.

    Args:
        size: side of a square scene, or (height, width), in pixels.
        rng: random generator; the same state gives the same scene.
        skeleton: the joints that become keypoints, in its order; names as in `COCO_PERSON`.
        options: contents of the scene; None for `SceneOptions()`.

    Raises:
        InputError: the scene is smaller than SMALLEST_SIDE, or the figures lack a keypoint of the
            skeleton.

    >>> draw_scene(65, np.random.default_rng(0)).image.shape
    (65, 65, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"a scene must be at least {SMALLEST_SIDE} pixels high and wide. Received: {height} x {width}"
        )
    unknown = [name for name in skeleton.keypoints if name not in CARRIERS]
    if unknown:
        raise InputError(
            f"skeleton {skeleton.name}: the figures have no joints {unknown}. Known: {', '.join(CARRIERS)}"
        )
    options = _effective(options or SceneOptions())
    frame = (height, width)

    canvas = Canvas(draw_backdrop(height, width, rng))
    _paint_clutter(canvas, frame, rng)
    empty = rng.random() < options.empty
    if not empty and rng.random() < options.crowd:
        _paint_crowd(canvas, frame, rng)
    people = [] if empty else _place_people(frame, rng, options)
    occluded = _draw_one_of(people, options.occluders, rng)
    for layer, figure in enumerate(people, start=1):
        canvas.paint(figure.shapes, layer)
        if figure is occluded:
            _paint_occluder(canvas, figure, rng)
    unannotated = _draw_one_of(people, options.unannotated, rng)

    owners = canvas.owners()
    nothing = np.zeros((skeleton.keypoint_count, 3))
    annotations = [_annotate(owners == CROWD_LAYER, nothing, crowd=True)]
    for layer, figure in enumerate(people, start=1):
        keypoints = (
            nothing
            if figure is unannotated
            else _read_keypoints(canvas, figure, layer, frame, skeleton)
        )
        annotations.append(_annotate(owners == layer, keypoints, crowd=False))
    # Invisible people are not annotated.
    visible = tuple(annotation for annotation in annotations if annotation["area"] > 0)
    return Scene(image=photograph(canvas.image(), rng), annotations=visible)


def _draw_one_of(
    people: list[Figure], probability: float, rng: np.random.Generator
) -> Figure | None:
    """Draws one of the people with the given probability, else None."""
    return people[int(rng.integers(len(people)))] if people and rng.random() < probability else None


def _effective(options: SceneOptions) -> SceneOptions:
    return (
        replace(options, empty=0.0, crowd=0.0, unannotated=0.0, cut=0.0)
        if options.fully_labelled
        else options
    )


def _paint_clutter(canvas: Canvas, frame: tuple[int, int], rng: np.random.Generator) -> None:
    height, width = frame
    for _ in range(int(rng.integers(2, 10))):
        centre = rng.uniform(0.0, 1.0, 2) * (width, height)
        canvas.paint(draw_thing(centre, rng.uniform(0.08, 0.45) * min(frame), rng))


def _paint_crowd(canvas: Canvas, frame: tuple[int, int], rng: np.random.Generator) -> None:
    """Paints a row of five to eleven small figures, shoulder to shoulder."""
    height, width = frame
    tall = rng.uniform(0.13, 0.24) * min(frame)
    ground = rng.uniform(0.25, 0.75) * height
    x = rng.uniform(0.0, 0.6) * width
    for _ in range(int(rng.integers(5, 12))):
        place = np.array([x, ground + rng.normal(0.0, 0.06) * tall])
        canvas.paint(
            draw_figure(rng).placed(tall * rng.uniform(0.85, 1.15), place).shapes, CROWD_LAYER
        )
        x += rng.uniform(0.2, 0.45) * tall


def _paint_occluder(canvas: Canvas, figure: Figure, rng: np.random.Generator) -> None:
    """Paints an object over one of the figure's joints, smaller than the figure."""
    names = tuple(figure.joints)
    joint = figure.joints[names[int(rng.integers(len(names)))]]
    left, top, right, bottom = figure.box
    reach = max(right - left, bottom - top)
    canvas.paint(
        draw_thing(joint + rng.normal(0.0, 0.05, 2) * reach, rng.uniform(0.15, 0.45) * reach, rng)
    )


def _place_people(
    frame: tuple[int, int], rng: np.random.Generator, options: SceneOptions
) -> list[Figure]:
    """Places figures in the image, sorted by size: smaller ones stand farther away."""
    wanted = int(rng.integers(options.people[0], options.people[1] + 1))
    placed: list[tuple[float, Figure]] = []
    boxes: list[np.ndarray] = []
    for _ in range(wanted):
        figure, cut = draw_figure(rng), rng.random() < options.cut
        outline = figure.box
        tallest = rng.uniform(*options.height) * min(frame)
        # A figure without room becomes smaller, as if it stepped back.
        for height in tallest * np.linspace(1.0, 0.7, 25):
            box = height * outline
            shift = _draw_shift(box, frame, rng, cut)
            if shift is None:
                continue
            box = box + np.tile(shift, 2)
            if all(_may_stand(box, other, options.isolated) for other in boxes):
                placed.append((height, figure.placed(height, shift)))
                boxes.append(box)
                break
    return [figure for _, figure in sorted(placed, key=lambda item: item[0])]


def _draw_shift(
    box: np.ndarray, frame: tuple[int, int], rng: np.random.Generator, cut: bool
) -> np.ndarray | None:
    """Draws a shift (2,) that brings the box (4,) inside the image or, if `cut`, over one of its
    borders; None if the box is too large.
    """
    size = box[2:] - box[:2]
    room = np.array([frame[1] - 1, frame[0] - 1]) - size
    if (room < 0).any():
        return None
    corner = rng.uniform(0.0, 1.0, 2) * room
    if cut:
        # Left, right or bottom: few photos cut off heads.
        side, axis = [(0, 0), (1, 0), (1, 1)][int(rng.integers(3))]
        hidden = rng.uniform(0.1, 0.5) * size[axis]
        corner[axis] = room[axis] + hidden if side else -hidden
    return corner - box[:2]


def _may_stand(box: np.ndarray, other: np.ndarray, isolated: bool) -> bool:
    """Whether two figures with these boxes can share a scene: they may hide a part of each other,
    but not most.
    """
    overlap = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if isolated:
        return bool((overlap < -1.0).any())
    smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
    return bool(np.prod(np.maximum(overlap, 0.0)) <= 0.4 * smaller)


def _read_keypoints(
    canvas: Canvas, figure: Figure, layer: int, frame: tuple[int, int], skeleton: Skeleton
) -> np.ndarray:
    """Keypoints (K, 3) float (x, y, v); a joint is visible if one of its parts is on top."""
    keypoints = np.zeros((skeleton.keypoint_count, 3))
    points = np.array([figure.joints[name] for name in skeleton.keypoints])
    inside = np.flatnonzero(
        ((points >= 0.0) & (points <= (frame[1] - 1, frame[0] - 1))).all(axis=1)
    )
    layers, parts = canvas.surface_at(points[inside])
    for k, top_layer, part in zip(inside, layers, parts, strict=True):
        seen = top_layer == layer and BODY_PARTS[part] in CARRIERS[skeleton.keypoints[k]]
        keypoints[k] = (*np.round(points[k], 3), VISIBLE if seen else HIDDEN)
    return keypoints


def _annotate(mask: np.ndarray, keypoints: np.ndarray, crowd: bool) -> dict[str, Any]:
    """The COCO annotation of a mask (H, W) bool and keypoints (K, 3)."""
    segmentation = encode_mask(mask)
    return {
        "category_id": CATEGORY_ID,
        "iscrowd": int(crowd),
        "segmentation": segmentation,
        "area": int(rle.area(segmentation)),
        "bbox": [float(edge) for edge in rle.toBbox(segmentation)],
        "keypoints": [value for x, y, v in keypoints.tolist() for value in (x, y, int(v))],
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }
