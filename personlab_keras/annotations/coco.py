"""Reads COCO keypoint annotations; every fault found in real files is named and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.annotations.dataset import AnnotatedImage, Annotation, Dataset
from personlab_keras.annotations.json_lists import JsonLists, read_lists
from personlab_keras.annotations.keypoint_names import PARTS, parts_joined
from personlab_keras.annotations.masks import compress_segmentation
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.annotations.values import (
    LARGEST_ID,
    crowd_flag,
    identifier,
    numbers,
    shown,
    triples,
)
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

_LARGEST_SIDE = 1 << 20
"""Largest image side in pixels. Anything larger is a mistake, and such arrays fit no memory."""
_ROUNDING = 1.0
"""Pixels by which a keypoint may lie beyond the outermost pixel centre, as in files that count from
1 or round up.
"""
_FEWEST_TO_JUDGE_SCALE = 3
"""Fewest labelled keypoints from which normalised coordinates are inferred."""


def read_coco(
    source: str | Path | Mapping[str, Any],
    skeleton: Skeleton,
    categories: Sequence[str] = (),
    strict: bool = False,
    name: str = "annotations",
) -> Dataset:
    """Reads an annotation file of COCO's keypoints format, entry by entry.

    Faults of single entries are counted by reason, and as much of each entry is used as possible;
    docs/data-format.md lists the rules, which hold for every command.

    Args:
        source: the JSON file, or its content; the content is not modified.
        skeleton: the expected keypoints.
        categories: names of the categories to read; by default the one with the skeleton's
            keypoints.
        strict: raise at the first fault instead of counting it.
        name: what messages call a source that is not a file.

    Raises:
        InputError: if the file is missing or not such JSON; if it has no list of images,
            annotations or categories; if no category, or none of those named, has the skeleton's
            keypoints; if several have them and none was named; if all coordinates lie within 0..1;
            with `strict`, for the first fault.

    >>> from personlab_keras.method.skeleton import COCO_PERSON
    >>> person = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}
    >>> image = {"id": 5, "file_name": "a.jpg", "width": 640, "height": 480}
    >>> entry = {"id": 1, "image_id": 5, "category_id": 1, "keypoints": [9, 9, 2] + [0] * 48}
    >>> file = {"images": [image], "annotations": [entry], "categories": [person]}
    >>> dataset = read_coco(file, COCO_PERSON)
    >>> int((dataset.images[0].annotations[0].keypoints[:, 2] > 0).sum())
    1
    """
    place = name if isinstance(source, Mapping) else str(source)
    tally = Tally(strict, place)
    described: list[Any] = []
    images = _Images(tally)
    # Two passes: categories may come after the annotations, and annotations of other categories
    # need not be kept meanwhile.
    lists = _read(
        source, {"categories": lambda _, entry: described.append(entry), "images": images.add}
    )
    for field in ("images", "annotations", "categories"):
        found = lists.found.get(field, "nothing")
        if isinstance(found, str) or not (found or field == "annotations"):
            came = found or "an empty list"
            entries = "a list" if field == "annotations" else "a list with at least one entry"
            raise InputError(f"{place}: '{field}' must be {entries}. Received: {came}")
    listed = images.finish()
    chosen = chosen_categories(described, skeleton, categories, place)
    people = People(skeleton, chosen, listed, tally)
    _read(source, {"annotations": people.add})
    if (parts := set().union(*chosen.values())) and not people.parts_found:
        raise InputError(
            f"{place}: annotations must have {', '.join(sorted(parts))} for '{skeleton.name}'. "
            "Received: none"
        )
    people.check_scale(place)
    return Dataset(
        images=tuple(
            replace(
                image,
                complete=image.id not in images.incomplete,
                crowd_index=images.crowd_indices.get(image.id),
            )
            for image in people.with_images()
        ),
        skipped=dict(tally.counts),
        examples=tally.examples,
        bytes=lists.bytes,
        sha256=lists.sha256,
        category=min(chosen),
    )


def _read(
    source: str | Path | Mapping[str, Any], handlers: Mapping[str, Callable[[int, Any], None]]
) -> JsonLists:
    if not isinstance(source, Mapping):
        return read_lists(source, handlers)
    for key, handler in handlers.items():
        for number, entry in enumerate(
            entries if isinstance(entries := source.get(key), list) else ()
        ):
            handler(number, entry)
    found = {
        key: len(value) if isinstance(value, list) else type(value).__name__
        for key, value in source.items()
    }
    return JsonLists(found, 0, "")


def chosen_categories(
    described: Iterable[Any], skeleton: Skeleton, names: Sequence[str], path: str | Path
) -> dict[int, tuple[str, ...]]:
    """The categories to read: id -> the fields of its annotations that hold keypoints of the
    skeleton beside `keypoints`.

    Args:
        described: the list of categories in the file.
        names: the categories named by the user.
        path: the file, for messages.

    Raises:
        InputError: as `read_coco`.
    """
    known: list[tuple[int, Any, Any]] = []
    for entry in described:
        if isinstance(entry, dict) and (key := identifier(entry.get("id"))) is not None:
            known.append((key, entry.get("name"), entry.get("keypoints")))
    all_names = ", ".join(repr(name) for _, name, _ in known)
    for wanted in names:
        if not any(name == wanted for _, name, _ in known):
            raise InputError(f"{path}: no category is called {wanted!r}. The file has: {all_names}")
    candidates = [each for each in known if not names or each[1] in names]
    fitting = [
        (key, name, parts)
        for key, name, keypoints in candidates
        if (parts := parts_joined(keypoints, skeleton)) is not None
    ]
    # Some tools list no keypoints in the category; "person" is then assumed to match.
    fitting += [
        (key, name, ())
        for key, name, keypoints in candidates
        if not keypoints
        and (name in names or (name == "person" and not names and not fitting))
        and name not in [fitting_name for _, fitting_name, _ in fitting]
    ]
    missing = [
        name for name in names if name not in [fitting_name for _, fitting_name, _ in fitting]
    ]
    if missing or not fitting:
        listed = [
            keypoints
            for _, name, keypoints in candidates
            if isinstance(keypoints, list) and keypoints and (not missing or name in missing)
        ]
        came = (
            ", ".join(map(str, listed[0]))
            if listed
            else "categories without keypoints (an instances file?)"
        )
        rule = f"the {skeleton.keypoint_count} keypoints of '{skeleton.name}', in their order"
        subject = f"category {missing[0]!r} must have" if missing else "no category has"
        raise InputError(f"{path}: {subject} {rule}. Received: {came}")
    if len({str(name) for _, name, _ in fitting}) > 1 and not names:
        several = ", ".join(repr(name) for _, name, _ in fitting)
        raise InputError(
            f"{path}: several categories have the keypoints of '{skeleton.name}': {several}. "
            "Choose by --category"
        )
    return {key: parts for key, _, parts in fitting}


class _Images:
    """The list of images while it is read: id -> (file name, width, height)."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._known: dict[int, tuple[str, int, int]] = {}
        self._shared: set[int] = set()
        self.incomplete: set[int] = set()
        """Ids of images marked as not fully annotated."""
        self.crowd_indices: dict[int, float] = {}

    def add(self, number: int, entry: Any) -> None:
        place = f"images[{number}]"
        problem = _image_problem(entry)
        if problem:
            self._tally.add(Reason.IMAGE_MALFORMED, f"{place}{problem}")
            return
        identity = identifier(entry["id"])
        assert identity is not None  # or there was a problem
        fields = (entry["file_name"], entry["width"], entry["height"])
        if not entry.get("complete", True):
            self.incomplete.add(identity)
        crowd_index = numbers([entry.get("crowdIndex")], 1)
        if crowd_index is not None and 0.0 <= crowd_index[0] <= 1.0:
            self.crowd_indices[identity] = float(crowd_index[0])
        if self._known.setdefault(identity, fields) != fields:
            self._shared.add(identity)
            self._tally.add(
                Reason.IMAGE_ID_SHARED,
                f"{place}.id {identity}: {fields[0]!r} and {self._known[identity][0]!r}",
            )
        elif self._known[identity] is not fields:
            self._tally.add(Reason.IMAGE_REPEATED, f"{place}.id {identity}")

    def finish(self) -> dict[int, tuple[str, int, int]]:
        """The images with an id of their own. If several share one, it is unknown to which of them
        the annotations belong.
        """
        return {
            identity: fields
            for identity, fields in self._known.items()
            if identity not in self._shared
        }


