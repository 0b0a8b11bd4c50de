"""Augmentation in tf.data, of examples in compact form: a view differs in every pass over the
records.

One affine map carries the image, the maps and the points together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from personlab_keras.config import DataConfig
from personlab_keras.data.geometry import warp_photo
from personlab_keras.data.photos import NEAR_UNIT, PHOTO_ARRAYS
from personlab_keras.data.records import Meta
from personlab_keras.method.coordinates import grid
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.method.targets import IGNORE_CROWD, IGNORE_MASKLESS, IGNORE_UNANNOTATED

Example = dict[str, tf.Tensor]


def random_augmentation(
    settings: DataConfig, meta: Meta, seed: int
) -> Callable[[tf.Tensor, Example], Example]:
    """A function (position in the stream, example) -> example, which flips with the set probability
    and recolours; of a photo it takes a view at random scale, rotation and position first.
    """
    recolours = any((settings.brightness, settings.contrast, settings.saturation))

    def augment(index: tf.Tensor, example: Example) -> Example:
        key = tf.stack([tf.cast(seed, tf.int64), index])
        random = tf.random.stateless_uniform([4], seed=key)
        if meta.online:
            placed = tf.random.stateless_uniform(
                [4], seed=tf.random.experimental.stateless_fold_in(key, 1)
            )
            affine = _random_affine(placed, settings, meta.view_size, example["photo_extent"])
            example = view_of_photo(example, affine, meta, settings.pad_colour)
        mirrored = random[0] < settings.flip
        example = tf.cond(
            mirrored, lambda: flip(example, meta.skeleton, meta.view_size), lambda: example
        )
        image = tf.cast(example["image"], tf.float32)
        if recolours:
            brightness, contrast, saturation = (
                (2.0 * random[1 + i] - 1.0) * spread
                for i, spread in enumerate(
                    (settings.brightness, settings.contrast, settings.saturation)
                )
            )
            image = recolour(example["image"], brightness, contrast, saturation)
        return {**example, "image": tf.ensure_shape(image, [meta.view_size, meta.view_size, 3])}

    return augment


def _random_affine(
    random: tf.Tensor, settings: DataConfig, side: int, extent: tf.Tensor
) -> tf.Tensor:
    """(2, 3) float32, from pixels of view 0: four numbers in [0, 1) -> scale, rotation and position
    as `geometry.random_view` draws them.

    Args:
        extent: (2,) float64, width and height of the photo in view 0.
    """
    low, high = settings.scale
    scale = low + (high - low) * random[0]
    angle = (2.0 * random[1] - 1.0) * settings.rotation * (3.14159265 / 180.0)
    turn = scale * tf.stack(
        [tf.stack([tf.cos(angle), -tf.sin(angle)]), tf.stack([tf.sin(angle), tf.cos(angle)])]
    )
    extent = tf.cast(extent, tf.float32)
    slack = side - scale * extent
    corner = tf.minimum(slack, 0.0) + tf.abs(slack) * random[2:4]
    middle = (extent - 1.0) / 2.0
    centre = corner + scale * extent / 2.0 - 0.5
    return tf.concat([turn, (centre - tf.linalg.matvec(turn, middle))[:, None]], axis=1)


def whole_view(example: Example, meta: Meta) -> Example:
    """View 0 of a photo, whose targets the record holds."""
    image = _warped_photo(example, tf.eye(2, 3), meta, meta.pad_colour)
    return {**_without_photo(example), "image": image}


def view_of_photo(
    example: Example, affine: tf.Tensor, meta: Meta, pad_colour: tuple[int, int, int]
) -> Example:
    """The view that `data_prep` would bake of a photo by the same map: its pixels to a level or
    two, its targets but for cells on the border between two pixels.

    Keypoints outside the view are unlabelled. Outside the photo there is background, and nothing is
    ignored unless people in the photo are missing from its annotations.

    Args:
        example: with a photo (H, W, 3) uint8 as its image.
        affine: (2, 3) float32, pixel of view 0 -> pixel of the view.
    """
    side, cells = meta.view_size, meta.map_side
    inverse = tf.linalg.inv(tf.concat([affine, [[0.0, 0.0, 1.0]]], axis=0))[:2]
    # Cells are points: each is read at the pixel of the photo that it lies in.
    points = _moved(tf.reshape(tf.constant(grid(cells, cells, meta.stride)), [-1, 2]), inverse)
    size = tf.reverse(example["photo_size"], [0])  # width, height
    ratio = tf.cast(tf.cast(size, tf.float64) / example["photo_extent"], tf.float32)
    pixel = tf.cast(tf.floor((points + 0.5) * ratio), tf.int32)
    inside = tf.reduce_all((pixel >= 0) & (pixel < size), axis=1)
    source = tf.where(inside, pixel[:, 1] * size[0] + pixel[:, 0], 0)

    def read(name: str) -> tf.Tensor:
        there = tf.gather(tf.reshape(example[name], [-1]), source)
        return tf.reshape(tf.where(inside, there, tf.zeros_like(there)), [cells, cells])

    scale = tf.sqrt(tf.abs(tf.linalg.det(affine[:, :2])))
    areas = example["person_areas"] * scale**2
    too_large = tf.sqrt(areas) > meta.largest_person
    keypoints = _warped_keypoints(example["keypoints"], affine, side)
    keypoints = tf.where(too_large[:, None, None], 0.0, keypoints)
    # Compiled: one pass over the distances of all cells from all keypoints instead of one per
    # operation.
    owner = tf.function(lambda: disc_owners(keypoints, meta), jit_compile=True, autograph=False)()
    instance = read("photo_instance")
    left_out = tf.concat([[False], too_large, tf.fill([255 - tf.shape(too_large)[0]], False)], 0)
    left_out = tf.gather(left_out, tf.cast(instance, tf.int32))
    instance = tf.where(left_out, tf.zeros_like(instance), instance)
    # The radius of the discs in units of `nearness`.
    near = (
        meta.radius / scale * tf.reduce_mean(ratio) * NEAR_UNIT
        / tf.cast(example["photo_reach"], tf.float32)
    )  # fmt: skip
    is_near = tf.reshape(inside, [cells, cells]) & (
        tf.cast(read("photo_nearness"), tf.float32) <= tf.minimum(near, NEAR_UNIT)
    )
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
    cell = tf.constant(grid(cells, cells, meta.stride))[:, :, None]
    within = tf.reduce_all((low <= cell) & (cell <= high), axis=-1) & too_large
    of_larger = tf.reduce_any(within, axis=-1)
    return {
        **_without_photo(example),
        "image": _warped_photo(example, affine, meta, pad_colour),
        "keypoints": keypoints,
        "disc_owner": owner,
        "instance": instance,
        "ignore": ignored(
            read("photo_ignore"),
            covered=instance > 0,
            claimed=tf.reduce_any(owner > 0, axis=2),
            near_unannotated=is_near,
            complete=(example["photo_complete"] > 0) & ~of_larger,
        ),
        "person_boxes": tf.concat([low, high - low], axis=1),
        "person_areas": areas,
    }


def ignored(
    flags: tf.Tensor,
    covered: tf.Tensor,
    claimed: tf.Tensor,
    near_unannotated: tf.Tensor,
    complete: tf.Tensor,
) -> tf.Tensor:
    """(h, w) uint8, the flags of the cells of a view, as `targets.encode` sets them.

    Args:
        flags: (h, w) uint8, those that do not depend on the discs.
        covered, claimed: (h, w) bool, cells of masks, and of discs.
        near_unannotated: (h, w) bool, cells near a person without keypoints.
        complete: (h, w) bool, whether everybody is annotated who may be at the cell.
    """

    def add(flags: tf.Tensor, where: tf.Tensor, flag: int) -> tf.Tensor:
        return tf.where(where, tf.bitwise.bitwise_or(flags, tf.constant(flag, tf.uint8)), flags)

    flags = add(flags, near_unannotated & ~claimed, IGNORE_UNANNOTATED)
    flags = add(flags, ~complete & ~covered, IGNORE_MASKLESS)
    return add(flags, ~complete & ~covered & ~claimed, IGNORE_CROWD)


def _without_photo(example: Example) -> Example:
    return {name: value for name, value in example.items() if name not in PHOTO_ARRAYS}


def _warped_photo(
    example: Example, affine: tf.Tensor, meta: Meta, pad_colour: tuple[int, int, int]
) -> tf.Tensor:
    """(side, side, 3) uint8, by OpenCV as views are baked: it is the same view, and TensorFlow's
    operations take several times as long.
    """

    def warped(photo: np.ndarray, extent: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return warp_photo(photo, extent, affine, meta.view_size, pad_colour)

    image = tf.numpy_function(
        warped, [example["image"], example["photo_extent"], affine], tf.uint8, stateful=False
    )
    return tf.ensure_shape(image, [meta.view_size, meta.view_size, 3])


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
    """The image (H, W, 3) uint8 with shifted brightness (share of 255), scaled contrast and
    saturation (shares); float32.

    Saturation pulls the channels from their mean, contrast the pixels from the mean of all: both
    are linear, so one product with a 3 x 3 matrix does them together.
    """
    pixels = tf.reshape(tf.cast(image, tf.float32), [-1, 3])
    matrix = (1.0 + contrast) * ((1.0 + saturation) * tf.eye(3) - saturation / 3.0)
    # Of whole numbers: a sum of fractions depends on how many threads divide it.
    total = tf.reduce_sum(tf.cast(image, tf.int64))
    mean = tf.cast(total / tf.size(image, tf.int64), tf.float32)
    shift = brightness * 255.0 - contrast * mean
    return tf.clip_by_value(
        tf.reshape(tf.matmul(pixels, matrix) + shift, tf.shape(image)), 0.0, 255.0
    )
