"""Decodes image files and fits images to the network in TensorFlow, as `io.images` and
`inference.input_fit` do.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from personlab_keras.decoder_graph.fields import Frame
from personlab_keras.io.image_headers import JPEG_MAGIC, PNG_MAGIC
from personlab_keras.io.images import MAX_PIXELS

_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112


def decode_bytes(data: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """Decodes a JPEG or PNG file and rotates it by its EXIF tag, as `io.images.decode_image` does.

    Args:
        data: () string, the content of the file.
        background: RGB behind transparent pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs: the bytes are in another format or
            corrupt, or the header announces more than `MAX_PIXELS`.
    """
    stored = tf.io.decode_raw(data, tf.uint8)
    is_png = tf.strings.substr(data, 0, len(PNG_MAGIC)) == PNG_MAGIC
    is_jpeg = tf.strings.substr(data, 0, len(JPEG_MAGIC)) == JPEG_MAGIC
    known = tf.debugging.Assert(
        is_png | is_jpeg,
        ["the bytes must be a JPEG or PNG image. Received bytes:", tf.size(stored)],
    )
    with tf.control_dependencies([known]):
        size = tf.cond(is_png, lambda: _png_size(stored), lambda: _jpeg_size(data))
    pixels = tf.reduce_prod(size)
    bounded = tf.debugging.Assert(
        (pixels > 0) & (pixels <= MAX_PIXELS),
        [
            f"an image must have at least one pixel and at most {MAX_PIXELS}. Received height and width:",
            size,
        ],
    )
    with tf.control_dependencies([bounded]):
        data = tf.identity(data)
    image = tf.cond(is_png, lambda: _decode_png(data, background), lambda: _decode_jpeg(data))
    tiff = tf.cond(is_png, lambda: _tiff_in_png(stored), lambda: _tiff_in_jpeg(stored))
    return _turned(image, _orientation(stored, tiff))


def fit(
    image: tf.Tensor,
    longer_side: int,
    side_step: int,
    upscale: bool,
    pad_colour: tuple[int, int, int],
    scale: float = 1.0,
) -> tuple[tf.Tensor, Frame]:
    """Fits images to the network, as `input_fit.InputFit` does.

    Args:
        image: (B, H, W, 3) in 0..255, uint8 or float32.
        longer_side, upscale: as in section `predict` of the settings.
        side_step: input sides become side_step * n + 1.
        pad_colour: RGB of the padding.
        scale: factor on the resized size.

    Returns:
        The network's input (B, height, width, 3) float32, and the frame of the images.
    """
    size = tf.shape(image)[1:3]
    exact = tf.cast(size, tf.float64)
    longest = tf.reduce_max(exact)
    target = (
        tf.constant(longer_side, tf.float64)
        if upscale
        else tf.minimum(tf.constant(longer_side, tf.float64), longest)
    )
    resized = tf.maximum(1, tf.cast(tf.round(exact * (scale * target) / longest), tf.int32))
    # Images stay uint8 until they are small.
    small = tf.case(
        [
            (tf.reduce_all(resized == size), lambda: tf.cast(image, tf.float32)),
            (
                tf.reduce_any(resized < size),
                lambda: tf.image.resize(image, resized, tf.image.ResizeMethod.AREA),
            ),
        ],
        default=lambda: tf.image.resize(image, resized),
    )
    small = tf.clip_by_value(tf.round(small), 0.0, 255.0)
    ratio = tf.reverse(tf.cast(resized, tf.float64) / exact, [0])
    return padded(small, side_step, pad_colour), Frame(size, ratio, 0.5 * ratio - 0.5)


def padded(image: tf.Tensor, side_step: int, pad_colour: tuple[int, int, int]) -> tf.Tensor:
    """Pads images (B, H, W, 3) float32 on the right and below with `pad_colour`, to sides of the
    next side_step * n + 1 with n >= 1.
    """
    size = tf.shape(image)[1:3]
    sides = side_step * tf.maximum(1, -(-(size - 1) // side_step)) + 1
    below, right = tf.unstack(sides - size)
    colour = tf.constant(pad_colour, tf.float32)
    return tf.pad(image - colour, [[0, 0], [0, below], [0, right], [0, 0]]) + colour


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(data: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    image = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
    behind = tf.constant(background, tf.float32)
    return tf.cast(
        tf.round(behind + (image[..., :3] - behind) * (image[..., 3:] / 255.0)), tf.uint8
    )


def _jpeg_size(data: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64)


def _png_size(stored: tf.Tensor) -> tf.Tensor:
    return tf.stack([_number(stored, 20, 4), _number(stored, 16, 4)])


def _int64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _number(
    stored: tf.Tensor, at: tf.Tensor | int, length: int, little_endian: tf.Tensor | bool = False
) -> tf.Tensor:
    """Reads unsigned integers (...) int64 of `length` bytes at positions (...); bytes beyond the
    end are 0.
    """
    at = tf.convert_to_tensor(at, tf.int64)[..., None] + tf.range(length, dtype=tf.int64)
    inside = (at >= 0) & (at < tf.size(stored, out_type=tf.int64))
    values = tf.cast(
        tf.gather(tf.pad(stored, [[0, 1]]), tf.where(inside, at, _int64(0))), tf.int64
    ) * tf.cast(inside, tf.int64)
    ascending = tf.constant([1 << 8 * i for i in range(length)], tf.int64)
    return tf.reduce_sum(values * tf.where(little_endian, ascending, ascending[::-1]), axis=-1)


def _tiff_in_jpeg(stored: tf.Tensor) -> tf.Tensor:
    """Walks the segments of a JPEG file to the TIFF header of its EXIF block; returns its position
    () int64, or -1 if there is none.
    """

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker = _number(stored, at + 1, 1)
        exif = (marker == 0xE1) & (_number(stored, at + 4, 6) == int.from_bytes(_EXIF, "big"))
        alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD7))
        length = tf.where(alone, _int64(2), 2 + tf.maximum(_number(stored, at + 2, 2), 2))
        length = tf.where(marker == 0xFF, _int64(1), length)  # a fill byte
        # The scan begins, or this is not a segment.
        over = (marker == 0xDA) | (marker == 0xD9) | (_number(stored, at, 1) != 0xFF)
        return tf.where(exif | over, _int64(_END), at + length), tf.where(
            exif & ~over, at + 10, _int64(-1)
        )

    return _walk(step, stored, 2)


def _tiff_in_png(stored: tf.Tensor) -> tf.Tensor:
    """As `_tiff_in_jpeg`, for the chunk eXIf of a PNG file."""

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        exif = _number(stored, at + 4, 4) == int.from_bytes(b"eXIf", "big")
        return tf.where(exif, _int64(_END), at + 12 + _number(stored, at, 4)), tf.where(
            exif, at + 8, _int64(-1)
        )

    return _walk(step, stored, len(PNG_MAGIC))


_END = tf.int64.max // 2


def _walk(
    step: Callable[..., tuple[tf.Tensor, tf.Tensor]], stored: tf.Tensor, start: int
) -> tf.Tensor:
    size = tf.size(stored, out_type=tf.int64)
    begin = (_int64(start), _int64(-1))
    return tf.while_loop(lambda at, _: at < size, step, begin)[1]


def _orientation(stored: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation () int64 in 1..8 from the TIFF header at a position; 1 if there is
    none.
    """
    little = _number(stored, tiff, 2) == int.from_bytes(b"II", "big")
    big = _number(stored, tiff, 2) == int.from_bytes(b"MM", "big")
    directory = tiff + _number(stored, tiff + 4, 4, little)
    entries = directory + 2 + 12 * tf.range(tf.minimum(_number(stored, directory, 2, little), 4096))
    says = _number(stored, entries, 2, little) == _ORIENTATION_TAG
    values = tf.boolean_mask(_number(stored, entries + 8, 2, little), says)
    value = tf.concat([values, [_int64(1)]], axis=0)[0]
    valid = (tiff >= 0) & (little | big) & (value >= 1) & (value <= 8)
    return tf.where(valid, value, _int64(1))


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors an image (H, W, C) by its EXIF orientation."""

    def among(*orientations: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(orientations, tf.int64))

    image = tf.cond(among(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(among(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(among(3, 4, 7, 8), lambda: image[::-1], lambda: image)
