"""Scores of keypoints and people; `decoder.instances` in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from personlab_keras.config import VOTE_FADE
from personlab_keras.decoder_graph.fields import NOWHERE
from personlab_keras.decoder_graph.loops import for_each
from personlab_keras.decoder_graph.voting import StrongestVotes


def mean_shift(
    people: tf.Tensor, count: tf.Tensor, votes: StrongestVotes, reach: float
) -> tf.Tensor:
    """The first `count` people (P, K, 2) with each keypoint moved to the mean of the votes around
    it: one step of `decoder.instances.mean_shift`."""

    def moved(j: tf.Tensor) -> tuple[tf.Tensor]:
        across, down, squared = votes.from_person(people[j])
        weight = _faded(votes.mass, squared, reach) * tf.exp(-squared / (reach**2 / 2))
        total = tf.reduce_sum(weight, axis=1)
        pull = tf.stack([_weighted(weight, across), _weighted(weight, down)], axis=-1)
        return (
            people[j]
            + tf.where(total[:, None] > 0, pull / tf.where(total > 0, total, 1.0)[:, None], 0.0),
        )

    return for_each(count, people.shape[0], moved, [tf.fill(people.shape[1:], float("nan"))])[0]


def expected_oks(
    people: tf.Tensor,
    count: tf.Tensor,
    scales: tf.Tensor,
    votes: StrongestVotes,
    kappas: np.ndarray,
    radius: float,
) -> tf.Tensor:
    """(P, K): how well the votes around every keypoint agree on it; as
    `decoder.instances.expected_oks`.
    """
    spreads = 2.0 * (scales[:, None] * tf.constant(kappas, tf.float32)) ** 2

    def agreement(j: tf.Tensor) -> tuple[tf.Tensor]:
        _, _, squared = votes.from_person(people[j])
        near = _faded(votes.mass, squared, radius)
        total = tf.reduce_sum(near, axis=1)
        agreed = _weighted(near, tf.exp(-squared / spreads[j][:, None]))
        return (tf.where(total > 0, agreed / tf.where(total > 0, total, 1.0), 0.0),)

    return for_each(count, people.shape[0], agreement, [tf.zeros(people.shape[1:2])])[0]


def _faded(mass: tf.Tensor, squared: tf.Tensor, radius: float) -> tf.Tensor:
    """The mass of votes at squared distances, falling to 0 over the last `VOTE_FADE` pixels."""
    return mass * tf.clip_by_value((radius - tf.sqrt(squared)) / VOTE_FADE, 0.0, 1.0)


def _weighted(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """(K,): the sums of weights * values (K, V), in which a NaN of weight 0 counts as 0."""
    return tf.reduce_sum(tf.where(weights > 0, weights * values, 0.0), axis=1)


def person_scales(people: tf.Tensor, smallest_side: float) -> tf.Tensor:
    """(P,) lambda in input pixels; as `decoder.instances.person_scales`."""
    known = tf.math.is_finite(people)
    high = tf.reduce_max(tf.where(known, people, -NOWHERE), axis=1)
    low = tf.reduce_min(tf.where(known, people, NOWHERE), axis=1)
    return tf.sqrt(tf.reduce_prod(tf.maximum(high - low, smallest_side), axis=-1))


def person_scores(keypoint_scores: tf.Tensor, power: float) -> tf.Tensor:
    """(P,) from (P, K); as `decoder.instances.person_scores`."""
    return tf.reduce_mean(keypoint_scores**power, axis=1) ** (1.0 / power)


def suppressed_by_better(people: tf.Tensor, count: tf.Tensor, radius: float) -> tf.Tensor:
    """(P, K) bool: keypoints of people (P, K, 2), best first, within the radius of a better
    person's; as `decoder.instances.suppressed_by_better`.
    """

    def by_better(j: tf.Tensor) -> tuple[tf.Tensor]:
        squared = tf.math.squared_difference(people[..., 0], people[j, :, 0])
        squared += tf.math.squared_difference(people[..., 1], people[j, :, 1])
        better = tf.range(people.shape[0]) < j
        return (tf.reduce_any(better[:, None] & (squared <= radius**2), axis=0),)

    return for_each(count, people.shape[0], by_better, [tf.zeros(people.shape[1:2], tf.bool)])[0]
