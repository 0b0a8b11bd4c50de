"""From maps to people: PersonLab's bottom-up decoding (Papandreou et al. 2018, arXiv 1803.08225)
in NumPy. This is the reference; `decoder_graph` repeats it in TensorFlow, step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.fusion import FramedMaps, by_size, finest_first, fuse
from personlab_keras.decoder.masks import find_masks
from personlab_keras.decoder.merging import pool_readings
from personlab_keras.decoder.reading import CANDIDATES_PER_PERSON, read_people
from personlab_keras.decoder.sampling import all_finite, all_fractions
from personlab_keras.decoder.scoring import score_people
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

__all__ = ["CANDIDATES_PER_PERSON", "Frame", "FramedMaps", "decode"]

_LOGGER = logging.getLogger(__name__)
_DEFAULTS = DecodeConfig()


def decode(
    maps: Maps | Sequence[FramedMaps],
    skeleton: Skeleton = COCO_PERSON,
    options: DecodeConfig = _DEFAULTS,
    frame: Frame | None = None,
    radius: float = 32.0,
) -> list[Person]:
    """The people in the maps of an image, best first.

    Args:
        maps: of one image, of any float type; not modified. Probabilities are clipped to [0, 1]; a
            probability that is not finite counts as 0, and an offset that is not finite leads
            nowhere (how many there were is logged). Or the maps of several passes over the image:
            those of one size (the image and its mirror) pool their votes and average their fields;
            the people of several sizes are merged. `radius` and the pixels in `options` are those
            of every input.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        frame: the image whose pixels keypoints and masks are given in; the network's input by
            default. Passes have frames of their own.
        radius: R in input pixels, with which the network was trained (`targets.radius`).

    Returns:
        At most `options.max_people` people with a positive score of at least
        `options.score_threshold`, keypoints in pixels of `frame`; those that lie beyond it are at
        the nearest of its pixels. Masks cover `frame`; they are None where `options.masks` is off
        or the network has no such heads.

    Raises:
        ValueError: the maps and the skeleton differ in the number of keypoints, the radius is not
            positive, or the sequence is empty.

    Without heat there are no people:

    >>> nobody = Maps(np.zeros((5, 5, 17)), np.zeros((5, 5, 17, 2)), np.zeros((5, 5, 32, 2)),
    ...               None, None, stride=16)
    >>> decode(nobody)
    []
    """
    if not radius > 0:
        raise ValueError(f"`radius` must be a positive number of pixels. Received: {radius}")
    passes = _checked_passes(maps, skeleton, frame)
    sizes = by_size(passes)
    fused = [fuse(size, skeleton) for size in sizes]
    readings = [
        read_people(size, each, skeleton, options, radius, i)
        for i, (size, each) in enumerate(zip(sizes, fused, strict=True))
    ]
    people = pool_readings(readings, sizes, options.scale_range)
    scored = score_people(people, sizes, fused, skeleton, options)
    people, scores = scored.people[scored.returned], scored.scores[scored.returned]

    masks: list[dict[str, Any] | None] = [None] * len(people)
    if options.masks:
        masks = find_masks(people, [size[0] for size in sizes], fused, options)
    keypoints = passes[0].frame.inside_image(people.keypoints)
    return [
        Person(*each)
        for each in zip(keypoints, people.keypoint_scores, scores.tolist(), masks, strict=True)
    ]


def _checked_passes(
    maps: Maps | Sequence[FramedMaps], skeleton: Skeleton, frame: Frame | None
) -> list[FramedMaps]:
    """One pass or several, the one with the finest cells first, their maps cleaned."""
    if isinstance(maps, Maps):
        passes = [FramedMaps(maps, frame or Frame(*maps.image_shape))]
    elif frame is not None:
        raise ValueError("`frame` must be None where `maps` is a sequence: each pass has its own")
    elif not maps:
        raise ValueError("`maps` must hold the maps of at least one pass. Received: none")
    else:
        passes = finest_first(maps)
    for each in passes:
        if each.maps.heatmaps.shape[2] != skeleton.keypoint_count:
            raise ValueError(
                f"`maps` must have the {skeleton.keypoint_count} keypoints of {skeleton.name}. "
                f"Received: {each.maps.heatmaps.shape[2]}"
            )
    return [replace(each, maps=_cleaned(each.maps)) for each in passes]


def _cleaned(maps: Maps) -> Maps:
    """Contiguous float32 maps: probabilities in [0, 1], 0 where not finite; offsets NaN where not
    finite.

    How many values were not finite is logged as a warning.
    """
    unknown = 0

    def probabilities(values: np.ndarray) -> np.ndarray:
        values = finite_or(0, values)
        return values if all_fractions(values.reshape(-1).view(np.int32)) else np.clip(values, 0, 1)

    def finite_or(substitute: float, values: np.ndarray) -> np.ndarray:
        nonlocal unknown
        if values.dtype != np.float32:
            with np.errstate(over="ignore", invalid="ignore"):
                values = values.astype(np.float32)
        values = np.ascontiguousarray(values)
        if all_finite(values.reshape(-1).view(np.int32)):
            return values
        finite = np.isfinite(values)
        unknown += int(finite.size - np.count_nonzero(finite))
        return np.where(finite, values, np.float32(substitute))

    cleaned = Maps(
        heatmaps=probabilities(maps.heatmaps),
        short_offsets=finite_or(np.nan, maps.short_offsets),
        mid_offsets=finite_or(np.nan, maps.mid_offsets),
        long_offsets=None if maps.long_offsets is None else finite_or(np.nan, maps.long_offsets),
        segmentation=None if maps.segmentation is None else probabilities(maps.segmentation),
        stride=maps.stride,
    )
    if unknown:
        _LOGGER.warning("%d values of the maps are not finite and were ignored", unknown)
    return cleaned
