"""Files for other tools, written image by image: COCO, CSV, YOLO-pose and LabelMe."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
from pycocotools import mask as rle

from personlab_keras.annotations.yolo_pose import YoloPose, data_yaml_text, label_text
from personlab_keras.errors import InputError
from personlab_keras.io.files import write_atomically
from personlab_keras.io.interrupts import unfinished
from personlab_keras.method.coordinates import box_to_coco
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.results.labelme import labelme_text
from personlab_keras.results.result import Result
from personlab_keras.results.tables import columns, rows

YOLO = "yolo-pose"
"""Name of the format and of its folder."""
SPLIT = "train"
"""Name of the split in a YOLO-pose folder of predictions; readers expect one of train, val, test.
"""


@dataclass(frozen=True)
class Found:
    """A result to write.

    Attributes:
        result: the people of an image or frame.
        stem: path of its files below the output folder, without extension; unique in a run.
        file_name: name of the image in a file of several: its path below the folder of all images.
        source: the image file; None for a frame of a video.
        kept: whether an interrupted run has written the files of this result alone; files of
            several results get it all the same. The pixels of a kept image need not be those of
            the file.
    """

    result: Result
    stem: str
    file_name: str
    source: Path | None
    kept: bool = False


class Writer(Protocol):
    """Writes results in a format."""

    def add(self, found: Found) -> None:
        """Writes one result.

        Raises:
            InputError: it cannot be written.
        """

    def finish(self) -> None:
        """Completes the files and gives them their names."""

    def discard(self) -> None:
        """Removes what is not complete."""


def make_writers(
    formats: Sequence[str], out: Path, skeleton: Skeleton, resuming: bool = False
) -> list[Writer]:
    """Writers of formats, by their names in `FORMATS`.

    Args:
        formats: the names.
        out: folder for the files.
        skeleton: of the results.
        resuming: whether the files in `out` are those of an interrupted run, which are kept.

    Raises:
        InputError: as `check_formats`; a file cannot be written.
    """
    check_formats(formats)
    if not resuming and YOLO in formats:
        for kind in ("images", "labels"):  # of an earlier run
            shutil.rmtree(out / YOLO / kind / SPLIT, ignore_errors=True)
    return [FORMATS[name](out, skeleton) for name in formats]


def check_formats(formats: Sequence[str]) -> None:
    """Checks names of formats.

    Raises:
        InputError: there is no such format, or one is given twice.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or len(set(formats)) < len(formats):
        raise InputError(
            f"--format must be a comma-separated list of {', '.join(FORMATS)}, each at most once. "
            f"Received: {','.join(formats)}"
        )


class CocoWriter:
    """`coco.json`: a COCO data set of the predictions, each with its score, which annotation tools
    import and pycocotools reads.
    """

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._path, self._skeleton = out / "coco.json", skeleton
        self._images: list[dict[str, Any]] = []
        self._file, self._count = _Unfinished(self._path), 0
        category = {
            "id": 1,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(skeleton.keypoints),
            # COCO counts keypoints from 1.
            "skeleton": (skeleton.edge_indices[: len(skeleton.edges)] + 1).tolist(),
        }
        self._file.write(f'{{"categories": [{json.dumps(category)}], "annotations": [\n')

    def add(self, found: Found) -> None:
        result = found.result
        image: dict[str, Any] = {
            "id": len(self._images) + 1,
            "file_name": found.file_name,
            "width": result.width,
            "height": result.height,
        }
        if result.frame is not None:
            image |= {"video": result.name, "frame": result.frame, "time": result.time}
        self._images.append(image)
        for person in result:
            self._file.write(",\n" if self._count else "")
            self._count += 1
            self._file.write(json.dumps(self._annotation(person, image["id"]), allow_nan=False))

    def _annotation(self, person: Person, image_id: int) -> dict[str, Any]:
        keypoints = _visible_keypoints(person)
        box = box_to_coco(person.box)
        values: dict[str, Any] = {
            "id": self._count,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "keypoints": np.round(keypoints, 2).reshape(-1).tolist(),
            "num_keypoints": int(person.found.sum()),
            "bbox": np.round(box, 2).tolist(),
            "area": round(float(box[2] * box[3]), 2),
            "score": round(float(person.score), 6),
        }
        if person.has_pixels:
            values |= {"segmentation": person.rle, "area": float(rle.area(person.rle))}
        if person.id is not None:
            values["track_id"] = person.id
        return values

    def finish(self) -> None:
        self._file.write(f'\n], "images": {json.dumps(self._images)}}}\n')
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class CsvWriter:
    """`people.csv`: a row per person with the columns of `tables.columns`."""

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._file = _Unfinished(out / "people.csv")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(columns(skeleton))

    def add(self, found: Found) -> None:
        self._csv.writerows(rows(found.result))

    def finish(self) -> None:
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class YoloWriter:
    """`yolo-pose/`: a data set with the split `train`: labels, copies of the images and
    data.yaml.
    """

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._folder, self._skeleton = out / YOLO, skeleton

    def add(self, found: Found) -> None:
        if found.kept:
            return
        lines = [
            (0, box_to_coco(person.box).tolist(), self._inside(person, found.result))
            for person in found.result
        ]
        text = label_text(lines, found.result.width, found.result.height)
        labels, images = (self._folder / kind / SPLIT for kind in ("labels", "images"))
        write_atomically(labels / f"{found.stem}.txt", text.encode())
        _write_image(images / found.stem, found)

    @staticmethod
    def _inside(person: Person, result: Result) -> np.ndarray:
        """Keypoints outside the image as not labelled: YOLO refuses fractions beyond 0 to 1."""
        points = _visible_keypoints(person)
        high = (result.width, result.height)
        beyond = ((points[:, :2] < 0) | (points[:, :2] > high)).any(axis=1, keepdims=True)
        return np.where(beyond, 0.0, points)

    def finish(self) -> None:
        data = YoloPose(
            names={0: "person"},
            keypoints=self._skeleton.keypoint_count,
            dimensions=3,
            flip_order=tuple(self._skeleton.flip_order.tolist()),
            keypoint_names={0: self._skeleton.keypoints},
            splits={SPLIT: (f"images/{SPLIT}",)},
        )
        write_atomically(self._folder / "data.yaml", data_yaml_text(data).encode())

    def discard(self) -> None:
        pass


