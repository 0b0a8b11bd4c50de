"""Pictures of what was found and of what is to be learnt. Every function draws on a copy."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from personlab_keras.method.coordinates import grid, resize_points
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

Colour = tuple[int, int, int]

_SUBPIXEL_BITS = 4
_FARTHEST = 20_000.0
"""Points are cut to this many pixels from the origin: OpenCV's fixed-point coordinates overflow
beyond.
"""
_DARK: Colour = (24, 24, 28)


def draw(
    image: np.ndarray,
    people: Sequence[Person],
    skeleton: Skeleton = COCO_PERSON,
    min_keypoint_score: float = 0.1,
) -> np.ndarray:
    """The image with people drawn over it: translucent masks with contours, limbs and joints.

    A mask has the colour of its person, by place in the list; limbs have the colour of their side
    of the body. Line widths follow the size of the person.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        people: in the frame of the image, best first; the best is drawn last, on top.
        skeleton: names the sides and edges.
        min_keypoint_score: keypoints below it, and those that are NaN, are left out.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is of another shape or type, a person has another number of keypoints
            than the skeleton, or a mask is not of the image's size.

    >>> nose_and_eye = np.full((17, 2), np.nan)
    >>> nose_and_eye[:2] = (48, 48), (60, 40)
    >>> person = Person(nose_and_eye, np.isfinite(nose_and_eye[:, 0]).astype(float), score=0.9)
    >>> drawn = draw(np.zeros((97, 97, 3), np.uint8), [person])
    >>> bool(drawn[44, 54].any()), bool(drawn[80, 80].any())
    (True, False)
    """
    _check_image(image)
    for person in people:
        _check_person(person, skeleton, image)
    canvas = np.ascontiguousarray(image).copy()
    ranked = list(enumerate(people))[::-1]
    for i, person in ranked:
        if (mask := person.mask) is not None:
            _paint_mask(canvas, mask, person_colour(i))
    keypoint_colours = _keypoint_colours(skeleton)
    for i, person in ranked:
        shown = person.found & (person.keypoint_scores >= min_keypoint_score)
        _draw_skeleton(
            canvas, person.keypoints, shown, skeleton, keypoint_colours, person_colour(i)
        )
    return canvas


def person_colour(index: int) -> Colour:
    """RGB of the person at a place in the list: always the same, neighbours far apart in hue.

    >>> person_colour(0) == person_colour(1)
    False
    """
    # Steps of the golden ratio never come back to a hue and keep any few neighbours apart.
    hue = (0.58 + 0.61803398875 * index) % 1.0
    lightness = (0.56, 0.66, 0.48)[index % 3]
    return _rgb(hue, lightness, 0.85)


def draw_parts(image: np.ndarray, maps: Maps, min_probability: float = 0.5) -> np.ndarray:
    """The likeliest body part of every pixel that shows a person, each in a colour of its own
    (`person_colour` of its channel).

    Args:
        image: (H, W, 3) uint8 RGB, the network input that the maps belong to; not modified.
        maps: of a network with part heatmaps and segmentation.
        min_probability: of a person, for a pixel to be coloured.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is of another shape or type, or not of the size that the maps are for;
            the maps lack what is drawn.
    """
    _check_image(image)
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
    for part in range(
        maps.part_heatmaps.shape[2]
    ):  # one at a time: all 24 at image resolution would take a gigabyte of a photo
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
    """(h, w) values of cells, bilinearly at every pixel of the network input; cell [i, j] is the
    pixel (stride * j, stride * i).
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


def draw_targets(
    image: np.ndarray,
    targets: Maps,
    skeleton: Skeleton = COCO_PERSON,
    instance: np.ndarray | None = None,
    ignore: np.ndarray | None = None,
    keypoints: np.ndarray | None = None,
    panel_width: int = 520,
) -> np.ndarray:
    """A contact sheet of the targets, or of a network's maps, over their image.

    Panels: people, heatmaps, short-range, mid-range and long-range offsets, segmentation. An offset
    of zero or NaN is taken as undefined and not drawn. Areas that `ignore` flags are hatched in the
    panels of people, heatmaps and segmentation.

    Args:
        image: (H, W, 3) uint8 RGB, the view or network input that the maps belong to; not modified.
        targets: maps of it.
        skeleton: names and edges of the maps.
        instance: (h, w) uint8, 1 + index of the person of each cell, 0 for nobody, 255 where
            several overlap.
        ignore: (h, w) uint8 flags, 0 where everything counts.
        keypoints: (P, K, 3) [x, y, labelled] in pixels of the image.
        panel_width: pixels.

    Returns:
        (sheet height, 3 panels wide, 3) uint8 RGB.

    Raises:
        ValueError: the image is of another shape or type, or not of the size that the maps are for.
    """
    _check_image(image)
    if image.shape[:2] != targets.image_shape:
        raise ValueError(
            f"`image` must be {targets.image_shape} for these maps. Received: {image.shape[:2]}"
        )
    for name, cells in (("instance", instance), ("ignore", ignore)):
        if cells is not None and cells.shape != targets.shape:
            raise ValueError(
                f"`{name}` must be {targets.shape} beside these maps. Received: {cells.shape}"
            )
    sheet = _Sheet(image, targets, skeleton, panel_width)
    panels = [
        ("people", sheet.people(instance, ignore, keypoints)),
        ("heatmaps", sheet.heatmaps(ignore)),
        ("short-range offsets", sheet.short_offsets()),
        ("mid-range offsets, from the middle of each disc", sheet.mid_offsets()),
        ("long-range offsets, to every fifth keypoint", sheet.long_offsets(instance)),
        ("person segmentation", sheet.segmentation(ignore)),
    ]
    titled = [_with_title(panel, title) for title, panel in panels]
    return np.concatenate([np.concatenate(titled[:3], axis=1), np.concatenate(titled[3:], axis=1)])


