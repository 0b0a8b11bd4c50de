"""Instance masks: every pixel of a person points at all of that person's keypoints, and goes to the
people whose keypoints it points at.

Papandreou et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder.compilation import compiled
from personlab_keras.decoder.embedding import NearCells, near_cells
from personlab_keras.decoder.fusion import FramedMaps
from personlab_keras.decoder.reading import Readings
from personlab_keras.method.maps import Maps

_OUT, _MIXED, _IN = 0, 1, 2
_GROUPS = 7  # of five bits: as many as a run of 32 bits can need


def find_masks(
    people: Readings, passes: Sequence[FramedMaps], maps: Sequence[Maps], options: DecodeConfig
) -> list[dict[str, Any] | None]:
    """A mask for every person: the pixels that show somebody and point at this person's keypoints.

    Distances and the logits of probabilities are known at the cells and interpolated bilinearly to
    the image before they are compared with their thresholds; between cells that agree nothing
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
    frame = passes[0].frame
    sizes = []
    for i, each in enumerate(maps):
        members = np.flatnonzero(people.sizes == i)
        if len(members) and each.long_offsets is not None and each.segmentation is not None:
            read = people[members].moved(passes[0], passes[i])
            sizes.append((members, _seen(read, passes[i], each, options)))
    owners = np.empty((0, 0), np.int16)
    if options.exclusive_masks:
        owners = np.full((frame.width, frame.height), np.int16(-1))
        nearest = np.full(owners.shape, np.float32(np.inf))
        for members, seen in sizes:
            _claim(members, seen, owners, nearest)
    masks: list[dict[str, Any] | None] = [None] * len(people)
    for members, seen in sizes:
        text, ends = _all_counts(members, seen, owners)
        counts, start = text.tobytes().decode("ascii"), 0
        for j, end in zip(members.tolist(), ends.tolist(), strict=True):
            masks[j] = {"size": [frame.height, frame.width], "counts": counts[start:end]}
            start = end
    return masks


class _Seen(NamedTuple):
    """What one size tells of the pixels of an image (H, W) by its maps (h, w).

    Attributes:
        near: the cells near each person of this size.
        logits: (w, h) float32 of the segmentation, cells by columns; the least one for cells that
            have nobody beside them.
        rows, columns: (H,), (W,) float64, the place of every row and column of pixels in the map.
        first_rows, first_columns: (h + 1,), (w + 1,) int64, the first row and column of pixels at
            or behind each of the map, and their ends.
        largest: float32, the distance of all cells that are not near.
        embedding_threshold: float32, the largest distance of a pixel in the mask.
        least_logit: float32, its least logit.
    """

    near: NearCells
    logits: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    first_rows: np.ndarray
    first_columns: np.ndarray
    largest: np.float32
    embedding_threshold: np.float32
    least_logit: np.float32


