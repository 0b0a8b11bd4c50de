"""Instance masks: every pixel of a person points at all keypoints of that person, and is given to
those whom it points at.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage

from personlab_keras.decoder.sampling import step_along
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import encode_runs

_OUT, _MIXED, _IN = 0, 1, 2


def embed(maps: Maps, cells: np.ndarray, refinements: int) -> np.ndarray:
    """Where each of the cells believes its person's keypoints are: two guesses at each.

    The first is G_k(x) = x + L_k(x). The second is refined so many times by the long-range field
    and then by the short one: sharper, but where the keypoint is hidden these fields speak of
    whoever hides it.

    Args:
        maps: with long offsets.
        cells: (A, 2) int (row, column).
        refinements: steps of each kind.

    Returns:
        (A, K, 2, 2) float32: (x, y) of either guess in input pixels; NaN for none.
    """
    assert maps.long_offsets is not None
    long_offsets, short_offsets = (
        np.ascontiguousarray(field, np.float32) for field in (maps.long_offsets, maps.short_offsets)
    )
    return _embed(
        long_offsets, short_offsets, np.ascontiguousarray(cells, np.int64), maps.stride, refinements
    )


@njit(cache=True)
def _embed(
    long_offsets: np.ndarray,
    short_offsets: np.ndarray,
    cells: np.ndarray,
    stride: int,
    refinements: int,
) -> np.ndarray:
    count = long_offsets.shape[2]
    embedding = np.empty((len(cells), count, 2, 2), np.float32)
    for a in range(len(cells)):
        row, column = cells[a]
        for k in range(count):
            x = column * stride + np.float64(long_offsets[row, column, k, 0])
            y = row * stride + np.float64(long_offsets[row, column, k, 1])
            embedding[a, k, 0, 0], embedding[a, k, 0, 1] = x, y
            for _ in range(refinements):
                x, y = step_along(long_offsets, k, x, y, stride)
            for _ in range(refinements):
                x, y = step_along(short_offsets, k, x, y, stride)
            embedding[a, k, 1, 0], embedding[a, k, 1, 1] = x, y
    return embedding


def embedding_distances(
    embedding: np.ndarray, keypoints: np.ndarray, weights: np.ndarray, scale: float, largest: float
) -> np.ndarray:
    """D_ij of every cell to one person: the mean distance of its guesses from the person's
    keypoints, by the person's size.

    D_ij = 1 / (sum_k p_k(y_jk)) * sum_k p_k(y_jk) |G_k(x_i) - y_jk| / lambda_j, over the keypoints
    that were found, with the nearer of the two guesses at each.

    Args:
        embedding: (A, K, 2, 2) in input pixels.
        keypoints: (K, 2) in input pixels, NaN where not found.
        weights: (K,) p_k(y_jk).
        scale: lambda_j in input pixels.
        largest: distances are cut at this; cells that are surely farther are told at a fraction of
            the cost.

    Returns:
        (A,) float32, at most `largest`, which also stands where both guesses are unknown or all
        weights are zero.
    """
    found = np.flatnonzero(np.isfinite(keypoints).all(axis=-1) & (weights > 0))
    if not len(found):
        return np.full(len(embedding), largest, np.float32)
    found = found[
        np.argsort(-weights[found], kind="stable")
    ]  # those that weigh most tell soonest that a cell is too far
    shares = weights[found] / (weights[found].sum() * scale)
    return _distances(
        np.ascontiguousarray(embedding, np.float32), keypoints[found], found, shares, float(largest)
    )


@njit(cache=True)
def _distances(
    embedding: np.ndarray,
    keypoints: np.ndarray,
    channels: np.ndarray,
    shares: np.ndarray,
    largest: float,
) -> np.ndarray:
    distances = np.empty(len(embedding), np.float32)
    for a in range(len(embedding)):
        total = 0.0
        for i in range(len(channels)):
            nearer = np.inf
            for guess in range(2):
                x = embedding[a, channels[i], guess, 0] - keypoints[i, 0]
                y = embedding[a, channels[i], guess, 1] - keypoints[i, 1]
                square = x * x + y * y
                if square < nearer:  # which a guess that is unknown is not
                    nearer = square
            total += shares[i] * np.sqrt(nearer)
            if total >= largest:
                total = largest
                break
        distances[a] = total
    return distances


def find_masks(
    people: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    maps: Maps,
    frame: Frame,
    *,
    refinements: int,
    segmentation_threshold: float,
    embedding_threshold: float,
    exclusive: bool = False,
) -> list[dict[str, Any]]:
    """A mask for every person: the pixels that show somebody and point at this person's keypoints.

    Distances and the logits of probabilities are known at the cells and brought to the image's
    resolution bilinearly before they are compared with their thresholds; between four cells that
    agree nothing has to be interpolated. Logits, not probabilities: a network upsampled by itself
    would interpolate these, and a probability, which hardly changes far from one half, draws the
    border to the less certain side. Unless exclusive, a pixel may be owned by several people; it
    may always be owned by none.

    Args:
        people: (P, K, 2) in input pixels, NaN where not found.
        weights: (P, K) heatmap probability at the keypoints.
        scales: (P,) lambda_j in input pixels.
        maps: with long offsets and segmentation.
        frame: the image to find masks in.
        refinements: steps of refinement of the embedding by long offsets, then as many by short
            offsets.
        segmentation_threshold: least p_S of a pixel.
        embedding_threshold: t, largest D_ij of a pixel.
        exclusive: whether a pixel goes to the nearest person alone, of equal ones to the first.
            This takes six bytes per pixel of the image; else no memory is needed for pixels.

    Returns:
        P masks of the frame in COCO's compressed run-length form.
    """
    assert maps.segmentation is not None
    if not len(people):
        return []
    segmentation = np.ascontiguousarray(maps.segmentation, np.float32)
    # A pixel above the threshold has a cell above it among the four that it is interpolated from.
    active = ndimage.binary_dilation(segmentation >= segmentation_threshold, np.ones((3, 3), bool))
    embedding = embed(maps, np.argwhere(active), refinements)
    logits = _logits(segmentation)
    # Beyond the threshold only the side matters. Uncut, a distance of many times t in a
    # neighbouring cell would pull the border towards the cell inside; cut at twice t, it lies
    # half-way.
    largest = 2 * embedding_threshold
    rows, columns = frame.cells(maps.shape, maps.stride)

    def claims() -> Iterator[tuple[np.ndarray, tuple[int, int, int, int]]]:
        """Distances (h, w) of every person in turn, and the pixels (top, bottom, left, right)
        around those within the threshold.
        """
        for keypoints, weight, scale in zip(people, weights, scales, strict=True):
            near = np.full(maps.shape, largest, np.float32)
            near[active] = embedding_distances(embedding, keypoints, weight, scale, largest)
            yield near, _pixels_around(near <= embedding_threshold, rows, columns)

    thresholds = np.float32(embedding_threshold), _logits(np.float32(segmentation_threshold))
    owners, distances = np.zeros((0, 0), np.int16), np.zeros((0, 0), np.float32)
    if exclusive:
        owners = np.full((frame.height, frame.width), -1, np.int16)
        distances = np.full(owners.shape, np.inf, np.float32)
        for j, (near, box) in enumerate(claims()):
            _claim(near, rows, columns, box, thresholds[0], j, owners, distances)
    edges = [
        _edges(near, logits, rows, columns, box, *thresholds, j, owners)
        for j, (near, box) in enumerate(claims())
    ]
    return [encode_runs(each, frame.height, frame.width) for each in edges]


def _logits(probabilities: np.ndarray | np.floating) -> Any:
    """log(p / (1 - p)) as float32, cut where float32 no longer tells p from 1; so between 0 and 1
    one half lies half-way.
    """
    inside = np.clip(probabilities, 0, 1)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(inside) - np.log1p(-inside), -16, 16).astype(np.float32)


@njit(cache=True)
def _edges(
    near: np.ndarray,
    logits: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    box: tuple[int, int, int, int],
    embedding_threshold: float,
    logit_threshold: float,
    person: int,
    owners: np.ndarray,
) -> np.ndarray:
    """Where the mask of a person begins and ends, pixels counted down the columns; as `encode_runs`
    takes it.

    Args:
        near: (h, w) distances to the person.
        logits: (h, w) of the segmentation.
        rows, columns: place in the map of every row and column of the image.
        box: (top, bottom, left, right) pixels outside of which the mask is empty.
        embedding_threshold: as of `find_masks`.
        logit_threshold: least logit of a pixel.
        person: which one it is.
        owners: (H, W) who has each pixel alone; empty where pixels are shared.
    """
    top, bottom, left, right = box
    if top == bottom or left == right:
        return np.zeros(0, np.int64)
    cells = (
        int(rows[top]),
        int(rows[bottom - 1]) + 1,
        int(columns[left]),
        int(columns[right - 1]) + 1,
    )
    verdict = _verdicts(near, logits, cells, embedding_threshold, logit_threshold)
    edges = [0 for _ in range(0)]
    for column in range(left, right):
        first_column = int(columns[column])
        across = columns[column] - first_column
        inside = False
        for row in range(top, bottom):
            first_row = int(rows[row])
            known = verdict[first_row, first_column]
            own = known == _IN
            if known == _MIXED:
                down = rows[row] - first_row
                own = (
                    _between(near, first_row, first_column, down, across) <= embedding_threshold
                    and _between(logits, first_row, first_column, down, across) >= logit_threshold
                )
            if own and len(owners):
                own = owners[row, column] == person
            if own != inside:
                _add_edge(edges, column * len(rows) + row)
                inside = own
        if inside:
            _add_edge(edges, column * len(rows) + bottom)
    return np.array(edges, np.int64)


@njit(cache=True)
def _add_edge(edges: list[int], position: int) -> None:
    """Appends an edge. A mask that ends where it begins again, at the foot of one column and the
    head of the next, goes on.
    """
    if len(edges) and edges[-1] == position:
        edges.pop()
    else:
        edges.append(position)


@njit(cache=True)
def _verdicts(
    near: np.ndarray,
    logits: np.ndarray,
    cells: tuple[int, int, int, int],
    embedding_threshold: float,
    logit_threshold: float,
) -> np.ndarray:
    """(h, w) uint8: whether all pixels from a cell to the next ones down and right are in the mask,
    or none, or who knows.

    Only the cells (top, bottom, left, right) are looked at.
    """
    height, width = near.shape
    verdict = np.empty(near.shape, np.uint8)
    for row in range(cells[0], cells[1]):
        for column in range(cells[2], cells[3]):
            agree = refuse_near = refuse_logit = 0
            below, beside = min(row + 1, height - 1), min(column + 1, width - 1)
            for y, x in ((row, column), (row, beside), (below, column), (below, beside)):
                close, shown = near[y, x] <= embedding_threshold, logits[y, x] >= logit_threshold
                agree += close and shown
                refuse_near += not close
                refuse_logit += not shown
            if agree == 4:
                verdict[row, column] = _IN
            elif refuse_near == 4 or refuse_logit == 4:
                verdict[row, column] = _OUT
            else:
                verdict[row, column] = _MIXED
    return verdict


@njit(cache=True)
def _between(values: np.ndarray, row: int, column: int, down: float, across: float) -> float:
    """A map (h, w) bilinearly between a cell and the next ones; those that carry no weight are not
    read.
    """
    below, beside = row + (down > 0), column + (across > 0)
    upper = values[row, column] * (1 - across) + values[row, beside] * across
    lower = values[below, column] * (1 - across) + values[below, beside] * across
    return upper * (1 - down) + lower * down


@njit(cache=True)
def _claim(
    near: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    box: tuple[int, int, int, int],
    embedding_threshold: float,
    person: int,
    owners: np.ndarray,
    distances: np.ndarray,
) -> None:
    """Gives a person the pixels (H, W) of `owners` that are nearer to it than to those before, and
    says so in `distances`.
    """
    top, bottom, left, right = box
    for row in range(top, bottom):
        first_row = int(rows[row])
        for column in range(left, right):
            first_column = int(columns[column])
            distance = np.float32(
                _between(
                    near,
                    first_row,
                    first_column,
                    rows[row] - first_row,
                    columns[column] - first_column,
                )
            )
            if distance <= embedding_threshold and distance < distances[row, column]:
                distances[row, column] = distance
                owners[row, column] = person


def _pixels_around(
    inside: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels between the cells just outside those of a map that
    are true; empty where none is.

    Between them lies every pixel that is interpolated from one of the cells inside.
    """
    box: list[int] = []
    for axis, places in ((1, rows), (0, columns)):
        true = np.flatnonzero(inside.any(axis=axis))
        first, last = (int(true[0]) - 1, int(true[-1]) + 1) if len(true) else (0, 0)
        box += np.searchsorted(places, (first, last)).tolist()
    return box[0], box[1], box[2], box[3]
