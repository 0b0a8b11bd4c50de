"""Colours, masks, limbs and joints, shared by all drawings. Functions draw on the given canvas."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np

from personlab_keras.method.skeleton import Skeleton

Colour = tuple[int, int, int]
"""RGB."""

SUBPIXEL_BITS = 4
"""Fractional bits of `fixed_point` coordinates, OpenCV's `shift`."""

DARK: Colour = (24, 24, 28)
"""Outline of joints and contours."""

_FARTHEST = 20_000.0
"""Points are clipped to this many pixels from the origin, beyond which OpenCV's fixed-point
coordinates overflow.
"""


def person_colour(index: int) -> Colour:
    """The RGB colour of a person by index; consecutive indices differ clearly in hue.

    >>> person_colour(0) == person_colour(1)
    False
    """
    # Steps of the golden ratio never repeat a hue and keep consecutive ones apart.
    hue = (0.58 + 0.61803398875 * index) % 1.0
    lightness = (0.56, 0.66, 0.48)[index % 3]
    return _rgb(hue, lightness, 0.85)


def distinct_colours(boxes: np.ndarray) -> list[Colour]:
    """The colours of people with boxes (N, 4) [x, y, width, height], best first: that of the index,
    or the next one that differs clearly from the colours of all better people nearby.

    >>> far_apart = np.array([[0, 0, 10, 10], [500, 0, 10, 10]])
    >>> distinct_colours(far_apart) == [person_colour(0), person_colour(1)]
    True
    """
    chosen: list[Colour] = []
    for i, box in enumerate(boxes):
        near = [_lab(colour) for j, colour in enumerate(chosen) if _are_neighbours(box, boxes[j])]
        candidates = [person_colour(index) for index in range(i, i + _TRIED)]
        distances = [
            min((float(np.linalg.norm(other - _lab(colour))) for other in near), default=math.inf)
            for colour in candidates
        ]
        clear = next((k for k, apart in enumerate(distances) if apart >= _CLEAR), None)
        chosen.append(candidates[int(np.argmax(distances)) if clear is None else clear])
    return chosen


_TRIED = 24
"""Number of colours among which a person gets one."""
_BRIGHT = 55.0
"""Lightness in CIE Lab of a plate from which on its text is dark."""
_CLEAR = 70.0
"""Distance in CIE Lab of colours that nobody confuses side by side."""


def _lab(colour: Colour) -> np.ndarray:
    pixel = np.array([[colour]], np.float32) / 255
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0])


