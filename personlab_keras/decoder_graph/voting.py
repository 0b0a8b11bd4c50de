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
    """The votes of all cells for all keypoints: where they land, x and y (V,) in input pixels,
    their mass (V,), 0 for no vote, and the keypoint voted for (V,) int32.

    Coordinates lie apart from each other: sums over an axis of two are slow.
    """

    x: tf.Tensor
    y: tf.Tensor
    mass: tf.Tensor
    keypoints: tf.Tensor


def cast_votes(fields: Fields) -> Votes:
    """The votes of all cells; as `decoder.voting.cast_votes`."""
    cells = tf.where(fields.heatmaps >= FAINT_VOTE)
    points = tf.cast(cells[:, 2:0:-1] * fields.stride, tf.float32)
    points += tf.gather_nd(fields.short_offsets, cells)
    known = tf.reduce_all(tf.math.is_finite(points), axis=1)
    points = tf.where(known[:, None], points, NOWHERE)
    mass = tf.where(known, tf.gather_nd(fields.heatmaps, cells), 0.0)
    return Votes(points[:, 0], points[:, 1], mass, tf.cast(cells[:, 0], tf.int32))


def pool_votes(passes: Sequence[Fields]) -> Votes:
    """The votes of passes of one size; of n each vote weighs one n-th, as in
    `decoder.fusion.pool_votes`.
    """
    votes = [cast_votes(fields) for fields in passes]
    if len(votes) == 1:
        return votes[0]
    x, y, mass, keypoints = (
        tf.concat([getattr(each, name) for each in votes], axis=0)
        for name in ("x", "y", "mass", "keypoints")
    )
    return Votes(x, y, mass / len(votes), keypoints)


def votes_agree(fields: Fields) -> tf.Tensor:
    """() bool: whether votes tell neighbours apart, as `decoder.voting.vote_spread` finds it."""
    shown = fields.heatmaps >= 0.5
    pairs = agreeing = tf.constant(0)
    for one, other, step in (
        ((..., slice(None, -1)), (..., slice(1, None)), (fields.stride, 0)),
        (
            (..., slice(None, -1), slice(None)),
            (..., slice(1, None), slice(None)),
            (0, fields.stride),
        ),
    ):
        both = tf.where(shown[one] & shown[other])
        short = fields.short_offsets
        apart = (
            tf.gather_nd(short[(*other, slice(None))], both)
            - tf.gather_nd(short[(*one, slice(None))], both)
            + tf.constant(step, tf.float32)
        )
        near = tf.reduce_sum(apart * apart, axis=1) <= AGREEING_VOTES**2
        pairs += tf.size(near)
        agreeing += tf.reduce_sum(tf.cast(near, tf.int32))
    return 2 * agreeing > pairs


