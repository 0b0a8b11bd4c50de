"""How good a person is: keypoint scores by Expected-OKS, instance scores by soft non-maximum suppression.

Papandreou et al. 2018, section 3.1, keypoint- and instance-level scoring. Beyond the paper: keypoints first settle among the votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from personlab_keras.decoder.voting import Votes

PAIRS_AT_ONCE = 1 << 20
"""Pairs of a keypoint and a vote that are looked at together: bounds the memory, not the result."""


def person_scales(people: np.ndarray, smallest_side: float) -> np.ndarray:
    """lambda_j, the square root of the area of the tight box around a person's keypoints, in input pixels.

    Args:
        people: (P, K, 2) with NaN where not found; every person has a keypoint.
        smallest_side: a box of one keypoint, or of keypoints on a line, has no area; its sides count as at least this.

    Returns:
        (P,) float64, positive.
    """
    if not len(people):
        return np.empty(0)
    sides = np.nanmax(people, axis=1) - np.nanmin(people, axis=1)
    return np.sqrt(np.maximum(sides, smallest_side).prod(axis=1))


def expected_oks(people: np.ndarray, scales: np.ndarray, votes: Votes, kappas: np.ndarray, radius: float) -> np.ndarray:
    """How well the votes around a keypoint agree on it, measured as COCO measures: E[exp(-d^2 / (2 lambda^2 kappa^2))].

    The paper takes the expectation over the Hough map in D_R(y), normalised there to sum 1. On a map of stride 8 each vote is
    spread over 8 pixels, more than kappa * lambda of a small person. Here it is taken over the votes themselves, where they
    land: the Hough map in the limit of a fine grid. Every vote that lands in D_R(y) counts, from wherever it was cast.

    Args:
        people: (P, K, 2) (x, y) in input pixels, NaN where not found.
        scales: (P,) lambda_j in input pixels.
        votes: of all cells.
        kappas: (K,) the constants of object keypoint similarity.
        radius: R in input pixels.

    Returns:
        (P, K) float64 in [0, 1]; 0 where the keypoint was not found or no vote lands near.
    """
    person, keypoint = np.nonzero(np.isfinite(people).all(axis=-1))
    points = people[person, keypoint]
    spreads = 2.0 * (scales[person] * kappas[keypoint]) ** 2
    agreement, mass = np.zeros(len(points)), np.zeros(len(points))
    for query, weights, _, squared in _nearby_votes(votes, points, keypoint, radius):
        mass += np.bincount(query, weights, minlength=len(points))
        agreement += np.bincount(query, weights * np.exp(-squared / spreads[query]), minlength=len(points))
    scores = np.zeros(people.shape[:2])
    scores[person, keypoint] = np.divide(agreement, mass, out=np.zeros_like(mass), where=mass > 0)
    return scores


def settle(people: np.ndarray, votes: Votes, steps: int, reach: float) -> np.ndarray:
    """The same people (P, K, 2), each keypoint moved to where the votes around it agree (mean shift).

    The walk ends where the field at one place points to. Many cells know better together: a step moves a keypoint to the mean of
    the votes within `reach`, each weighted by its probability and a Gaussian of half the reach. Where no vote lands, it stays.
    """
    person, keypoint = np.nonzero(np.isfinite(people).all(axis=-1))
    settled = people.copy()
    for _ in range(steps):
        points = settled[person, keypoint]
        pull, mass = np.zeros_like(points), np.zeros((len(points), 1))
        for query, weights, away, squared in _nearby_votes(votes, points, keypoint, reach):
            weights = weights * np.exp(-2.0 * squared / reach**2)
            mass[:, 0] += np.bincount(query, weights, minlength=len(points))
            for axis in (0, 1):
                pull[:, axis] += np.bincount(query, weights * away[:, axis], minlength=len(points))
        settled[person, keypoint] = points + np.divide(pull, mass, out=np.zeros_like(pull), where=mass > 0)
    return settled


def order_by_mean(keypoint_scores: np.ndarray) -> np.ndarray:
    """(P,) int: people by mean keypoint score, best first; of equal ones the earlier first."""
    return np.argsort(-keypoint_scores.mean(axis=1), kind="stable")


def soft_nms(people: np.ndarray, keypoint_scores: np.ndarray, radius: float, power: float) -> np.ndarray:
    """Score of each person: what its keypoints add that no better person shows yet.

    s_j = (1/K * sum_k s_jk^q [|y_jk - y_j'k| > r for every better j'])^(1/q).

    Args:
        people: (P, K, 2) in input pixels, best first, NaN where not found.
        keypoint_scores: (P, K), 0 where not found.
        radius: r in input pixels.
        power: q; 1 is the paper's mean. Above it, a few sure keypoints count for more than many doubtful ones.

    Returns:
        (P,) float64.
    """
    shown = np.zeros(keypoint_scores.shape, bool)
    x, y = np.moveaxis(people, -1, 0)
    for j in range(len(people)):
        shown[j] = ((x[:j] - x[j]) ** 2 + (y[:j] - y[j]) ** 2 <= radius**2).any(axis=0)
    return (np.where(shown, 0.0, keypoint_scores) ** power).mean(axis=1) ** (1.0 / power)


def _nearby_votes(
    votes: Votes, points: np.ndarray, keypoints: np.ndarray, radius: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of a point and a vote for its keypoint within the radius of it, some at a time.

    Yields:
        (M,) int which point; (M,) float64 the mass of the vote; (M, 2) from the point to the vote; (M,) the square of that length.
    """
    votes, starts, ends = _nearby_ranges(votes, points, keypoints, radius)
    for first, last in _batches((ends - starts).sum(axis=1)):
        query, vote = _expand(starts[first:last], ends[first:last])
        query += first
        away = votes.points[vote] - points[query]
        squared = away[:, 0] ** 2 + away[:, 1] ** 2
        inside = squared <= radius**2
        yield query[inside], votes.mass[vote[inside]].astype(np.float64), away[inside], squared[inside]


