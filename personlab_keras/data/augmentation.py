"""Augmentation in tf.data, of examples in compact form: a view differs in every pass over the
records.

One affine map carries the image, the maps and the points together.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from personlab_keras.config import DataConfig
from personlab_keras.data.records import Meta
from personlab_keras.method.coordinates import grid
from personlab_keras.method.skeleton import Skeleton

Example = dict[str, tf.Tensor]


def random_augmentation(
    settings: DataConfig, meta: Meta, seed: int
) -> Callable[[tf.Tensor, Example], Example]:
    """A function (position in the stream, example) -> example, which flips with the set probability
    and recolours; with `data.online` it scales, rotates and moves first.
    """

    def augment(index: tf.Tensor, example: Example) -> Example:
        key = tf.stack([tf.cast(seed, tf.int64), index])
        random = tf.random.stateless_uniform([4], seed=key)
        if settings.online:
            placed = tf.random.stateless_uniform(
                [4], seed=tf.random.experimental.stateless_fold_in(key, 1)
            )
            example = warp(
                example, _random_affine(placed, settings, meta.view_size), meta, settings.pad_colour
            )
        mirrored = random[0] < settings.flip
        example = tf.cond(
            mirrored, lambda: flip(example, meta.skeleton, meta.view_size), lambda: example
        )
        brightness, contrast, saturation = (
            (2.0 * random[1 + i] - 1.0) * spread
            for i, spread in enumerate(
                (settings.brightness, settings.contrast, settings.saturation)
            )
        )
        image = recolour(example["image"], brightness, contrast, saturation)
        return {**example, "image": tf.ensure_shape(image, [meta.view_size, meta.view_size, 3])}

    return augment


def _random_affine(random: tf.Tensor, settings: DataConfig, side: int) -> tf.Tensor:
    """(2, 3): four numbers in [0, 1) -> scale, rotation and position as
    `data_prep.geometry.random_view` draws them for a square image.
    """
    low, high = settings.scale
    scale = low + (high - low) * random[0]
    angle = (2.0 * random[1] - 1.0) * settings.rotation * (3.14159265 / 180.0)
    turn = scale * tf.stack(
        [tf.stack([tf.cos(angle), -tf.sin(angle)]), tf.stack([tf.sin(angle), tf.cos(angle)])]
    )
    slack = side * (1.0 - scale)
    corner = tf.minimum(slack, 0.0) + tf.abs(slack) * random[2:4]
    middle = tf.fill([2], (side - 1) / 2.0)
    centre = corner + scale * side / 2.0 - 0.5
    return tf.concat([turn, (centre - tf.linalg.matvec(turn, middle))[:, None]], axis=1)


def warp(
    example: Example, affine: tf.Tensor, meta: Meta, pad_colour: tuple[int, int, int]
) -> Example:
    """The example under an affine map (2, 3) of pixels: the image is interpolated linearly, maps
    are read at the nearest cell, and discs are drawn again around the keypoints. The identity
    changes nothing.

    Keypoints that leave the view become unlabelled. Outside the previous view there is background,
    and nothing is ignored, as outside a photo.
    """
    side, cells = meta.view_size, meta.map_side
    inverse = tf.linalg.inv(tf.concat([affine, [[0.0, 0.0, 1.0]]], axis=0))[:2]
    image = _warped_image(tf.cast(example["image"], tf.float32), affine, pad_colour)
    points = tf.reshape(tf.constant(grid(cells, cells, meta.stride)), [-1, 2])
    nearest = tf.cast(tf.floor(_moved(points, inverse) / meta.stride + 0.5), tf.int32)
    inside = tf.reduce_all((nearest >= 0) & (nearest < cells), axis=1)
    source = tf.where(inside, nearest[:, 1] * cells + nearest[:, 0], 0)

    def read(values: tf.Tensor) -> tf.Tensor:
        there = tf.gather(tf.reshape(values, [-1]), source)
        return tf.reshape(tf.where(inside, there, tf.zeros_like(there)), [cells, cells])

    keypoints = _warped_keypoints(example["keypoints"], affine, side)
    boxes = example["person_boxes"]
    corners = tf.stack(
        [
            boxes[:, :2] + boxes[:, 2:] * tf.constant(c, tf.float32)
            for c in ((0, 0), (0, 1), (1, 0), (1, 1))
        ],
        axis=1,
    )
    corners = _moved(corners, affine)
    low, high = tf.reduce_min(corners, axis=1), tf.reduce_max(corners, axis=1)
    return {
        **example,
        "image": image,
        "keypoints": keypoints,
        # Compiled: one pass over the distances of all cells from all keypoints instead of one per
        # operation.
        "disc_owner": tf.function(
            lambda: disc_owners(keypoints, meta), jit_compile=True, autograph=False
        )(),
        "instance": read(example["instance"]),
        "ignore": read(example["ignore"]),
        "person_boxes": tf.concat([low, high - low], axis=1),
        "person_areas": example["person_areas"] * tf.abs(tf.linalg.det(affine[:, :2])),
    }


def _warped_image(
    image: tf.Tensor, affine: tf.Tensor, pad_colour: tuple[int, int, int]
) -> tf.Tensor:
    """(side, side, 3) float32 under an affine map, smoothed first where it shrinks, as
    `data_prep.geometry.warp_image` does it.
    """
    side = image.shape[0]
    pad = tf.constant(pad_colour, tf.float32)
    scale = tf.sqrt(tf.abs(tf.linalg.det(affine[:, :2])))
    reduced = tf.clip_by_value(tf.cast(tf.round(side * scale), tf.int32), 1, side)

    def shrunk() -> tf.Tensor:
        return tf.image.resize(image, tf.stack([reduced, reduced]), antialias=True)

    source = tf.cond(reduced < side, shrunk, lambda: image)
    # From pixels of the view to pixels of the source, by the half-pixel rule.
    part = tf.cast(reduced, tf.float32) / side
    inverse = tf.linalg.inv(tf.concat([affine, [[0.0, 0.0, 1.0]]], axis=0))[:2]
    inverse = part * inverse + tf.stack(
        [tf.zeros(2), tf.zeros(2), tf.fill([2], (part - 1.0) / 2.0)], 1
    )
    return (
        tf.raw_ops.ImageProjectiveTransformV3(
            images=(source - pad)[None],
            transforms=tf.concat([tf.reshape(inverse, [1, 6]), tf.zeros([1, 2])], axis=1),
            output_shape=[side, side],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )[0]
        + pad
    )


def _moved(points: tf.Tensor, affine: tf.Tensor) -> tf.Tensor:
    return tf.einsum("...j,ij->...i", points, affine[:, :2]) + affine[:, 2]


def _warped_keypoints(keypoints: tf.Tensor, affine: tf.Tensor, side: int) -> tf.Tensor:
    """(P, K, 3) [x, y, labelled] under an affine map; zero rows for keypoints that were unlabelled
    or leave the view.
    """
    moved = _moved(keypoints[..., :2], affine)
    kept = (keypoints[..., 2] > 0) & tf.reduce_all((moved >= -0.5) & (moved < side - 0.5), axis=-1)
    return tf.where(kept[..., None], tf.concat([moved, tf.ones_like(moved[..., :1])], axis=-1), 0.0)


def disc_owners(keypoints: tf.Tensor, meta: Meta) -> tf.Tensor:
    """(h, w, K) uint8 of keypoints (P, K, 3): `targets.disc_owners` in TensorFlow."""
    points = tf.constant(grid(meta.map_side, meta.map_side, meta.stride))[:, :, None, None]
    away = points - keypoints[..., :2]
    distance = tf.sqrt(tf.reduce_sum(away**2, axis=-1))  # (h, w, P, K)
    distance = tf.where((keypoints[..., 2] > 0) & (distance <= meta.radius), distance, float("inf"))
    owner = tf.cast(tf.argmin(distance, axis=2), tf.uint8) + tf.constant(1, tf.uint8)
    return tf.where(tf.reduce_min(distance, axis=2) <= meta.radius, owner, tf.zeros_like(owner))


def flip(example: Example, skeleton: Skeleton, view_size: int) -> Example:
    """The flipped example: columns reversed, points reflected, left and right keypoints exchanged.
    Flipping twice is the identity.

    Mid-range offsets follow by themselves, since they are expanded from the keypoints afterwards.
    """
    order = skeleton.flip_order
    points = tf.gather(example["keypoints"], order, axis=1)
    x, y, labelled = tf.unstack(points, axis=-1)
    # Unlabelled rows stay zero.
    mirrored = tf.where(labelled > 0, (view_size - 1) - x, x)
    boxes = example["person_boxes"]
    return {
        **example,
        "image": tf.reverse(example["image"], [1]),
        "keypoints": tf.stack([mirrored, y, labelled], axis=-1),
        "disc_owner": tf.gather(tf.reverse(example["disc_owner"], [1]), order, axis=2),
        "instance": tf.reverse(example["instance"], [1]),
        "ignore": tf.reverse(example["ignore"], [1]),
        "person_boxes": tf.stack(
            [(view_size - 1) - boxes[:, 0] - boxes[:, 2], boxes[:, 1], boxes[:, 2], boxes[:, 3]],
            axis=-1,
        ),
    }


def recolour(
    image: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    """The image (H, W, 3) in 0..255 with shifted brightness (share of 255), scaled contrast and
    saturation (shares); float32.

    Saturation pulls the channels from their mean, contrast the pixels from the mean of all: both
    are linear, so one product with a 3 x 3 matrix does them together.
    """
    pixels = tf.reshape(tf.cast(image, tf.float32), [-1, 3])
    matrix = (1.0 + contrast) * ((1.0 + saturation) * tf.eye(3) - saturation / 3.0)
    shift = brightness * 255.0 - contrast * tf.reduce_mean(pixels)
    return tf.clip_by_value(
        tf.reshape(tf.matmul(pixels, matrix) + shift, tf.shape(image)), 0.0, 255.0
    )
