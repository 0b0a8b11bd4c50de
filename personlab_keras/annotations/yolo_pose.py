"""Parses and writes YOLO-pose text: the data.yaml and the lines of label files.

A label file has one line per object, numbers separated by white space: class, x and y of the box's
centre, its width and height, then per keypoint x, y (`kpt_shape: [K, 2]`) or x, y, visibility
(`[K, 3]`). All but the class and the visibility are fractions of the image's width and height: a
COCO keypoint at pixel x becomes x / width, as in Ultralytics' conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import yaml

from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

SPLITS = ("train", "val", "test")
_DECIMALS = 9
"""Decimals of written fractions: the error is 1e-5 pixels in an image of 20,000 pixels."""
_PIXEL_DECIMALS = 3
"""Decimals of pixels read: six decimals of a fraction, as most tools write, say no more about an
image of 1,000 pixels, and whole pixels are restored exactly.
"""
_OTHER_NAMES = {"val": ("validation", "valid")}


@dataclass(frozen=True)
class YoloPose:
    """The contents of a data.yaml.

    Attributes:
        names: class id -> name.
        keypoints: K, the number of keypoints of every class.
        dimensions: 3 with a visibility per keypoint, 2 without.
        flip_order: the `flip_idx` of the file; None if absent.
        keypoint_names: class id -> K names, of the classes for which the file lists them.
        root: the `path` of the file, unchanged; empty if absent.
        splits: the splits in the file -> their image folders, or text files that list images.
    """

    names: Mapping[int, str]
    keypoints: int
    dimensions: int
    flip_order: tuple[int, ...] | None = None
    keypoint_names: Mapping[int, tuple[str, ...]] | None = None
    root: str = ""
    splits: Mapping[str, tuple[str, ...]] | None = None

    @property
    def columns(self) -> int:
        """Values in a line."""
        return 5 + self.keypoints * self.dimensions


def parse_data_yaml(values: Any, source: str) -> YoloPose:
    """Parses and checks the contents of a data.yaml.

    Args:
        values: the loaded YAML.
        source: the file, for messages.

    Raises:
        InputError: if a field is missing or malformed.

    >>> said = parse_data_yaml({"names": {0: "person"}, "kpt_shape": [17, 3]}, "data.yaml")
    >>> said.names, said.columns
    ({0: 'person'}, 56)
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold names and kpt_shape. Received: {_shown(values)}")
    shape = values.get("kpt_shape")
    if (
        not _is_integers(shape)
        or len(shape) != 2
        or not 1 <= shape[0] <= 1000
        or shape[1] not in (2, 3)
    ):
        hint = "" if shape is not None else " (labels without keypoints?)"
        raise InputError(
            f"{source}: kpt_shape must be [number of keypoints, 2 or 3]. "
            f"Received: {_shown(shape)}{hint}"
        )
    count, dimensions = shape
    flip = values.get("flip_idx")
    if flip is not None and (not _is_integers(flip) or sorted(flip) != list(range(count))):
        raise InputError(
            f"{source}: flip_idx must hold every number from 0 to {count - 1} once. "
            f"Received: {_shown(flip)}"
        )
    names = _names(values, source)
    root = values.get("path")
    if root is not None and not isinstance(root, str):
        raise InputError(f"{source}: path must be a text. Received: {_shown(root)}")
    return YoloPose(
        names=names,
        keypoints=count,
        dimensions=dimensions,
        flip_order=None if flip is None else tuple(flip),
        keypoint_names=_keypoint_names(values.get("kpt_names"), names, count, source),
        root=root or "",
        splits=_splits(values, source),
    )


def _names(values: Mapping[str, Any], source: str) -> dict[int, str]:
    names, count = values.get("names"), values.get("nc")
    if names is None and type(count) is int and 1 <= count <= 100_000:
        return {i: f"class_{i}" for i in range(count)}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(
            f"{source}: names must say what the class numbers mean. Received: {_shown(names)}"
        )
    # YAML reads `0: no` as a bool and "0": person as a text.
    said = {_whole(key): str(name) for key, name in names.items()}
    if None in said or len(said) < len(names) or len(set(said.values())) < len(said):
        raise InputError(
            f"{source}: names must map whole numbers from 0 to distinct names. "
            f"Received: {_shown(names)}"
        )
    return {key: name for key, name in said.items() if key is not None}


def _whole(key: Any) -> int | None:
    if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key):
        key = int(key)
    return key if type(key) is int and key >= 0 else None


def _keypoint_names(
    said: Any, names: Mapping[int, str], count: int, source: str
) -> dict[int, tuple[str, ...]]:
    if said is None:
        return {}
    if isinstance(said, list):
        # A list of names applies to every class, a list of lists to one class each.
        said = (
            dict(enumerate(said))
            if said and isinstance(said[0], list)
            else dict.fromkeys(names, said)
        )
    found: dict[int, tuple[str, ...]] = {}
    for key, keypoints in said.items() if isinstance(said, dict) else [(None, said)]:
        number = _whole(key)
        if number is None or not isinstance(keypoints, list) or len(keypoints) != count:
            raise InputError(
                f"{source}: kpt_names must give {count} names for a class. "
                f"Received: {_shown(keypoints)}"
            )
        found[number] = tuple(map(str, keypoints))
    return found