def hough_scores(votes: Votes, fields: Fields, radius: float) -> tf.Tensor:
    """Hough scores (K, h, w); as `decoder.voting.hough_scores`."""
    height, width = fields.shape
    count = fields.heatmaps.shape[0]
    # Two cells of margin take the votes that land outside, wherever that is.
    rows, columns = height + 4, width + 4

    def place(coordinate: tf.Tensor, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inside = tf.clip_by_value(
            coordinate / fields.stride, -2.0, tf.cast(cells, tf.float32) + 1.0
        )
        first = tf.floor(inside)
        return tf.minimum(tf.cast(first, tf.int32), cells) + 2, inside - first

    (column, across), (row, down) = place(votes.x, width), place(votes.y, height)
    cells = (votes.keypoints * rows + row) * columns + column
    mass = votes.mass * (fields.stride**2 / (math.pi * radius**2))
    upper, lower = mass * (1.0 - down), mass * down
    size = count * rows * columns
    scores = tf.add_n(
        [
            tf.math.unsorted_segment_sum(part * share, cells + shift, size)
            for part, below in ((upper, 0), (lower, columns))
            for share, shift in ((1.0 - across, below), (across, below + 1))
        ]
    )
    return tf.reshape(scores, [count, rows, columns])[:, 2:-2, 2:-2]


@dataclass(frozen=True)
class BinnedVotes:
    """The votes near some points, sorted by keypoint, then by row of bins, then by bin.

    Attributes:
        x, y, mass: (M,) as in `Votes`.
        starts: (K, rows, columns + 1) int32, the index of the first vote of every bin, and the end
            of the last bin of the row.
        origin: (2,) x and y of the corner of the first bin.
    """

    x: tf.Tensor
    y: tf.Tensor
    mass: tf.Tensor
    starts: tf.Tensor
    origin: tf.Tensor

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
        limits = tf.cast(tf.stack([columns, rows]), tf.float32)
        low = tf.floor((flat - radius - self.origin) / BIN_SIDE)
        high = tf.floor((flat + radius - self.origin) / BIN_SIDE) + 1.0
        low, high = (tf.cast(tf.clip_by_value(each, 0.0, limits), tf.int32) for each in (low, high))
        tall = math.floor(2 * radius / BIN_SIDE) + 2  # rows of bins that a circle can touch
        row = low[:, 1:] + tf.range(tall)
        touched = found[:, None] & (row < high[:, 1:])
        keypoint = tf.tile(tf.range(count), [shape[0]])[:, None]
        line = (keypoint * rows + tf.minimum(row, rows - 1)) * (columns + 1)
        starts = tf.reshape(self.starts, [-1])
        first = tf.gather(starts, line + low[:, :1])
        lengths = tf.where(touched, tf.gather(starts, line + high[:, :1]) - first, 0)
        some = tf.where(lengths > 0)
        owners = tf.cast(some[:, 0], tf.int32)
        first, lengths = tf.gather_nd(first, some), tf.gather_nd(lengths, some)
        ends = tf.cumsum(lengths)
        total = tf.reduce_sum(lengths)
        # The votes of all ranges, one range after the other.
        begins = tf.scatter_nd(
            (ends - lengths)[:, None], tf.ones_like(lengths), tf.reshape(total, [1])
        )
        of_range = tf.cumsum(begins) - 1
        index = tf.range(total) + tf.gather(first - ends + lengths, of_range)
        owner = tf.gather(owners, of_range)
        centre = tf.gather(flat, owner)
        away_x = tf.gather(self.x, index) - centre[:, 0]
        away_y = tf.gather(self.y, index) - centre[:, 1]
        return [
            tf.reshape(tf.math.unsorted_segment_sum(each, owner, number), shape[:2])
            for each in weigh(away_x, away_y, tf.gather(self.mass, index), owner)
        ]


def bin_votes(
    votes: Votes, fields: Fields, people: tf.Tensor, radius: float, margin: float
) -> BinnedVotes:
    """The votes that land within about `margin` of one of the keypoints (P, K, 2), in bins.

    Args:
        votes: of all cells.
        fields: whose frame they land around.
        people: NaN where not found.
        radius: R in input pixels. No keypoint is farther than this from the frame.
        margin: largest distance from a keypoint at which votes will be asked for.
    """
    height, width = fields.shape
    count = fields.heatmaps.shape[0]
    outside = radius + margin
    origin = tf.constant([-outside, -outside], tf.float32)

    def bins(cells: tf.Tensor) -> tf.Tensor:
        side = tf.cast((cells - 1) * fields.stride, tf.float32) + 2.0 * outside
        return tf.cast(side // BIN_SIDE, tf.int32) + 1

    rows, columns = bins(height), bins(width)

    def place(points: tf.Tensor, along: tf.Tensor) -> tf.Tensor:
        return tf.cast(
            tf.clip_by_value((points + outside) / BIN_SIDE, -1.0, tf.cast(along, tf.float32)),
            tf.int32,
        )

    # The bins that somebody will ask for.
    reach = math.ceil(margin / BIN_SIDE)
    flat = tf.reshape(people, [-1, 2])
    keypoint = tf.tile(tf.range(count), [tf.shape(people)[0]])
    found = tf.math.is_finite(flat[:, 0])
    flat, keypoint = tf.boolean_mask(flat, found), tf.boolean_mask(keypoint, found)
    column, row = place(flat[:, 0], columns), place(flat[:, 1], rows)
    around = tf.range(-reach, reach + 1)
    near_rows = tf.clip_by_value(row[:, None] + around, 0, rows - 1)
    near_columns = tf.clip_by_value(column[:, None] + around, 0, columns - 1)
    asked = (keypoint[:, None, None] * rows + near_rows[:, :, None]) * columns
    asked = tf.reshape(asked + near_columns[:, None, :], [-1])
    wanted = tf.scatter_nd(
        asked[:, None], tf.ones_like(asked), tf.reshape(count * rows * columns, [1])
    )

    column, row = place(votes.x, columns), place(votes.y, rows)
    inside = (votes.x >= -outside) & (votes.y >= -outside) & (column < columns) & (row < rows)
    inside &= votes.mass > 0
    bin_of = tf.where(inside, (votes.keypoints * rows + row) * columns + column, 0)
    kept = tf.where(inside & (tf.gather(wanted, bin_of) > 0))[:, 0]
    bin_of = tf.gather(bin_of, kept)
    order = tf.argsort(bin_of, stable=True)
    kept = tf.gather(kept, order)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(bin_of), bin_of, count * rows * columns)
    starts = tf.reshape(tf.cumsum(sizes, exclusive=True), [count, rows, columns])
    ends = starts[:, :, -1:] + tf.reshape(sizes, [count, rows, columns])[:, :, -1:]
    x, y, mass = (tf.gather(each, kept) for each in (votes.x, votes.y, votes.mass))
    return BinnedVotes(x, y, mass, tf.concat([starts, ends], axis=2), origin)
