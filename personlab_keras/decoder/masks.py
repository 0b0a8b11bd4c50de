"""Instance masks: every pixel of a person points at all of that person's keypoints, and goes to the
people whose keypoints it points at.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.embedding import near_cells
from personlab_keras.decoder.fusion import FramedMaps
from personlab_keras.decoder.reading import Readings
from personlab_keras.decoder.sampling import between
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import encode_runs

_OUT, _MIXED, _IN = 0, 1, 2


def find_masks(
    people: Readings, passes: Sequence[FramedMaps], maps: Sequence[Maps], options: DecodeConfig
) -> list[dict[str, Any] | None]:
    """A mask for every person: the pixels that show somebody and point at this person's keypoints.

    Distances and the logits of probabilities are known at the cells and interpolated bilinearly to
    the image before they are compared with their thresholds; between four cells that agree nothing
    needs interpolating. Logits rather than probabilities: that is what an upsampled network would
    interpolate, and a probability, which is flat far from one half, draws the border towards the
    less certain cell. Unless `options.exclusive_masks` is on, a pixel may belong to several people;
    it may always belong to nobody.

    Args:
        people: of all sizes, in the input pixels of the first.
        passes: the first pass of every size, all over the image to find masks in.
        maps: of every size, those of its passes fused.
        options: `long_refinements`, `segmentation_threshold`, `embedding_threshold`, and
            `exclusive_masks`, by which a pixel goes to the nearest person alone, whatever the size
            at which that one was read, of equal ones to the first. This takes six bytes per pixel
            of the image; without it no memory is needed for pixels.

    Returns:
        The masks of the image in COCO's compressed run-length form; None for people of a size
        without long offsets or segmentation.
    """
    sizes = [
        _Size.of(people, i, passes, each, options)
        for i, each in enumerate(maps)
        if each.long_offsets is not None
        and each.segmentation is not None
        and (people.sizes == i).any()
    ]
    thresholds = (
        np.float32(options.embedding_threshold),
        _logits(np.float32(options.segmentation_threshold)),
    )
    frame = passes[0].frame
    owners = np.empty((0, 0), np.int16)
    if options.exclusive_masks:
        owners = np.full((frame.height, frame.width), np.int16(-1))
        nearest = np.full(owners.shape, np.float32(np.inf))
        for size in sizes:
            _claim_all(size.members, *size.fields, thresholds, owners, nearest)
    masks: list[dict[str, Any] | None] = [None] * len(people)
    for size in sizes:
        edges, ends = _all_edges(size.members, *size.fields, thresholds, owners)
        for j, each in zip(size.members, np.split(edges, ends[:-1]), strict=True):
            masks[j] = encode_runs(each, frame.height, frame.width)
    return masks


@dataclass(frozen=True)
class _Size:
    """The people of one size, and what their masks are found by.

    Attributes:
        members: (M,) int64, which people they are.
        fields: arguments of `_all_edges`.
    """

    members: np.ndarray
    fields: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        people: Readings,
        index: int,
        passes: Sequence[FramedMaps],
        maps: Maps,
        options: DecodeConfig,
    ) -> _Size:
        """Those read at the size of this index."""
        assert maps.segmentation is not None
        members = np.flatnonzero(people.sizes == index)
        read = people[members].moved(passes[0], passes[index])
        segmentation = np.ascontiguousarray(maps.segmentation, np.float32)
        # Beyond the threshold only the side matters. Uncut, a distance of many times t in a
        # neighbouring cell would pull the border towards the cell inside; cut at twice t, it lies
        # half-way.
        largest = 2 * options.embedding_threshold
        near = near_cells(
            maps,
            _active_cells(segmentation, options.segmentation_threshold),
            read.own_keypoints,
            read.heat,
            read.scales,
            options.long_refinements,
            largest,
        )
        rows, columns = passes[index].frame.cells(maps.shape, maps.stride)
        firsts = (
            np.searchsorted(each, np.arange(cells + 1))
            for each, cells in zip((rows, columns), maps.shape, strict=True)
        )
        return cls(
            members,
            (
                (near.starts, near.cells, near.distances),
                _logits(segmentation),
                (rows, columns, *firsts),
                np.float32(largest),
            ),
        )


def _logits(probabilities: np.ndarray | np.floating) -> Any:
    """log(p / (1 - p)) as float32, cut where float32 no longer tells p from 1; so between 0 and 1
    one half lies half-way.
    """
    inside = np.clip(probabilities, 0, 1)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(inside) - np.log1p(-inside), -16, 16).astype(np.float32)


@compiled
def _active_cells(segmentation: np.ndarray, threshold: float) -> np.ndarray:
    """(A, 2) int64: row and column of the cells that are shown or have a neighbour that is.

    A pixel above the threshold has a cell above it among the four that it is interpolated from.
    """
    height, width = segmentation.shape
    active = np.zeros(segmentation.shape, np.bool_)
    for row in range(height):
        for column in range(width):
            if segmentation[row, column] >= threshold:
                active[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    cells = np.empty((np.count_nonzero(active), 2), np.int64)
    n = 0
    for row in range(height):
        for column in range(width):
            if active[row, column]:
                cells[n] = row, column
                n += 1
    return cells


@compiled
def _claim_all(
    members: np.ndarray,
    near_cells: tuple[np.ndarray, np.ndarray, np.ndarray],
    logits: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    largest: float,
    thresholds: tuple[float, float],
    owners: np.ndarray,
    nearest: np.ndarray,
) -> None:
    """Gives the people of one size the pixels (H, W) of `owners` that are nearer to them than to
    all before, and records how near in `nearest`. Arguments as of `_all_edges`.
    """
    starts, cells, distances = near_cells
    for j in range(len(members)):
        own = slice(starts[j], starts[j + 1])
        corner, near = _window(cells[own], distances[own], logits.shape, largest, thresholds[0])
        part = _part(logits, corner, near)
        _claim(corner, near, part, places, thresholds, members[j], owners, nearest)


@compiled
def _all_edges(
    members: np.ndarray,
    near_cells: tuple[np.ndarray, np.ndarray, np.ndarray],
    logits: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    largest: float,
    thresholds: tuple[float, float],
    owners: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels at which the runs of every mask of one size begin and end, counted down the
    columns, as `encode_runs` takes them, one person after the other; and where those of each person
    end.

    Args:
        members: (M,) int64, which people they are.
        near_cells: as of `NearCells`.
        logits: (h, w) of the segmentation.
        places: of every row and column of the image the place in the map; and of every row and
            column of cells the first row and column of the image that lies there, and the end.
        largest: the distance of all other cells.
        thresholds: largest distance and least logit of a pixel.
        owners: (H, W) int16, the only owner of each pixel; empty where pixels may be shared.
    """
    starts, cells, distances = near_cells
    edges = [0 for _ in range(0)]
    ends = np.empty(len(members), np.int64)
    for j in range(len(members)):
        own = slice(starts[j], starts[j + 1])
        corner, near = _window(cells[own], distances[own], logits.shape, largest, thresholds[0])
        first = len(edges)
        _add_edges(edges, first, corner, near, logits, places, thresholds, members[j], owners)
        ends[j] = len(edges)
    return np.array(edges, np.int64), ends


