"""Local maxima of the Hough scores; `decoder.peaks` in TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

SEEDS = 4096


@dataclass(frozen=True)
class Seeds:
    """`SEEDS` places for seeds, best first: points (S, 2) in input pixels, keypoints (S,), and
    whether the place is taken (S,).
    """

    points: tf.Tensor
    keypoints: tf.Tensor
    taken: tf.Tensor


def find_peaks(hough: tf.Tensor, stride: int, threshold: float) -> Seeds:
    """The local maxima of Hough scores (h, w, K); as `decoder.peaks.find_peaks`.

    Of a plateau of two cells the first is the peak. Larger ones, which no real map has, may give
    several seeds, of which the first person found explains the others.
    """
    hough = tf.transpose(
        hough, [2, 0, 1]
    )  # seeds of one score come by keypoint, then in reading order
    shape = tf.shape(hough)
    height, width = shape[1], shape[2]
    framed = tf.pad(hough, [[0, 0], [1, 1], [1, 1]])

    def neighbour(down: int, across: int) -> tf.Tensor:
        return framed[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]

    peak = hough > max(threshold, 0.0)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            if (down, across) < (0, 0):
                peak &= hough > neighbour(down, across)
            elif (down, across) > (0, 0):
                peak &= hough >= neighbour(down, across)
    scores = tf.reshape(tf.where(peak, hough, 0.0), [-1])
    scores, cells = tf.math.top_k(tf.pad(scores, [[0, SEEDS]]), SEEDS)
    taken = scores > 0
    cells = tf.where(taken, cells, 0)
    keypoints, cell = cells // (height * width), cells % (height * width)
    row, column = cell // width, cell % width
    total = across_sum = down_sum = 0.0
    flat = tf.reshape(framed, [-1])
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            around = (keypoints * (height + 2) + row + 1 + down) * (width + 2) + column + 1 + across
            value = tf.gather(flat, around)
            total += value
            across_sum += value * across
            down_sum += value * down
    total = tf.where(taken, total, 1.0)
    x = tf.cast(column, tf.float32) + across_sum / total
    y = tf.cast(row, tf.float32) + down_sum / total
    return Seeds(tf.stack([x, y], axis=-1) * stride, keypoints, taken)
