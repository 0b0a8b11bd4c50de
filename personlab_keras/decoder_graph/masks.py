"""Instance masks; `decoder.masks` in TensorFlow, with COCO's compressed run lengths, which any
client can read.

The pixels between four cells that all belong to a person belong to the person, too, and those
between four that do not don't. Only the blocks of pixels at the border of a mask are looked at one
by one, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.embedding import embed, keypoint_shares, nearer_distances
from personlab_keras.decoder_graph.fields import Fields, Frame
from personlab_keras.decoder_graph.reading import Readings
from personlab_keras.decoder_graph.sampling import upsample

_GROUPS = 7  # of five bits: as many as a count of 32 bits can need


def find_masks(
    people: Readings, maps: Sequence[Fields], frames: Sequence[Frame], options: DecodeConfig
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The mask of every person in the pixels of an image; as `decoder.masks.find_masks`.

    Args:
        people: N of them, in the input pixels of the first size.
        maps, frames: of every size.
        options: as there.

    Returns:
        (N,) string: COCO's compressed run lengths, the "counts" of the run-length form.
        (N, 4) float32: [x, y, width, height] around the pixels of each mask, as `Person.box`; zeros
            where there are none.
        (N, h, w) bool: the masks at the cells of the first size, not exclusive.
    """
    sizes = [_Size(people, i, fields, frames, options) for i, fields in enumerate(maps)]
    owners = _owners(sizes, frames[0].size) if options.exclusive_masks else None
    edges = tf.concat([size.edges(owners) for size in sizes], axis=0)
    ends, owner, index = _runs(edges, tf.size(people.scales), frames[0].size)
    cells = [size.at_cells(maps[0].shape, frames[0]) for size in sizes]
    place = tf.argsort(tf.concat([size.members for size in sizes], axis=0))
    return (
        _compressed(ends, owner, index, tf.size(people.scales)),
        _boxes(ends, owner, index, tf.size(people.scales), frames[0].size[0]),
        tf.gather(tf.concat(cells, axis=0), place) if len(cells) > 1 else cells[0],
    )


