"""An image and its mirror image on one grid; `decoder.fusion` in TensorFlow, for passes of one
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.method.skeleton import Skeleton

LEAST_WEIGHT = 1e-6
"""Smallest weight of an offset: where every pass gives a probability of zero, all count alike."""


def fuse(passes: Sequence[Fields], skeleton: Skeleton) -> Fields:
    """The mean of the maps of all passes, of one frame and stride; as `decoder.fusion.fuse`."""
    first = passes[0]
    if len(passes) == 1:
        return first
    heat = [fields.heatmaps for fields in passes]
    sources = skeleton.edge_indices[:, 0]
    segmentation = [each.segmentation for each in passes if each.segmentation is not None]
    long = [each.long_offsets for each in passes if each.long_offsets is not None]
    complete = len(segmentation) == len(long) == len(passes)
    return Fields(
        heatmaps=_mean(heat),
        short_offsets=_weighted_mean([fields.short_offsets for fields in passes], heat),
        mid_offsets=_weighted_mean(
            [fields.mid_offsets for fields in passes],
            [tf.gather(each, sources, axis=2) for each in heat],
        ),
        long_offsets=_weighted_mean(long, [each[..., None] for each in segmentation])
        if complete
        else None,
        segmentation=_mean(segmentation) if complete else None,
        stride=first.stride,
        grid=first.grid,
    )


def _mean(values: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(list(values)) / len(values)


def _weighted_mean(offsets: Sequence[tf.Tensor], weights: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean of offset fields (h, w, F, 2), weighted by (h, w, F) or (h, w, 1); NaN where all of them
    are unknown.
    """
    known = [tf.reduce_all(tf.math.is_finite(each), axis=-1, keepdims=True) for each in offsets]
    shares = [
        tf.where(finite, tf.maximum(weight, LEAST_WEIGHT)[..., None], 0.0)
        for finite, weight in zip(known, weights, strict=True)
    ]
    total = tf.add_n(shares)
    parts = [
        tf.where(finite, each, 0.0) * share
        for finite, each, share in zip(known, offsets, shares, strict=True)
    ]
    return tf.where(total > 0, tf.add_n(parts) / total, float("nan"))