def _nearby_ranges(
    votes: Votes, points: np.ndarray, keypoints: np.ndarray, radius: float
) -> tuple[Votes, np.ndarray, np.ndarray]:
    """The votes sorted by bins of the image, and (N, 5) starts and ends of the ranges that hold all votes near each point.

    Bins are half a radius wide, so five rows of five bins cover a disc, and the five of one row are one range.
    """
    side = radius / 2
    if not len(points):
        return votes, np.zeros((0, 5), np.intp), np.zeros((0, 5), np.intp)
    origin = points.min(axis=0) - radius
    columns, rows = np.floor((points.max(axis=0) + radius - origin) / side).astype(np.intp) + 1
    place = (votes.points - origin) / side
    near = ((place >= 0) & (place < (columns, rows))).all(axis=1)
    place = place[near].astype(np.intp)
    bins = (votes.keypoints[near] * rows + place[:, 1]) * columns + place[:, 0]
    order = np.argsort(bins, kind="stable")
    nearby = np.flatnonzero(near)[order]
    votes = Votes(votes.points[nearby], votes.mass[nearby], votes.keypoints[nearby])
    before = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=(keypoints.max() + 1) * rows * columns))])

    place = ((points - origin) / side).astype(np.intp)
    row = place[:, 1, None] + np.arange(-2, 3)
    base = (keypoints[:, None] * rows + np.clip(row, 0, rows - 1)) * columns
    starts = before[base + np.maximum(place[:, 0, None] - 2, 0)]
    ends = before[base + np.minimum(place[:, 0, None] + 2, columns - 1) + 1]
    return votes, starts, np.where((row >= 0) & (row < rows), ends, starts)


def _batches(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Runs (first, last) of consecutive items, each of about `PAIRS_AT_ONCE` in sum or of one item."""
    batch = np.cumsum(sizes) // PAIRS_AT_ONCE
    edges = np.concatenate([[0], np.flatnonzero(np.diff(batch)) + 1, [len(sizes)]]).tolist()
    return list(pairwise(edges))


def _expand(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (row, item) with `item` in one of the ranges starts[row, n] .. ends[row, n]."""
    lengths = (ends - starts).reshape(-1)
    shift = starts.reshape(-1) - (np.cumsum(lengths) - lengths)
    return (
        np.repeat(np.arange(len(starts)), (ends - starts).sum(axis=1)),
        np.repeat(shift, lengths) + np.arange(lengths.sum()),
    )
