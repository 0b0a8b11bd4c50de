"""Reading COCO keypoint annotations, with everything that is wrong in real files named and
counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.annotations.dataset import AnnotatedImage, Annotation, Dataset
from personlab_keras.annotations.json_lists import read_lists
from personlab_keras.annotations.keypoint_names import PARTS, parts_joined
from personlab_keras.annotations.masks import compress_segmentation
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.annotations.values import numbers, shown
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

_LARGEST_ID = 2**63 - 1
"""Records hold ids as int64."""
_LARGEST_SIDE = 1 << 20
"""Of an image in pixels: beyond it lie slips of the pen, and arrays that no machine holds."""
_ROUNDING = 1.0
"""Pixels by which a keypoint may lie beyond the outermost pixel centre: as much as counting from 1
or rounding up costs.
"""


def read_coco(
    path: str | Path, skeleton: Skeleton, categories: Sequence[str] = (), strict: bool = False
) -> Dataset:
    """Reads an annotation file of COCO's keypoints format, entry by entry.

    What is wrong with a single entry is counted, and as much of it used as can be:
    docs/data-format.md has the rules.

    Args:
        categories: names of those whose annotations count; if none, the one that has this
            skeleton's keypoints.
        strict: whether the first fault of an entry is an error.

    Raises:
        InputError: the file is missing or no such JSON; it lists no images, no annotations or no
            categories; no category, or none of those names, has this skeleton's keypoints; several
            have and none was named; with `strict`, as said there.
    """
    tally = Tally(strict, str(path))
    described: list[Any] = []
    images = _Images(tally)
    # Two passes: the categories stand behind the annotations, and what is of another is not worth
    # keeping meanwhile.
    lists = read_lists(
        path, {"categories": lambda _, entry: described.append(entry), "images": images.add}
    )
    for field in ("images", "annotations", "categories"):
        found = lists.found.get(field, "nothing")
        if isinstance(found, str) or not found:
            came = found or "an empty list"
            raise InputError(
                f"{path}: '{field}' must be a list with at least one entry. Received: {came}"
            )
    listed = images.finish()
    chosen = chosen_categories(described, skeleton, categories, path)
    people = People(skeleton, chosen, listed, tally)
    read_lists(path, {"annotations": people.add})
    if (parts := set().union(*chosen.values())) and not people.parts_found:
        raise InputError(
            f"{path}: annotations must have {', '.join(sorted(parts))} for '{skeleton.name}'. "
            "Received: none"
        )
    return Dataset(
        images=tuple(
            replace(image, complete=False) if image.id in images.incomplete else image
            for image in people.with_images()
        ),
        skipped=dict(tally.counts),
        examples=tally.examples,
        bytes=lists.bytes,
        sha256=lists.sha256,
    )


def chosen_categories(
    described: Iterable[Any], skeleton: Skeleton, names: Sequence[str], path: str | Path
) -> dict[int, tuple[str, ...]]:
    """The categories that count: id -> the fields of its annotations beyond `keypoints` that belong
    to the skeleton.

    Args:
        described: the list of categories, as in the file.
        names: those that the user names.
        path: named in errors.

    Raises:
        InputError: as `read_coco` says.
    """
    known: dict[int, tuple[Any, Any]] = {}
    for entry in described:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            known[entry["id"]] = (entry.get("name"), entry.get("keypoints"))
    all_names = ", ".join(repr(name) for name, _ in known.values())
    if strangers := [
        name for name in names if name not in [known_name for known_name, _ in known.values()]
    ]:
        raise InputError(
            f"{path}: no category is called {strangers[0]!r}. The file has: {all_names}"
        )
    candidates = {
        i: (name, keypoints) for i, (name, keypoints) in known.items() if not names or name in names
    }
    fitting = {
        i: parts
        for i, (_, keypoints) in candidates.items()
        if (parts := parts_joined(keypoints, skeleton)) is not None
    }
    if len(fitting) < (len(candidates) if names else 1):
        other = next((k for i, (_, k) in candidates.items() if k and i not in fitting), None)
        came = (
            ", ".join(map(str, other))
            if isinstance(other, list)
            else "categories without keypoints (an instances file?)"
        )
        wanted = f"the {skeleton.keypoint_count} keypoints of '{skeleton.name}', in their order"
        raise InputError(
            f"{path}: {f'category {names[0]!r} must have' if names else 'no category has'} {wanted}. Received: {came}"
        )
    if len(fitting) > 1 and not names:
        raise InputError(
            f"{path}: several categories have the keypoints of '{skeleton.name}': {all_names}. Say which by --category"
        )
    return fitting


class _Images:
    """The list of images as it is read: id -> (file name, width, height)."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._known: dict[int, tuple[str, int, int]] = {}
        self._shared: set[int] = set()
        self.incomplete: set[int] = set()
        """Ids of images that say of themselves that not everybody in them is annotated."""

    def add(self, number: int, entry: Any) -> None:
        place = f"images[{number}]"
        problem = _image_problem(entry)
        if problem:
            self._tally.add(Reason.IMAGE_MALFORMED, f"{place}{problem}")
            return
        identity, fields = entry["id"], (entry["file_name"], entry["width"], entry["height"])
        if not entry.get("complete", True):
            self.incomplete.add(identity)
        if self._known.setdefault(identity, fields) != fields:
            self._shared.add(identity)
            self._tally.add(
                Reason.IMAGE_ID_SHARED,
                f"{place}.id {identity}: {fields[0]!r} and {self._known[identity][0]!r}",
            )
        elif self._known[identity] is not fields:
            self._tally.add(Reason.IMAGE_REPEATED, f"{place}.id {identity}")

    def finish(self) -> dict[int, tuple[str, int, int]]:
        """Those that can be told apart. Of images that share an id nobody knows which one the
        annotations belong to.
        """
        return {
            identity: fields
            for identity, fields in self._known.items()
            if identity not in self._shared
        }


