"""Instance masks: every pixel of a person points at all of that person's keypoints, and goes to the
people whose keypoints it points at.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.embedding import embed, embedding_distances
from personlab_keras.decoder.sampling import between
from personlab_keras.method.frame import Frame
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import encode_runs

_OUT, _MIXED, _IN = 0, 1, 2


def find_masks(
    people: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    maps: Maps,
    frame: Frame,
    options: DecodeConfig,
) -> list[dict[str, Any]]:
    """A mask for every person: the pixels that show somebody and point at this person's keypoints.

    Distances and the logits of probabilities are known at the cells and interpolated bilinearly to
    the image before they are compared with their thresholds; between four cells that agree nothing
    needs interpolating. Logits rather than probabilities: that is what an upsampled network would
    interpolate, and a probability, which is flat far from one half, draws the border towards the
    less certain cell. Unless `options.exclusive_masks` is on, a pixel may belong to several people;
    it may always belong to nobody.

    Args:
        people: (P, K, 2) in input pixels, NaN where not found.
        weights: (P, K) heatmap probability at the keypoints.
        scales: (P,) lambda_j in input pixels.
        maps: with long offsets and segmentation.
        frame: the image to find masks in.
        options: `long_refinements`, `segmentation_threshold`, `embedding_threshold`, and
            `exclusive_masks`, by which a pixel goes to the nearest person alone, of equal ones to
            the first. This takes six bytes per pixel of the image; without it no memory is needed
            for pixels.

    Returns:
        P masks of the frame in COCO's compressed run-length form.
    """
    assert maps.segmentation is not None
    if not len(people):
        return []
    segmentation = np.ascontiguousarray(maps.segmentation, np.float32)
    # A pixel above the threshold has a cell above it among the four that it is interpolated from.
    active = ndimage.binary_dilation(
        segmentation >= options.segmentation_threshold, np.ones((3, 3), bool)
    )
    cells = np.argwhere(active)[:, ::-1] * maps.stride
    embedding = embed(maps, cells, options.long_refinements)
    logits = _logits(segmentation)
    # Beyond the threshold only the side matters. Uncut, a distance of many times t in a
    # neighbouring cell would pull the border towards the cell inside; cut at twice t, it lies
    # half-way.
    largest = 2 * options.embedding_threshold
    rows, columns = frame.cells(maps.shape, maps.stride)

    def claims() -> Iterator[tuple[np.ndarray, tuple[int, int, int, int]]]:
        """Distances (h, w) of every person in turn, and the pixels (top, bottom, left, right)
        around those within the threshold.
        """
        for keypoints, weight, scale in zip(people, weights, scales, strict=True):
            near = np.full(maps.shape, largest, np.float32)
            near[active] = embedding_distances(embedding, keypoints, weight, scale, largest)
            yield near, _pixels_around(near <= options.embedding_threshold, rows, columns)

    thresholds = (
        np.float32(options.embedding_threshold),
        _logits(np.float32(options.segmentation_threshold)),
    )
    owners, distances = np.zeros((0, 0), np.int16), np.zeros((0, 0), np.float32)
    if options.exclusive_masks:
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


@compiled
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
    """The pixels at which the runs of a person's mask begin and end, counted down the columns, as
    `encode_runs` takes them.

    Args:
        near: (h, w) distances to the person.
        logits: (h, w) of the segmentation.
        rows, columns: place in the map of every row and column of the image.
        box: (top, bottom, left, right) pixels outside of which the mask is empty.
        embedding_threshold: as of `find_masks`.
        logit_threshold: least logit of a pixel.
        person: index of the person.
        owners: (H, W) index of the only owner of each pixel; empty where pixels may be shared.
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
                    between(near, first_row, first_column, down, across) <= embedding_threshold
                    and between(logits, first_row, first_column, down, across) >= logit_threshold
                )
            if own and len(owners):
                own = owners[row, column] == person
            if own != inside:
                _add_edge(edges, column * len(rows) + row)
                inside = own
        if inside:
            _add_edge(edges, column * len(rows) + bottom)
    return np.array(edges, np.int64)


@compiled
def _add_edge(edges: list[int], position: int) -> None:
    """Appends an edge. A run that ends at the foot of one column and continues at the head of the
    next is one run.
    """
    if len(edges) and edges[-1] == position:
        edges.pop()
    else:
        edges.append(position)


@compiled
def _verdicts(
    near: np.ndarray,
    logits: np.ndarray,
    cells: tuple[int, int, int, int],
    embedding_threshold: float,
    logit_threshold: float,
) -> np.ndarray:
    """(h, w) uint8: whether all pixels between a cell and the next ones down and right are in the
    mask (_IN), none are (_OUT), or each has to be looked at (_MIXED).

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


@compiled
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
    """Gives a person those pixels (H, W) of `owners` that are nearer to it than to all before, and
    records how near in `distances`.
    """
    top, bottom, left, right = box
    for row in range(top, bottom):
        first_row = int(rows[row])
        for column in range(left, right):
            first_column = int(columns[column])
            distance = np.float32(
                between(
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