class _Size:
    """The people of one size, and the blocks of pixels by which their masks are found.

    A block is the pixels between a cell and the next ones down and right. There are Q of them, each
    of one person, whose pixels have to be looked at, none with more than (T, U) pixels.

    Attributes:
        members: (M,) int32, which people they are.
        persons: (Q,) int32, whose block it is.
        firsts: (Q,) int32, the first pixel of each block, counted down the columns of the image.
        distances: (Q, T, U) float32, of the pixels of a block to the person; infinite for those
            that this size does not show, and beyond the block.
        inside: (Q, T, U) bool, which pixels may be the person's.
    """

    def __init__(
        self,
        people: Readings,
        index: int,
        fields: Fields,
        frames: Sequence[Frame],
        options: DecodeConfig,
    ) -> None:
        frame = frames[index]
        self._fields, self._frame = fields, frame
        self._threshold = options.embedding_threshold
        self._least = float(_numpy_logits(options.segmentation_threshold))
        self.members = tf.cast(tf.where(people.sizes == index)[:, 0], tf.int32)
        own = people if len(frames) == 1 else people.chosen(self.members)
        self._near = distances(own.moved(frames[0], frame), fields, options)  # (M, h, w)
        self._logits = _logits(fields.segmentation)
        (self._rows, down), (self._columns, across) = (
            _along(places, cells)
            for places, cells in zip(
                frame.cells(fields.shape, fields.stride), fields.shape, strict=True
            )
        )
        has_pixels = (self._rows[1:] > self._rows[:-1])[:, None] & (
            self._columns[1:] > self._columns[:-1]
        )
        close, shown = self._near <= self._threshold, self._logits >= self._least
        looked_at = _of_four(close, tf.logical_or) & _of_four(shown, tf.logical_or) & has_pixels
        self._whole = None  # (M, h, w): blocks that need no look
        if not options.exclusive_masks:
            self._whole = _of_four(close & shown, tf.logical_and) & has_pixels
            looked_at &= ~self._whole
        member, row, column = tf.unstack(tf.cast(tf.where(looked_at), tf.int32), axis=1)
        down, across = tf.gather(down, row)[:, :, None], tf.gather(across, column)[:, None, :]
        self.persons = tf.gather(self.members, member)
        self.firsts = tf.gather(self._columns, column) * frame.size[0] + tf.gather(self._rows, row)
        distance = self._between(self._near, member, row, column, down, across)
        logits = self._between(self._logits[None], tf.zeros_like(member), row, column, down, across)
        self.distances = tf.where(logits >= self._least, distance, np.inf)
        self.inside = self.distances <= self._threshold

    def pixels(self) -> tf.Tensor:
        """(Q, T, U) int32: the pixels of every block, counted down the columns of the image; beyond
        the block any others.
        """
        height, width = tf.unstack(self._frame.size)
        _, rows, columns = tf.unstack(tf.shape(self.inside))
        steps = tf.range(columns) * height + tf.range(rows)[:, None]
        return tf.minimum(self.firsts[:, None, None] + steps, height * width - 1)

    def edges(self, owners: tf.Tensor | None) -> tf.Tensor:
        """(E,) int64: where the masks of the members begin and end, block by block, as `_runs`
        takes them; with the owners (H * W,) of exclusive pixels.
        """
        height = self._frame.size[0]
        inside = self.inside
        if owners is not None:
            inside &= tf.gather(owners, self.pixels()) == self.persons[:, None, None]
        framed = tf.pad(inside, [[0, 0], [1, 1], [0, 0]])
        block, row, column = tf.unstack(
            tf.cast(tf.where(framed[:, 1:] != framed[:, :-1]), tf.int32), axis=1
        )
        positions = tf.gather(self.firsts, block) + column * height + row
        edges = [_keys(tf.gather(self.persons, block), positions, self._frame.size)]
        if self._whole is not None:
            framed = tf.pad(self._whole, [[0, 0], [1, 1], [0, 0]])
            member, row, column = tf.unstack(
                tf.cast(tf.where(framed[:, 1:] != framed[:, :-1]), tf.int32), axis=1
            )
            first, last = tf.gather(self._columns, column), tf.gather(self._columns, column + 1)
            across = first[:, None] + tf.range(
                tf.reduce_max(self._columns[1:] - self._columns[:-1])
            )
            positions = across * height + tf.gather(self._rows, row)[:, None]
            keys = _keys(tf.gather(self.members, member)[:, None], positions, self._frame.size)
            edges.append(tf.boolean_mask(keys, across < last[:, None]))
        return tf.concat(edges, axis=0)

    def at_cells(self, shape: tuple[tf.Tensor, tf.Tensor], first: Frame) -> tf.Tensor:
        """(M, h, w) bool: the masks at the cells of the first size."""
        near, logits = self._near, self._logits
        if self._frame is not first:
            cells = self._frame.cells_of(first, shape, self._fields.shape, self._fields.stride)
            near, logits = upsample(near, *cells), upsample(logits, *cells)
        return (near <= self._threshold) & (logits >= self._least)

    def _between(
        self,
        values: tf.Tensor,
        which: tf.Tensor,
        row: tf.Tensor,
        column: tf.Tensor,
        down: tf.Tensor,
        across: tf.Tensor,
    ) -> tf.Tensor:
        """(Q, T, U): maps (M, h, w), one of which for each block, at the pixels of blocks at cells
        (Q,), bilinearly at (Q, T, 1) and (Q, 1, U) beyond the cell.
        """
        height, width = self._fields.shape
        flat, line = tf.reshape(values, [-1]), which * height
        upper = (line + row) * width
        lower = (line + tf.minimum(row + 1, height - 1)) * width
        beside = tf.minimum(column + 1, width - 1)
        left, right = (
            top + (bottom - top) * down
            for top, bottom in (
                [tf.gather(flat, at + each)[:, None, None] for at in (upper, lower)]
                for each in (column, beside)
            )
        )
        return left + (right - left) * across