def _are_neighbours(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether boxes [x, y, width, height] overlap when each is half as large again."""
    centres, halves = (
        [each[:2] + each[2:] / 2 for each in (box, other)],
        [each[2:] * 0.75 for each in (box, other)],
    )
    return bool((np.abs(centres[0] - centres[1]) <= halves[0] + halves[1]).all())


def keypoint_colours(skeleton: Skeleton) -> list[Colour]:
    """RGB of every keypoint: warm colours on the left side of the body, cool ones on the right,
    green in the middle, shaded from head to foot.
    """
    hues = {"left": (0.0, 0.13), "right": (0.5, 0.64), "": (0.30, 0.36)}
    sides = [
        next((side for side in ("left", "right") if name.startswith(f"{side}_")), "")
        for name in skeleton.keypoints
    ]
    colours = []
    for k, side in enumerate(sides):
        rank, count = sides[:k].count(side), sides.count(side)
        low, high = hues[side]
        colours.append(_rgb(high - (high - low) * rank / max(1, count - 1), 0.58, 1.0))
    return colours


def _rgb(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = (
        round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation)
    )
    return red, green, blue


def paint_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = mask[window]
    canvas[window][inside] = np.rint(
        canvas[window][inside] * 0.55 + np.array(colour, np.float32) * 0.45
    ).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, line_width(canvas), cv2.LINE_AA)


def draw_skeleton(
    canvas: np.ndarray,
    points: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    colours: Sequence[Colour],
    joint_colour: Colour,
) -> None:
    """Draws one person: limbs between the shown keypoints (K, 2), lines from shoulder to shoulder
    and from hip to hip, and a joint at each keypoint.
    """
    if not shown.any():
        return
    extent = points[shown].max(axis=0) - points[shown].min(axis=0)
    fine = line_width(canvas)
    width = int(np.clip(round(float(np.hypot(*extent)) / 70), fine, 4 * fine))
    places = fixed_point(np.where(shown[:, None], points, 0.0))
    limbs = [
        (a, b) for a, b in skeleton.edge_indices[: len(skeleton.edges)] if shown[a] and shown[b]
    ]
    across = [pair for pair in _across(skeleton) if shown[list(pair)].all()]
    # A dark rim below all limbs keeps them apart from any background and, between bodies, from each
    # other.
    for a, b in [*across, *limbs]:
        cv2.line(canvas, places[a], places[b], DARK, width + 2, cv2.LINE_AA, SUBPIXEL_BITS)
    for a, b in across:
        cv2.line(canvas, places[a], places[b], joint_colour, width, cv2.LINE_AA, SUBPIXEL_BITS)
    for a, b in limbs:
        # The child's side: a limb from the nose to the left shoulder is a left one.
        cv2.line(canvas, places[a], places[b], colours[b], width, cv2.LINE_AA, SUBPIXEL_BITS)
    for k in np.flatnonzero(shown):
        for radius, colour in (
            (0.8 * width + 1.6, DARK),
            (0.8 * width + 0.6, (255, 255, 255)),
            (0.45 * width, joint_colour),
        ):
            cv2.circle(
                canvas,
                places[k],
                round(radius * (1 << SUBPIXEL_BITS)),
                colour,
                -1,
                cv2.LINE_AA,
                SUBPIXEL_BITS,
            )


def draw_number(canvas: np.ndarray, number: int, box: np.ndarray, colour: Colour) -> None:
    """Writes a number on a plate at the top left of a box [x, y, width, height]."""
    fine = line_width(canvas)
    text, font, scale = str(number), cv2.FONT_HERSHEY_SIMPLEX, 0.55 * fine
    (width, height), _ = cv2.getTextSize(text, font, scale, fine + 1)
    room = 3 * fine
    left = int(np.clip(box[0], 0, max(0, canvas.shape[1] - width - 2 * room)))
    bottom = int(np.clip(box[1], height + 2 * room, canvas.shape[0]))
    corner = left + width + 2 * room, bottom - height - 2 * room
    cv2.rectangle(canvas, (left, bottom), corner, colour, -1)
    place = left + room, bottom - room
    ink = DARK if _lab(colour)[0] > _BRIGHT else (255, 255, 255)
    cv2.putText(canvas, text, place, font, scale, ink, fine + 1, cv2.LINE_AA)


def _across(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Indices of the pairs of shoulders and hips, which no edge of the tree joins."""
    pairs = [
        (skeleton.index(a), skeleton.index(b))
        for a, b in skeleton.flip_pairs
        if any(part in a and part in b for part in ("shoulder", "hip"))
    ]
    edges = {frozenset(edge) for edge in skeleton.edge_indices.tolist()}
    return [pair for pair in pairs if frozenset(pair) not in edges]


def line_width(image: np.ndarray) -> int:
    """Width in pixels of a fine line on an image of this size."""
    return max(1, round(max(image.shape[:2]) / 640))


def fixed_point(points: np.ndarray) -> list[tuple[int, int]]:
    scaled = np.rint(np.clip(points, -_FARTHEST, _FARTHEST) * (1 << SUBPIXEL_BITS)).astype(int)
    return [(x, y) for x, y in scaled.tolist()]


def check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(
            f"`image` must be (H, W, 3) uint8 RGB. Received: {image.shape} {image.dtype}"
        )
