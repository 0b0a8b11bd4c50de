"""Reads annotations in any supported format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.dataset import STORED, TURNED, Dataset
from personlab_keras.annotations.yolo import read_yolo
from personlab_keras.annotations.yolo_folder import is_yolo
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

AUTO = "auto"
"""The frame that the format prescribes."""


def read_annotations(
    path: str | Path,
    skeleton: Skeleton,
    categories: Sequence[str] = (),
    strict: bool = False,
    split: str | None = None,
    frame: str = AUTO,
) -> Dataset:
    """Reads a COCO file, or a split of a YOLO-pose data set: a folder, or its data.yaml.

    Args:
        categories, strict: as for `read_coco` and `read_yolo`.
        split: as for `read_yolo`; a COCO file has none.
        frame: of the annotations, `STORED` or `TURNED`; `AUTO` for that of the format. The result
            has one of the first two.

    Raises:
        InputError: as `read_coco` and `read_yolo`.
    """
    if is_yolo(path):
        return read_yolo(
            path, skeleton, categories, strict, split, TURNED if frame == AUTO else frame
        )
    if split is not None:
        raise InputError(f"{path}: only a YOLO-pose data set has splits. Received: --split {split}")
    dataset = read_coco(path, skeleton, categories, strict)
    return replace(dataset, frame=STORED if frame == AUTO else frame)


def images_folder(dataset: Dataset, images: str | Path | None, source: str | Path) -> Path:
    """The image folder of a data set, resolved.

    Args:
        images: the folder given by the user; required unless the data set specifies it.
        source: the annotations, for messages.

    Raises:
        InputError: if neither or both specify it, or there is no such folder.
    """
    if dataset.folder is not None:
        if images is not None:
            raise InputError(
                f"{source}: a YOLO-pose data set tells where its images are, {dataset.folder}. "
                f"Received: --images {images}"
            )
        return dataset.folder
    if images is None:
        raise InputError(f"{source}: a COCO file needs --images, the folder of its images")
    if not Path(images).is_dir():
        raise InputError(f"{images}: no such folder of images")
    return Path(images).resolve()
