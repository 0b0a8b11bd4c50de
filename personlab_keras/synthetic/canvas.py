"""A canvas that records the colour and the owner of each pixel, and the backdrops and objects of
scenes.

All shapes are convex polygons in image pixels, pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from personlab_keras.method.coordinates import resize_points

Colour = tuple[float, float, float]
"""RGB, 0..255."""

SUPERSAMPLING = 2
"""Canvas pixels per image pixel along each axis."""
PARTS_PER_LAYER = 16
"""Number of parts that a layer distinguishes."""
MAX_LAYERS = 256 // PARTS_PER_LAYER - 1
"""Layer and part share one byte; layer 0 is scenery."""

SKIN_TONES = np.array(
    [
        (255, 224, 196),
        (241, 194, 125),
        (224, 172, 105),
        (198, 134, 66),
        (141, 85, 36),
        (84, 52, 30),
    ],
    np.float64,
)
HAIR_TONES = np.array(
    [(25, 20, 18), (60, 38, 25), (110, 70, 35), (205, 165, 90), (150, 60, 25), (170, 168, 165)],
    np.float64,
)

# Enough corners for the largest head to look round.
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
_FRACTION_BITS = 4


@dataclass(frozen=True)
class Shape:
    """A convex area of one colour.

    Attributes:
        polygon: (n, 2) float corners (x, y) in image pixels.
        colour: RGB.
        part: number of the part of its owner, 0 <= part < PARTS_PER_LAYER.
    """

    polygon: np.ndarray
    colour: Colour
    part: int = 0

    def placed(self, scale: float, shift: np.ndarray) -> Shape:
        """The same shape at `scale * point + shift`."""
        return Shape(scale * self.polygon + shift, self.colour, self.part)


def ellipse(centre: np.ndarray, half_axes: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """Polygon (n, 2) of an ellipse whose first axis is turned `angle` radians from x towards y."""
    c, s = np.cos(angle), np.sin(angle)
    return centre[:2] + (_CIRCLE * half_axes) @ np.array([[c, s], [-s, c]])


def hull(circles: Iterable[tuple[np.ndarray, float]]) -> np.ndarray:
    """Polygon (n, 2) of the convex hull of circles (centre, radius). Two circles make a limb, four
    a torso.
    """
    points = np.concatenate([centre[:2] + radius * _CIRCLE for centre, radius in circles])
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def shade(colour: Sequence[float] | np.ndarray, factor: float) -> Colour:
    """Makes a colour darker (factor < 1) or lighter.

    >>> shade((100, 200, 0), 1.5)
    (150.0, 255.0, 0.0)
    """
    r, g, b = np.clip(np.asarray(colour, np.float64) * factor, 0.0, 255.0).tolist()
    return r, g, b


class Canvas:
    """A raster finer than its image. The same call writes colour and owner of a canvas pixel, so
    masks match the drawing exactly.

    >>> canvas = Canvas(np.zeros((9, 9, 3), np.uint8))
    >>> canvas.paint([Shape(np.array([(2, 2), (6, 2), (6, 6), (2, 6)]), (255, 0, 0))], layer=1)
    >>> int(canvas.owners()[4, 4]), int(canvas.owners()[0, 0]), canvas.image()[4, 4].tolist()
    (1, 0, [255, 0, 0])
    """

    def __init__(self, backdrop: np.ndarray) -> None:
        """`backdrop` is the (H, W, 3) uint8 RGB image to paint on."""
        self._height, self._width = backdrop.shape[:2]
        unowned = cv2.merge([*cv2.split(backdrop), np.zeros_like(backdrop[..., 0])])
        fine = (self._width * SUPERSAMPLING, self._height * SUPERSAMPLING)
        self._pixels = cv2.resize(unowned, fine, interpolation=cv2.INTER_LINEAR)

    def paint(self, shapes: Iterable[Shape], layer: int = 0) -> None:
        """Paints shapes in order, each over the previous ones. They belong to `layer`; layer 0 is
        scenery.
        """
        for shape in shapes:
            corners = np.round(self._to_fine(shape.polygon) * (1 << _FRACTION_BITS)).astype(
                np.int32
            )
            owner = layer * PARTS_PER_LAYER + shape.part if layer else 0
            cv2.fillConvexPoly(self._pixels, corners, (*shape.colour, owner), shift=_FRACTION_BITS)

    def surface_at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The topmost layers (n,) and parts (n,) at points (n, 2) inside the image."""
        columns, rows = np.round(self._to_fine(points)).astype(np.int64).T
        owners = self._pixels[rows, columns, 3]
        return owners // PARTS_PER_LAYER, owners % PARTS_PER_LAYER

    def image(self) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB: the mean colour of the canvas pixels of each pixel."""
        small = cv2.resize(self._pixels, (self._width, self._height), interpolation=cv2.INTER_AREA)
        return cv2.merge(cv2.split(small)[:3])

    def owners(self) -> np.ndarray:
        """The layer (H, W) uint8 that covers at least half of each pixel, the higher one if two do;
        0 for scenery.
        """
        layers = cv2.extractChannel(self._pixels, 3) // PARTS_PER_LAYER
        # One contiguous plane per canvas pixel of an image pixel.
        planes = [
            layers[i::SUPERSAMPLING, j::SUPERSAMPLING].copy()
            for i in range(SUPERSAMPLING)
            for j in range(SUPERSAMPLING)
        ]
        owners = np.zeros((self._height, self._width), np.uint8)
        for layer in np.flatnonzero(np.bincount(layers.reshape(-1))[1:]) + 1:
            covered = sum((plane == layer).view(np.uint8) for plane in planes)
            owners[2 * covered >= len(planes)] = layer
        return owners

    def _to_fine(self, points: np.ndarray) -> np.ndarray:
        return resize_points(points, (1, 1), (SUPERSAMPLING, SUPERSAMPLING))


def draw_tone(rng: np.random.Generator, tones: np.ndarray) -> Colour:
    """Draws a colour between two neighbouring rows of `tones` (n, 3)."""
    first = int(rng.integers(len(tones) - 1))
    mix = rng.random()
    return shade((1.0 - mix) * tones[first] + mix * tones[first + 1] + rng.normal(0.0, 5.0, 3), 1.0)


def draw_colour(rng: np.random.Generator) -> Colour:
    """Draws a bright or muted colour, or one of skin or hair, so that a network cannot find people
    by their colours alone.
    """
    kind = rng.random()
    if kind < 0.15:
        return draw_tone(rng, SKIN_TONES if kind < 0.1 else HAIR_TONES)
    colour = rng.uniform(10.0, 245.0, 3)
    if kind < 0.6:
        colour = colour.mean() + 0.35 * (colour - colour.mean())
    return shade(colour, 1.0)


def draw_backdrop(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a backdrop (height, width, 3) uint8 RGB: a wall, a horizon, tiles or stripes under
    clouds of noise.
    """
    y, x = np.ogrid[0:height, 0:width]
    angle = rng.uniform(0.0, 2.0 * np.pi)
    along = (x * np.cos(angle)).astype(np.float32) + (y * np.sin(angle)).astype(np.float32)
    along = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    picture = _blend(along, rng)
    kind = rng.random()
    if kind < 0.35:
        horizon = rng.uniform(0.3, 0.9) * height + rng.normal(0.0, 0.1) * (x - width / 2)
        below = _blend(along[::-1], rng)
        picture[y > horizon] = below[y > horizon]
    elif kind < 0.6:
        period = rng.uniform(6.0, 60.0)
        across = np.floor(along * max(height, width) / period)
        if rng.random() < 0.5:
            across = across + np.floor(
                (y if abs(np.cos(angle)) > 0.7 else x) / (period * rng.uniform(0.5, 2.0))
            )
        light = ((across % 2) * (rng.uniform(8.0, 50.0) * rng.choice([-1.0, 1.0]))).astype(
            np.float32
        )
        picture += cv2.merge([light] * 3)
    picture += cv2.resize(_draw_clouds(rng), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(picture, 0.0, 255.0).astype(np.uint8)


def _draw_clouds(rng: np.random.Generator) -> np.ndarray:
    """Noise (n, n, 3) float32 at three scales that varies more in brightness than in colour."""
    finest = 48
    clouds = np.zeros((finest, finest, 3), np.float32)
    for cells in (4, 12, finest):
        noise = rng.standard_normal(
            (cells, cells, 1), dtype=np.float32
        ) + 0.5 * rng.standard_normal((cells, cells, 3), dtype=np.float32)
        clouds += cv2.resize(noise, (finest, finest)) * np.float32(rng.uniform(0.0, 18.0))
    return clouds


def _blend(along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A gradient (H, W, 3) float32 between two colours, as `along` (H, W) goes from 0 to 1."""
    start, end = (np.array(draw_colour(rng), np.float32) for _ in range(2))
    change = (end - start) * np.float32(rng.random())
    return cv2.merge([start[c] + change[c] * along for c in range(3)])


def draw_thing(centre: np.ndarray, size: float, rng: np.random.Generator) -> list[Shape]:
    """Draws an object of about `size` pixels that is not a person: a bar, a ball, a box, a bush, a
    post or a single bent limb.
    """
    colour = draw_colour(rng)
    dark, light = shade(colour, 0.65), shade(colour, 1.2)
    angle = rng.uniform(0.0, np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    kind = rng.integers(6)
    if kind == 0:
        return _shaded_bar(
            centre - direction * size / 2,
            centre + direction * size / 2,
            size * rng.uniform(0.06, 0.18),
            colour,
        )
    if kind == 1:
        axes = (size * rng.uniform(0.2, 0.4), size * rng.uniform(0.2, 0.4))
        inner = (axes[0] * 0.85, axes[1] * 0.85)
        return [
            Shape(ellipse(centre, axes, angle), dark),
            Shape(ellipse(centre - 0.03 * size, inner, angle), colour),
        ]
    if kind == 2:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (size * rng.uniform(0.2, 0.5, 2))
        tilt = rng.normal(0.0, 0.15)
        turned = corners @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        panels = [
            turned * rng.uniform(0.2, 0.4) + turned[i] * 0.45
            for i in range(int(rng.integers(0, 5)))
        ]
        return [
            Shape(centre + turned, dark),
            Shape(centre + turned * 0.9, colour),
            *(Shape(centre + panel, light) for panel in panels),
        ]
    if kind == 3:
        spots = centre + rng.normal(0.0, 0.16 * size, (int(rng.integers(4, 10)), 2))
        return [
            Shape(
                ellipse(spot, (size * rng.uniform(0.12, 0.25),) * 2),
                shade(colour, rng.uniform(0.7, 1.25)),
            )
            for spot in spots
        ]
    if kind == 4:
        lean = np.array([rng.normal(0.0, 0.06), 1.0]) * size
        return _shaded_bar(centre - lean, centre + lean, size * rng.uniform(0.03, 0.1), colour)
    bend = direction @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    thick = size * rng.uniform(0.06, 0.12)
    return [
        *_shaded_bar(centre, centre + direction * size / 2, thick, colour),
        *_shaded_bar(centre, centre + bend * size / 2, thick, colour),
    ]


def _shaded_bar(start: np.ndarray, end: np.ndarray, radius: float, colour: Colour) -> list[Shape]:
    outline = hull([(start, radius), (end, 0.8 * radius)])
    lit = hull([(start, 0.7 * radius), (end, 0.55 * radius)])
    return [Shape(outline, shade(colour, 0.65)), Shape(lit, colour)]


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes the lighting of an image (H, W, 3) uint8, blurs it by less than a pixel and adds
    grain. Points do not move.
    """
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)
    curve = (np.arange(256)[:, None] - 127.5) * gain + 127.5 + rng.normal(0.0, 15.0)
    picture = cv2.LUT(image, np.clip(curve, 0.0, 255.0).astype(np.uint8)[None])
    if rng.random() < 0.06:
        picture = cv2.merge([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)] * 3)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (5, 5), rng.uniform(0.3, 0.9))
    grain = rng.standard_normal(picture.shape[:2], dtype=np.float32) * np.float32(
        rng.uniform(0.0, 7.0)
    )
    return cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
