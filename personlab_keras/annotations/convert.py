"""Writes a data set of any format as a COCO file or a YOLO-pose folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from personlab_keras.annotations.dataset import STORED, AnnotatedImage, Dataset
from personlab_keras.annotations.formats import AUTO, images_folder, read_annotations
from personlab_keras.annotations.image_files import HEADER, find_image, image_path, none_usable
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.annotations.subjects import Subject, subjects
from personlab_keras.annotations.yolo_folder import is_yolo, label_path, load_yaml
from personlab_keras.annotations.yolo_pose import (
    SPLITS,
    YoloPose,
    data_yaml_text,
    label_text,
    parse_data_yaml,
)
from personlab_keras.errors import InputError
from personlab_keras.io.exif import exif_orientation
from personlab_keras.io.files import write_atomically
from personlab_keras.method.skeleton import Skeleton

_PERSON = "person"
"""Name of the only class written."""


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        images, people: their numbers.
        without_place: number of crowd regions and of people with neither box nor keypoints, which
            YOLO-pose cannot represent.
        place_of_images: the folder to which the image names in the result are relative.
        skipped, examples: as in `Dataset`.
    """

    images: int
    people: int
    without_place: int
    place_of_images: Path | None
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]


def convert(
    annotations: str | Path,
    out: str | Path,
    skeleton: Skeleton,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    categories: Sequence[str] = (),
    strict: bool = False,
    frame: str = AUTO,
) -> Converted:
    """Reads annotations in any format, by the rules of `prepare`, and writes a COCO file if `out`
    ends in `.json`, otherwise a split of a YOLO-pose folder.

    Args:
        annotations: a COCO keypoints file, or a YOLO-pose folder or its data.yaml.
        images: the image folder of a COCO file; None to copy no images.
        split: the split of the YOLO-pose folder to read or write ("train" if None).
        categories, strict, frame: as in `read_annotations`.

    Raises:
        InputError: as `read_annotations`, `write_coco` and `write_yolo`.
    """
    reads_yolo, writes_coco = is_yolo(annotations), Path(out).suffix.lower() == ".json"
    if reads_yolo != writes_coco:
        what = "a COCO file, NAME.json" if reads_yolo else "a YOLO-pose folder"
        raise InputError(f"{annotations}: is converted into {what}. Received: --out {out}")
    dataset = read_annotations(
        annotations, skeleton, categories, strict, split if reads_yolo else None, frame
    )
    if reads_yolo:
        images_folder(dataset, images, annotations)
        return write_coco(dataset, skeleton, out)
    return write_yolo(
        dataset,
        skeleton,
        out,
        split or SPLITS[0],
        None if images is None else images_folder(dataset, images, annotations),
    )


def write_coco(dataset: Dataset, skeleton: Skeleton, out: str | Path) -> Converted:
    """Writes a COCO keypoints file with new ids, and an area and a box for every person.

    Raises:
        InputError: if the file exists or cannot be written.
    """
    if Path(out).exists():
        raise InputError(f"{out}: is there already. Choose another name")
    tally = Tally()
    tally.merge(dataset.skipped, dataset.examples)
    annotations = [
        _coco_entry(subject, image)
        for image in dataset.images
        for subject in subjects(image, tally)
    ]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    for image, orientation in _oriented(dataset, dataset.folder):
        tally.add(Reason.IMAGE_TURNED, f"{image.file_name}: orientation {orientation}")
    places = {name: i for i, name in enumerate(skeleton.keypoints, start=1)}
    content = {
        "images": [
            {
                "id": image.id,
                "file_name": image.file_name,
                "width": image.width,
                "height": image.height,
                **({} if image.complete else {"complete": False}),
            }
            for image in dataset.images
        ],
        "annotations": annotations,
        "categories": [
            {
                "id": 1,
                "name": _PERSON,
                "supercategory": _PERSON,
                "keypoints": list(skeleton.keypoints),
                "skeleton": [[places[a], places[b]] for a, b in skeleton.edges],
            }
        ],
    }
    write_atomically(out, json.dumps(content, allow_nan=False).encode())
    return Converted(
        len(dataset.images), len(annotations), 0, dataset.folder, tally.counts, tally.examples
    )


def _coco_entry(subject: Subject, image: AnnotatedImage) -> dict[str, Any]:
    points = subject.annotation.keypoints
    whole = [0.0, 0.0, float(image.width), float(image.height)]
    return {
        "image_id": image.id,
        "category_id": 1,
        # A person of unknown position makes the whole image an ignored region.
        "iscrowd": int(subject.annotation.crowd or subject.box is None),
        "keypoints": points.reshape(-1).tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
        "bbox": whole if subject.box is None else subject.box.tolist(),
        "area": subject.area,
    }


