"""A data set in memory: images with their people, independent of the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BOX_FILL = 0.53
"""Area of a person without a mask, as a fraction of the box area: the value used by the evaluations
of CrowdPose and Ultralytics, and the ratio of the total areas of COCO's persons with keypoints.
"""


STORED, TURNED = "stored", "turned"
"""Frames of annotations: the stored pixels, or the picture as viewers show it, rotated by its EXIF
orientation.
"""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One person or one crowd region, as in COCO.

    Attributes:
        id: the annotation id.
        keypoints: (K, 3) float64 [x, y, visibility] in image pixels, visibility 1 (hidden) or 2;
            zeros where nothing was annotated.
        box: (4,) float64 [x, y, width, height] in COCO's edge coordinates; NaN if the file has
            no usable one.
        area: in square pixels; NaN if the file has no usable one.
        segmentation: polygons or run lengths as in the file, by `masks.compress_segmentation`; None
            if there is none.
        crowd: whether it is a region of several people who were not annotated individually.
        place: index of the annotation in its file. COCOeval breaks ties by it.
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
        """Whether any keypoint is annotated."""
        return bool((self.keypoints[:, 2] > 0).any())


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image of the file with its people.

    Attributes:
        complete: whether everybody in it is annotated. If not, pixels without an annotation are
            unknown instead of background.
        crowd_index: how much its people overlap, from 0 to 1, from CrowdPose's files; None in
            others.
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
    """The people and crowd regions of a set of images.

    Attributes:
        images: in order of their ids, each with its people in order of theirs.
        skipped: number of entries skipped or repaired, by reason; `examples`: a few of each.
        bytes, sha256: of the annotation file.
        frame: of the annotations, `STORED` or `TURNED`.
        category: id of the people's category in the file, the smallest if there are several.
        folder: the image folder, resolved; None if the format does not specify it.
    """

    images: tuple[AnnotatedImage, ...]
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]
    bytes: int
    sha256: str
    category: int = 1
    frame: str = STORED
    folder: Path | None = None
