"""People as one size of an image shows them; `decoder.reading` in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.fields import Fields, Frame
from personlab_keras.decoder_graph.grouping import group, settled
from personlab_keras.decoder_graph.instances import expected_oks, mean_shift, person_scales
from personlab_keras.decoder_graph.peaks import find_peaks
from personlab_keras.decoder_graph.sampling import value_at
from personlab_keras.decoder_graph.voting import bin_votes, hough_scores, pool_votes, votes_agree
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class Readings:
    """N people as they were read, in input pixels of one size; as `decoder.reading.Readings`.

    Attributes:
        keypoints: (N, K, 2) float32 (x, y); NaN where not found.
        own_keypoints: (N, K, 2) float32, the same before merging, by which masks are found.
        heat: (N, K) float32, probability at the keypoints; 0 where there is none.
        keypoint_scores: (N, K) float32.
        scales: (N,) float32, lambda; positive.
        sizes: (N,) int32, the index of the size at which each was read.
    """

    keypoints: tf.Tensor
    own_keypoints: tf.Tensor
    heat: tf.Tensor
    keypoint_scores: tf.Tensor
    scales: tf.Tensor
    sizes: tf.Tensor

    @classmethod
    def concatenated(cls, readings: Sequence[Readings]) -> Readings:
        if len(readings) == 1:
            return readings[0]
        return cls(
            *(
                tf.concat([getattr(each, field.name) for each in readings], axis=0)
                for field in fields(cls)
            )
        )

    def chosen(self, indices: tf.Tensor) -> Readings:
        """The readings of those indices."""
        return Readings(*(tf.gather(getattr(self, field.name), indices) for field in fields(self)))

    def masked(self, wanted: tf.Tensor) -> Readings:
        """The readings where `wanted` (N,) is true."""
        return self.chosen(tf.where(wanted)[:, 0])

    def moved(self, source: Frame, target: Frame) -> Readings:
        """The same in input pixels of another size."""
        if source is target:
            return self
        area = tf.sqrt(tf.reduce_prod(target.scale / source.scale))
        return replace(
            self,
            keypoints=target.to_input(source.to_image(self.keypoints)),
            own_keypoints=target.to_input(source.to_image(self.own_keypoints)),
            scales=self.scales * tf.cast(area, tf.float32),
        )


def read_people(
    passes: Sequence[Fields],
    maps: Fields,
    skeleton: Skeleton,
    options: DecodeConfig,
    radius: float,
    limit: int,
    size: int,
) -> Readings:
    """The people of one size in the order of their seeds; as `decoder.reading.read_people`.

    Args:
        passes: the maps of the image at this size, and of its mirror image.
        maps: the same, fused.
        skeleton: the tree that the mid-range offsets follow.
        options: thresholds and limits.
        radius: R in input pixels.
        limit: most people that are grouped.
        size: the index of this size.
    """
    votes = pool_votes(passes)
    hough = (
        hough_scores(votes, maps, radius)
        if options.hough
        else tf.transpose(maps.heatmaps, [2, 0, 1])
    )
    seeds = find_peaks(hough, maps.stride, options.peak_threshold)
    agree = votes_agree(maps)
    seeds = settled(seeds, maps, options.mid_refinements, agree)
    keypoints = group(seeds, maps, skeleton, options, radius, limit, agree)

    shifts = options.vote_refinements * options.nms_radius
    binned = bin_votes(votes, maps, keypoints, max(radius, options.nms_radius) + shifts)
    for _ in range(options.vote_refinements):
        keypoints = mean_shift(keypoints, binned, options.nms_radius)
    channels = tf.broadcast_to(tf.range(skeleton.keypoint_count), tf.shape(keypoints)[:2])
    heat = value_at(maps.heatmaps, channels, keypoints, maps.grid)
    heat = tf.where(tf.math.is_finite(heat), heat, 0.0)
    scales = person_scales(keypoints, options.nms_radius)
    keypoint_scores = heat
    if options.expected_oks:
        keypoint_scores = heat * expected_oks(keypoints, scales, binned, skeleton.kappas, radius)
    sizes = tf.fill(tf.shape(scales), size)
    return Readings(keypoints, keypoints, heat, keypoint_scores, scales, sizes)