def _image_problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f" must be an object. Received: {type(entry).__name__}"
    for name, kind in (("width", int), ("height", int), ("id", int), ("file_name", str)):
        if type(entry.get(name)) is not kind:
            return f".{name} must be a {kind.__name__}. Received: {shown(entry.get(name))}"
    if not 0 <= entry["id"] <= _LARGEST_ID:
        return f".id must be from 0 to 2**63 - 1. Received: {shown(entry['id'])}"
    if not (1 <= entry["width"] <= _LARGEST_SIDE and 1 <= entry["height"] <= _LARGEST_SIDE):
        return f" must have a size of at least one pixel. Received: {shown(entry['width'])} x {shown(entry['height'])}"
    if type(entry.get("complete", True)) is not bool:
        return f".complete must be true or false. Received: {shown(entry['complete'])}"
    try:
        entry["file_name"].encode()
    except UnicodeEncodeError:
        return f".file_name must be text that a file can be called. Received: {shown(entry['file_name'])}"
    return ""


class People:
    """The rules of a single annotation, and those that it lets pass; `of_image`: by image.

    Args:
        categories: those that count, as `chosen_categories` gives them.
        images: id -> (file name, width, height).
    """

    def __init__(
        self,
        skeleton: Skeleton,
        categories: Mapping[int, tuple[str, ...]],
        images: Mapping[int, tuple[str, int, int]],
        tally: Tally,
    ):
        self.of_image: dict[int, list[Annotation]] = {}
        self.parts_found = 0
        self._count = skeleton.keypoint_count
        self._categories, self._images, self._tally = categories, images, tally
        self._seen: dict[int, int] = {}
        """Id -> hash of what it was given to."""

    def add(self, number: int, entry: Any) -> None:
        """Takes the entry of that number in the list."""
        self.add_at(f"annotations[{number}]", entry)

    def add_at(self, place: str, entry: Any) -> None:
        """Takes an entry that examples and errors call `place`."""
        if not isinstance(entry, dict):
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place} must be an object. Received: {type(entry).__name__}",
            )
            return
        category, image = entry.get("category_id"), entry.get("image_id")
        if type(category) is not int or type(image) is not int:
            name, value = (
                ("image_id", image) if type(category) is int else ("category_id", category)
            )
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place}.{name} must be an int. Received: {shown(value)}",
            )
        elif category not in self._categories:
            self._tally.add(
                Reason.ANNOTATION_OTHER_CATEGORY, f"{place}.category_id {shown(category)}"
            )
        elif image not in self._images:
            self._tally.add(Reason.ANNOTATION_UNKNOWN_IMAGE, f"{place}.image_id {shown(image)}")
        else:
            _, width, height = self._images[image]
            entry = self._with_parts(entry, place)
            annotation = self._annotation(entry, place, width, height)
            if annotation is not None:
                self.of_image.setdefault(image, []).append(annotation)

    def _with_parts(self, entry: dict[str, Any], place: str) -> dict[str, Any]:
        """An annotation whose keypoints are all of the skeleton's, joined from the lists over which
        COCO-WholeBody spreads them.
        """
        for part in self._categories[entry["category_id"]]:
            self.parts_found += part in entry
            length = 3 * len(PARTS[part])
            values = numbers(entry.get(part), length)
            if values is None:
                values = np.zeros(length)
                if not entry.get("iscrowd"):
                    self._tally.add(
                        Reason.KEYPOINTS_MALFORMED,
                        f"{place}.{part} must be {length} finite numbers. "
                        f"Received: {shown(entry.get(part))}",
                    )
            keypoints, count = entry.get("keypoints"), entry.get("num_keypoints")
            if isinstance(keypoints, list):
                entry = {**entry, "keypoints": keypoints + values.tolist()}
            if type(count) is int:  # of the body alone
                entry = {**entry, "num_keypoints": count + int((values[2::3] != 0).sum())}
        return entry

    def with_images(self) -> tuple[AnnotatedImage, ...]:
        """All images in order of id, with their people in order of theirs."""
        return tuple(
            AnnotatedImage(
                identity,
                *fields,
                tuple(sorted(self.of_image.get(identity, ()), key=lambda person: person.id)),
            )
            for identity, fields in sorted(self._images.items())
        )

    def _annotation(
        self, entry: dict[str, Any], place: str, width: int, height: int
    ) -> Annotation | None:
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1) or not isinstance(crowd, int):
            # Somebody is there: unknown, rather than background.
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place}.iscrowd must be 0 or 1 (taken as 1). Received: {shown(crowd)}",
            )
            crowd = 1
        keypoints = self._keypoints(entry, place, width, height, bool(crowd))
        box = numbers(entry.get("bbox"), 4)
        if box is None or not (np.abs(box) <= _LARGEST_SIDE).all() or box[2:].min() <= 0.0:
            rule = "must be 4 finite numbers, the last two above 0"
            self._tally.add(
                Reason.BOX_MALFORMED, f"{place}.bbox {rule}. Received: {shown(entry.get('bbox'))}"
            )
            box = np.full(4, np.nan)
        area = entry.get("area")
        if (
            not isinstance(area, (int, float))
            or isinstance(area, bool)
            or not 0.0 < area <= _LARGEST_SIDE**2
        ):
            self._tally.add(
                Reason.AREA_MALFORMED,
                f"{place}.area must be a number above 0. Received: {shown(area)}",
            )
            area = np.nan
        segmentation = entry.get("segmentation") or None
        packed_form = None if segmentation is None else compress_segmentation(segmentation)
        identity = entry.get("id")
        what = hash((entry["image_id"], keypoints.tobytes(), box.tobytes(), packed_form))
        if type(identity) is not int or not 0 <= identity <= _LARGEST_ID:
            self._tally.add(
                Reason.ANNOTATION_ID,
                f"{place}.id must be an int from 0 to 2**63 - 1. Received: {shown(identity)}",
            )
            identity = 0
        elif self._seen.setdefault(identity, what) is not what:
            if self._seen[identity] == what:
                self._tally.add(Reason.ANNOTATION_REPEATED, f"{place}.id {identity}")
                return None
            self._tally.add(Reason.ANNOTATION_ID, f"{place}.id {identity} was another one's before")
        return Annotation(identity, keypoints, box, float(area), packed_form, bool(crowd))

    def _keypoints(
        self, entry: dict[str, Any], place: str, width: int, height: int, crowd: bool
    ) -> np.ndarray:
        """(K, 3), with zero rows for what cannot be used."""
        nothing = np.zeros((self._count, 3))
        given = entry.get("keypoints")
        if given is None and crowd:  # crowd regions may come without
            return nothing
        values = numbers(given, 3 * self._count)
        if values is None:
            came = (
                f"{len(given)} values"
                if isinstance(given, list) and len(given) != 3 * self._count
                else shown(given)
            )
            rule = f"must be {3 * self._count} finite numbers"
            self._tally.add(
                Reason.KEYPOINTS_MALFORMED, f"{place}.keypoints {rule}. Received: {came}"
            )
            return nothing
        keypoints = values.reshape(self._count, 3)
        x, y, visibility = keypoints.T
        labelled = visibility != 0
        within = (
            (x >= -_ROUNDING)
            & (x <= width - 1 + _ROUNDING)
            & (y >= -_ROUNDING)
            & (y <= height - 1 + _ROUNDING)
        )
        known = (visibility == 1) | (visibility == 2)
        kept = known & within
        if not np.array_equal(kept, labelled):
            sound = known & np.isfinite(x) & np.isfinite(y)
            for reason, rows in (
                (Reason.KEYPOINT_MALFORMED, labelled & ~sound),
                (Reason.KEYPOINT_OUTSIDE, sound & ~within),
            ):
                for k in np.flatnonzero(rows):
                    self._tally.add(
                        reason,
                        f"{place}.keypoints[{k}] in {width} x {height} pixels: {shown(keypoints[k].tolist())}",
                    )
        count, said = int(labelled.sum()), entry.get("num_keypoints")
        if said is not None and not crowd and said != count:
            self._tally.add(
                Reason.COUNT_DISAGREES,
                f"{place}.num_keypoints {shown(said)} of {count} labelled keypoints",
            )
        return np.where(kept[:, None], keypoints, 0.0)