def _image_problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f" must be an object. Received: {type(entry).__name__}"
    for name, kind in (("width", int), ("height", int), ("file_name", str)):
        if type(entry.get(name)) is not kind:
            return f".{name} must be a {kind.__name__}. Received: {shown(entry.get(name))}"
    if identifier(entry.get("id")) is None:
        return f".id must be an integer or text. Received: {shown(entry.get('id'))}"
    if not (1 <= entry["width"] <= _LARGEST_SIDE and 1 <= entry["height"] <= _LARGEST_SIDE):
        return f" must have a size of at least one pixel. Received: {shown(entry['width'])} x {shown(entry['height'])}"
    if type(entry.get("complete", True)) is not bool:
        return f".complete must be true or false. Received: {shown(entry['complete'])}"
    try:
        entry["file_name"].encode()
    except UnicodeEncodeError:
        return (
            f".file_name must be text that can name a file. Received: {shown(entry['file_name'])}"
        )
    return ""


class People:
    """Checks annotations one by one and collects the valid ones by image in `of_image`.

    Args:
        categories: the categories to read, from `chosen_categories`.
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
        self._places = 0
        self._labelled, self._farthest = 0, 0.0
        self._boxes, self._farthest_edge = 0, 0.0
        self._count = skeleton.keypoint_count
        self._categories, self._images, self._tally = categories, images, tally
        self._seen: dict[int, int] = {}
        """Annotation id -> hash of its entry."""

    def add(self, number: int, entry: Any) -> None:
        """Adds the entry with this number in the list."""
        self.add_at(f"annotations[{number}]", entry)

    def add_at(self, place: str, entry: Any) -> None:
        """Adds an entry that examples and errors call `place`."""
        if not isinstance(entry, dict):
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place} must be an object. Received: {type(entry).__name__}",
            )
            return
        category, image = identifier(entry.get("category_id")), identifier(entry.get("image_id"))
        if image is None:
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place}.image_id must be an integer or text. Received: {shown(entry.get('image_id'))}",
            )
        elif category is not None and category not in self._categories:
            self._tally.add(
                Reason.ANNOTATION_OTHER_CATEGORY,
                f"{place}.category_id {shown(entry['category_id'])}",
            )
        elif image not in self._images:
            self._tally.add(
                Reason.ANNOTATION_UNKNOWN_IMAGE, f"{place}.image_id {shown(entry['image_id'])}"
            )
        else:
            if category is None:
                self._tally.add(
                    Reason.CATEGORY_MISSING,
                    f"{place}.category_id {shown(entry.get('category_id'))}",
                )
            _, width, height = self._images[image]
            entry = {**entry, "image_id": image, "category_id": category}
            if category is not None:
                entry = self._with_parts(entry, place)
            annotation = self._annotation(entry, place, width, height)
            if annotation is not None:
                self.of_image.setdefault(image, []).append(annotation)

    def _with_parts(self, entry: dict[str, Any], place: str) -> dict[str, Any]:
        """An annotation with all keypoints of the skeleton, joined from the separate lists of
        COCO-WholeBody.
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
        """All images in order of their ids, each with its people in order of theirs."""
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
        crowd = crowd_flag(entry.get("iscrowd"))
        if crowd is None:
            # A person is there: unknown rather than background.
            self._tally.add(
                Reason.ANNOTATION_MALFORMED,
                f"{place}.iscrowd must be 0 or 1 (taken as 1). Received: {shown(entry['iscrowd'])}",
            )
        crowd = crowd is None or crowd or entry["category_id"] is None
        keypoints = self._keypoints(entry, place, width, height, crowd)
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
            or not 0.0 < area <= width * height
        ):
            self._tally.add(
                Reason.AREA_MALFORMED,
                f"{place}.area must be above 0 and at most that of the image. Received: {shown(area)}",
            )
            area = np.nan
        segmentation = entry.get("segmentation") or None
        packed_form = None if segmentation is None else compress_segmentation(segmentation)
        self._note_box(box)
        identity = entry.get("id")
        what = hash((entry["image_id"], keypoints.tobytes(), box.tobytes(), packed_form))
        if type(identity) is not int or not 0 <= identity <= LARGEST_ID:
            self._tally.add(
                Reason.ANNOTATION_ID,
                f"{place}.id must be an integer from 0 to 2**63 - 1. Received: {shown(identity)}",
            )
            identity = 0
        elif self._seen.setdefault(identity, what) is not what:
            if self._seen[identity] == what:
                self._tally.add(Reason.ANNOTATION_REPEATED, f"{place}.id {identity}")
                return None
            self._tally.add(
                Reason.ANNOTATION_ID, f"{place}.id {identity} belongs to an earlier annotation"
            )
        self._places += 1
        return Annotation(
            identity, keypoints, box, float(area), packed_form, crowd, place=self._places - 1
        )

    def _keypoints(
        self, entry: dict[str, Any], place: str, width: int, height: int, crowd: bool
    ) -> np.ndarray:
        """(K, 3), with zero rows for keypoints that are unlabelled or unusable."""
        given = entry.get("keypoints")
        if given is None and crowd:  # crowd regions may have none
            return np.zeros((self._count, 3))
        keypoints = triples(given, self._count)
        if keypoints is None:
            came = f"{len(given)} values" if isinstance(given, list) else shown(given)
            self._tally.add(
                Reason.KEYPOINTS_MALFORMED,
                f"{place}.keypoints must be {3 * self._count} numbers. Received: {came}",
            )
            return np.zeros((self._count, 3))
        x, y, visibility = keypoints.T
        labelled = visibility != 0  # NaN included
        sound = (visibility > 0) & np.isfinite(keypoints).all(axis=1)
        within = (
            (x >= -_ROUNDING)
            & (x <= width - 1 + _ROUNDING)
            & (y >= -_ROUNDING)
            & (y <= height - 1 + _ROUNDING)
        )
        if sound.any():
            self._labelled += int(sound.sum())
            self._farthest = max(self._farthest, float(np.abs(keypoints[sound, :2]).max()))
        kept = sound & within
        if not np.array_equal(kept, labelled):
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
        kept_values = np.where(kept[:, None], keypoints, 0.0)
        # COCO's visibility is 1 or 2; other tools write a score.
        kept_values[kept & (visibility != 1), 2] = 2.0
        return kept_values

    def _note_box(self, box: np.ndarray) -> None:
        if np.isfinite(box).all():
            self._boxes += 1
            self._farthest_edge = max(self._farthest_edge, float(np.abs(box).max()))

    def check_scale(self, source: str) -> None:
        """Refuses coordinates that are fractions of the image size.

        Raises:
            InputError: if all labelled keypoints lie within 0..1, or all boxes without any.
        """
        if self._labelled >= _FEWEST_TO_JUDGE_SCALE:
            count, farthest, things = self._labelled, self._farthest, "labelled keypoints"
        else:
            count, farthest, things = self._boxes, self._farthest_edge, "boxes"
        if count and farthest <= 1.0:
            raise InputError(
                f"{source}: coordinates must be in pixels. Received: all {count} {things} within 0..1 "
                "(multiply x by the width of the image and y by its height)"
            )
