"""Several passes of the network over one image, at several scales, mirrored or not: all votes in
one Hough map, all fields on one grid.

Evidence is easier to merge than finished poses. Where one pass sees a keypoint well and another
badly, many good votes outweigh a few bad ones, and people are decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personlab_keras.decoder.sampling import clamp, upsample
from personlab_keras.decoder.voting import Votes, cast_votes
from personlab_keras.method.coordinates import grid
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import Skeleton

LEAST_WEIGHT = np.float32(1e-6)
"""Smallest weight of an offset: where every pass gives a probability of zero, all count alike."""


@dataclass(frozen=True)
class FramedMaps:
    """The maps of one pass of the network over an image, and where the image lies in its input.

    Attributes:
        maps: in the frame of the network's input; of a mirrored input already mirrored back
            (`Maps.mirrored`).
        frame: how the image lies in that input.
    """

    maps: Maps
    frame: Frame

    def moved(self, points: np.ndarray, other: FramedMaps) -> np.ndarray:
        """Points (..., 2) of this pass's input in the input of another pass over the image."""
        return self.frame.to_image(points) * other.frame.scale + other.frame.offset


def finest_first(passes: Sequence[FramedMaps]) -> list[FramedMaps]:
    """The passes with the one of the smallest cells in front, whose grid is used for all. The
    others keep their order; of equal ones the first leads.
    """

    def cell_area(each_pass: FramedMaps) -> float:
        return each_pass.maps.stride**2 / (each_pass.frame.scale[0] * each_pass.frame.scale[1])

    finest = min(range(len(passes)), key=lambda i: cell_area(passes[i]))
    return [passes[finest], *passes[:finest], *passes[finest + 1 :]]


def by_size(passes: Sequence[FramedMaps]) -> list[list[FramedMaps]]:
    """The passes that have the image at the same size and place together, in order of the first."""
    sizes: dict[Frame, list[FramedMaps]] = {}
    for each_pass in passes:
        sizes.setdefault(each_pass.frame, []).append(each_pass)
    return list(sizes.values())


def pool_votes(passes: Sequence[FramedMaps]) -> Votes:
    """The votes of all passes, in pixels of the first one's input.

    A disc has a radius of R pixels in the input of every pass, and so at one stride as many votes
    at every scale. Of n passes each vote weighs one n-th: a keypoint on which all discs of all
    passes agree scores 1, as with a single pass."""
    first, *others = passes
    if not others:
        return cast_votes(first.maps)
    votes = [cast_votes(each_pass.maps) for each_pass in passes]
    points = [
        each_pass.moved(each.points, first).astype(np.float32)
        for each_pass, each in zip(passes, votes, strict=True)
    ]
    # A coarser grid casts fewer votes for a disc.
    shares = [
        np.float32((each_pass.maps.stride / first.maps.stride) ** 2 / len(passes))
        for each_pass in passes
    ]
    return Votes(
        np.concatenate(points),
        np.concatenate([each.mass * share for each, share in zip(votes, shares, strict=True)]),
        np.concatenate([each.keypoints for each in votes]),
    )


def fuse(passes: Sequence[FramedMaps], skeleton: Skeleton) -> Maps:
    """The maps of all passes on the cells of the first, offsets in pixels of its input.

    Probabilities are averaged. Offsets are averaged too, each weighted by the probability that it
    means anything: that of the source keypoint where it was read or, for the long-range field, that
    of a person. NaN offsets do not count."""
    first, *others = passes
    if not others:
        return first.maps
    maps = [first.maps, *(on_grid_of(first, each_pass) for each_pass in others)]
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


def on_grid_of(first: FramedMaps, each_pass: FramedMaps) -> Maps:
    """The maps of a pass on the cells of the first, offsets in pixels of its input."""
    maps = each_pass.maps
    if (each_pass.frame, maps.shape, maps.stride) == (
        first.frame,
        first.maps.shape,
        first.maps.stride,
    ):
        return maps
    cells = grid(*first.maps.shape, first.maps.stride)
    read = clamp(
        first.moved(cells, each_pass), maps.shape, maps.stride
    )  # columns and rows of a grid stay columns and rows
    rows, columns = read[:, 0, 1] / maps.stride, read[0, :, 0] / maps.stride
    # An offset counts from where it was read, which beyond the border is not the cell itself.
    moved = each_pass.moved(read, first) - cells
    scale = np.asarray(first.frame.scale) / np.asarray(each_pass.frame.scale)

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