class LabelmeWriter:
    """`labelme/`: for each image a copy and a JSON file with a box, a point for each keypoint and
    the mask of every person, joined by `group_id`.
    """

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._folder = out / "labelme"

    def add(self, found: Found) -> None:
        if found.kept:
            return
        image = _write_image(self._folder / found.stem, found)
        path = self._folder / f"{found.stem}.json"
        write_atomically(path, labelme_text(found.result, image.name).encode())

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass


FORMATS: dict[str, type[CocoWriter | CsvWriter | YoloWriter | LabelmeWriter]] = {
    "coco": CocoWriter,
    "csv": CsvWriter,
    YOLO: YoloWriter,
    "labelme": LabelmeWriter,
}
"""Name -> writer of the formats that `predict --format` writes besides its JSON."""


def mask_png(result: Result) -> bytes:
    """A PNG of the instance masks: 0 for background, else the number of the person from 1, best
    first. Where masks overlap, the better person is on top. 8 bits, or 16 for more than 255 people.

    Raises:
        InputError: the people have no masks.
    """
    masks = [mask for person in result if (mask := person.mask) is not None]
    if len(masks) < len(result):
        raise InputError("--masks: this network predicts poses only, or decode.masks is off")
    kind: Any = np.uint8 if len(masks) < 256 else np.uint16
    numbers = np.zeros((result.height, result.width), kind)
    for number, mask in reversed(list(enumerate(masks, start=1))):
        numbers[mask] = number
    return bytes(cv2.imencode(".png", numbers)[1].tobytes())


class _Unfinished:
    """A text file that gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._cleanup = contextlib.ExitStack()
        self._cleanup.enter_context(unfinished(self._temporary))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(self._temporary, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._error(error) from None

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise self._error(error) from None

    def finish(self) -> None:
        try:
            self._file.close()
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise self._error(error) from None
        finally:
            self._cleanup.close()

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what is buffered may not fit on the disk
            self._file.close()
        self._cleanup.close()

    def _error(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written: {error.strerror or error}")


def _visible_keypoints(person: Person) -> np.ndarray:
    """(K, 3) x, y and COCO's visibility: 2 where found, else zeros."""
    found = person.found[:, None]
    return np.concatenate([np.where(found, person.keypoints, 0.0), found * 2.0], axis=1)


def _write_image(stem: Path, found: Found) -> Path:
    """Copies the image file, or writes the frame as JPEG."""
    if found.source is None:
        content = cv2.imencode(".jpg", found.result.image[..., ::-1])[1].tobytes()
        suffix = ".jpg"
    else:
        try:
            content, suffix = found.source.read_bytes(), found.source.suffix
        except OSError as error:
            raise InputError(f"{found.source}: cannot be read: {error.strerror}") from None
    path = stem.with_name(f"{stem.name}{suffix}")
    write_atomically(path, content)
    return path
