"""Local maxima of the Hough scores; `decoder.peaks` in TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Seeds:
    """Candidate keypoints, best first: points (S, 2) in input pixels, keypoints (S,) int32."""

    points: tf.Tensor
    keypoints: tf.Tensor


def find_peaks(hough: tf.Tensor, stride: int, threshold: float) -> Seeds:
    """The local maxima of Hough scores (K, h, w); as `decoder.peaks.find_peaks`.

    Of a plateau of two cells the first is the peak. Larger ones, which no real map has, may give
    several seeds, of which the first person found explains the others.
    """
    shape = tf.shape(hough)
    columns = shape[2] + 2
    framed = tf.reshape(tf.pad(hough, [[0, 0], [1, 1], [1, 1]]), [-1])
    # Seeds of one score come by keypoint, then in reading order.
    cells = tf.cast(tf.where(hough > max(threshold, 0.0)), tf.int32)
    keypoints, row, column = cells[:, 0], cells[:, 1], cells[:, 2]
    corner = (keypoints * (shape[1] + 2) + row) * columns + column
    shifts = tf.reshape(tf.range(3)[:, None] * columns + tf.range(3), [-1])
    window = tf.gather(framed, corner[:, None] + shifts)
    centre = window[:, 4:5]
    peak = tf.reduce_all(window[:, :4] < centre, axis=1)
    peak &= tf.reduce_all(window[:, 5:] <= centre, axis=1)
    window, cells = tf.boolean_mask(window, peak), tf.boolean_mask(cells, peak)
    total = tf.reduce_sum(window, axis=1)
    away = [
        tf.linalg.matvec(window, tf.constant(weights, tf.float32)) / total
        for weights in ([-1, 0, 1] * 3, [-1] * 3 + [0] * 3 + [1] * 3)
    ]
    points = tf.cast(cells[:, 2:0:-1], tf.float32) + tf.stack(away, axis=1)
    order = tf.argsort(window[:, 4], direction="DESCENDING", stable=True)
    return Seeds(tf.gather(points, order) * stride, tf.gather(cells[:, 0], order))
