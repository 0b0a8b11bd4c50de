"""Reads a YOLO-pose data set by the rules of the COCO reader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from personlab_keras.annotations.coco import People, chosen_categories
from personlab_keras.annotations.dataset import BOX_FILL, TURNED, Dataset
from personlab_keras.annotations.image_files import picture_size
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.annotations.yolo_folder import (
    YoloFolder,
    image_ids,
    label_path,
    open_yolo,
    read_text,
)
from personlab_keras.annotations.yolo_pose import (
    LabelLine,
    YoloPose,
    check_skeleton,
    parse_line,
)
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

_Place = tuple[str, int]
"""Image name and line number in its label file."""


def read_yolo(
    path: str | Path,
    skeleton: Skeleton,
    categories: Sequence[str] = (),
    strict: bool = False,
    split: str | None = None,
    frame: str = TURNED,
) -> Dataset:
    """Reads a split of a YOLO-pose data set.

    An image with an empty label file, or with none, has no people. Faults of single lines are
    counted by the reasons of `read_coco`, with label file and line number as examples.

    Args:
        path: a data.yaml, or a folder: see `open_yolo`.
        categories: names of the classes to read; by default the only one.
        strict: whether the first fault is an error.
        split: "train", "val" or "test"; None for the only one.
        frame: the frame of the coordinates, `STORED` or `TURNED`; Ultralytics uses the latter.

    Raises:
        InputError: as `open_yolo`; if the keypoints of the data.yaml differ from the skeleton's, no
            image has a label file, no line has the expected number of values, or the coordinates
            are no fractions; with `strict`, for the first fault.
    """
    folder = open_yolo(path, split)
    tally = Tally(strict, folder.source)
    for reason, found in (
        (Reason.IMAGE_OUTSIDE, folder.outside),
        (Reason.IMAGE_REPEATED, folder.repeated),
        (Reason.ANNOTATION_UNKNOWN_IMAGE, folder.strays),
    ):
        for each in found:
            tally.add(reason, str(each))
    texts = dict(_texts(folder, tally))
    if texts and all(text is None for text in texts.values()):
        raise InputError(
            f"{folder.source}: images must have label files. Received: none for {len(texts)} "
            f"images, such as {folder.label_file(next(iter(texts)))}"
        )
    data = folder.data or _layout(texts, skeleton)
    check_skeleton(data, skeleton, folder.source)
    images = dict(_images(folder, texts, tally, frame))
    said = data.keypoint_names or {}
    described = [
        {"id": number, "name": name, "keypoints": list(said.get(number, skeleton.keypoints))}
        for number, name in data.names.items()
    ]
    chosen = chosen_categories(described, skeleton, categories, folder.source)
    people = People(skeleton, chosen, images, tally)
    sizes = {name: (number, width, height) for number, (name, width, height) in images.items()}
    _add_people(people, folder.source, data, sizes, texts, tally)
    content = hashlib.sha256(repr((data, sorted(texts.items()))).encode("utf-8", "replace"))
    return Dataset(
        images=people.with_images(),
        skipped=dict(tally.counts),
        examples=tally.examples,
        bytes=sum(len(text or "") for text in texts.values()),
        sha256=content.hexdigest(),
        folder=folder.root,
        category=min(chosen),
        frame=frame,
    )


def _texts(folder: YoloFolder, tally: Tally) -> Iterator[tuple[str, str | None]]:
    """The contents of every image's label file; None if there is none. Images whose label file is
    unreadable are omitted, since their people are unknown.
    """
    for name in folder.images:
        file = folder.label_file(name)
        try:
            yield name, read_text(file) if file.exists() else None
        except OSError as error:
            tally.add(Reason.LABELS_UNREADABLE, f"{file}: {error.strerror}")
        except InputError as error:
            tally.add(Reason.LABELS_UNREADABLE, str(error))


def _layout(texts: Mapping[str, str | None], skeleton: Skeleton) -> YoloPose:
    """The layout inferred from the lines if there is no data.yaml: the classes, and whether
    keypoints have visibilities.
    """
    count = skeleton.keypoint_count
    guess = YoloPose(names={}, keypoints=count, dimensions=3)
    lines = [line for _, line in _lines(texts, guess) if isinstance(line, LabelLine)]
    flat = YoloPose(names={}, keypoints=count, dimensions=2)
    without = sum(line.columns == flat.columns for line in lines)
    return YoloPose(
        names={number: str(number) for number in sorted({line.class_id for line in lines})},
        keypoints=count,
        dimensions=2 if without > sum(line.columns == guess.columns for line in lines) else 3,
    )


def _lines(
    texts: Mapping[str, str | None], data: YoloPose
) -> Iterator[tuple[_Place, LabelLine | str]]:
    """All non-blank lines, each parsed or as an error message."""
    for name, text in texts.items():
        for number, line in enumerate((text or "").splitlines(), start=1):
            if line.split():
                try:
                    yield (name, number), parse_line(line, data.keypoints, data.dimensions)
                except ValueError as error:
                    yield (name, number), str(error)


def _images(
    folder: YoloFolder, texts: Mapping[str, str | None], tally: Tally, frame: str
) -> Iterator[tuple[int, tuple[str, int, int]]]:
    """Id -> (file name, width, height) of the images of known size, without which coordinates are
    meaningless.
    """
    for name, number in image_ids(folder.images).items():
        if name in texts:
            size = picture_size(folder.root / name, f"image {number} {name!r}", tally, frame)
            if size is not None:
                yield number, (name, *size)


def _add_people(
    people: People,
    source: str,
    data: YoloPose,
    images: Mapping[str, tuple[int, int, int]],
    texts: Mapping[str, str | None],
    tally: Tally,
) -> None:
    """Passes the lines of images, name -> (id, width, height), to the COCO rules.

    Raises:
        InputError: if no line belongs to such a file.
    """
    classes = ", ".join(f"{number} {name!r}" for number, name in data.names.items())
    with_boxes = inside = 0
    first = ""
    before: set[tuple[Any, ...]] = set()
    for number, ((name, row), line) in enumerate(_lines(texts, data), start=1):
        place = f"{label_path(Path(name)).as_posix()}:{row}"
        if isinstance(line, str):
            first = first or f"{place} {line}"
            tally.add(Reason.ANNOTATION_MALFORMED, f"{place} {line}")
            continue
        first = first or f"{line.columns} numbers in {place}"
        with_boxes += line.box is not None
        inside += line.within
        if name not in images:
            continue
        if line.class_id not in data.names:
            tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place}: class must be one of {classes}. Received: {line.class_id}",
            )
        elif (same := (name, *line.values)) in before:
            tally.add(Reason.ANNOTATION_REPEATED, place)
        else:
            before.add(same)
            people.add_at(place, _entry(line, data, number, *images[name]))
    if first and not with_boxes:
        raise InputError(
            f"{source}: a line of labels must have {data.columns} numbers: class, box, and "
            f"{data.keypoints} keypoints of {data.dimensions}. Received: {first}"
        )
    if with_boxes and not inside:
        raise InputError(
            f"{source}: coordinates must be fractions of the image, from 0 to 1. "
            f"Received: no box with its centre there in {with_boxes} lines"
        )


def _entry(
    line: LabelLine, data: YoloPose, number: int, image: int, width: int, height: int
) -> dict[str, Any]:
    """A line in COCO's form. Missing values are replaced by a description, which the rules refuse
    and show.
    """
    came = f"a line of {line.columns} numbers instead of {data.columns}"
    box = line.coco_box(width, height)
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": line.class_id,
        "keypoints": line.coco_keypoints(width, height) or came,
        "bbox": box or came,
    }
    if box is not None and line.within:
        entry["area"] = BOX_FILL * box[2] * box[3]
    elif box is not None:
        entry["bbox"] = "centre and size {:g} {:g} {:g} {:g} of the image".format(*line.values[1:5])
    return entry
