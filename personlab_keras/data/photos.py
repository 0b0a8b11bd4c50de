"""The photos in records for online views (`data.online`), and their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from personlab_keras.data.features import to_array, to_bytes

NEAR_UNIT = 254
"""The value of `Photo.nearness` at the distance `Photo.reach`."""
PHOTO_ARRAYS: dict[str, tuple[str, tuple[str | int, ...], bool]] = {
    "photo_size": ("int32", (2,), False),
    "photo_extent": ("float64", (2,), False),
    "photo_instance": ("uint8", ("height", "width"), True),
    "photo_ignore": ("uint8", ("height", "width"), True),
    "photo_nearness": ("uint8", ("height", "width"), True),
    "photo_reach": ("float64", (), False),
    "photo_complete": ("uint8", (), False),
}
"""As `records.ARRAYS`; `photo_size` is (height, width)."""


@dataclass(frozen=True)
class Photo:
    """What random views are taken from while training: the photo of a record with everything that
    the targets of a view depend on, known at every pixel.

    Attributes:
        extent: (2,) float64, width and height of the photo in pixels of view 0.
        instance: (H, W) uint8, as `CompactTargets.instance`, at the pixels of the photo.
        ignore: (H, W) uint8, flags as in `CompactTargets.ignore`, without those that depend on the
            discs of a view.
        nearness: (H, W) uint8, distance from the nearest pixel of a person without keypoints, in
            units of `reach / NEAR_UNIT`; 255 farther away. 255 everywhere unless
            `targets.ignore_near_unannotated`.
        reach: a distance in pixels of the photo: the radius of the discs in the smallest view.
        complete: whether everybody in the photo is annotated.
    """

    extent: np.ndarray
    instance: np.ndarray
    ignore: np.ndarray
    nearness: np.ndarray
    reach: float
    complete: bool


def photo_features(photo: Photo) -> dict[str, bytes]:
    """The features of a photo by name. Inverse: `read_photo`."""
    values = {"size": photo.instance.shape, **vars(photo)}
    return {
        name: to_bytes(values[name.removeprefix("photo_")], dtype, compressed)
        for name, (dtype, _, compressed) in PHOTO_ARRAYS.items()
    }


def read_photo(features: Any, longest_side: int) -> Photo:
    """The photo in the features of a tf.train.Example.

    Raises:
        ValueError: a feature is missing or of another size, or a side is longer.
    """
    height, width = to_array(features, "photo_size", "int32", [2]).tolist()
    if not (1 <= height <= longest_side and 1 <= width <= longest_side):
        raise ValueError(
            f"feature 'photo_size' must be 1 to {longest_side}. Received: {height}, {width}"
        )
    sizes = {"height": height, "width": width}
    values: dict[str, Any] = {}
    for name, (dtype, shape, compressed) in PHOTO_ARRAYS.items():
        known = [sizes[side] if isinstance(side, str) else side for side in shape]
        value = to_array(features, name, dtype, known, compressed)
        values[name.removeprefix("photo_")] = value if shape else value.item()
    del values["size"]
    return Photo(**{**values, "complete": bool(values["complete"])})