@compiled
def _window(
    cells: np.ndarray,
    distances: np.ndarray,
    shape: tuple[int, int],
    largest: float,
    threshold: float,
) -> tuple[tuple[int, int], np.ndarray]:
    """The distances (h', w') of a person's cells from one before to one behind those within the
    threshold, and the row and column of the first; (0, 0) where there are none.

    In this window lies every pixel that is interpolated from one of the cells within."""
    top, left = shape
    bottom = right = -1
    for i in range(len(cells)):
        if distances[i] <= threshold:
            row, column = cells[i]
            top, bottom = min(top, row), max(bottom, row)
            left, right = min(left, column), max(right, column)
    if bottom < 0:
        return (0, 0), np.empty((0, 0), np.float32)
    top, left = max(top - 1, 0), max(left - 1, 0)
    bottom, right = min(bottom + 2, shape[0]), min(right + 2, shape[1])
    near = np.full((bottom - top, right - left), np.float32(largest))
    for i in range(len(cells)):
        row, column = cells[i]
        if top <= row < bottom and left <= column < right:
            near[row - top, column - left] = distances[i]
    return (top, left), near


@compiled
def _part(values: np.ndarray, corner: tuple[int, int], window: np.ndarray) -> np.ndarray:
    """The part of a map (h, w) that lies in a window (h', w') with this corner."""
    top, left = corner
    return values[top : top + window.shape[0], left : left + window.shape[1]]


