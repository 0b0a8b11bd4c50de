"""One person for every body; `decoder.merging` in TensorFlow, for one size."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from personlab_keras.config import DIFFERENT_PLACE, SAME_PERSON
from personlab_keras.decoder_graph.loops import for_each


def merge_readings(
    people: tf.Tensor,
    count: tf.Tensor,
    scales: tf.Tensor,
    keypoint_scores: tf.Tensor,
    kappas: np.ndarray,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Readings of one body merged into the best of them; as `decoder.merging.merge_readings`.

    Args:
        people: (P, K, 2) in input pixels, best first; NaN where not found and in free places.
        count: () int32, how many are taken.
        scales: (P,) lambda in input pixels.
        keypoint_scores: (P, K).
        kappas: (K,) the constants of object keypoint similarity.

    Returns:
        (P, K, 2) the keypoints, those of leaders merged.
        (P, K) bool, the keypoints that a leader other than themselves shares.
    """
    places, keypoints = people.shape[0], people.shape[1]

    unknown = [tf.fill([places, keypoints], float("nan"))]
    agreement = for_each(
        count, places, lambda j: [agreement_with(j, people, scales, kappas)], unknown
    )[0]  # (P, P, K)
    both = tf.math.is_finite(agreement)
    agreement = tf.where(both, agreement, 0.0)
    found = tf.reduce_sum(tf.cast(tf.math.is_finite(people[..., 0]), tf.float32), axis=1)
    fewer = tf.minimum(found[:, None], found[None, :])
    earlier = tf.cast(np.tri(places, k=-1), tf.bool)
    similarity = tf.reduce_sum(agreement, axis=-1) / tf.maximum(fewer, 1.0)
    joins = (similarity > SAME_PERSON) & earlier

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
    own = tf.range(places)
    nearest = tf.where(joins & leads[None, :], similarity, -1.0)
    leaders = tf.where(leads, own, tf.argmax(nearest, axis=1, output_type=tf.int32))
    together = tf.cast(leaders[:, None] == leaders[None, :], tf.float32)

    weights = keypoint_scores**2
    support = tf.einsum("abk,ab,bk->ak", agreement, together, weights)
    rivals = tf.where(leaders[None, :, None] == own[:, None, None], support[None], -1.0)
    best = tf.argmax(rivals, axis=1, output_type=tf.int32)  # (P, K), for every leader
    channels = tf.broadcast_to(tf.range(keypoints), [places, keypoints])
    shares = tf.gather_nd(tf.transpose(agreement, [0, 2, 1]), tf.stack([best, channels], axis=-1))
    shares *= together[:, None, :] * tf.transpose(weights)[None]  # (leaders, K, readings)
    total = tf.reduce_sum(shares, axis=-1, keepdims=True)
    merged = tf.einsum("lkb,bkc->lkc", shares, tf.where(tf.math.is_finite(people), people, 0.0))
    alone = tf.reduce_sum(together, axis=1) < 2
    kept = alone[:, None, None] | ~tf.math.is_finite(people) | (total <= 0)
    merged = tf.where(kept, people, merged / total)
    agrees = tf.gather(both & (agreement >= DIFFERENT_PLACE), leaders, batch_dims=1)
    return merged, ~leads[:, None] & agrees


def agreement_with(
    j: tf.Tensor, people: tf.Tensor, scales: tf.Tensor, kappas: np.ndarray
) -> tf.Tensor:
    """(P, K): how well everybody agrees with person j on each keypoint; NaN where unknown."""
    spread = tf.minimum(scales, scales[j])[:, None] * tf.constant(kappas, tf.float32)
    squared = tf.reduce_sum(tf.math.squared_difference(people, people[j]), axis=-1)
    return tf.exp(-squared / (2.0 * spread * spread))
