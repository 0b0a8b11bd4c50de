"""Where an image lies in the network's input: the one map between their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """An image that the network saw: network point = image point * scale + offset.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels.
        scale: (sx, sy), network pixels per image pixel.
        offset: (ox, oy) in network pixels.

    Raises:
        ValueError: a side or a scale is not positive.
    """

    height: int
    width: int
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"`height` and `width` must be positive. Received: {self.height}, {self.width}"
            )
        if min(self.scale) <= 0:
            raise ValueError(f"`scale` must be positive. Received: {self.scale}")

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the network's frame in this image."""
        return (points - np.asarray(self.offset)) / np.asarray(self.scale)

    def inside_image(self, points: np.ndarray) -> np.ndarray:
        """As `to_image`; a point beyond the image becomes the nearest middle of a pixel.

        No point of the image is farther from it there than from where it was.

        >>> Frame(10, 20).inside_image(np.array([[-3.0, 4.5], [np.nan, np.nan], [25.0, 12.0]]))
        array([[ 0. ,  4.5],
               [ nan,  nan],
               [19. ,  9. ]])
        """
        return np.clip(self.to_image(points), 0.0, (self.width - 1.0, self.height - 1.0))

    def cells(self, shape: tuple[int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in a map of shape (h, w) of every row (height,) and column (width,) of the
        image, ascending.

        Pixels beyond the map's frame stand at its border.
        """
        sides, places = (self.width, self.height), []
        for axis in (1, 0):
            pixels = np.arange(sides[axis]) * self.scale[axis] + self.offset[axis]
            places.append(np.clip(pixels / stride, 0, shape[1 - axis] - 1))
        return places[0], places[1]