@compiled
def _add_edges(
    edges: list[int],
    first: int,
    corner: tuple[int, int],
    near: np.ndarray,
    logits: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    thresholds: tuple[float, float],
    person: int,
    owners: np.ndarray,
) -> None:
    """Appends the edges of one person, which begin at index `first`.

    Args:
        corner, near: as of `_window`.
        person: index of the person.
        owners: (H, W) index of the only owner of each pixel; empty where pixels may be shared.
    """
    rows, columns, first_rows, first_columns = places
    logits = _part(logits, corner, near)
    verdicts = _verdicts(near, logits, thresholds)
    for j in range(near.shape[1]):
        for column in range(first_columns[corner[1] + j], first_columns[corner[1] + j + 1]):
            across = columns[column] - (corner[1] + j)
            start = column * len(rows)
            inside = False
            bottom = 0
            for i in range(near.shape[0]):
                top, bottom = first_rows[corner[0] + i], first_rows[corner[0] + i + 1]
                verdict = verdicts[i, j]
                if top == bottom:
                    continue
                if verdict == _OUT or (verdict == _IN and not len(owners)):
                    if inside != (verdict == _IN):
                        _add_edge(edges, first, start + top)
                        inside = not inside
                    continue
                for row in range(top, bottom):
                    own = verdict == _IN
                    if not own:
                        down = rows[row] - (corner[0] + i)
                        own = (
                            between(near, i, j, down, across) <= thresholds[0]
                            and between(logits, i, j, down, across) >= thresholds[1]
                        )
                    if own and len(owners):
                        own = owners[row, column] == person
                    if own != inside:
                        _add_edge(edges, first, start + row)
                        inside = own
            if inside:
                _add_edge(edges, first, start + bottom)


@compiled
def _add_edge(edges: list[int], first: int, position: int) -> None:
    """Appends an edge. A run that ends at the foot of one column and continues at the head of the
    next is one run.
    """
    if len(edges) > first and edges[-1] == position:
        edges.pop()
    else:
        edges.append(position)


@compiled
def _verdicts(near: np.ndarray, logits: np.ndarray, thresholds: tuple[float, float]) -> np.ndarray:
    """(h', w') uint8: whether all pixels between a cell and the next ones down and right are in the
    mask (_IN), none are (_OUT), or each has to be looked at (_MIXED).
    """
    height, width = near.shape
    verdict = np.empty(near.shape, np.uint8)
    for row in range(height):
        for column in range(width):
            agree = refuse_near = refuse_logit = 0
            below, beside = min(row + 1, height - 1), min(column + 1, width - 1)
            for y, x in ((row, column), (row, beside), (below, column), (below, beside)):
                close, shown = near[y, x] <= thresholds[0], logits[y, x] >= thresholds[1]
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
    corner: tuple[int, int],
    near: np.ndarray,
    logits: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    thresholds: tuple[float, float],
    person: int,
    owners: np.ndarray,
    nearest: np.ndarray,
) -> None:
    """Gives a person those pixels (H, W) of `owners` that are nearer to it than to all before, and
    records how near in `nearest`. A pixel that this size does not show is left to the others.
    """
    verdicts = _verdicts(near, logits, thresholds)
    rows, columns, first_rows, first_columns = places
    for i in range(near.shape[0]):
        for row in range(first_rows[corner[0] + i], first_rows[corner[0] + i + 1]):
            down = rows[row] - (corner[0] + i)
            for j in range(near.shape[1]):
                if verdicts[i, j] == _OUT:
                    continue
                for column in range(first_columns[corner[1] + j], first_columns[corner[1] + j + 1]):
                    across = columns[column] - (corner[1] + j)
                    distance = np.float32(between(near, i, j, down, across))
                    shown = (
                        verdicts[i, j] == _IN
                        or between(logits, i, j, down, across) >= thresholds[1]
                    )
                    if shown and distance <= thresholds[0] and distance < nearest[row, column]:
                        nearest[row, column] = distance
                        owners[row, column] = person