def _splits(values: Mapping[str, Any], source: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for split in SPLITS:
        key = next(
            (
                key
                for key in (split, *_OTHER_NAMES.get(split, ()))
                if values.get(key) not in (None, "", [])
            ),
            None,
        )
        if key is None:
            continue
        places = values[key] if isinstance(values[key], list) else [values[key]]
        if not all(isinstance(place, str) and place for place in places):
            raise InputError(
                f"{source}: {key} must be a folder of images, a text file that lists them, or a "
                f"list of these. Received: {_shown(values[key])}"
            )
        found[split] = tuple(places)
    return found


def check_skeleton(data: YoloPose, skeleton: Skeleton, source: str) -> None:
    """Checks that the keypoints are those of a skeleton, as far as the data.yaml specifies them.

    Raises:
        InputError: if their number differs, or their order according to names or `flip_idx`.
    """
    if data.keypoints != skeleton.keypoint_count:
        raise InputError(
            f"{source}: kpt_shape must be that of the {skeleton.keypoint_count} keypoints of "
            f"'{skeleton.name}'. Received: {[data.keypoints, data.dimensions]}"
        )
    expected = skeleton.flip_order.tolist()
    if data.flip_order is not None and list(data.flip_order) != expected:
        raise InputError(
            f"{source}: flip_idx must be that of '{skeleton.name}', {expected}. "
            f"Received: {list(data.flip_order)}"
        )


@dataclass(frozen=True)
class LabelLine:
    """A line of a label file, in fractions of the image.

    Attributes:
        class_id: the first number.
        values: all values, NaN for text that is no number.
        keypoints: (K, 3) float64 [x, y, visibility]; None if the line has an unexpected number of
            values.
    """

    class_id: int
    values: tuple[float, ...]
    keypoints: np.ndarray | None

    @property
    def columns(self) -> int:
        """The number of values in the line."""
        return len(self.values)

    @property
    def box(self) -> tuple[float, ...] | None:
        """Centre x, y, width, height; None unless the line has the expected number of values, or
        those of a box alone. Others may be anything, such as the corners of a polygon.
        """
        return self.values[1:5] if self.keypoints is not None or self.columns == 5 else None

    @property
    def within(self) -> bool:
        """Whether there is a box whose centre is in the image, within a hundredth."""
        return self.box is not None and all(-0.01 <= value <= 1.01 for value in self.box[:2])

    def coco_box(self, width: int, height: int) -> list[float] | None:
        """[x, y, width, height] in pixels, edge coordinates."""
        if self.box is None:
            return None
        x, y, w, h = self.box
        pixels = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return [round(value, _PIXEL_DECIMALS) for value in pixels]

    def coco_keypoints(self, width: int, height: int) -> list[float] | None:
        """[x, y, visibility] * K in pixels."""
        if self.keypoints is None:
            return None
        pixels = self.keypoints * (width, height, 1)
        return np.round(pixels, _PIXEL_DECIMALS).reshape(-1).tolist()


def parse_line(text: str, keypoints: int, dimensions: int) -> LabelLine:
    """Parses a non-blank line.

    Without visibilities, a keypoint is labelled unless it is at 0 0 or negative, as tools write
    missing ones.

    Raises:
        ValueError: if the class is no whole number; the message states the rule.

    >>> line = parse_line("0 0.5 0.5 0.2 0.4  0.25 0.75", keypoints=1, dimensions=2)
    >>> line.coco_box(100, 100), line.coco_keypoints(100, 100)
    ([40.0, 30.0, 20.0, 40.0], [25.0, 75.0, 2.0])
    """
    tokens = text.split()
    values = tuple(map(_number, tokens))
    if not 0 <= values[0] < 1e9 or values[0] != int(values[0]):
        raise ValueError(
            "must begin with the number of a class, and hold numbers separated by spaces. "
            f"Received: {_shown(tokens[0])}"
        )
    points = None
    if len(values) == 5 + keypoints * dimensions:
        points = np.array(values[5:]).reshape(keypoints, dimensions)
        if dimensions == 2:
            unlabelled = (points < 0).any(axis=1) | (points == 0).all(axis=1)
            points = np.column_stack([points, np.where(unlabelled, 0.0, 2.0)])
    return LabelLine(int(values[0]), values, points)


def _number(text: str) -> float:
    """The number, or NaN. Python alone would also accept spellings such as 1_000."""
    try:
        return float("nan") if "_" in text else float(text)
    except ValueError:
        return float("nan")


def label_text(
    people: Iterable[tuple[int, Sequence[float], np.ndarray]],
    width: int,
    height: int,
    dimensions: int = 3,
) -> str:
    """The content of a label file.

    Args:
        people: class, box [x, y, width, height] and keypoints (K, 3) [x, y, visibility] of each,
            in pixels as in COCO.

    >>> label_text([(0, [40.0, 30.0, 20.0, 40.0], np.array([[25.0, 75.0, 2.0]]))], 100, 100)
    '0 0.5 0.5 0.2 0.4 0.25 0.75 2\\n'
    """
    lines = []
    for class_id, (x, y, w, h), keypoints in people:
        box = np.array([x + w / 2, y + h / 2, w, h]) / (width, height, width, height)
        points = np.where(keypoints[:, 2:] > 0, keypoints / (width, height, 1), 0.0)
        values = [*box, *points[:, :dimensions].reshape(-1)]
        lines.append(" ".join([str(class_id), *map(_shortest, values)]) + "\n")
    return "".join(lines)


def _shortest(value: float) -> str:
    text = f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def data_yaml_text(data: YoloPose) -> str:
    """The text of a data.yaml; inverse of `parse_data_yaml`."""
    splits = {
        split: places[0] if len(places) == 1 else list(places)
        for split, places in (data.splits or {}).items()
    }
    values: dict[str, Any] = {
        **({"path": data.root} if data.root else {}),
        **splits,
        "kpt_shape": [data.keypoints, data.dimensions],
        **({} if data.flip_order is None else {"flip_idx": list(data.flip_order)}),
        "names": dict(data.names),
    }
    if data.keypoint_names:
        values["kpt_names"] = {key: list(names) for key, names in data.keypoint_names.items()}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _is_integers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
