"""Instance masks; `decoder.masks` in TensorFlow, with COCO's compressed run lengths, which any
client can read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.embedding import embed, keypoint_shares, nearer_distances
from personlab_keras.decoder_graph.fields import Fields, Frame
from personlab_keras.decoder_graph.loops import for_each
from personlab_keras.decoder_graph.reading import Readings
from personlab_keras.decoder_graph.sampling import upsample

_CHARACTERS = [chr(48 + code) for code in range(64)]
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
    sizes = [
        _Size(people, i, fields, frames, maps[0].shape, options) for i, fields in enumerate(maps)
    ]
    owners = _owners(sizes, frames[0].size) if options.exclusive_masks else None
    parts = [size.masks(owners) for size in sizes]
    place = tf.argsort(tf.concat([size.members for size in sizes], axis=0))
    counts, boxes, cells = (
        tf.gather(tf.concat(each, axis=0), place) for each in zip(*parts, strict=True)
    )
    return counts, boxes, cells


class _Size:
    """The people of one size, and what their masks are found by.

    Attributes:
        members: (M,) int32, which people they are.
        near: (M, h, w) float32, distance of every cell to every member, cut at twice the threshold.
    """

    def __init__(
        self,
        people: Readings,
        index: int,
        fields: Fields,
        frames: Sequence[Frame],
        first_shape: tuple[tf.Tensor, tf.Tensor],
        options: DecodeConfig,
    ) -> None:
        frame = frames[index]
        self.threshold, self._size = options.embedding_threshold, frame.size
        self.members = tf.cast(tf.where(people.sizes == index)[:, 0], tf.int32)
        self.near = distances(people.chosen(self.members).moved(frames[0], frame), fields, options)
        self._logits = _logits(fields.segmentation)
        self._least = float(_numpy_logits(options.segmentation_threshold))
        self._rows, self._columns = frame.cells(fields.shape, fields.stride)
        self._cells = frame.cells_of(frames[0], first_shape, fields.shape, fields.stride)

    def masks(self, owners: tf.Tensor | None) -> list[tf.Tensor]:
        """As `find_masks`, of the members; with the owners (H, W) of exclusive pixels."""

        def of_member(j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            distance, (top, bottom, left, right) = self.pixels(j)
            mask = distance <= self.threshold
            if owners is not None:
                mask &= owners[top:bottom, left:right] == self.members[j]
            counts = _compressed(
                _edges(mask, top, left, self._size[0]),
                tf.reduce_prod(tf.cast(self._size, tf.int64)),
            )
            at_cells = upsample(self.near[j], *self._cells) <= self.threshold
            at_cells &= upsample(self._logits, *self._cells) >= self._least
            return counts, _box(mask, top, left), at_cells

        none = tf.zeros([tf.size(self._cells[0]), tf.size(self._cells[1])], tf.bool)
        return for_each(tf.size(self.members), of_member, (tf.constant(""), tf.zeros([4]), none))

    def pixels(self, j: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """The distances (h', w') of the pixels around a member, infinite for those that this size
        does not show, and the box (top, bottom, left, right) that they fill.
        """
        inside = self.near[j] <= self.threshold
        sides: list[tf.Tensor] = []
        for axis, places in ((1, self._rows), (0, self._columns)):
            true = tf.reduce_any(inside, axis=axis)
            cells = tf.range(tf.size(true))
            first = tf.reduce_min(tf.where(true, cells, tf.size(true))) - 1
            last = tf.reduce_max(tf.where(true, cells, -1)) + 1
            sides += tf.unstack(
                tf.searchsorted(places, tf.cast(tf.stack([first, last]), tf.float32))
            )
        top, bottom, left, right = sides
        rows, columns = self._rows[top:bottom], self._columns[left:right]
        distance = upsample(self.near[j], rows, columns)
        shown = upsample(self._logits, rows, columns) >= self._least
        return tf.where(shown, distance, np.inf), (
            top,
            tf.maximum(top, bottom),
            left,
            tf.maximum(left, right),
        )


def distances(people: Readings, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """(M, h, w) float32: D_ij of every cell to every person, cut at twice the threshold; as
    `decoder.embedding.embedding_distances`.
    """
    assert fields.segmentation is not None
    height, width = fields.shape
    largest = tf.constant(2 * options.embedding_threshold, tf.float32)
    shown = tf.cast(fields.segmentation >= options.segmentation_threshold, tf.float32)
    # A pixel above the threshold has a cell above it among the four that it is interpolated from.
    near_shown = tf.nn.max_pool2d(shown[None, :, :, None], 3, 1, "SAME")[0, :, :, 0]
    active = tf.where(near_shown > 0)
    cells = tf.cast(active[:, ::-1], tf.float32) * fields.stride
    guesses = embed(fields, cells, options.long_refinements)
    shares = keypoint_shares(people)
    nowhere = tf.fill([height, width], largest)

    def to_person(j: tf.Tensor) -> tuple[tf.Tensor]:
        total = nearer_distances(guesses, people.own_keypoints[j], shares[j])
        near = tf.tensor_scatter_nd_update(nowhere, active, tf.minimum(total, largest))
        return (near,)

    return for_each(tf.shape(people.scales)[0], to_person, (nowhere,))[0]


def _owners(sizes: Iterable[_Size], size: tf.Tensor) -> tf.Tensor:
    """(H, W) int32: the person nearest to every pixel, of equal ones the first; -1 for none."""
    owners, nearest = tf.fill(size, -1), tf.fill(size, np.float32(np.inf))
    for each in sizes:

        def claim(
            j: tf.Tensor, owners: tf.Tensor, nearest: tf.Tensor, each: _Size = each
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            distance, (top, bottom, left, right) = each.pixels(j)
            around = [[top, size[0] - bottom], [left, size[1] - right]]
            within = distance <= each.threshold
            distance = tf.pad(tf.where(within, distance, np.inf), around, constant_values=np.inf)
            nearer = distance < nearest
            owner = tf.where(nearer, each.members[j], owners)
            return j + 1, owner, tf.where(nearer, distance, nearest)

        _, owners, nearest = tf.while_loop(
            lambda j, *_, each=each: j < tf.size(each.members),
            claim,
            (tf.constant(0), owners, nearest),
        )
    return owners


def _box(mask: tf.Tensor, top: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """(4,) [x, y, width, height] around a mask (h', w') that lies at (top, left); zeros where it is
    empty.
    """
    rows, columns = (
        tf.cast(tf.where(tf.reduce_any(mask, axis=axis))[:, 0], tf.int32) for axis in (1, 0)
    )

    def around() -> tf.Tensor:
        corner = tf.cast(tf.stack([left + columns[0], top + rows[0]]), tf.float32) - 0.5
        return tf.concat(
            [
                corner,
                tf.cast(tf.stack([columns[-1] - columns[0], rows[-1] - rows[0]]) + 1, tf.float32),
            ],
            axis=0,
        )

    return tf.cond(tf.size(rows) > 0, around, lambda: tf.zeros([4]))


def _logits(probabilities: tf.Tensor) -> tf.Tensor:
    """log(p / (1 - p)), cut where float32 no longer tells p from 1; as `decoder.masks`."""
    return tf.clip_by_value(tf.math.log(probabilities) - tf.math.log1p(-probabilities), -16.0, 16.0)


def _numpy_logits(probability: float) -> np.floating:
    with np.errstate(divide="ignore"):
        return np.clip(
            np.log(np.float32(probability)) - np.log1p(-np.float32(probability)), -16, 16
        )


def _edges(mask: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    """(E,) int64: the pixels at which the runs of a mask (h', w') at (top, left) begin and end,
    counted down the columns of an image.
    """
    down = tf.cast(tf.transpose(tf.pad(mask, [[1, 1], [0, 0]])), tf.int32)
    changes = tf.where(down[:, 1:] != down[:, :-1])
    positions = (
        (changes[:, 0] + tf.cast(left, tf.int64)) * tf.cast(height, tf.int64)
        + changes[:, 1]
        + tf.cast(top, tf.int64)
    )
    # A run that ends at the foot of one column and continues at the head of the next is one run.
    same = positions[1:] == positions[:-1]
    doubled = tf.concat([same, [False]], axis=0) | tf.concat([[False], same], axis=0)
    return tf.boolean_mask(positions, ~doubled[: tf.size(positions)])


def _compressed(edges: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """() string of run lengths, as pycocotools writes them: from the third on the difference to the
    one before the last, in groups of five bits, the lowest first; the sixth bit is set where more
    follow."""
    ends = tf.concat([edges, tf.boolean_mask([size], [tf.reduce_all(edges[-1:] != size)])], axis=0)
    counts = ends - tf.concat([[tf.constant(0, tf.int64)], ends[:-1]], axis=0)
    earlier = tf.concat(
        [tf.zeros([tf.minimum(3, tf.size(counts))], tf.int64), counts[1:-2]], axis=0
    )
    numbers = (counts - earlier)[:, None]
    shifts = 5 * tf.range(_GROUPS, dtype=tf.int64)
    groups = tf.bitwise.bitwise_and(tf.bitwise.right_shift(numbers, shifts), 31)
    rest = tf.bitwise.right_shift(numbers, shifts + 5)
    more = tf.where(groups >= 16, rest != -1, rest != 0)
    written = tf.math.cumprod(tf.cast(more, tf.int32), axis=1, exclusive=True) > 0
    codes = tf.boolean_mask(groups + 32 * tf.cast(more, tf.int64), written)
    return tf.strings.reduce_join(tf.gather(_CHARACTERS, codes))
