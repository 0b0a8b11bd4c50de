"""A contact sheet of targets, or of predicted maps, over their image."""

from __future__ import annotations

import cv2
import numpy as np

from personlab_keras.drawing.strokes import (
    DARK,
    SUBPIXEL_BITS,
    Colour,
    check_image,
    draw_skeleton,
    fixed_point,
    keypoint_colours,
    paint_mask,
    person_colour,
)
from personlab_keras.method.coordinates import grid, resize_points
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton


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

    Panels: people, heatmaps, short-range, mid-range and long-range offsets, segmentation. Offsets
    of zero or NaN are undefined and not drawn. Areas flagged by `ignore` are hatched in the panels
    of people, heatmaps and segmentation.

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
    check_image(image)
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
    """The panels of a contact sheet, one method each, over the same resized image."""

    def __init__(self, image: np.ndarray, maps: Maps, skeleton: Skeleton, width: int):
        self._maps = maps
        self._skeleton = skeleton
        self._colours = keypoint_colours(skeleton)
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
                paint_mask(panel, self._enlarged(instance == owner), colour)
        self._hatch(panel, ignore)
        for i, person in enumerate([] if keypoints is None else keypoints):
            points = self._to_panel(person[:, :2])
            draw_skeleton(
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
        """Values of the nearest cell at every pixel of a panel, (h, w, ...)."""
        return cells[self._rows[:, None], self._columns[None, :]]

    def _blend(self, panel: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Blends colour (h, w, 3) over the panel with opacity `share` (h, w) in [0, 1]."""
        share = self._enlarged(share)[..., None]
        return np.rint(panel * (1 - share) + self._enlarged(colour) * share).astype(np.uint8)

    def _spread_cells(self, spacing: int) -> np.ndarray:
        """(h, w) bool: cells about `spacing` panel pixels apart."""
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
        for start, end in zip(fixed_point(starts), fixed_point(ends), strict=True):
            cv2.line(panel, start, end, colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)
            cv2.circle(panel, end, 2 << SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    def _hatch(self, panel: np.ndarray, ignore: np.ndarray | None) -> None:
        if ignore is None:
            return
        y, x = np.mgrid[0 : panel.shape[0], 0 : panel.shape[1]]
        panel[self._enlarged(ignore > 0) & ((x + y) % 12 < 3)] = (255, 70, 70)


def _with_title(panel: np.ndarray, title: str) -> np.ndarray:
    strip = np.full((26, panel.shape[1], 3), DARK, np.uint8)
    cv2.putText(
        strip, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA
    )
    return np.concatenate([strip, panel])