def distances(people: Readings, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """(M, h, w) float32: D_ij of every cell to every person, cut at twice the threshold; as
    `decoder.embedding.embedding_distances`.
    """
    assert fields.segmentation is not None
    height, width = fields.shape
    number = tf.shape(people.scales)[0]
    largest = tf.constant(2 * options.embedding_threshold, tf.float32)
    shown = (fields.segmentation >= options.segmentation_threshold) & (number > 0)
    # A pixel above the threshold has a cell above it among the four that it is interpolated from.
    for axis in (0, 1):
        framed = tf.pad(shown, [[1, 1], [0, 0]] if axis == 0 else [[0, 0], [1, 1]])
        before, after = (framed[:-2], framed[2:]) if axis == 0 else (framed[:, :-2], framed[:, 2:])
        shown |= before | after
    active = tf.where(shown)
    cells = tf.cast(active[:, ::-1], tf.float32) * fields.stride
    guesses = embed(fields, cells, options.long_refinements)  # (A, K, 2) each
    total = nearer_distances(
        guesses, people.own_keypoints[:, None], keypoint_shares(people)[:, None]
    )  # (M, A)
    near = tf.tensor_scatter_nd_update(
        tf.fill([height, width, number], largest),
        active,
        tf.transpose(tf.minimum(total, largest)),
    )
    return tf.transpose(near, [2, 0, 1])


def _owners(sizes: Sequence[_Size], size: tf.Tensor) -> tf.Tensor:
    """(H * W,) int32: the person nearest to every pixel, counted down the columns; of equal ones
    the first; above all persons for none.
    """
    total = tf.reduce_prod(size)
    pixels, persons, distance = (
        tf.concat(each, axis=0)
        for each in zip(
            *(
                (
                    tf.boolean_mask(of.pixels(), of.inside),
                    tf.gather(of.persons, tf.where(of.inside)[:, 0]),
                    tf.boolean_mask(of.distances, of.inside),
                )
                for of in sizes
            ),
            strict=True,
        )
    )
    nearest = tf.gather(tf.math.unsorted_segment_min(distance, pixels, total), pixels)
    first = distance <= nearest
    return tf.math.unsorted_segment_min(
        tf.boolean_mask(persons, first), tf.boolean_mask(pixels, first), total
    )


def _of_four(values: tf.Tensor, join: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Joins cells (..., h, w) with the next ones down and right; at the border with themselves."""
    values = join(values, tf.concat([values[..., 1:, :], values[..., -1:, :]], axis=-2))
    return join(values, tf.concat([values[..., 1:], values[..., -1:]], axis=-1))


def _along(places: tf.Tensor, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(cells + 1,) int32: the first of the rows or columns of an image, whose places in the map are
    given, that lies at or behind each cell, and the end; and (cells, T) float32: how far behind it
    these lie, NaN where a cell has fewer.
    """
    starts = tf.cast(tf.range(cells + 1), tf.float64)
    firsts = tf.searchsorted(places, starts)
    index = firsts[:-1, None] + tf.range(tf.reduce_max(firsts[1:] - firsts[:-1]))
    behind = tf.gather(places, tf.minimum(index, tf.size(places) - 1)) - starts[:-1, None]
    return firsts, tf.where(index < firsts[1:, None], tf.cast(behind, tf.float32), float("nan"))


def _keys(persons: tf.Tensor, positions: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Persons and pixels (int32), counted down the columns, in one number: by person, then by
    pixel. Each person has one number more than the image has pixels, for the end.
    """
    span = tf.reduce_prod(tf.cast(size, tf.int64)) + 1
    return tf.cast(persons, tf.int64) * span + tf.cast(positions, tf.int64)


def _runs(
    edges: tf.Tensor, count: tf.Tensor, size: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The runs of the masks of `count` people, in order: background, mask, background, ..., up to
    the end of the image.

    Args:
        edges: (E,) int64, as of `_keys`, where parts of masks begin and end, in any order; where
            one ends another may begin.
        count, size: of people; of the image.

    Returns:
        (R,) int64, the pixel behind each run; (R,) int32, whose it is; (R,) int32, its index among
        the runs of this person.
    """
    total = tf.reduce_prod(tf.cast(size, tf.int64))
    foot = tf.range(1, tf.cast(count, tf.int64) + 1) * (total + 1) - 1
    edges = tf.boolean_mask(edges, tf.math.floormod(edges + 1, total + 1) != 0)
    edges = tf.sort(tf.concat([edges, foot], axis=0))
    framed = tf.pad(edges, [[1, 1]], constant_values=-1)
    edges = tf.boolean_mask(edges, (edges != framed[:-2]) & (edges != framed[2:]))
    owner = edges // (total + 1)
    index = tf.range(tf.size(edges)) - tf.gather(
        tf.searchsorted(owner, tf.range(tf.cast(count, tf.int64))), owner
    )
    return edges - owner * (total + 1), tf.cast(owner, tf.int32), index


def _boxes(
    ends: tf.Tensor, owner: tf.Tensor, index: tf.Tensor, count: tf.Tensor, height: tf.Tensor
) -> tf.Tensor:
    """(N, 4) around the masks of runs as of `_runs`; zeros where they are empty."""
    mask = tf.where(index % 2 > 0)[:, 0]
    owner, height = tf.gather(owner, mask), tf.cast(height, tf.int64)
    first, last = tf.gather(ends, mask - 1), tf.gather(ends, mask) - 1
    left, right = first // height, last // height
    within = tf.equal(left, right)  # a run that goes on in the next column fills a side
    top = tf.where(within, first - left * height, 0)
    bottom = tf.where(within, last - right * height, height - 1)
    low = tf.math.unsorted_segment_min(tf.stack([left, top], axis=1), owner, count)
    high = tf.math.unsorted_segment_max(tf.stack([right, bottom], axis=1), owner, count)
    boxes = tf.concat([tf.cast(low, tf.float32) - 0.5, tf.cast(high - low + 1, tf.float32)], axis=1)
    return tf.where(low[:, :1] <= high[:, :1], boxes, 0.0)


def _logits(probabilities: tf.Tensor) -> tf.Tensor:
    """log(p / (1 - p)), cut where float32 no longer tells p from 1; as `decoder.masks`."""
    return tf.clip_by_value(tf.math.log(probabilities) - tf.math.log1p(-probabilities), -16.0, 16.0)


def _numpy_logits(probability: float) -> np.floating:
    with np.errstate(divide="ignore"):
        return np.clip(
            np.log(np.float32(probability)) - np.log1p(-np.float32(probability)), -16, 16
        )


def _compressed(ends: tf.Tensor, owner: tf.Tensor, index: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """(N,) string of the lengths of runs as of `_runs`, as pycocotools writes them: from the fourth
    on the difference to the one before the last, in groups of five bits, the lowest first; the
    sixth bit is set where more follow."""
    lengths = ends - tf.where(index > 0, tf.pad(ends, [[1, 0]])[:-1], 0)
    numbers = lengths - tf.where(index > 2, tf.pad(lengths, [[2, 0]])[:-2], 0)
    numbers = tf.bitwise.right_shift(numbers[:, None], 5 * tf.range(_GROUPS + 1, dtype=tf.int64))
    groups, rest = tf.bitwise.bitwise_and(numbers[:, :-1], 31), numbers[:, 1:]
    more = tf.cast(
        tf.not_equal(rest, tf.where(groups >= 16, tf.constant(-1, tf.int64), 0)), tf.int64
    )
    written = tf.math.cumprod(more, axis=1, exclusive=True)
    codes = tf.boolean_mask(48 + groups + 32 * more, written > 0)
    sizes = tf.math.unsorted_segment_sum(tf.reduce_sum(written, axis=1), owner, count)
    rows = tf.RaggedTensor.from_row_lengths(tf.cast(codes, tf.int32), sizes, validate=False)
    return tf.strings.unicode_encode(rows, "UTF-8")
