"""Fits an image of any size to the network's input and maps points between the two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.io.images import BACKGROUND
from personlab_keras.method.coordinates import covering_side
from personlab_keras.method.frame import Frame


@dataclass(frozen=True)
class InputFit:
    """The fit of one image to the network's input: the image is resized by the half-pixel rule,
    then padded on the right and at the bottom.

    Attributes:
        width, height: size of the image in pixels.
        resized_width, resized_height: size of the image inside the input.
        input_width, input_height: size of the whole input, each stride * n + 1.
        pad_colour: RGB of the padding.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int
    input_width: int
    input_height: int
    pad_colour: tuple[int, int, int] = BACKGROUND

    @cached_property
    def frame(self) -> Frame:
        """The image's frame for the decoder: network point = image point * scale + offset."""
        scale = (self.resized_width / self.width, self.resized_height / self.height)
        return Frame(self.height, self.width, scale, (0.5 * scale[0] - 0.5, 0.5 * scale[1] - 0.5))

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Maps points (..., 2) of the image to the network's input. Inverse: `to_image`."""
        return np.asarray(points, np.float64) * self.frame.scale + self.frame.offset

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Maps points (..., 2) of the network's input to the image. Inverse: `to_input`."""
        return self.frame.to_image(np.asarray(points, np.float64))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resizes and pads an image (height, width, 3) uint8 RGB to the network's input
        (input_height, input_width, 3) uint8.

        Raises:
            ValueError: the image does not have the size of this fit.
        """
        if image.shape != (self.height, self.width, 3):
            raise ValueError(
                f"`image` must be ({self.height}, {self.width}, 3). Received: {image.shape}"
            )
        padded = np.empty((self.input_height, self.input_width, 3), np.uint8)
        padded[:] = self.pad_colour
        size = (self.resized_width, self.resized_height)
        # INTER_AREA averages the pixels that it merges, which avoids aliasing when shrinking; when
        # enlarging it would make blocks.
        shrinks = self.resized_width < self.width or self.resized_height < self.height
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = (
            image
            if size == (self.width, self.height)
            else cv2.resize(image, size, interpolation=method)
        )
        padded[: self.resized_height, : self.resized_width] = resized
        return padded


def fit_for(
    width: int,
    height: int,
    longer_side: int,
    stride: int,
    upscale: bool = True,
    pad_colour: tuple[int, int, int] = BACKGROUND,
    scale: float = 1.0,
    input_size: tuple[int, int] | None = None,
) -> InputFit:
    """Computes how an image of width x height pixels is fitted to the network.

    Args:
        width, height: size of the image in pixels.
        longer_side: length in pixels that the longer side is resized to; the other side keeps the
            aspect ratio, rounded, at least 1.
        stride: input sides become stride * n + 1.
        upscale: whether an image smaller than `longer_side` is enlarged.
        pad_colour: RGB of the padding.
        scale: factor on the resized size.
        input_size: (width, height) of the only input that the network takes. The image then becomes
            as large as fits, and `longer_side` is ignored.

    >>> fit = fit_for(640, 480, longer_side=801, stride=16)
    >>> (fit.resized_width, fit.resized_height), (fit.input_width, fit.input_height)
    ((801, 601), (801, 609))

    Raises:
        InputError: a size is not positive.
    """
    if min(width, height) < 1:
        raise InputError(f"an image must have at least one pixel. Received: {width} x {height}")
    if longer_side < 1:
        raise InputError(
            f"predict.longer_side must be a positive number of pixels. Received: {longer_side}"
        )
    longest: float = longer_side
    if input_size is not None:
        longest = min(
            side / own for side, own in zip(input_size, (width, height), strict=True)
        ) * max(width, height)
    target = scale * (longest if upscale else min(longest, max(width, height)))
    resized_width, resized_height = (
        max(1, round(side * target / max(width, height))) for side in (width, height)
    )
    input_width, input_height = input_size or (
        covering_side(resized_width, stride),
        covering_side(resized_height, stride),
    )
    return InputFit(
        width, height, resized_width, resized_height, input_width, input_height, pad_colour
    )
