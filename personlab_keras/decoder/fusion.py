"""One image seen several times, at several scales and mirrored or not: all votes in one Hough map,
all fields on one grid.

Finished poses are harder to merge than evidence: a keypoint that one view sees well and another
badly gets many good votes and a few bad ones, and the people are decoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personlab_keras.decoder.sampling import clamp, upsample
from personlab_keras.decoder.voting import Votes, cast_votes
from personlab_keras.method.coordinates import grid
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import PARTS, Maps
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

LEAST_WEIGHT = np.float32(1e-6)
"""Weight of an offset where nobody is likely: where no view knows better, all count alike."""


@dataclass(frozen=True)
class FramedMaps:
    """What the network said about an image in one pass.

    Attributes:
        maps: in the frame of the network's input; where that was mirrored, after `mirror`.
        frame: how the image lies in that input.
    """

    maps: Maps
    frame: Frame

    def moved(self, points: np.ndarray, other: FramedMaps) -> np.ndarray:
        """Points (..., 2) of this view's input in the input of another view of the same image."""
        return self.frame.to_image(points) * other.frame.scale + other.frame.offset


def mirror(maps: Maps, skeleton: Skeleton = COCO_PERSON) -> Maps:
    """The maps of the mirrored input: left and right keypoints and parts swapped, dx negated. Its
    own inverse.

    Input sides are stride * n + 1, so the mirrored cells are cells again and nothing is
    interpolated. What is mirrored is the whole input with its padding.
    """

    def offsets(values: np.ndarray, order: np.ndarray) -> np.ndarray:
        return values[:, ::-1, order] * np.array([-1, 1], values.dtype)

    swapped = {"left": "right", "right": "left"}
    sides = [part.partition("_") for part in PARTS]
    parts = np.array(
        [PARTS.index(f"{swapped.get(side, side)}{dash}{rest}") for side, dash, rest in sides]
    )
    return Maps(
        heatmaps=maps.heatmaps[:, ::-1, skeleton.flip_order],
        short_offsets=offsets(maps.short_offsets, skeleton.flip_order),
        mid_offsets=offsets(maps.mid_offsets, skeleton.edge_flip_order),
        long_offsets=None
        if maps.long_offsets is None
        else offsets(maps.long_offsets, skeleton.flip_order),
        segmentation=None if maps.segmentation is None else maps.segmentation[:, ::-1],
        stride=maps.stride,
        part_heatmaps=None if maps.part_heatmaps is None else maps.part_heatmaps[:, ::-1, parts],
    )


def finest_first(views: Sequence[FramedMaps]) -> list[FramedMaps]:
    """The view with the smallest cells in front: its grid is the one for all. The others stay in
    order; so do equals.
    """

    def cell_area(view: FramedMaps) -> float:
        return view.maps.stride**2 / (view.frame.scale[0] * view.frame.scale[1])

    finest = min(range(len(views)), key=lambda i: cell_area(views[i]))
    return [views[finest], *views[:finest], *views[finest + 1 :]]


def pool_votes(views: Sequence[FramedMaps]) -> Votes:
    """The votes of all views, in pixels of the first one's input.

    A disc has R pixels in the input of every view, and so at one stride the same number of votes at
    every scale. Each vote weighs one n-th, of n views: a keypoint on which all discs of all views
    agree scores 1, as in a single one."""
    first, *others = views
    if not others:
        return cast_votes(first.maps)
    votes = [cast_votes(view.maps) for view in views]
    points = [
        view.moved(each.points, first).astype(np.float32)
        for view, each in zip(views, votes, strict=True)
    ]
    # A coarser grid casts fewer votes for a disc.
    shares = [
        np.float32((view.maps.stride / first.maps.stride) ** 2 / len(views)) for view in views
    ]
    return Votes(
        np.concatenate(points),
        np.concatenate([each.mass * share for each, share in zip(votes, shares, strict=True)]),
        np.concatenate([each.keypoints for each in votes]),
    )


def fuse(views: Sequence[FramedMaps], skeleton: Skeleton) -> Maps:
    """The fields of all views on the cells of the first, offsets in pixels of its input.

    Probabilities are averaged. So are offsets, each weighted by the probability that it means
    something: that of the keypoint where it was read or, for the long-range field, of a person.
    Those that are NaN do not count."""
    first, *others = views
    if not others:
        return first.maps
    maps = [first.maps, *(_on_grid_of(first, view) for view in others)]
    heat = [each.heatmaps for each in maps]
    sources = skeleton.edge_indices[:, 0]
    segmentation = [each.segmentation for each in maps if each.segmentation is not None]
    long = [each.long_offsets for each in maps if each.long_offsets is not None]
    complete = len(segmentation) == len(long) == len(maps)
    return Maps(
        heatmaps=_mean(heat),
        short_offsets=_weighted_mean([each.short_offsets for each in maps], heat),
        mid_offsets=_weighted_mean(
            [each.mid_offsets for each in maps], [each[..., sources] for each in heat]
        ),
        long_offsets=_weighted_mean(long, [each[..., None] for each in segmentation])
        if complete
        else None,
        segmentation=_mean(segmentation) if complete else None,
        stride=first.maps.stride,
    )


def _on_grid_of(first: FramedMaps, view: FramedMaps) -> Maps:
    """The maps of a view on the cells of the first, offsets in pixels of its input."""
    maps = view.maps
    if (view.frame, maps.shape, maps.stride) == (first.frame, first.maps.shape, first.maps.stride):
        return maps
    cells = grid(*first.maps.shape, first.maps.stride)
    read = clamp(
        first.moved(cells, view), maps.shape, maps.stride
    )  # columns and rows of a grid stay columns and rows
    rows, columns = read[:, 0, 1] / maps.stride, read[0, :, 0] / maps.stride
    # An offset counts from where it was read; beyond the border of a view that is elsewhere.
    moved = view.moved(read, first) - cells
    scale = np.asarray(first.frame.scale) / np.asarray(view.frame.scale)

    def offsets(values: np.ndarray) -> np.ndarray:
        return (upsample(values, rows, columns) * scale + moved[:, :, None]).astype(np.float32)

    return Maps(
        heatmaps=upsample(maps.heatmaps, rows, columns),
        short_offsets=offsets(maps.short_offsets),
        mid_offsets=offsets(maps.mid_offsets),
        long_offsets=None if maps.long_offsets is None else offsets(maps.long_offsets),
        segmentation=None
        if maps.segmentation is None
        else upsample(maps.segmentation, rows, columns),
        stride=first.maps.stride,
    )


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(values).mean(axis=0, dtype=np.float32)


def _weighted_mean(fields: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of offset fields (h, w, F, 2), weighted by (h, w, F) or (h, w, 1); NaN where all of them
    are NaN.
    """
    mean, total = np.zeros_like(fields[0]), np.zeros((*fields[0].shape[:-1], 1), np.float32)
    for values, weight in zip(fields, weights, strict=True):
        known = np.isfinite(values).all(axis=-1, keepdims=True)
        weight = np.where(known, np.maximum(weight[..., None], LEAST_WEIGHT), 0)
        total += weight
        # Step by step, so that the mean of equals is exactly one of them.
        step = np.divide(weight, total, out=np.zeros_like(total), where=total > 0)
        mean += step * (np.where(known, values, 0) - mean)
    return np.where(total > 0, mean, np.float32(np.nan))
