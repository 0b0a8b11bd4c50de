"""Annotations of one view -> training targets, in the compact form of the records.

A dense target has 150 channels, but one gather and one subtraction compute them from three small
maps of owners and the keypoints, so these are stored. The expansion is
`personlab_keras.data.pipeline.expand`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.method.coordinates import map_side

OVERLAP = 255
"""Instance id of cells where the masks of two persons overlap."""
MAX_PERSONS = 254
"""Largest number of persons in a view: 0 is nobody, 255 an overlap."""

IGNORE_CROWD = 1
"""Flag of cells inside a crowd region, excluded from all losses."""
IGNORE_UNANNOTATED = 2
"""Flag of cells of a person without annotated keypoints: they count for the segmentation, but not
for the heatmaps.
"""
IGNORE_MASKLESS = 4
"""Flag of cells in the box of a person without a mask, excluded from the segmentation loss.
"""


@dataclass(frozen=True)
class CompactTargets:
    """Targets of one view.

    Attributes:
        keypoints: (P, K, 3) float32 [x, y, labelled] in view pixels; labelled is 1 or 0, and zero
            rows where it is 0.
        disc_owner: (h, w, K) uint8, 1 + index of the nearest person whose keypoint k lies within
            the radius of the cell; 0 none.
        instance: (h, w) uint8, 1 + index of the only person there; 0 for nobody; OVERLAP where
            masks overlap.
        ignore: (h, w) uint8, flags IGNORE_CROWD, IGNORE_UNANNOTATED and IGNORE_MASKLESS.

    Raises:
        ValueError: shapes disagree or there are more than MAX_PERSONS persons.
    """

    keypoints: np.ndarray
    disc_owner: np.ndarray
    instance: np.ndarray
    ignore: np.ndarray

    def __post_init__(self) -> None:
        height, width = self.instance.shape
        if self.keypoints.ndim != 3 or self.keypoints.shape[2] != 3:
            raise ValueError(f"`keypoints` must be (P, K, 3). Received: {self.keypoints.shape}")
        if len(self.keypoints) > MAX_PERSONS:
            raise ValueError(
                f"`keypoints` must hold at most {MAX_PERSONS} persons. Received: {len(self.keypoints)}"
            )
        if self.disc_owner.shape != (
            height,
            width,
            self.keypoints.shape[1],
        ) or self.ignore.shape != (height, width):
            raise ValueError(
                f"`disc_owner` must be (h, w, K) and `ignore` (h, w) beside instance {self.instance.shape}. "
                f"Received: {self.disc_owner.shape}, {self.ignore.shape}"
            )


def encode(
    keypoints: np.ndarray,
    masks: np.ndarray,
    annotated: np.ndarray,
    crowd: np.ndarray,
    view_size: tuple[int, int],
    radius: float,
    stride: int,
    maskless: np.ndarray | None = None,
    near_unannotated: np.ndarray | None = None,
    complete: bool | np.ndarray = True,
    left_out: np.ndarray | None = None,
) -> CompactTargets:
    """Computes the compact targets of a view.

    Args:
        keypoints: (P, K, 3) float [x, y, v] in view pixels, COCO visibility v; those with v = 0 or
            outside the view are dropped: at the border of a photo people are not annotated beyond
                it either.
        masks: (P, h, w) bool, each person's mask at the points of the map cells.
        annotated: (P,) bool, whether the person has annotated keypoints, inside this view or not.
        crowd: (h, w) bool, crowd regions at the points of the map cells.
        view_size: (height, width) in pixels, each stride * n + 1.
        radius: of the discs, in view pixels.
        stride: view pixels per map cell.
        maskless: (h, w) bool, the boxes of persons without a mask at the points of the map cells;
            None for none.
        near_unannotated: (h, w) bool, cells within the radius of a person without keypoints. They
            count for the heatmaps only in the disc of an annotated person. None for none.
        complete: whether everybody is annotated, in the image or, as (h, w) bool, in each cell.
            Otherwise a cell counts only in the discs (for the heatmaps) or the masks (for the
            rest) of annotated people.
        left_out: (P,) bool, persons excluded from training; None for none.
    """
    height, width = (map_side(side, stride) for side in view_size)
    left_out = np.zeros(len(keypoints), bool) if left_out is None else left_out
    labelled = _labelled(keypoints, view_size) & ~left_out[:, None]
    kept = np.where(labelled[..., None], keypoints, 0.0).astype(np.float32)
    kept[..., 2] = labelled
    owners = disc_owners(kept, height, width, radius, stride)
    instance = instance_ids(masks)
    instance[np.isin(instance, 1 + np.flatnonzero(left_out))] = 0
    claimed, covered = owners.any(axis=2), instance > 0
    ignore = np.where(crowd, IGNORE_CROWD, 0).astype(np.uint8)
    ignore[masks[~annotated].any(axis=0)] |= IGNORE_UNANNOTATED
    if near_unannotated is not None:
        ignore[near_unannotated & ~claimed] |= IGNORE_UNANNOTATED
    if maskless is not None:
        ignore[maskless & ~covered] |= IGNORE_MASKLESS
    somebody_missing = np.broadcast_to(np.logical_not(complete), covered.shape)
    ignore[somebody_missing & ~covered] |= IGNORE_MASKLESS
    ignore[somebody_missing & ~covered & ~claimed] |= IGNORE_CROWD
    return CompactTargets(
        keypoints=kept,
        disc_owner=owners,
        instance=instance,
        ignore=ignore,
    )


def _labelled(keypoints: np.ndarray, view_size: tuple[int, int]) -> np.ndarray:
    x, y, visibility = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2]
    height, width = view_size
    # A pixel extends half a pixel beyond its centre.
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return (visibility > 0) & inside


def disc_owners(
    keypoints: np.ndarray, height: int, width: int, radius: float, stride: int
) -> np.ndarray:
    """(h, w, K) uint8: 1 + index of the nearest person whose keypoint k lies within the radius of
    the cell; 0 for none.

    Only the cells around each keypoint are visited. Of two persons at the same distance, the first
    owns the cell."""
    count = keypoints.shape[1]
    owner = np.zeros((height, width, count), np.uint8)
    ys, xs = (np.arange(cells, dtype=np.float32) * stride for cells in (height, width))
    for k in range(count):
        labelled = np.flatnonzero(keypoints[:, k, 2])
        nearest = (
            np.full((height, width), np.inf, np.float32)
            if len(labelled)
            else np.empty((0, 0), np.float32)
        )
        for person in labelled:
            x, y = keypoints[person, k, :2]
            rows = _cells_within(y, radius, stride, height)
            columns = _cells_within(x, radius, stride, width)
            distance = np.hypot(xs[columns] - x, (ys[rows] - y)[:, None])
            won = (distance <= radius) & (distance < nearest[rows, columns])
            owner[rows, columns, k][won] = person + 1
            nearest[rows, columns][won] = distance[won]
    return owner


def _cells_within(centre: float, radius: float, stride: int, cells: int) -> slice:
    first = int(np.ceil((centre - radius) / stride))
    last = int(np.floor((centre + radius) / stride))
    return slice(max(first, 0), min(last + 1, cells))


def instance_ids(masks: np.ndarray) -> np.ndarray:
    """(h, w) uint8 from masks (P, h, w) bool: 1 + index of the only person there, 0 for nobody,
    OVERLAP for several.

    Where masks overlap it is unknown whose offsets are right, so such cells have no owner."""
    if not len(masks):
        return np.zeros(masks.shape[1:], np.uint8)
    owners = masks.sum(axis=0, dtype=np.int32)
    first = np.argmax(masks, axis=0) + 1
    return np.where(owners > 1, OVERLAP, np.where(owners == 1, first, 0)).astype(np.uint8)