def write_yolo(
    dataset: Dataset,
    skeleton: Skeleton,
    out: str | Path,
    split: str = "train",
    images: str | Path | None = None,
) -> Converted:
    """Writes a split of a YOLO-pose folder: `labels`, copies of the images, data.yaml. Existing
    splits are kept.

    YOLO-pose has neither masks nor crowd regions. Masks are dropped; crowd regions, and people with
    neither keypoints nor a box, are omitted, as in Ultralytics' conversion of COCO.

    Args:
        split: "train", "val" or "test".
        images: the image folder; None to copy no images. An image that cannot be copied is omitted
            together with its people.

    Raises:
        InputError: if the folder holds another data set or already has this split, if two images
            would share a label file, or if a file cannot be written.
    """
    target = Path(out)
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    data = _joined(target, skeleton, split)
    if dataset.frame == STORED:
        for image, orientation in _oriented(dataset, images):
            raise InputError(
                f"{image.file_name}: has the EXIF orientation {orientation}, and YOLO's labels are "
                "in the frame of the turned picture. Remove the tag; or say "
                "data.annotation_frame=turned if these are, too"
            )
    tally = Tally()
    tally.merge(dataset.skipped, dataset.examples)
    names = _label_names(dataset, split, out)
    done = people = without_place = 0
    for image in dataset.images:
        place = Path("images", split, image.file_name)
        if not _copied(image, images, target / place, tally):
            continue
        found = subjects(image, tally)
        lines = [
            (0, subject.box.tolist(), subject.annotation.keypoints)
            for subject in found
            if not subject.annotation.crowd and subject.box is not None
        ]
        _write(target / names[image.file_name], label_text(lines, image.width, image.height))
        done += 1
        people += len(lines)
        without_place += len(found) - len(lines)
    if images is not None and not done:
        raise none_usable(Path(images), len(dataset.images), tally)
    write_atomically(
        target / "data.yaml", data_yaml_text(data).encode()
    )  # last: it completes the folder
    return Converted(
        done, people, without_place, target / "images" / split, tally.counts, tally.examples
    )


def _oriented(dataset: Dataset, folder: str | Path | None) -> Iterator[tuple[AnnotatedImage, int]]:
    """The images that viewers rotate or mirror, with their EXIF orientation."""
    if folder is None:
        return
    for image in dataset.images:
        path = image_path(Path(folder).resolve(), image.file_name, follow_links=True)
        try:
            if path is not None and path.is_file():
                with open(path, "rb") as file:
                    orientation = exif_orientation(file.read(HEADER))
                if orientation != 1:
                    yield image, orientation
        except OSError:  # reported when the image is read
            continue


def _joined(target: Path, skeleton: Skeleton, split: str) -> YoloPose:
    """The data.yaml of a folder, extended by a split."""
    data = YoloPose(
        names={0: _PERSON},
        keypoints=skeleton.keypoint_count,
        dimensions=3,
        flip_order=tuple(skeleton.flip_order.tolist()),
        keypoint_names={0: skeleton.keypoints},
        splits={split: (f"images/{split}",)},
    )
    file = target / "data.yaml"
    if file.exists():
        there = parse_data_yaml(load_yaml(file), str(file))
        if replace(there, splits=data.splits) != data:
            raise InputError(f"{file}: belongs to another data set. Choose another folder")
        data = replace(data, splits={**(there.splits or {}), **(data.splits or {})})
    if (target / "labels" / split).exists():
        raise InputError(f"{target}: holds {split} already. Choose another folder or --split")
    return data


def _label_names(dataset: Dataset, split: str, out: str | Path) -> dict[str, Path]:
    """File name of an image -> its label file below the folder."""
    names: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for image in dataset.images:
        label = label_path(Path("images", split, image.file_name))
        if owners.setdefault(label, image.file_name) != image.file_name:
            raise InputError(
                f"{out}: {owners[label]} and {image.file_name} would share the label file {label}"
            )
        names[image.file_name] = label
    return names


def _copied(image: AnnotatedImage, images: str | Path | None, to: Path, tally: Tally) -> bool:
    """Copies the file of an image, if possible. (Through a link, a tool that repairs images would
    change the original.)
    """
    # A name that leads out of the source folder would lead out of the target, too.
    if image_path(to.parent, image.file_name, follow_links=True) is None:
        tally.add(Reason.IMAGE_OUTSIDE, f"image {image.id} {image.file_name!r}")
        return False
    if images is None:
        return True
    file = find_image(image, Path(images).resolve(), tally, follow_links=True)
    if file is None:
        return False
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    except OSError as error:
        raise InputError(f"{to}: cannot be written: {error.strerror}") from None
    return True


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None
