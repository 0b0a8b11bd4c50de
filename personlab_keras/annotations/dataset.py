"""A data set in memory: images with their people, whatever file format they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BOX_FILL = 0.53
"""Area of a person as a part of the area of the box, where no mask tells it: what the evaluations
of CrowdPose and of Ultralytics take, and the ratio of the two sums over COCO's persons with
keypoints.
"""


STORED, TURNED = "stored", "turned"
"""Frames in which annotations may be: that of the stored pixels, and that of the picture as viewers
show it, turned as its EXIF orientation says.
"""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One person or one crowd region, as COCO has it.

    Attributes:
        id: of the annotation.
        keypoints: (K, 3) float64 [x, y, visibility] in image pixels, visibility 1 (hidden) or 2;
            zeros where nothing was annotated.
        box: (4,) float64 [x, y, width, height] in COCO's edge coordinates; NaN where the file has
            none that can be used.
        area: in square pixels; NaN where the file has none that can be used.
        segmentation: polygons or run lengths as in the file, by `masks.compress_segmentation`; None
            where there is none.
        crowd: whether it is a region of several people who were not annotated one by one.
        place: of the annotation in its file, counted from 0. COCOeval breaks ties by it.
    """

    id: int
    keypoints: np.ndarray
    box: np.ndarray
    area: float
    segmentation: bytes | None
    crowd: bool
    place: int = 0

    @property
    def annotated(self) -> bool:
        """Whether any keypoint was annotated."""
        return bool((self.keypoints[:, 2] > 0).any())


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image of the file with its people.

    Attributes:
        complete: whether everybody in it is annotated. If not, a place without an annotation is
            unknown instead of background.
        crowd_index: how much its people overlap, from 0 to 1, as CrowdPose's files tell; None if
            the file does not.
    """

    id: int
    file_name: str
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    complete: bool = True
    crowd_index: float | None = None


@dataclass(frozen=True)
class Dataset:
    """The people and crowd regions of a set of images, whatever format they were read from.

    Attributes:
        images: in order of id, with their people in order of theirs.
        skipped: number of entries skipped or repaired, by reason; `examples`: a few of each.
        bytes, sha256: of the annotation file.
        frame: of the annotations, `STORED` or `TURNED`.
        category: id of the people's category in the file, the least one if there are several.
        folder: in which the images lie, resolved; None if the format does not tell.
    """

    images: tuple[AnnotatedImage, ...]
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]
    bytes: int
    sha256: str
    category: int = 1
    frame: str = STORED
    folder: Path | None = None
