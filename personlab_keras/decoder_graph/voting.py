"""Hough voting; `decoder.voting` in TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from personlab_keras.decoder_graph.fields import NOWHERE, Fields
from personlab_keras.decoder_graph.sampling import cell_points

VOTES = 16384


def cast_votes(fields: Fields) -> tuple[tf.Tensor, tf.Tensor]:
    """Where every cell's vote for every keypoint lands, (h, w, K, 2) in input pixels, and its mass
    (h, w, K), 0 for no vote.
    """
    shape = tf.shape(fields.heatmaps)
    points = cell_points(shape[0], shape[1], fields.stride)[:, :, None, :] + fields.short_offsets
    known = tf.reduce_all(tf.math.is_finite(points), axis=-1)
    return tf.where(known[..., None], points, NOWHERE), tf.where(known, fields.heatmaps, 0.0)


def hough_scores(points: tf.Tensor, mass: tf.Tensor, fields: Fields, radius: float) -> tf.Tensor:
    """Hough scores (h, w, K); as `decoder.voting.hough_scores`."""
    shape = tf.shape(mass)
    height, width, count = shape[0], shape[1], shape[2]
    limits = tf.cast(tf.stack([width, height]), tf.float32)
    # Clipped votes land out of the frame all the same, and stay small enough for integers.
    places = tf.clip_by_value(points / fields.stride, -2.0, limits + 1)
    first = tf.floor(places)
    share = places - first
    near = tf.cast(first, tf.int32)
    votes = mass * (fields.stride**2 / (math.pi * radius**2))
    scores = tf.zeros([height * width * count])
    for below in (0, 1):
        for beside in (0, 1):
            row, column = near[..., 1] + below, near[..., 0] + beside
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            down, across = share[..., 1], share[..., 0]
            portion = (down if below else 1 - down) * (across if beside else 1 - across)
            cells = (row * width + column) * count + tf.range(count)
            scores += tf.math.unsorted_segment_sum(
                tf.reshape(tf.where(inside, votes * portion, 0.0), [-1]),
                tf.reshape(tf.where(inside, cells, 0), [-1]),
                height * width * count,
            )
    return tf.reshape(scores, shape)


@dataclass(frozen=True)
class StrongestVotes:
    """At most `VOTES` votes for every keypoint: where they land, x and y (K, V) in input pixels,
    and mass (K, V), 0 for no vote.

    Coordinates lie apart from each other: sums over an axis of two are slow.
    """

    x: tf.Tensor
    y: tf.Tensor
    mass: tf.Tensor

    def from_person(self, person: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(K, V) each: how far in x and y every vote lies from the keypoint (K, 2) that it is for,
        and the squared distance.
        """
        across, down = self.x - person[:, :1], self.y - person[:, 1:]
        return across, down, across * across + down * down


def strongest_votes(points: tf.Tensor, mass: tf.Tensor) -> StrongestVotes:
    count = mass.shape[-1]
    x, y, mass = (
        tf.reshape(tf.transpose(each, [2, 0, 1]), [count, -1])
        for each in (points[..., 0], points[..., 1], mass)
    )
    if mass.shape[1] is not None and mass.shape[1] <= VOTES:
        return StrongestVotes(x, y, mass)
    mass, chosen = tf.math.top_k(
        mass, tf.minimum(VOTES, tf.shape(mass)[1]) if mass.shape[1] is None else VOTES, sorted=False
    )
    return StrongestVotes(
        tf.gather(x, chosen, batch_dims=1), tf.gather(y, chosen, batch_dims=1), mass
    )
