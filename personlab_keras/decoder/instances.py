"""How good a person is: keypoint scores by Expected-OKS, instance scores by soft non-maximum
suppression.

Papandreou et al. 2018, section 3.1, keypoint- and instance-level scoring. Beyond the paper:
keypoints first move by mean shift to where the votes around them agree."""

from __future__ import annotations

import numpy as np

from personlab_keras.config import VOTE_FADE
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.voting import BinnedVotes

_LARGEST_EXPONENT = 40.0
"""Beyond it exp(-x) is lost beside the weight of any vote that counts."""


def person_scales(people: np.ndarray, smallest_side: float) -> np.ndarray:
    """lambda_j, the square root of the area of the tight box around a person's keypoints, in input
    pixels.

    Args:
        people: (P, K, 2) with NaN where not found; every person has a keypoint.
        smallest_side: a box of one keypoint, or of keypoints on a line, has no area; its sides
            count as at least this.

    Returns:
        (P,) float64, positive.
    """
    sides = np.fmax.reduce(people, axis=1) - np.fmin.reduce(people, axis=1)
    return np.sqrt(np.maximum(sides, smallest_side).prod(axis=1))


def expected_oks(
    people: np.ndarray, scales: np.ndarray, votes: BinnedVotes, kappas: np.ndarray, radius: float
) -> np.ndarray:
    """How well the votes around a keypoint agree on it, measured as COCO measures: E[exp(-d^2 / (2
    lambda^2 kappa^2))].

    The paper takes the expectation over the Hough map in D_R(y), normalised there to sum 1. On a
    map of stride 8 each vote is spread over 8 pixels, more than kappa * lambda of a small person.
    Here it is taken over the votes themselves, where they land: the Hough map in the limit of a
    fine grid. Every vote that lands in D_R(y) counts, from wherever it was cast; over the last
    `VOTE_FADE` pixels before R its weight falls to 0, so that rounding cannot decide about it.

    Args:
        people: (P, K, 2) (x, y) in input pixels, NaN where not found.
        scales: (P,) lambda_j in input pixels.
        votes: of all cells, in bins.
        kappas: (K,) the constants of object keypoint similarity.
        radius: R in input pixels.

    Returns:
        (P, K) float64 in [0, 1]; 0 where the keypoint was not found or no vote lands near.
    """
    spreads = 2.0 * (scales[:, None] * kappas) ** 2
    return _agreements(people, spreads, votes, radius)


@compiled
def _agreements(
    people: np.ndarray, spreads: np.ndarray, votes: BinnedVotes, radius: float
) -> np.ndarray:
    agreements = np.zeros(people.shape[:2])
    for j in range(people.shape[0]):
        for k in range(people.shape[1]):
            x, y = people[j, k]
            total, agreeing, _, _ = _around(x, y, spreads[j, k], votes, k, radius)
            if total > 0:
                agreements[j, k] = agreeing / total
    return agreements


def mean_shift(people: np.ndarray, votes: BinnedVotes, steps: int, reach: float) -> np.ndarray:
    """The same people (P, K, 2), each keypoint moved to where the votes around it agree (mean
    shift).

    The walk ends where the field at one point leads; the votes of many cells are more precise. A
    step moves a keypoint to the mean of the votes within `reach` input pixels, each weighted by its
    probability and a Gaussian with a standard deviation of half the reach. Where no vote lands, the
    keypoint stays."""
    return _shift(people, steps, votes, float(reach))


@compiled
def _shift(people: np.ndarray, steps: int, votes: BinnedVotes, reach: float) -> np.ndarray:
    shifted = people.copy()
    for j in range(people.shape[0]):
        for k in range(people.shape[1]):
            for _ in range(steps):
                x, y = shifted[j, k]
                _, weight, across, down = _around(x, y, reach**2 / 2.0, votes, k, reach)
                if weight > 0:
                    shifted[j, k, 0] += across / weight
                    shifted[j, k, 1] += down / weight
    return shifted


@compiled
def _around(
    x: float,
    y: float,
    spread: float,
    votes: BinnedVotes,
    keypoint: int,
    radius: float,
) -> tuple[float, float, float, float]:
    """Of the votes for a keypoint within a radius of a point, fading over the last `VOTE_FADE`
    pixels: the mass; the mass weighted by exp(-d^2 / spread), d the distance; and, weighted so, the
    sums of their distances in x and in y. Zeros where the point is NaN.
    """
    total = weighted = across = down = 0.0
    if np.isnan(x) or np.isnan(y):
        return total, weighted, across, down
    fading = max(radius - VOTE_FADE, 0.0) ** 2
    points, mass, starts = votes.points, votes.mass, votes.starts[keypoint]
    top, bottom = _bins(y, radius, votes.origin, votes.side, starts.shape[0])
    left, right = _bins(x, radius, votes.origin, votes.side, starts.shape[1] - 1)
    for row in range(top, bottom):
        for i in range(starts[row, left], starts[row, right]):
            away_x, away_y = points[i, 0] - x, points[i, 1] - y
            squared = away_x**2 + away_y**2
            if squared < radius**2:
                vote = np.float64(mass[i])
                if squared > fading:
                    vote *= min(1.0, (radius - np.sqrt(squared)) / VOTE_FADE)
                total += vote
                exponent = squared / spread
                if exponent < _LARGEST_EXPONENT:
                    weight = vote * np.exp(-exponent)
                    weighted += weight
                    across += weight * away_x
                    down += weight * away_y
    return total, weighted, across, down


@compiled
def _bins(
    coordinate: float, radius: float, origin: float, side: float, count: int
) -> tuple[int, int]:
    """The first of `count` bins within a radius along one side, and the one after the last."""
    first, last = (
        np.floor((coordinate - radius - origin) / side),
        np.floor((coordinate + radius - origin) / side),
    )
    return int(min(max(first, 0.0), count)), int(min(max(last + 1, 0.0), count))


def best_first(scores: np.ndarray) -> np.ndarray:
    """(P,) int: the order of people by score; of equal ones the earlier first."""
    return np.argsort(-scores, kind="stable")


def person_scores(keypoint_scores: np.ndarray, power: float) -> np.ndarray:
    """(P,): s_j = (1/K * sum_k s_jk^q)^(1/q) of the scores that soft-NMS leaves.

    Args:
        keypoint_scores: (P, K).
        power: q; 1 is the paper's mean. Above it, a few sure keypoints count for more than many
            doubtful ones.
    """
    return (keypoint_scores**power).mean(axis=1) ** (1.0 / power)


@compiled
def suppressed_by_better(people: np.ndarray, radius: float) -> np.ndarray:
    """(P, K) bool: keypoints of people (P, K, 2), best first, in input pixels, within the radius of
    a better person's, which soft-NMS leaves out of the score: s_jk [|y_jk - y_j'k| > r for every
    better j'].
    """
    suppressed = np.zeros(people.shape[:2], np.bool_)
    for j in range(people.shape[0]):
        for k in range(people.shape[1]):
            for better in range(j):
                x, y = (
                    people[better, k, 0] - people[j, k, 0],
                    people[better, k, 1] - people[j, k, 1],
                )
                if x**2 + y**2 <= radius**2:
                    suppressed[j, k] = True
                    break
    return suppressed
