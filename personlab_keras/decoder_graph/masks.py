"""Instance masks; `decoder.masks` in TensorFlow, with COCO's compressed run lengths, which any
client can read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder_graph.embedding import embed, nearer_distances
from personlab_keras.decoder_graph.fields import Fields
from personlab_keras.decoder_graph.loops import for_each
from personlab_keras.decoder_graph.poses import Poses
from personlab_keras.decoder_graph.sampling import cell_points, upsample

_CHARACTERS = [chr(48 + code) for code in range(64)]
_GROUPS = 7  # of five bits: as many as a count of 32 bits can need


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the network's input: network point = image point * scale + offset; as
    `method.frame.Frame`.

    Attributes:
        size: (2,) int32, height and width in pixels.
        scale: (2,) float64 (sx, sy), network pixels per image pixel.
        offset: (2,) float64 in network pixels.
    """

    size: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor

    def to_image(self, points: tf.Tensor) -> tf.Tensor:
        """Points (..., 2) of the network's frame in this image."""
        return tf.cast((tf.cast(points, tf.float64) - self.offset) / self.scale, tf.float32)

    def cells(self, shape: tf.Tensor, stride: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and column (float32) in a map of shape (h, w) of every row and column of the image;
        pixels beyond the map's frame are moved to its border.
        """

        def along(axis: int) -> tf.Tensor:
            pixels = (
                tf.cast(tf.range(self.size[1 - axis]), tf.float64) * self.scale[axis]
                + self.offset[axis]
            )
            last = tf.cast(shape[1 - axis] - 1, tf.float64)
            return tf.cast(tf.clip_by_value(pixels / stride, tf.zeros_like(last), last), tf.float32)

        return along(1), along(0)


def distances(poses: Poses, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """(N, h, w) float32: D_ij of every cell to every person, cut at twice the threshold; as
    `decoder.embedding.embedding_distances`.
    """
    assert fields.long_offsets is not None
    shape = tf.shape(fields.heatmaps)
    largest = 2 * options.embedding_threshold
    cells = cell_points(shape[0], shape[1], fields.stride)
    guesses = embed(fields, cells, options.long_refinements)

    def to_person(j: tf.Tensor) -> tuple[tf.Tensor]:
        keypoints, weights = poses.own_keypoints[j], poses.heat[j]
        used = tf.math.is_finite(keypoints[:, 0]) & (weights > 0)
        weights = tf.where(used, weights, 0.0)
        # Only the channels of found keypoints matter, but their number is unknown in the graph.
        shares = weights / (tf.maximum(tf.reduce_sum(weights), 1e-12) * poses.scales[j])
        total = nearer_distances(guesses, keypoints, shares)
        return (tf.where(tf.reduce_any(used), tf.minimum(total, largest), largest),)

    return for_each(
        poses.count, poses.keypoints.shape[0], to_person, (tf.fill(shape[:2], largest),)
    )[0]


def cell_masks(near: tf.Tensor, fields: Fields, options: DecodeConfig) -> tf.Tensor:
    """(N, h, w) bool: every person's mask at the cells, from their distances; not exclusive."""
    assert fields.segmentation is not None
    return (near <= options.embedding_threshold) & (
        fields.segmentation >= options.segmentation_threshold
    )


def image_masks(
    near: tf.Tensor, poses: Poses, fields: Fields, frame: Frame, options: DecodeConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mask of every person in the pixels of an image; as `decoder.masks.find_masks`.

    Returns:
        (N,) string: COCO's compressed run lengths, the "counts" of the run-length form; empty in
            free places.
        (N, 4) float32: [x, y, width, height] around the pixels of each mask, as `Person.box`; zeros
            where there are none.
    """
    logits = _logits(fields.segmentation)
    least = float(_numpy_logits(options.segmentation_threshold))
    rows, columns = frame.cells(tf.shape(logits), fields.stride)
    height = frame.size[0]

    def box(j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Pixels (top, bottom, left, right) around those within the threshold."""
        inside = near[j] <= options.embedding_threshold
        sides = []
        for axis, places in ((1, rows), (0, columns)):
            true = tf.where(tf.reduce_any(inside, axis=axis))[:, 0]
            first = tf.cond(
                tf.size(true) > 0, lambda true=true: true[0] - 1, lambda: tf.constant(0, tf.int64)
            )
            last = tf.cond(
                tf.size(true) > 0, lambda true=true: true[-1] + 1, lambda: tf.constant(0, tf.int64)
            )
            sides += tf.unstack(
                tf.searchsorted(places, tf.cast(tf.stack([first, last]), tf.float32))
            )
        return sides[0], sides[1], sides[2], sides[3]

    def person_pixels(j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]]:
        """Of the pixels in a box around a person: whether the distance is within the threshold
        (h', w'), the distance, and the box.
        """
        top, bottom, left, right = box(j)
        distance = upsample(near[j], rows[top:bottom], columns[left:right])
        return distance <= options.embedding_threshold, distance, (top, bottom, left, right)

    owners = tf.fill([0, 0], -1)
    if options.exclusive_masks:
        owners = _owners(person_pixels, poses.count, frame.size)

    def of_person(j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mask, _, (top, bottom, left, right) = person_pixels(j)
        mask &= upsample(logits, rows[top:bottom], columns[left:right]) >= least
        if options.exclusive_masks:
            mask &= owners[top:bottom, left:right] == j
        counts = _compressed(
            _edges(mask, top, left, height), tf.reduce_prod(tf.cast(frame.size, tf.int64))
        )
        return counts, _box(mask, top, left)

    counts, boxes = for_each(
        poses.count, poses.keypoints.shape[0], of_person, (tf.constant(""), tf.zeros([4]))
    )
    return counts, boxes


def _owners(
    person_pixels: Callable[[tf.Tensor], tuple], count: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    """(H, W) int32: the person nearest to every pixel, of equal ones the first; -1 for none."""

    def claim(
        j: tf.Tensor, owners: tf.Tensor, nearest: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        within, distance, (top, bottom, left, right) = person_pixels(j)
        around = [[top, size[0] - bottom], [left, size[1] - right]]
        distance = tf.pad(tf.where(within, distance, np.inf), around, constant_values=np.inf)
        nearer = distance < nearest
        return j + 1, tf.where(nearer, j, owners), tf.where(nearer, distance, nearest)

    nobody = (tf.constant(0), tf.fill(size, -1), tf.fill(size, np.float32(np.inf)))
    return tf.while_loop(lambda j, *_: j < count, claim, nobody)[1]


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
