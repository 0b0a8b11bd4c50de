"""Scores of keypoints and people; `decoder.instances` in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from personlab_keras.config import VOTE_FADE
from personlab_keras.decoder_graph.fields import NOWHERE
from personlab_keras.decoder_graph.voting import BinnedVotes


def mean_shift(people: tf.Tensor, votes: BinnedVotes, reach: float) -> tf.Tensor:
    """People (P, K, 2) with each keypoint moved to the mean of the votes around it: one step of
    `decoder.instances.mean_shift`.
    """

    def weigh(x: tf.Tensor, y: tf.Tensor, mass: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        squared = x * x + y * y
        weight = _faded(mass, squared, reach) * tf.exp(squared * (-2.0 / reach**2))
        return [weight, weight * x, weight * y]

    total, *pull = votes.sums(people, reach, weigh)
    moved = tf.math.divide_no_nan(tf.stack(pull, axis=-1), total[..., None])
    return people + moved


def expected_oks(
    people: tf.Tensor, scales: tf.Tensor, votes: BinnedVotes, kappas: np.ndarray, radius: float
) -> tf.Tensor:
    """(P, K): how well the votes around every keypoint agree on it; as
    `decoder.instances.expected_oks`.
    """
    spreads = 2.0 * (scales[:, None] * tf.constant(kappas, tf.float32)) ** 2
    steepness = tf.reshape(-1.0 / spreads, [-1])

    def weigh(x: tf.Tensor, y: tf.Tensor, mass: tf.Tensor, owner: tf.Tensor) -> list[tf.Tensor]:
        squared = x * x + y * y
        near = _faded(mass, squared, radius)
        return [near, near * tf.exp(squared * tf.gather(steepness, owner))]

    total, agreed = votes.sums(people, radius, weigh)
    return tf.math.divide_no_nan(agreed, total)


def _faded(mass: tf.Tensor, squared: tf.Tensor, radius: float) -> tf.Tensor:
    """The mass of votes at squared distances, falling to 0 over the last `VOTE_FADE` pixels."""
    return mass * tf.clip_by_value((radius - tf.sqrt(squared)) / VOTE_FADE, 0.0, 1.0)


def person_scales(people: tf.Tensor, smallest_side: float) -> tf.Tensor:
    """(P,) lambda in input pixels; as `decoder.instances.person_scales`."""
    known = tf.math.is_finite(people)
    high = tf.reduce_max(tf.where(known, people, -NOWHERE), axis=1)
    low = tf.reduce_min(tf.where(known, people, NOWHERE), axis=1)
    return tf.sqrt(tf.reduce_prod(tf.maximum(high - low, smallest_side), axis=-1))


def person_scores(keypoint_scores: tf.Tensor, power: float) -> tf.Tensor:
    """(P,) from (P, K); as `decoder.instances.person_scores`."""
    return tf.reduce_mean(keypoint_scores**power, axis=1) ** (1.0 / power)


def suppressed_by_better(people: tf.Tensor, radius: float) -> tf.Tensor:
    """(P, K) bool: keypoints of people (P, K, 2), best first, within the radius of a better
    person's; as `decoder.instances.suppressed_by_better`.
    """
    x, y = people[..., 0], people[..., 1]
    squared = tf.math.squared_difference(x[:, None], x[None])
    squared += tf.math.squared_difference(y[:, None], y[None])
    places = tf.range(tf.shape(people)[0])
    better = places[None, :] < places[:, None]
    return tf.reduce_any(better[..., None] & (squared <= radius**2), axis=1)
