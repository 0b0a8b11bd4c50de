"""Hough voting; `decoder.voting` in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from personlab_keras.config import AGREEING_VOTES, FAINT_VOTE
from personlab_keras.decoder_graph.fields import NOWHERE, Fields

BIN_SIDE = 16.0  # input pixels


@dataclass(frozen=True)
class Votes:
    """The votes of all cells for all keypoints.

    Attributes:
        points: (V,) complex64, where they land: x + iy in input pixels. A pair in one number is
            gathered in one piece, and its halves need no slices.
        mass: (V,) float32, 0 for no vote.
        keypoints: (V,) int32, the keypoint voted for.
    """

    points: tf.Tensor
    mass: tf.Tensor
    keypoints: tf.Tensor


def cast_votes(fields: Fields) -> Votes:
    """The votes of all cells; as `decoder.voting.cast_votes`."""
    cells = tf.where(fields.heatmaps >= FAINT_VOTE)
    row, column, keypoints = tf.unstack(tf.cast(cells, tf.int32), axis=1)
    offsets = tf.gather_nd(tf.bitcast(fields.short_offsets, tf.complex64), cells)
    x = tf.cast(column * fields.stride, tf.float32) + tf.math.real(offsets)
    y = tf.cast(row * fields.stride, tf.float32) + tf.math.imag(offsets)
    known = tf.math.is_finite(x + y)
    points = tf.complex(tf.where(known, x, NOWHERE), tf.where(known, y, NOWHERE))
    mass = tf.where(known, tf.gather_nd(fields.heatmaps, cells), 0.0)
    return Votes(points, mass, keypoints)


def pool_votes(passes: Sequence[Fields]) -> Votes:
    """The votes of passes of one size; of n each vote weighs one n-th, as in
    `decoder.fusion.pool_votes`.
    """
    votes = [cast_votes(fields) for fields in passes]
    if len(votes) == 1:
        return votes[0]
    points, mass, keypoints = (
        tf.concat([getattr(each, name) for each in votes], axis=0)
        for name in ("points", "mass", "keypoints")
    )
    return Votes(points, mass / len(votes), keypoints)


def votes_agree(fields: Fields) -> tf.Tensor:
    """() bool: whether votes tell neighbours apart, as `decoder.voting.vote_spread` finds it."""
    _, columns = fields.shape
    count = fields.heatmaps.shape[2]
    heat = tf.reshape(fields.heatmaps, [-1])
    short = tf.reshape(tf.bitcast(fields.short_offsets, tf.complex64), [-1])
    shown = tf.cast(tf.where(heat >= 0.5)[:, 0], tf.int32)
    own = tf.gather(short, shown)
    pairs = agreeing = tf.constant(0)
    for shift, step, has_next in (
        (count, complex(fields.stride, 0), shown // count % columns < columns - 1),
        (count * columns, complex(0, fields.stride), shown < tf.size(heat) - count * columns),
    ):
        other = tf.where(has_next, shown + shift, 0)
        both = has_next & (tf.gather(heat, other) >= 0.5)
        apart = tf.gather(short, other) - own + tf.constant(step, tf.complex64)
        near = tf.math.real(apart) ** 2 + tf.math.imag(apart) ** 2 <= AGREEING_VOTES**2
        pairs += tf.math.count_nonzero(both, dtype=tf.int32)
        agreeing += tf.math.count_nonzero(both & near, dtype=tf.int32)
    return 2 * agreeing > pairs


def hough_scores(votes: Votes, fields: Fields, radius: float) -> tf.Tensor:
    """Hough scores (K, h, w); as `decoder.voting.hough_scores`."""
    height, width = fields.shape
    count = fields.heatmaps.shape[2]
    # Two cells of margin take the votes that land outside, wherever that is.
    rows, columns = height + 4, width + 4

    def place(coordinate: tf.Tensor, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inside = tf.clip_by_value(
            coordinate / fields.stride, -2.0, tf.cast(cells, tf.float32) + 1.0
        )
        first = tf.floor(inside)
        return tf.minimum(tf.cast(first, tf.int32), cells) + 2, inside - first

    column, across = place(tf.math.real(votes.points), width)
    row, down = place(tf.math.imag(votes.points), height)
    cells = (votes.keypoints * rows + row) * columns + column
    mass = votes.mass * (fields.stride**2 / (math.pi * radius**2))
    upper, lower = mass * (1.0 - down), mass * down
    corners = [
        (part * share, cells + shift)
        for part, below in ((upper, 0), (lower, columns))
        for share, shift in ((1.0 - across, below), (across, below + 1))
    ]
    shares, cells = (tf.concat(each, axis=0) for each in zip(*corners, strict=True))
    scores = tf.math.unsorted_segment_sum(shares, cells, count * rows * columns)
    return tf.reshape(scores, [count, rows, columns])[:, 2:-2, 2:-2]


@dataclass(frozen=True)
class BinnedVotes:
    """The votes near some points, sorted by keypoint, then by row of bins, then by bin.

    Attributes:
        points: (M,) complex64, mass: (M,) float32, as in `Votes`.
        starts: (K, rows, columns + 1) int32, the index of the first vote of every bin, and the end
            of the last bin of the row. Votes outside the frame are in the bins at its border.
    """

    points: tf.Tensor
    mass: tf.Tensor
    starts: tf.Tensor

    def sums(
        self, people: tf.Tensor, radius: float, weigh: Callable[..., list[tf.Tensor]]
    ) -> list[tf.Tensor]:
        """Sums (P, K) over the votes in the bins around every keypoint (P, K, 2).

        Args:
            people: NaN where not found; no farther from those that the votes were binned for than
                the margin that was given then.
            radius: the bins that a circle of this radius touches are looked at.
            weigh: gets the distances in x and y of votes from their keypoints, their mass and the
                indices of the keypoints in the flat (P * K,), (T,) each; gives what to add up.
        """
        shape = tf.shape(people)
        number, count = shape[0] * shape[1], people.shape[1]
        flat = tf.reshape(people, [-1, 2])
        found = tf.math.is_finite(flat[:, 0])
        flat = tf.where(found[:, None], flat, 0.0)
        rows, columns = tf.shape(self.starts)[1], tf.shape(self.starts)[2] - 1
        low, high = (_bins(flat + shift, tf.stack([columns, rows])) for shift in (-radius, radius))
        tall = math.floor(2 * radius / BIN_SIDE) + 2  # rows of bins that a circle can touch
        row = low[:, 1:] + tf.range(tall)
        touched = found[:, None] & (row <= high[:, 1:])
        keypoint = tf.tile(tf.range(count), [shape[0]])[:, None]
        line = (keypoint * rows + tf.minimum(row, rows - 1)) * (columns + 1)
        starts = tf.reshape(self.starts, [-1])
        first = tf.gather(starts, line + low[:, :1])
        last = tf.where(touched, tf.gather(starts, line + high[:, :1] + 1), first)
        # The votes of all ranges, one range after the other; a vote and its keypoint are the halves
        # of one number.
        flag = tf.range(tf.cast(number, tf.int64))[:, None] * _ABOVE_VOTES
        pairs = tf.raw_ops.RaggedRange(
            starts=tf.reshape(flag + tf.cast(first, tf.int64), [-1]),
            limits=tf.reshape(flag + tf.cast(last, tf.int64), [-1]),
            deltas=tf.constant(1, tf.int64),
        ).rt_dense_values
        vote, owner = tf.unstack(tf.bitcast(pairs, tf.int32), axis=1)
        centre = tf.bitcast(flat, tf.complex64)
        away = tf.gather(self.points, vote) - tf.gather(centre, owner)
        weighed = weigh(tf.math.real(away), tf.math.imag(away), tf.gather(self.mass, vote), owner)
        summed = (tf.math.segment_sum(each, owner) for each in weighed)  # up to the last owner
        return [
            tf.reshape(tf.pad(each, [[0, number - tf.size(each)]]), shape[:2]) for each in summed
        ]


_ABOVE_VOTES = 1 << 32


def bin_votes(votes: Votes, fields: Fields, people: tf.Tensor, margin: float) -> BinnedVotes:
    """The votes that land within about `margin` of one of the keypoints (P, K, 2), in bins.

    Args:
        votes: of all cells.
        fields: over whose frame the bins lie.
        people: NaN where not found.
        margin: largest distance in input pixels from a keypoint at which votes will be asked for.
    """
    count = fields.heatmaps.shape[2]
    columns, rows = (
        tf.cast(along // BIN_SIDE, tf.int32) + 1 for along in tf.unstack(fields.grid.last)
    )

    # The bins that somebody will ask for.
    reach = math.ceil(margin / BIN_SIDE)
    flat = tf.reshape(people, [-1, 2])
    keypoint = tf.tile(tf.range(count), [tf.shape(people)[0]])
    found = tf.math.is_finite(flat[:, 0])
    flat, keypoint = tf.boolean_mask(flat, found), tf.boolean_mask(keypoint, found)
    around = tf.range(-reach, reach + 1)
    near_columns = tf.clip_by_value(_bins(flat[:, :1], columns) + around, 0, columns - 1)
    near_rows = tf.clip_by_value(_bins(flat[:, 1:], rows) + around, 0, rows - 1)
    asked = (keypoint[:, None, None] * rows + near_rows[:, :, None]) * columns
    asked = tf.reshape(asked + near_columns[:, None, :], [-1])
    wanted = tf.math.unsorted_segment_sum(tf.ones_like(asked), asked, count * rows * columns)

    row, column = (
        _bins(tf.math.imag(votes.points), rows),
        _bins(tf.math.real(votes.points), columns),
    )
    bin_of = (votes.keypoints * rows + row) * columns + column
    part = tf.where(tf.gather(wanted, bin_of) > 0, votes.keypoints, count)
    kept = tf.concat(
        tf.dynamic_partition(tf.range(tf.size(bin_of)), part, count + 1)[:count], axis=0
    )
    bin_of = tf.gather(bin_of, kept)
    order = tf.argsort(bin_of, stable=True)
    kept = tf.gather(kept, order)
    # Starts within a row of bins by one product, exact below 2^24 votes: a running sum over all
    # bins takes four times as long.
    sizes = tf.reshape(
        tf.math.unsorted_segment_sum(
            tf.ones_like(bin_of, tf.float32), bin_of, count * rows * columns
        ),
        [count * rows, columns],
    )
    earlier = tf.linalg.band_part(tf.ones([columns, columns + 1]), 0, -1)
    earlier -= tf.eye(columns, columns + 1)
    within = tf.cast(tf.matmul(sizes, earlier), tf.int32)
    starts = within + tf.cumsum(within[:, -1:], exclusive=True)
    return BinnedVotes(
        tf.gather(votes.points, kept),
        tf.gather(votes.mass, kept),
        tf.reshape(starts, [count, rows, columns + 1]),
    )


def _bins(coordinates: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Bins of coordinates in input pixels along a side of so many bins; the nearest for those
    outside.
    """
    largest = tf.cast(number, tf.float32) - 0.5
    return tf.cast(tf.clip_by_value(coordinates * (1.0 / BIN_SIDE), 0.0, largest), tf.int32)
