"""One person for every body; `decoder.merging` in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.config import DIFFERENT_PLACE, SAME_PERSON
from personlab_keras.decoder_graph.fields import Frame
from personlab_keras.decoder_graph.reading import Readings


def pool_readings(
    readings: Sequence[Readings], frames: Sequence[Frame], scale_range: tuple[float, float]
) -> Readings:
    """The readings of all sizes together, in input pixels of the first; as
    `decoder.merging.pool_readings`.
    """
    least, largest = scale_range
    pooled = []
    for i, (each, frame) in enumerate(zip(readings, frames, strict=True)):
        suits = tf.ones_like(each.scales, tf.bool)
        if i > 0:
            suits &= each.scales >= least
        if i < len(readings) - 1:
            suits &= each.scales <= largest
        pooled.append(each.masked(suits).moved(frame, frames[0]))
    return Readings.concatenated(pooled)


def merge_readings(readings: Readings, kappas: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Readings of one body merged into the best of them; as `decoder.merging.merge_readings`.

    Args:
        readings: P of them, best first, in one frame.
        kappas: (K,) the constants of object keypoint similarity.

    Returns:
        (P, K, 2) the keypoints, those of leaders merged.
        (P, K) bool, the keypoints that a leader other than themselves shares.
    """
    people = readings.keypoints
    places, keypoints = tf.shape(people)[0], people.shape[1]
    agreement, known = agreements(people, readings.scales, kappas)  # (P, P, K)
    own = tf.range(places)
    joins = (similarities(people, agreement) > SAME_PERSON) & (own[None, :] < own[:, None])

    def next_guess(leads: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return ~tf.reduce_any(joins & leads[None, :], axis=1), leads

    # After n rounds the first n verdicts are final, so verdicts that repeat are the only consistent
    # ones.
    everybody = tf.ones([places], tf.bool)
    leads, _ = tf.while_loop(
        lambda leads, last: tf.reduce_any(leads != last),
        next_guess,
        next_guess(everybody, ~everybody),
    )
    nearest = tf.where(joins & leads[None, :], similarities(people, agreement), -1.0)
    leaders = tf.where(leads, own, _largest(nearest))
    together = tf.cast(leaders[:, None] == leaders[None, :], tf.float32)

    weights = readings.keypoint_scores**2
    support = tf.einsum("abk,ab,bk->ak", agreement, together, weights)
    rivals = tf.where(leaders[None, :, None] == own[:, None, None], support[None], -1.0)
    best = _largest(rivals)  # (P, K), for every leader
    channels = tf.broadcast_to(tf.range(keypoints), [places, keypoints])
    shares = tf.gather_nd(tf.transpose(agreement, [0, 2, 1]), tf.stack([best, channels], axis=-1))
    shares *= together[:, None, :] * tf.transpose(weights)[None]  # (leaders, K, readings)
    total = tf.reduce_sum(shares, axis=-1, keepdims=True)
    merged = tf.einsum("lkb,bkc->lkc", shares, tf.where(tf.math.is_finite(people), people, 0.0))
    leads_nobody = ~leads | (tf.reduce_sum(together, axis=1) < 2)
    kept = leads_nobody[:, None, None] | ~tf.math.is_finite(people) | (total <= 0)
    merged = tf.where(kept, people, merged / total)
    agrees = tf.gather(known & (agreement >= DIFFERENT_PLACE), leaders, batch_dims=1)
    return merged, ~leads[:, None] & agrees


def _largest(values: tf.Tensor) -> tf.Tensor:
    """Where values (P, P, ...), none below -1, are largest along the second axis; of nobody, too,
    which `tf.argmax` alone refuses.
    """
    one_more = [[0, 0], [0, 1], *[[0, 0]] * (values.shape.rank - 2)]
    return tf.argmax(tf.pad(values, one_more, constant_values=-2.0), axis=1, output_type=tf.int32)


def agreements(
    people: tf.Tensor, scales: tf.Tensor, kappas: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor]:
    """(P, P, K): how well everybody agrees with everybody on each keypoint (P, K, 2), 0 where
    unknown, and whether it is known.
    """
    spread = tf.minimum(scales[:, None], scales[None])[..., None] * tf.constant(kappas, tf.float32)
    x, y = people[..., 0], people[..., 1]
    squared = tf.math.squared_difference(x[:, None], x[None])
    squared += tf.math.squared_difference(y[:, None], y[None])
    known = tf.math.is_finite(squared)
    agreement = tf.exp(-squared / (2.0 * spread * spread))
    return tf.where(known, agreement, 0.0), known


def similarities(people: tf.Tensor, agreement: tf.Tensor) -> tf.Tensor:
    """(P, P): object keypoint similarity from agreements (P, P, K), by the number of keypoints of
    the one with fewer.
    """
    found = tf.reduce_sum(tf.cast(tf.math.is_finite(people[..., 0]), tf.float32), axis=1)
    fewer = tf.minimum(found[:, None], found[None, :])
    return tf.reduce_sum(agreement, axis=-1) / tf.maximum(fewer, 1.0)
