"""Colours, masks, limbs and joints, shared by all drawings. Functions draw on the given canvas."""

from __future__ import annotations

import colorsys
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
    """Draws one person: limbs between the shown keypoints (K, 2), and a joint at each."""
    if not shown.any():
        return
    extent = points[shown].max(axis=0) - points[shown].min(axis=0)
    width = int(np.clip(round(float(np.hypot(*extent)) / 70), 1, 4 * line_width(canvas)))
    places = fixed_point(np.where(shown[:, None], points, 0.0))
    limbs = [
        (a, b) for a, b in skeleton.edge_indices[: len(skeleton.edges)] if shown[a] and shown[b]
    ]
    # A dark rim below all limbs keeps them apart from any background and, between bodies, from each
    # other.
    for a, b in limbs:
        cv2.line(canvas, places[a], places[b], DARK, width + 2, cv2.LINE_AA, SUBPIXEL_BITS)
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
