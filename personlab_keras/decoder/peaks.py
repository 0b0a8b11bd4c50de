"""Local maxima of the Hough scores: the seeds of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Seeds:
    """Candidate keypoints, best first.

    Attributes:
        points: (N, 2) float64 (x, y) in input pixels.
        keypoints: (N,) int, which keypoint.
        scores: (N,) float64 Hough scores, descending.
    """

    points: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray


def find_peaks(hough: np.ndarray, stride: int, threshold: float) -> Seeds:
    """The local maxima of Hough scores (h, w, K), over all keypoints in one order.

    A peak is a cell above the threshold that none of its eight neighbours exceeds. Neighbouring cells of one height are one
    peak, at the first of them in reading order. Peaks of one score come by keypoint, then in reading order.
    """
    planes = np.pad(hough.transpose(2, 0, 1), ((0, 0), (1, 1), (1, 1)))
    keypoints, rows, columns = _first_of_each_plateau((planes == _window_maximum(planes)) & (planes > max(threshold, 0.0)))
    scores = planes[keypoints, rows, columns]
    order = np.argsort(-scores, kind="stable")
    keypoints, rows, columns = keypoints[order], rows[order], columns[order]
    return Seeds(_centroids(planes, keypoints, rows, columns) * stride, keypoints, scores[order])


def _window_maximum(planes: np.ndarray) -> np.ndarray:
    """The largest value in the 3x3 window of every cell but those of the margin, which stay zero."""
    across = np.maximum(np.maximum(planes[:, :, :-2], planes[:, :, 1:-1]), planes[:, :, 2:])
    best = np.zeros_like(planes)
    best[:, 1:-1, 1:-1] = np.maximum(np.maximum(across[:, :-2], across[:, 1:-1]), across[:, 2:])
    return best


def _first_of_each_plateau(candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (plane, row, column) of one cell of each group of touching candidates.

    Candidates that touch are of one height, as each is the maximum of a window that holds the other.
    """
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    labels, _ = ndimage.label(candidates, touching)
    cells = np.flatnonzero(candidates)
    _, first = np.unique(labels.reshape(-1)[cells], return_index=True)
    planes, rows, columns = np.unravel_index(np.sort(cells[first]), candidates.shape)
    return planes, rows, columns


def _centroids(planes: np.ndarray, keypoints: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, 2) cell coordinates (x, y), without the margin: the centre of mass of the scores in the window of each peak.

    The bilinear kernel keeps the first moment of a vote, so votes for one point are found at exactly that point.
    """
    step = np.array([-1, 0, 1])
    window = planes[keypoints[:, None, None], rows[:, None, None] + step[:, None], columns[:, None, None] + step]
    total = window.sum(axis=(1, 2))
    x = (window.sum(axis=1) * step).sum(axis=1) / total
    y = (window.sum(axis=2) * step).sum(axis=1) / total
    return np.stack([columns - 1 + x, rows - 1 + y], axis=-1)