class _Sheet:
    """The panels of a contact sheet: one method each, all over the same resized image."""

    def __init__(self, image: np.ndarray, maps: Maps, skeleton: Skeleton, width: int):
        self._maps = maps
        self._skeleton = skeleton
        self._colours = _keypoint_colours(skeleton)
        self._old = (image.shape[1], image.shape[0])
        self._new = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        shrinks = width < image.shape[1]
        self._base = cv2.resize(
            image, self._new, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        # Coloured arrows and discs need a quiet background.
        grey = cv2.cvtColor(self._base, cv2.COLOR_RGB2GRAY)[..., None]
        self._quiet = np.repeat((grey * 0.55 + 20).astype(np.uint8), 3, axis=2)
        self._points = grid(*maps.shape, maps.stride)
        # The cell nearest to every row and column of a panel.
        diagonal = np.stack([np.arange(max(self._new))] * 2, axis=-1)
        cells = np.rint(resize_points(diagonal, self._new, self._old) / maps.stride).astype(int)
        self._columns = np.clip(cells[: self._new[0], 0], 0, maps.shape[1] - 1)
        self._rows = np.clip(cells[: self._new[1], 1], 0, maps.shape[0] - 1)

    def people(
        self, instance: np.ndarray | None, ignore: np.ndarray | None, keypoints: np.ndarray | None
    ) -> np.ndarray:
        panel = self._base.copy()
        if instance is not None:
            for owner in np.unique(instance[instance > 0]):
                # Overlaps belong to nobody: white.
                colour = (255, 255, 255) if owner == 255 else person_colour(int(owner) - 1)
                _paint_mask(panel, self._enlarged(instance == owner), colour)
        self._hatch(panel, ignore)
        for i, person in enumerate([] if keypoints is None else keypoints):
            points = self._to_panel(person[:, :2])
            _draw_skeleton(
                panel, points, person[:, 2] > 0, self._skeleton, self._colours, person_colour(i)
            )
        return panel

    def heatmaps(self, ignore: np.ndarray | None) -> np.ndarray:
        heat = np.clip(np.nan_to_num(self._maps.heatmaps), 0, 1)
        strongest = heat.max(axis=2)
        # Discs of neighbouring keypoints overlap: the mean of their colours shows both.
        colour = (heat @ np.array(self._colours, np.float32)) / np.maximum(
            heat.sum(axis=2, keepdims=True), 1e-6
        )
        panel = self._blend(self._quiet, colour, 0.75 * strongest)
        self._hatch(panel, ignore)
        return panel

    def short_offsets(self) -> np.ndarray:
        panel = self._quiet.copy()
        spread = self._spread_cells(spacing=7)
        for k, colour in enumerate(self._colours):
            self._arrows(
                panel,
                (self._maps.heatmaps[..., k] > 0.5) & spread,
                self._maps.short_offsets[..., k, :],
                colour,
            )
        return panel

    def mid_offsets(self) -> np.ndarray:
        panel = self._quiet.copy()
        distance = np.linalg.norm(self._maps.short_offsets, axis=-1)
        middle = (self._maps.heatmaps > 0.5) & (distance <= 0.75 * self._maps.stride)
        for e, (start, end) in enumerate(self._skeleton.edge_indices):
            self._arrows(
                panel, middle[..., start], self._maps.mid_offsets[..., e, :], self._colours[end]
            )
        return panel

    def long_offsets(self, instance: np.ndarray | None) -> np.ndarray:
        panel = self._quiet.copy()
        if self._maps.long_offsets is None or self._maps.segmentation is None:
            return panel
        inside = (
            self._maps.segmentation > 0.5 if instance is None else (instance > 0) & (instance < 255)
        )
        spread = self._spread_cells(spacing=26)
        for k in range(0, self._skeleton.keypoint_count, 5):
            self._arrows(
                panel, inside & spread, self._maps.long_offsets[..., k, :], self._colours[k]
            )
        return panel

    def segmentation(self, ignore: np.ndarray | None) -> np.ndarray:
        panel = self._quiet.copy()
        if self._maps.segmentation is not None:
            share = 0.7 * np.clip(np.nan_to_num(self._maps.segmentation), 0, 1)
            panel = self._blend(
                panel,
                np.broadcast_to(np.array([255, 170, 60], np.float32), (*share.shape, 3)),
                share,
            )
        self._hatch(panel, ignore)
        return panel

    def _to_panel(self, points: np.ndarray) -> np.ndarray:
        return resize_points(points, self._old, self._new)

    def _enlarged(self, cells: np.ndarray) -> np.ndarray:
        """Values of the nearest cell (h, w, ...) for every pixel of a panel."""
        return cells[self._rows[:, None], self._columns[None, :]]

    def _blend(self, panel: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Colour (h, w, 3) over the panel by share (h, w) in [0, 1]."""
        share = self._enlarged(share)[..., None]
        return np.rint(panel * (1 - share) + self._enlarged(colour) * share).astype(np.uint8)

    def _spread_cells(self, spacing: int) -> np.ndarray:
        """(h, w) bool: cells about so many panel pixels apart."""
        step = max(1, round(spacing * self._old[0] / self._new[0] / self._maps.stride))
        chosen = np.zeros(self._maps.shape, bool)
        chosen[step // 2 :: step, step // 2 :: step] = True
        return chosen

    def _arrows(
        self, panel: np.ndarray, cells: np.ndarray, offsets: np.ndarray, colour: Colour
    ) -> None:
        defined = cells & np.isfinite(offsets).all(axis=-1) & offsets.any(axis=-1)
        starts = self._to_panel(self._points[defined])
        ends = self._to_panel(self._points[defined] + offsets[defined])
        for start, end in zip(_fixed_point(starts), _fixed_point(ends), strict=True):
            cv2.line(panel, start, end, colour, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.circle(panel, end, 2 << _SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)

    def _hatch(self, panel: np.ndarray, ignore: np.ndarray | None) -> None:
        if ignore is None:
            return
        y, x = np.mgrid[0 : panel.shape[0], 0 : panel.shape[1]]
        panel[self._enlarged(ignore > 0) & ((x + y) % 12 < 3)] = (255, 70, 70)


def _paint_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = mask[window]
    canvas[window][inside] = np.rint(
        canvas[window][inside] * 0.55 + np.array(colour, np.float32) * 0.45
    ).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, _line_width(canvas), cv2.LINE_AA)


def _draw_skeleton(
    canvas: np.ndarray,
    points: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    colours: Sequence[Colour],
    joint_colour: Colour,
) -> None:
    """One person: limbs between shown keypoints (K, 2), and a joint at each."""
    if not shown.any():
        return
    extent = points[shown].max(axis=0) - points[shown].min(axis=0)
    width = int(np.clip(round(float(np.hypot(*extent)) / 70), 1, 4 * _line_width(canvas)))
    places = _fixed_point(np.where(shown[:, None], points, 0.0))
    limbs = [
        (a, b) for a, b in skeleton.edge_indices[: len(skeleton.edges)] if shown[a] and shown[b]
    ]
    # A dark rim below all limbs keeps them apart from any background and, between bodies, from each
    # other.
    for a, b in limbs:
        cv2.line(canvas, places[a], places[b], _DARK, width + 2, cv2.LINE_AA, _SUBPIXEL_BITS)
    for a, b in limbs:
        # The child's side: a limb from the nose to the left shoulder is a left one.
        cv2.line(canvas, places[a], places[b], colours[b], width, cv2.LINE_AA, _SUBPIXEL_BITS)
    for k in np.flatnonzero(shown):
        for radius, colour in (
            (0.8 * width + 1.6, _DARK),
            (0.8 * width + 0.6, (255, 255, 255)),
            (0.45 * width, joint_colour),
        ):
            cv2.circle(
                canvas,
                places[k],
                round(radius * (1 << _SUBPIXEL_BITS)),
                colour,
                -1,
                cv2.LINE_AA,
                _SUBPIXEL_BITS,
            )


def _keypoint_colours(skeleton: Skeleton) -> list[Colour]:
    """RGB of every keypoint: warm on the left side of the body, cool on the right, green in the
    middle; shaded from head to foot.
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


def _line_width(image: np.ndarray) -> int:
    """Pixels that make a fine line on an image of this size."""
    return max(1, round(max(image.shape[:2]) / 640))


def _fixed_point(points: np.ndarray) -> list[tuple[int, int]]:
    scaled = np.rint(np.clip(points, -_FARTHEST, _FARTHEST) * (1 << _SUBPIXEL_BITS)).astype(int)
    return [(x, y) for x, y in scaled.tolist()]


def _with_title(panel: np.ndarray, title: str) -> np.ndarray:
    strip = np.full((26, panel.shape[1], 3), _DARK, np.uint8)
    cv2.putText(
        strip, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA
    )
    return np.concatenate([strip, panel])


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(
            f"`image` must be (H, W, 3) uint8 RGB. Received: {image.shape} {image.dtype}"
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
