"""COCO's metrics of keypoints and instance masks, by pycocotools' COCOeval.

A mask belongs to every person found, also to persons without labelled keypoints in the annotations,
so mask AP is measured over all annotated persons; COCO's keypoint AP leaves those without labelled
keypoints out. Crowd regions are ignored by both, as COCO does."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.errors import InputError
from personlab_keras.io.files import read_json, write_atomically
from personlab_keras.io.images import read_image
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

Metrics = dict[str, Any]
KEYPOINT_DETECTIONS = 20
"""Best-scored persons per image that count for keypoints (COCO's rule)."""
MASK_DETECTIONS = 100
"""Best-scored masks per image that count by default; mask AP depends on it, so the metrics repeat
it.
"""


@runtime_checkable
class Timed(Protocol):
    """What can tell how long its stages took; `predict.Predictor` is one."""

    def timed(self, image: np.ndarray) -> tuple[list[Person], Mapping[str, float]]:
        """The people in an image (H, W, 3) uint8 RGB, and the seconds that each named stage
        took.
        """


def evaluate(
    predict: Timed | Callable[[np.ndarray], list[Person]],
    annotations: str | Path,
    images_dir: str | Path,
    out: str | Path,
    *,
    skeleton: Skeleton = COCO_PERSON,
    limit: int | None = None,
    max_detections: int = MASK_DETECTIONS,
    progress: Callable[[int, int], None] | None = None,
    categories: Sequence[str] = (),
) -> Metrics:
    """Runs over the images of an annotation file and measures what was found.

    Args:
        predict: image (H, W, 3) uint8 RGB -> people in its frame; a `Predictor` or any function. It
            is called once per image, with the pixels as stored: COCO annotates those, so EXIF
                orientation is not applied.
        annotations: COCO person_keypoints JSON.
        images_dir: folder of the images, by their `file_name`.
        out: folder for keypoints_results.json, segm_results.json (where there are masks) and
            metrics.json; made if missing.
        limit: only the first so many images of the file.
        max_detections: as in `evaluate_results`.
        progress: called with (images done, images in all) after each image.
        categories: as in `evaluate_results`.

    Returns:
        The metrics of `evaluate_results`, and
        images: how many;
        timings_ms: {"median", "p95"} over the images of "read" and of each stage of `predict`
            ("predict" in all, where it is a plain function). The first image includes compilation.

    Raises:
        InputError: the annotations are missing or malformed, or an image is missing, unreadable or
            not of its annotated size.

    A predictor that finds nobody scores zero:

    >>> metrics = evaluate(lambda image: [], "annotations.json", "images", "evaluation")
    >>> metrics["images"], metrics["keypoints"]["AP"]
    (10, 0.0)
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image. Received: {limit}")
    coco = read_json(annotations)
    images = _images_of(coco, str(annotations))[:limit]
    _check_images_exist(images, Path(images_dir))
    keypoints: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    timings: dict[str, list[float]] = {}
    people_seen = 0
    category = min(_category_ids(coco, skeleton, categories, str(annotations)))
    for done, entry in enumerate(images, start=1):
        start = time.perf_counter()
        image = _read_annotated_image(entry, Path(images_dir))
        after_read = time.perf_counter()
        if isinstance(predict, Timed):
            people, stages = predict.timed(image)
        else:
            people = predict(image)
            stages = {"predict": time.perf_counter() - after_read}
        for stage, value in {"read": after_read - start, **stages}.items():
            timings.setdefault(stage, []).append(value)
        people_seen += len(people)
        for person in people:
            for result in person.to_coco(entry["id"], category):
                (masks if "segmentation" in result else keypoints).append(result)
        if progress:
            progress(done, len(images))

    # People without any mask mean that masks were not asked for; an image set without people scores
    # zero.
    mask_results = masks if masks or not people_seen else None
    image_ids = [entry["id"] for entry in images]
    metrics = evaluate_results(
        coco, keypoints, mask_results, image_ids, skeleton, max_detections, categories
    )
    metrics = {"images": len(images), **metrics, "timings_ms": summarize_timings(timings)}
    _write_json(Path(out) / "keypoints_results.json", keypoints)
    if mask_results is not None:
        _write_json(Path(out) / "segm_results.json", mask_results)
    _write_json(Path(out) / "metrics.json", metrics, indent=2)
    return metrics


def evaluate_results(
    annotations: Mapping[str, Any] | str | Path,
    keypoint_results: Sequence[Mapping[str, Any]],
    segmentation_results: Sequence[Mapping[str, Any]] | None = None,
    image_ids: Iterable[int] | None = None,
    skeleton: Skeleton = COCO_PERSON,
    max_detections: int = MASK_DETECTIONS,
    categories: Sequence[str] = (),
) -> Metrics:
    """COCO metrics of results in COCO's result format, of one kind of thing only.

    Args:
        annotations: COCO person_keypoints JSON, as a path or parsed; not modified.
        keypoint_results: entries with image_id, category_id, score, keypoints [x, y, s] * K; may be
            empty.
        segmentation_results: entries with image_id, category_id, score, segmentation (RLE); may be
            empty; None to leave masks out.
        image_ids: the images that count; all by default.
        skeleton: gives the sigmas of keypoint similarity.
        max_detections: masks per image that count, best first. (For keypoints COCO fixes 20.)
        categories: names of those whose annotations count, all as one kind. If none: "person", or
            where there is no such category those that have this skeleton's keypoints. Results have
            the least of their ids.

    Returns:
        JSON-ready {"keypoints": {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm",
        "ARl", "max_detections"},
        "segmentation": {the same with "APs" and "ARs"}}. A figure is null where no annotated person
            is of that kind.
        "segmentation" is null where no results were given or the annotated persons have no masks.

    Raises:
        InputError: the annotations are missing or malformed, or a result names an image that they
            do not have.
    """
    name = str(annotations) if isinstance(annotations, (str, Path)) else "annotations"
    parsed = read_json(annotations) if isinstance(annotations, (str, Path)) else annotations
    known = [entry["id"] for entry in _images_of(parsed, name)]
    wanted = known if image_ids is None else list(image_ids)
    strangers = set(wanted) - set(known)
    if strangers:
        raise InputError(
            f"{name}: `image_ids` must be among its images. Received: {min(strangers)}"
        )
    ids = _category_ids(parsed, skeleton, categories, name)
    category = min(ids)
    truth = _checked_truth(parsed, ids, skeleton, name)
    persons = [entry for entry in truth["annotations"] if entry["category_id"] == category]

    metrics: Metrics = {
        "keypoints": _measure(
            truth,
            keypoint_results,
            "keypoints",
            category,
            wanted,
            skeleton,
            KEYPOINT_DETECTIONS,
            name,
        ),
        "segmentation": None,
    }
    annotated_masks = [entry for entry in persons if "segmentation" in entry]
    if segmentation_results is not None and (annotated_masks or not persons):
        _check_masks(persons, name)
        metrics["segmentation"] = _measure(
            truth, segmentation_results, "segm", category, wanted, skeleton, max_detections, name
        )
    return metrics


def summarize_timings(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """{"median", "p95"} in milliseconds of every stage.

    >>> summarize_timings({"decode": [0.001, 0.002, 0.003]})["decode"]
    {'median': 2.0, 'p95': 2.9}
    """
    return {
        stage: {
            name: round(float(np.percentile(values, q)) * 1e3, 3)
            for name, q in (("median", 50), ("p95", 95))
        }
        for stage, values in seconds.items()
    }


def _measure(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: str,
    category: int,
    image_ids: list[int],
    skeleton: Skeleton,
    max_detections: int,
    name: str,
) -> dict[str, Any]:
    strangers = {result["image_id"] for result in results} - {
        entry["id"] for entry in truth["images"]
    }
    if strangers:
        raise InputError(
            f"results: `image_id` must be an image of {name}. Received: {min(strangers)}"
        )
    field = "segmentation" if kind == "segm" else "keypoints"
    # COCOeval takes a detection's area from its box where there is one, and would put masks into
    # the wrong size range.
    chosen = ("image_id", "category_id", "score", field)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = _index(truth)
        found = [{key: copy.deepcopy(result[key]) for key in chosen} for result in results]
        # loadRes cannot take an empty list.
        detected = annotated.loadRes(found) if found else _index({**truth, "annotations": []})
        evaluation = COCOeval(annotated, detected, kind)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.params.catIds = [category]
        evaluation.params.maxDets = [max_detections]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.asarray(skeleton.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return {**_averages(evaluation), "max_detections": max_detections}


def _index(dataset: Mapping[str, Any]) -> COCO:
    """COCO's index over shallow copies of the annotations, to which COCOeval writes."""
    coco = COCO()
    coco.dataset = {**dataset, "annotations": [dict(entry) for entry in dataset["annotations"]]}
    coco.createIndex()
    return coco


def _averages(evaluation: COCOeval) -> dict[str, float | None]:
    """The figures of COCOeval.summarize, which can print only, and at a fixed number of
    detections.
    """
    params = evaluation.params
    precision, recall = (
        evaluation.eval["precision"],
        evaluation.eval["recall"],
    )  # (T, R, K, A, M), (T, K, A, M)
    whole = params.areaRngLbl.index("all")
    at50, at75 = (int(np.argmin(np.abs(params.iouThrs - threshold))) for threshold in (0.5, 0.75))
    slices: dict[str, tuple[Any, int]] = {
        "": (slice(None), whole),
        "50": (at50, whole),
        "75": (at75, whole),
    }
    for size in params.areaRngLbl:
        if size != "all":
            slices[size[0]] = (slice(None), params.areaRngLbl.index(size))
    return {
        f"{figure}{suffix}": _mean_defined(values[threshold][..., area, -1])
        for figure, values in (("AP", precision), ("AR", recall))
        for suffix, (threshold, area) in slices.items()
    }


def _mean_defined(values: np.ndarray) -> float | None:
    """Mean of the entries that are defined; COCOeval marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _images_of(coco: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    images = _list_of_objects(coco, "images", {"id": int}, name)
    if not images:
        raise InputError(f"{name}: `images` must name at least one image. Received: none")
    if len({entry["id"] for entry in images}) < len(images):
        raise InputError(
            f"{name}: every `id` in `images` must occur once. Received: {len(images)} images with repeated ids"
        )
    return images


def _category_ids(
    coco: Mapping[str, Any], skeleton: Skeleton, names: Sequence[str], source: str
) -> set[int]:
    entries = _list_of_objects(coco, "categories", {"id": int, "name": str}, source)
    known = {entry["name"]: entry["id"] for entry in entries}
    if strangers := set(names) - set(known):
        raise InputError(
            f"{source}: `categories` must hold {min(strangers)!r}. Received: {list(known)}"
        )
    fitting = [
        entry["name"] for entry in entries if entry.get("keypoints") == list(skeleton.keypoints)
    ]
    chosen = list(names) or (["person"] if "person" in known else fitting)
    if not chosen:
        wanted = f"'person', or one with the keypoints of '{skeleton.name}'"
        raise InputError(f"{source}: `categories` must hold {wanted}. Received: {list(known)}")
    return {known[name] for name in chosen}


def _checked_truth(
    coco: Mapping[str, Any], categories: set[int], skeleton: Skeleton, name: str
) -> dict[str, Any]:
    """The annotations with every field that COCOeval reads of those that count, which get the least
    id of their categories.
    """
    required = {"id": int, "image_id": int, "category_id": int}
    values = 3 * skeleton.keypoint_count
    checked = []
    for i, entry in enumerate(_list_of_objects(coco, "annotations", required, name)):
        if entry["category_id"] in categories:
            where = f"{name}: annotations[{i}]"
            _check_fields(entry, {"area": (int, float), "bbox": list, "keypoints": list}, where)
            if len(entry["keypoints"]) != values:
                raise InputError(
                    f"{where}.keypoints must hold {values} values. Received: {len(entry['keypoints'])}"
                )
            labelled = sum(visibility > 0 for visibility in entry["keypoints"][2::3])
            defaults = {"iscrowd": 0, "num_keypoints": labelled}
            entry = {**defaults, **entry, "category_id": min(categories)}
        checked.append(entry)
    return {**coco, "annotations": checked}


def _check_masks(persons: Sequence[Mapping[str, Any]], name: str) -> None:
    for entry in persons:
        if not entry.get("segmentation"):
            raise InputError(
                f"{name}: the annotation with id {entry['id']} must have a `segmentation`. Received: none"
            )


def _list_of_objects(
    coco: Mapping[str, Any], field: str, required: Mapping[str, type | tuple[type, ...]], name: str
) -> list[dict[str, Any]]:
    entries = coco.get(field)
    if not isinstance(entries, list):
        received = "nothing" if field not in coco else _type(entries)
        raise InputError(f"{name}: `{field}` must be a list. Received: {received}")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{name}: {field}[{i}] must be an object. Received: {_type(entry)}")
        _check_fields(entry, required, f"{name}: {field}[{i}]")
    return entries


def _check_fields(
    entry: Mapping[str, Any], required: Mapping[str, type | tuple[type, ...]], where: str
) -> None:
    for key, kind in required.items():
        if not isinstance(entry.get(key), kind):
            kinds = " or ".join(
                each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,))
            )
            received = "nothing" if key not in entry else _type(entry[key])
            raise InputError(f"{where}.{key} must be {kinds}. Received: {received}")


def _type(value: Any) -> str:
    return type(value).__name__


def _check_images_exist(images: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for i, entry in enumerate(images):
        _check_fields(
            entry, {"file_name": str, "height": int, "width": int}, f"annotations: images[{i}]"
        )
    missing = [
        entry["file_name"] for entry in images if not (folder / entry["file_name"]).is_file()
    ]
    if missing:
        raise InputError(
            f"{folder / missing[0]}: no such image; {len(missing)} of the {len(images)} images of the annotations are missing"
        )


def _read_annotated_image(entry: Mapping[str, Any], folder: Path) -> np.ndarray:
    path = folder / entry["file_name"]
    image = read_image(path, apply_orientation=False)
    if image.shape[:2] != (entry["height"], entry["width"]):
        raise InputError(
            f"{path}: must be {entry['width']} x {entry['height']} pixels, as annotated. "
            f"Received: {image.shape[1]} x {image.shape[0]}"
        )
    return image


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_atomically(path, json.dumps(value, indent=indent, allow_nan=False).encode())
