"""Local maxima of the Hough scores: the seeds of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personlab_keras.decoder.compilation import compiled


@dataclass(frozen=True)
class Seeds:
    """Candidate keypoints, best first.

    Attributes:
        points: (N, 2) float64 (x, y) in input pixels.
        keypoints: (N,) int64, which keypoint.
        scores: (N,) float64 Hough scores, descending.
        spread: how near in input pixels the vote of a cell has to land for the cell to count where
            a seed is followed; 0 where all cells count (`voting.vote_spread`).
    """

    points: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    spread: float = 0.0


def find_peaks(hough: np.ndarray, stride: int, threshold: float) -> Seeds:
    """The local maxima of Hough scores (h, w, K), over all keypoints in one order.

    A peak is a cell above the threshold that none of its eight neighbours exceeds. Neighbouring
    cells of one height are one peak, at the first of them in reading order. Peaks of one score come
    by keypoint, then in reading order.

    The point of a peak is the centre of mass of the scores in the 3x3 window around it: the
    bilinear kernel keeps the first moment of a vote, so votes for one point are found at exactly
    that point."""
    cells, keypoints, scores = _peaks(np.ascontiguousarray(hough, np.float64), max(threshold, 0.0))
    order = np.argsort(-scores, kind="stable")
    return Seeds(cells[order] * stride, keypoints[order], scores[order])


@compiled
def _peaks(hough: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (N, 2) (x, y) in cells, keypoints and scores of the peaks, by keypoint, then in
    reading order.
    """
    height, width, count = hough.shape
    found = np.zeros(hough.shape, np.bool_)
    places = [(0, 0, 0) for _ in range(0)]
    for row in range(height):
        for column in range(width):
            for keypoint in range(count):
                if (
                    hough[row, column, keypoint] > threshold
                    and not found[row, column, keypoint]
                    and _is_peak(hough, row, column, keypoint)
                ):
                    places.append((keypoint, row, column))
                    _mark_plateau(hough, found, row, column, keypoint)
    places.sort()
    cells, keypoints, scores = (
        np.empty((len(places), 2)),
        np.empty(len(places), np.int64),
        np.empty(len(places)),
    )
    for i, (keypoint, row, column) in enumerate(places):
        keypoints[i], scores[i] = keypoint, hough[row, column, keypoint]
        total = across = down = 0.0
        for y in range(max(row - 1, 0), min(row + 2, height)):
            for x in range(max(column - 1, 0), min(column + 2, width)):
                total += hough[y, x, keypoint]
                across += hough[y, x, keypoint] * (x - column)
                down += hough[y, x, keypoint] * (y - row)
        cells[i, 0], cells[i, 1] = column + across / total, row + down / total
    return cells, keypoints, scores


@compiled
def _is_peak(hough: np.ndarray, row: int, column: int, keypoint: int) -> bool:
    height, width, _ = hough.shape
    for y in range(max(row - 1, 0), min(row + 2, height)):
        for x in range(max(column - 1, 0), min(column + 2, width)):
            if hough[y, x, keypoint] > hough[row, column, keypoint]:
                return False
    return True


@compiled
def _mark_plateau(
    hough: np.ndarray, found: np.ndarray, row: int, column: int, keypoint: int
) -> None:
    """Marks a peak and all peaks of its height that touch it, directly or through others."""
    height, width, _ = hough.shape
    found[row, column, keypoint] = True
    touched = [(row, column)]
    while touched:
        middle, centre = touched.pop()
        for y in range(max(middle - 1, 0), min(middle + 2, height)):
            for x in range(max(centre - 1, 0), min(centre + 2, width)):
                same = (
                    hough[y, x, keypoint] == hough[row, column, keypoint]
                    and not found[y, x, keypoint]
                )
                if same and _is_peak(hough, y, x, keypoint):
                    found[y, x, keypoint] = True
                    touched.append((y, x))
