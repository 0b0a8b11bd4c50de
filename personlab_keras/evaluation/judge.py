"""COCO's figures for keypoints and instance masks, by pycocotools' COCOeval.

A mask belongs to every detected person, also to those whose annotation has no labelled keypoints,
so mask AP is measured over all annotated persons; keypoint AP leaves those out, as COCO does. Crowd
regions are ignored by both.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.reasons import Tally
from personlab_keras.annotations.values import identifier
from personlab_keras.errors import InputError
from personlab_keras.evaluation.copies import count_copies
from personlab_keras.evaluation.crowding import images_by_level, span
from personlab_keras.evaluation.truth import Truth, truth_of
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

Metrics = dict[str, Any]
KEYPOINT_DETECTIONS = 20
"""Best-scored persons per image that count for keypoints (COCO's rule)."""
MASK_DETECTIONS = 100
"""Best-scored masks per image that count by default; mask AP depends on it, so the metrics repeat
it.
"""
_SIZES = {"s": "small (below 32² px)", "m": "medium (32² to 96² px)", "l": "large (over 96² px)"}


def evaluate_results(
    annotations: Mapping[str, Any] | str | Path,
    keypoint_results: Sequence[Mapping[str, Any]],
    segmentation_results: Sequence[Mapping[str, Any]] | None = None,
    image_ids: Iterable[int] | None = None,
    skeleton: Skeleton = COCO_PERSON,
    max_detections: int = MASK_DETECTIONS,
    categories: Sequence[str] = (),
) -> Metrics:
    """COCO metrics of results in COCO's result format, all of one category.

    Args:
        annotations: COCO keypoints JSON, as a path or parsed; not modified. Read by the rules of
            docs/data-format.md, as `prepare` reads it.
        keypoint_results: entries with image_id, score, keypoints [x, y, s] * K; may be empty.
        segmentation_results: entries with image_id, score, segmentation (RLE); may be empty; None
            if the predictions have no masks.
        image_ids: the images that count; all by default.
        skeleton: the keypoints; its sigmas define keypoint similarity.
        max_detections: masks per image that count, best first. (For keypoints COCO fixes 20.)
        categories: as in `annotations.coco.read_coco`.

    Returns:
        As `judge`.

    Raises:
        InputError: the annotations cannot be read, or a result names an image that they do not
            have.
    """
    name = "annotations" if isinstance(annotations, Mapping) else str(annotations)
    dataset = read_coco(annotations, skeleton, categories)
    truth = truth_of(dataset.images, skeleton, Tally(), dataset.category)
    return judge(truth, keypoint_results, segmentation_results, image_ids, max_detections, name)


def judge(
    truth: Truth,
    keypoint_results: Sequence[Mapping[str, Any]],
    segmentation_results: Sequence[Mapping[str, Any]] | None = None,
    image_ids: Iterable[int] | None = None,
    max_detections: int = MASK_DETECTIONS,
    name: str = "annotations",
) -> Metrics:
    """COCO metrics of results by a truth; the other arguments as in `evaluate_results`.

    Returns:
        JSON-ready {"keypoints": {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm",
        "ARl", "max_detections"} and, where images have a crowd index, "APeasy", "APmedium" and
        "APhard" of `crowding.LEVELS`; "segmentation": {the same with "APs" and "ARs"} or None,
        "copies": as `copies.count_copies` gives it, or None without masks,
        "persons": {"keypoints", "segmentation": how many count}, "unavailable": {names of figures
        that are None: why}}.

    Raises:
        InputError: a result or an id names an image that the truth does not have.
    """
    known = {entry["id"] for entry in truth.images}
    wanted = sorted(known if image_ids is None else map(_image_number, image_ids))
    if strangers := set(wanted) - known:
        raise InputError(
            f"{name}: `image_ids` must be among its images. Received: {min(strangers)}"
        )
    chosen = truth.of_images(set(wanted))
    persons = {"keypoints": chosen.judged("keypoints"), "segmentation": chosen.judged("masks")}
    unavailable: dict[str, str] = {}
    keypoints = _measure(chosen, keypoint_results, "keypoints", KEYPOINT_DETECTIONS, known, name)
    unavailable |= _undefined("keypoints", keypoints, persons["keypoints"], "labelled keypoints")
    crowd_index = {e["id"]: e["crowdIndex"] for e in chosen.images if "crowdIndex" in e}
    for level, ids in images_by_level(crowd_index).items() if crowd_index else ():
        part = chosen.of_images(ids)
        measured = _measure(part, keypoint_results, "keypoints", KEYPOINT_DETECTIONS, known, name)
        keypoints[f"AP{level}"] = measured["AP"]
        if measured["AP"] is None:
            unavailable[f"keypoints AP{level}"] = (
                f"no person with labelled keypoints is annotated in images of {span(level)}"
            )
    segmentation = copies = None
    if segmentation_results is not None:
        copies = count_copies(
            [each for each in segmentation_results if _image_number(each["image_id"]) in wanted]
        )
    if segmentation_results is None:
        unavailable["segmentation"] = "the predictions have no masks"
    elif not persons["segmentation"] and any(not each["iscrowd"] for each in chosen.keypoints):
        unavailable["segmentation"] = "no annotated person has a usable mask"
    else:
        segmentation = _measure(chosen, segmentation_results, "segm", max_detections, known, name)
        unavailable |= _undefined("segmentation", segmentation, persons["segmentation"], "a mask")
    return {
        "keypoints": keypoints,
        "segmentation": segmentation,
        "copies": copies,
        "persons": persons,
        "unavailable": unavailable,
    }


def _undefined(
    kind: str, figures: Mapping[str, Any], persons: int, judged_by: str
) -> dict[str, str]:
    """Which figures are None, and why."""
    if not persons:
        return {kind: f"no person with {judged_by} is annotated"}
    missing: dict[str, list[str]] = {}
    for figure, value in figures.items():
        if value is None:
            missing.setdefault(figure[-1], []).append(figure)
    return {
        f"{kind} {', '.join(names)}": f"no annotated person with {judged_by} is {_SIZES[size]}"
        for size, names in missing.items()
    }


def _image_number(given: Any) -> int:
    number = identifier(given)
    return -1 if number is None else number


def _measure(
    truth: Truth,
    results: Sequence[Mapping[str, Any]],
    kind: str,
    max_detections: int,
    known: set[int],
    name: str,
) -> dict[str, Any]:
    field = "segmentation" if kind == "segm" else "keypoints"
    images = {entry["id"] for entry in truth.images}
    found = []
    for result in results:
        image = _image_number(result["image_id"])
        if image not in known:
            raise InputError(
                f"results: `image_id` must be an image of {name}. Received: {result['image_id']}"
            )
        if image in images:
            # Without the box: loadRes would take the area from it, and put masks into the wrong
            # size range.
            entry = {"image_id": image, "category_id": truth.category, "score": result["score"]}
            # Copied because loadRes and COCOeval write into what they are given.
            value = result[field]
            entry[field] = dict(value) if isinstance(value, Mapping) else list(value)
            found.append(entry)
    dataset = truth.to_coco("masks" if kind == "segm" else "keypoints")
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = _index(dataset)
        # loadRes cannot take an empty list.
        detected = annotated.loadRes(found) if found else _index({**dataset, "annotations": []})
        evaluation = _Evaluation(annotated, detected, kind)
        evaluation.params.imgIds = sorted(images)
        evaluation.params.catIds = [truth.category]
        evaluation.params.maxDets = [max_detections]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.asarray(truth.skeleton.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return {**_averages(evaluation), "max_detections": max_detections}


class _Evaluation(COCOeval):
    """COCOeval with keypoint similarity computed for all detections of an image at once: the same
    operations in the same order, so the same figures to the last bit, in a fraction of the time.
    """

    def computeOks(self, imgId: int, catId: int) -> Any:
        """(detections, annotations) keypoint similarities of an image; [] if either is missing."""
        annotated = self._gts[imgId, catId]
        found = self._dts[imgId, catId]
        order = np.argsort([-each["score"] for each in found], kind="mergesort")
        found = [found[i] for i in order[: self.params.maxDets[-1]]]
        if not (annotated and found):
            return []
        variances = (self.params.kpt_oks_sigmas * 2) ** 2
        points = np.array([each["keypoints"] for each in found])
        x, y = points[:, 0::3], points[:, 1::3]
        similarities = np.zeros((len(found), len(annotated)))
        for j, truth in enumerate(annotated):
            labelled_points = np.array(truth["keypoints"])
            labelled = labelled_points[2::3] > 0
            if labelled.any():
                dx, dy = x - labelled_points[0::3], y - labelled_points[1::3]
            else:
                # Distance from the box, doubled.
                left, top, width, height = truth["bbox"]
                zero = np.zeros(x.shape)
                dx = np.maximum(zero, (left - width) - x) + np.maximum(zero, x - (left + width * 2))
                dy = np.maximum(zero, (top - height) - y) + np.maximum(zero, y - (top + height * 2))
            errors = (dx**2 + dy**2) / variances / (truth["area"] + np.spacing(1)) / 2
            if labelled.any():
                errors = np.ascontiguousarray(errors[:, labelled])
            similarities[:, j] = np.sum(np.exp(-errors), axis=1) / errors.shape[1]
        return similarities


def _index(dataset: Mapping[str, Any]) -> COCO:
    """COCO's index over shallow copies of the annotations, into which COCOeval writes."""
    coco = COCO()
    coco.dataset = {**dataset, "annotations": [dict(entry) for entry in dataset["annotations"]]}
    coco.createIndex()
    return coco


def _averages(evaluation: COCOeval) -> dict[str, float | None]:
    """The figures of COCOeval.summarize, which can only print, at a fixed number of detections."""
    params = evaluation.params
    # (T, R, K, A, M) and (T, K, A, M)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
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
