"""People as one size of an image shows them, from votes to keypoint scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.fusion import FramedMaps, pool_votes
from personlab_keras.decoder.grouping import group, keypoint_probabilities, settled
from personlab_keras.decoder.instances import expected_oks, mean_shift, person_scales
from personlab_keras.decoder.peaks import Seeds, find_peaks
from personlab_keras.decoder.voting import Votes, bin_votes, hough_scores
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import Skeleton

CANDIDATES_PER_PERSON = 2
"""People grouped for each one that may be returned: soft-NMS reorders them, so the last to be
grouped may be among the best.
"""


@dataclass(frozen=True)
class Readings:
    """N people as they were read, in input pixels of one pass.

    Attributes:
        keypoints: (N, K, 2) float64 (x, y); NaN where not found.
        own_keypoints: (N, K, 2) float64, the same before merging. Masks are found by these: the
            embedding of a pass points at the keypoints that were read in it.
        heat: (N, K) float64, heatmap probability at the keypoints; 0 where not found.
        keypoint_scores: (N, K) float64; 0 where not found.
        scales: (N,) float64, lambda_j.
        sizes: (N,) int64, the index of the size at which each was read.
    """

    keypoints: np.ndarray
    own_keypoints: np.ndarray
    heat: np.ndarray
    keypoint_scores: np.ndarray
    scales: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, chosen: np.ndarray) -> Readings:
        """The chosen readings, by indices or as a mask."""
        return Readings(*(each[chosen] for each in vars(self).values()))

    def moved(self, source: FramedMaps, target: FramedMaps) -> Readings:
        """The same in input pixels of another pass over the image."""
        if source.frame == target.frame:
            return self
        ratio = np.asarray(target.frame.scale) / np.asarray(source.frame.scale)
        return replace(
            self,
            keypoints=source.moved(self.keypoints, target),
            own_keypoints=source.moved(self.own_keypoints, target),
            scales=self.scales * np.sqrt(ratio.prod()),
        )


def find_seeds(
    passes: Sequence[FramedMaps], maps: Maps, options: DecodeConfig, radius: float
) -> tuple[Votes, np.ndarray, Seeds]:
    """The votes of one size, the scores (h, w, K) in which peaks are sought, and the peaks, settled
    among the votes.

    The scores are those of the Hough transform, or with `options.hough` off the heatmaps. Arguments
    as of `read_people`.
    """
    votes = pool_votes(passes)
    hough = (
        hough_scores(votes, maps.heatmaps.shape, maps.stride, radius)
        if options.hough
        else maps.heatmaps
    )
    seeds = find_peaks(hough, maps.stride, options.peak_threshold)
    return votes, hough, settled(seeds, maps, options.mid_refinements)


def read_people(
    passes: Sequence[FramedMaps],
    maps: Maps,
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    size: int,
) -> Readings:
    """The people of one size in the order of their seeds.

    Args:
        passes: those of one size, cleaned.
        maps: their maps, fused.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        radius: R in input pixels.
        size: the index of this size.
    """
    votes, _, seeds = find_seeds(passes, maps, options, radius)
    limit = CANDIDATES_PER_PERSON * options.max_people
    keypoints = group(seeds, maps, skeleton, options, radius, limit)
    binned = bin_votes(votes, maps.heatmaps.shape, maps.stride, radius)
    keypoints = mean_shift(keypoints, binned, options.vote_refinements, options.nms_radius)

    heat = keypoint_probabilities(keypoints, maps)
    scales = person_scales(keypoints, smallest_side=options.nms_radius)
    keypoint_scores = heat
    if options.expected_oks:
        keypoint_scores = heat * expected_oks(keypoints, scales, binned, skeleton.kappas, radius)
    return Readings(
        keypoints, keypoints, heat, keypoint_scores, scales, np.full(len(keypoints), size)
    )