def _seen(people: Readings, framed: FramedMaps, maps: Maps, options: DecodeConfig) -> _Seen:
    assert maps.segmentation is not None
    threshold = np.float32(options.segmentation_threshold)
    # Beyond the threshold only the side matters. Uncut, a distance of many times t in a
    # neighbouring cell would pull the border towards the cell inside; cut at twice t, it lies
    # half-way.
    largest = np.float32(2 * options.embedding_threshold)
    segmentation = np.ascontiguousarray(maps.segmentation, np.float32)
    cells = _active_cells(segmentation, threshold)
    near = near_cells(
        maps,
        cells,
        people.own_keypoints,
        people.heat,
        people.scales,
        options.long_refinements,
        float(largest),
    )
    down, across = cells.T
    logits = np.full(segmentation.shape[::-1], _logits(np.float32(0)))
    logits[across, down] = _logits(segmentation[down, across])
    rows, columns = framed.frame.cells(maps.shape, maps.stride)
    first_rows, first_columns = (
        np.searchsorted(each, np.arange(count + 1))
        for each, count in zip((rows, columns), maps.shape, strict=True)
    )
    return _Seen(
        near,
        logits,
        rows,
        columns,
        first_rows,
        first_columns,
        largest,
        np.float32(options.embedding_threshold),
        _logits(threshold),
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
def _claim(members: np.ndarray, seen: _Seen, owners: np.ndarray, nearest: np.ndarray) -> None:
    """Gives the people of one size the pixels (W, H) of `owners` that are nearer to them than to
    all before, and records how near in `nearest`. A pixel that this size does not show is left to
    the others.

    Args:
        members: (M,) int64, which people they are.
    """
    for j in range(len(members)):
        (left, top), near, logits = _window(seen, j)
        width, height = near.shape
        distances, shown = np.empty(height), np.empty(height)
        for column in range(seen.first_columns[left], seen.first_columns[left + width]):
            _interpolate(near, seen.columns[column] - left, distances)
            _interpolate(logits, seen.columns[column] - left, shown)
            for i in range(height):
                verdict = _verdict(distances, shown, i, seen)
                if verdict == _OUT:
                    continue
                for row in range(seen.first_rows[top + i], seen.first_rows[top + i + 1]):
                    down = seen.rows[row] - (top + i)
                    distance = np.float32(_between(distances, i, down))
                    inside = verdict == _IN or (
                        distance <= seen.embedding_threshold
                        and _between(shown, i, down) >= seen.least_logit
                    )
                    if inside and distance < nearest[column, row]:
                        nearest[column, row] = distance
                        owners[column, row] = members[j]


@compiled
def _all_counts(
    members: np.ndarray, seen: _Seen, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The compressed run lengths of the masks of all people of one size, one after the other, as
    the bytes (N,) of a text; and where those of each person (M,) end.

    Args:
        members: (M,) int64, which people they are.
        owners: (W, H) int16, the only owner of each pixel; empty where pixels may be shared.
    """
    text, ends, n = np.empty(1024, np.uint8), np.empty(len(members), np.int64), 0
    for j in range(len(members)):
        edges = _edges(seen, j, members[j], owners)
        while len(text) < n + _GROUPS * (len(edges) + 1):
            text = np.concatenate((text, text))
        n = _compress(edges, len(seen.rows) * len(seen.columns), text, n)
        ends[j] = n
    return text[:n], ends


@compiled
def _edges(seen: _Seen, j: int, person: int, owners: np.ndarray) -> list[int]:
    """The pixels at which the runs of a mask begin and end, counted down the columns.

    Args:
        j: index of the person in `seen`, which is called `person` in `owners`.
    """
    (left, top), near, logits = _window(seen, j)
    width, height = near.shape
    distances, shown = np.empty(height), np.empty(height)
    edges = [0 for _ in range(0)]
    for column in range(seen.first_columns[left], seen.first_columns[left + width]):
        _interpolate(near, seen.columns[column] - left, distances)
        _interpolate(logits, seen.columns[column] - left, shown)
        start = column * len(seen.rows)
        inside = False
        for i in range(height):
            first, end = seen.first_rows[top + i], seen.first_rows[top + i + 1]
            verdict = _verdict(distances, shown, i, seen)
            if first == end:
                continue
            if verdict == _OUT or (verdict == _IN and not len(owners)):
                if inside != (verdict == _IN):
                    _add_edge(edges, start + first)
                    inside = not inside
                continue
            for row in range(first, end):
                own = verdict == _IN
                if not own:
                    down = seen.rows[row] - (top + i)
                    own = (
                        _between(distances, i, down) <= seen.embedding_threshold
                        and _between(shown, i, down) >= seen.least_logit
                    )
                if own and len(owners):
                    own = owners[column, row] == person
                if own != inside:
                    _add_edge(edges, start + row)
                    inside = own
        if inside:
            _add_edge(edges, start + seen.first_rows[top + height])
    return edges


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
def _window(seen: _Seen, j: int) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Distances and logits (w', h') of a person's cells from one before to one behind those within
    the threshold, and the column and row of the first; (0, 0) where there are none.

    In this window lies every pixel that is interpolated from one of the cells within.
    """
    own = slice(seen.near.starts[j], seen.near.starts[j + 1])
    cells, distances = seen.near.cells[own], seen.near.distances[own]
    left, top = seen.logits.shape
    right = bottom = -1
    for i in range(len(cells)):
        if distances[i] <= seen.embedding_threshold:
            row, column = cells[i]
            top, bottom = min(top, row), max(bottom, row)
            left, right = min(left, column), max(right, column)
    if bottom < 0:
        left = top = 0
        right = bottom = -2
    left, top = max(left - 1, 0), max(top - 1, 0)
    right, bottom = min(right + 2, seen.logits.shape[0]), min(bottom + 2, seen.logits.shape[1])
    near = np.full((right - left, bottom - top), seen.largest)
    for i in range(len(cells)):
        row, column = cells[i]
        if top <= row < bottom and left <= column < right:
            near[column - left, row - top] = distances[i]
    return (left, top), near, seen.logits[left:right, top:bottom]


@compiled
def _interpolate(values: np.ndarray, across: float, column: np.ndarray) -> None:
    """Fills in the values (h',) of a map (w', h') down a column of pixels."""
    j = int(across)
    beside, across = min(j + 1, len(values) - 1), across - j
    for i in range(len(column)):
        column[i] = values[j, i] * (1 - across) + values[beside, i] * across


@compiled
def _between(column: np.ndarray, i: int, down: float) -> float:
    """The value (h',) between a cell of a column and the next one."""
    return column[i] * (1 - down) + column[min(i + 1, len(column) - 1)] * down


@compiled
def _verdict(distances: np.ndarray, logits: np.ndarray, i: int, seen: _Seen) -> int:
    """Whether all pixels of a column between a cell and the next one are in the mask (_IN), none
    are (_OUT), or each has to be looked at (_MIXED).
    """
    below = min(i + 1, len(distances) - 1)
    # As float32, so that what lies between two values at the threshold is at the threshold too.
    close = np.float32(distances[i]) <= seen.embedding_threshold
    next_close = np.float32(distances[below]) <= seen.embedding_threshold
    shown = np.float32(logits[i]) >= seen.least_logit
    next_shown = np.float32(logits[below]) >= seen.least_logit
    if not (close or next_close) or not (shown or next_shown):
        return _OUT
    return _IN if close and next_close and shown and next_shown else _MIXED


@compiled
def _compress(edges: list[int], pixels: int, text: np.ndarray, n: int) -> int:
    """Writes run lengths to a text from its n-th byte on, as pycocotools does, and returns where
    they end: from the fourth on the difference to the one before the last, in groups of five bits,
    the lowest first; the sixth bit is set where more follow.

    Args:
        edges: where runs begin and end, ascending.
        pixels: of the image. The run at its end is left out where it is empty.
        text: (N,) uint8, with room for `_GROUPS` bytes of each run.
    """
    position = length = before = earlier = 0
    for i in range(len(edges) + 1):
        end = edges[i] if i < len(edges) else pixels
        if i == len(edges) and i and end == position:
            break
        length, before, earlier = end - position, length, before
        position = end
        rest = length - earlier if i > 2 else length
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != -1 if group & 16 else rest != 0
            text[n] = 48 + group + (32 if more else 0)
            n += 1
    return n
