"""From the bytes of an image file to the network's input; `images` and `fitting` in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from personlab_keras.decoder_graph.masks import Frame
from personlab_keras.io.images import MAX_PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112


def decode_bytes(data: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """(H, W, 3) uint8 RGB of the bytes () of a JPEG or PNG file, turned as its EXIF tag says; as
    `images.decode_image`.

    Args:
        data: () string.
        background: RGB that shows through transparent pixels.

    Raises:
        tf.errors.InvalidArgumentError: when it runs: the bytes are neither, are damaged, or
            announce more than `MAX_PIXELS`, which is told before anything is decoded.
    """
    stored = tf.io.decode_raw(data, tf.uint8)
    is_png = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(data, 0, len(_JPEG)) == _JPEG
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
) -> tuple[tf.Tensor, Frame]:
    """The network's input (B, height, width, 3) float32 of images (B, H, W, 3) in 0..255, and their
    frame; as `fitting.InputFit`.
    """
    size = tf.shape(image)[1:3]
    exact = tf.cast(size, tf.float64)
    longest = tf.reduce_max(exact)
    target = (
        tf.constant(longer_side, tf.float64)
        if upscale
        else tf.minimum(tf.constant(longer_side, tf.float64), longest)
    )
    resized = tf.maximum(1, tf.cast(tf.round(exact * target / longest), tf.int32))
    # Bytes stay bytes until they are few.
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
    scale = tf.reverse(tf.cast(resized, tf.float64) / exact, [0])
    return padded(small, side_step, pad_colour), Frame(size, scale, 0.5 * scale - 0.5)


def padded(image: tf.Tensor, side_step: int, pad_colour: tuple[int, int, int]) -> tf.Tensor:
    """Images (B, H, W, 3) float32 with `pad_colour` on the right and below, so that sides are the
    next side_step * n + 1, n >= 1.
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
    """The unsigned number (...) int64 in `length` bytes from each of the positions (...); bytes
    beyond the end are 0.
    """
    at = tf.convert_to_tensor(at, tf.int64)[..., None] + tf.range(length, dtype=tf.int64)
    inside = (at >= 0) & (at < tf.size(stored, out_type=tf.int64))
    values = tf.cast(
        tf.gather(tf.pad(stored, [[0, 1]]), tf.where(inside, at, _int64(0))), tf.int64
    ) * tf.cast(inside, tf.int64)
    ascending = tf.constant([1 << 8 * i for i in range(length)], tf.int64)
    return tf.reduce_sum(values * tf.where(little_endian, ascending, ascending[::-1]), axis=-1)


def _tiff_in_jpeg(stored: tf.Tensor) -> tf.Tensor:
    """() int64: where the EXIF block's TIFF header lies in a JPEG file, -1 where there is none: a
    walk over the segments.
    """

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker = _number(stored, at + 1, 1)
        exif = (marker == 0xE1) & (_number(stored, at + 4, 6) == int.from_bytes(_EXIF, "big"))
        alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD7))
        length = tf.where(alone, _int64(2), 2 + tf.maximum(_number(stored, at + 2, 2), 2))
        length = tf.where(marker == 0xFF, _int64(1), length)  # a byte that fills
        # The scan begins, or what should be a segment is none.
        over = (marker == 0xDA) | (marker == 0xD9) | (_number(stored, at, 1) != 0xFF)
        return tf.where(exif | over, _int64(_END), at + length), tf.where(
            exif & ~over, at + 10, _int64(-1)
        )

    return _walk(step, stored, 2)


def _tiff_in_png(stored: tf.Tensor) -> tf.Tensor:
    """As `_tiff_in_jpeg`, in a PNG file: its chunk eXIf."""

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        exif = _number(stored, at + 4, 4) == int.from_bytes(b"eXIf", "big")
        return tf.where(exif, _int64(_END), at + 12 + _number(stored, at, 4)), tf.where(
            exif, at + 8, _int64(-1)
        )

    return _walk(step, stored, len(_PNG))


_END = tf.int64.max // 2


def _walk(
    step: Callable[..., tuple[tf.Tensor, tf.Tensor]], stored: tf.Tensor, start: int
) -> tf.Tensor:
    size = tf.size(stored, out_type=tf.int64)
    begin = (_int64(start), _int64(-1))
    return tf.while_loop(lambda at, _: at < size, step, begin)[1]


def _orientation(stored: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    """() int64 in 1..8: EXIF's orientation, by the TIFF header at a position; 1 where nothing says
    otherwise.
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
    """An image (H, W, C) as it is meant to be seen."""

    def among(*orientations: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(orientations, tf.int64))

    image = tf.cond(among(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(among(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(among(3, 4, 7, 8), lambda: image[::-1], lambda: image)
