"""Predictions over the images of a data set, kept as they come, and then judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.formats import AUTO, images_folder, read_annotations
from personlab_keras.annotations.image_files import (
    find_image,
    none_usable,
    read_pixels,
)
from personlab_keras.annotations.reasons import Reason, Tally
from personlab_keras.errors import InputError
from personlab_keras.evaluation.judge import MASK_DETECTIONS, Metrics, judge
from personlab_keras.evaluation.truth import Truth, as_json, truth_of
from personlab_keras.io.files import write_atomically
from personlab_keras.io.journal import Journal, task
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

JUDGED_FILES = {"keypoints": "judged_keypoints.json", "masks": "judged_masks.json"}


class NotWritten(InputError):
    """The results of an evaluation cannot be written.

    Attributes:
        metrics: what `evaluate` would have returned.
    """

    def __init__(self, reason: Exception, metrics: Metrics) -> None:
        super().__init__(str(reason))
        self.metrics = metrics


@runtime_checkable
class Timed(Protocol):
    """A predictor that measures its stages, such as `predict.Predictor`."""

    def timed(self, image: np.ndarray) -> tuple[list[Person], Mapping[str, float]]:
        """The people in an image (H, W, 3) uint8 RGB, and the seconds of each named stage."""


def evaluate(
    predict: Timed | Callable[[np.ndarray], list[Person]],
    annotations: str | Path,
    images_dir: str | Path | None,
    out: str | Path,
    *,
    skeleton: Skeleton = COCO_PERSON,
    limit: int | None = None,
    max_detections: int = MASK_DETECTIONS,
    progress: Callable[[int, int], None] | None = None,
    categories: Sequence[str] = (),
    strict: bool = False,
    split: str | None = None,
    frame: str = AUTO,
    follow_links: bool = False,
    identity: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Metrics:
    """Predicts the people of every image of an annotation file and judges them.

    Annotations are read and checked before the first prediction, by the rules by which `prepare`
    reads them. Results are written as they come: an interrupted evaluation that is started again
    with the same arguments resumes and ends with the same files, byte for byte.

    Args:
        predict: image (H, W, 3) uint8 RGB -> people in its frame; a `Predictor` or any function,
            called once per image.
        annotations: COCO keypoints JSON; or a YOLO-pose folder or its data.yaml.
        images_dir: folder of the images of a COCO file; None for a YOLO-pose data set.
        out: folder for keypoints_results.json, segm_results.json (where there are masks),
            metrics.json and timings.json; made if missing. Where annotations had to be repaired or
            have no masks, also judged_keypoints.json and judged_masks.json, by which plain COCOeval
            gives the same figures as metrics.json.
        skeleton: the keypoints.
        limit: evaluate only the first so many images, in order of their ids.
        max_detections: as in `judge`.
        progress: called with (images done, images in all) after each image.
        categories, split, frame: as in `annotations.formats.read_annotations`.
        strict: raise at the first fault of annotations or images instead of counting it.
        follow_links: as in `annotations.image_files.read_pixels`.
        identity: of the predictor and its settings; an interrupted evaluation is resumed only by
            the same one. Without it every call starts anew.
        say: takes lines for the user: everything that the annotations let one say beforehand.

    Returns:
        The metrics of `judge`, and
        images: how many;
        skipped, examples: faults by reason, as in `Dataset`;
        timings_ms: {"median", "p95"} over the images of "read" and of each stage of `predict`
            ("predict" in all for a plain function). The first image includes compilation. They go
            to timings.json; metrics.json holds the rest, which repeats exactly.

    Raises:
        InputError: the annotations cannot be read, not one image can be used, or another process
            is writing to `out`; with `strict`, the first fault.
        NotWritten: an InputError, with the metrics: the results cannot be written.
        KeyboardInterrupt: with a text that says how far it was.

    A predictor that finds nobody scores zero:

    >>> metrics = evaluate(lambda image: [], "annotations.json", "images", "evaluation")
    >>> metrics["images"], metrics["keypoints"]["AP"]
    (10, 0.0)
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image. Received: {limit}")
    dataset = read_annotations(annotations, skeleton, categories, strict, split, frame)
    images, frame = dataset.images[:limit], dataset.frame
    folder = images_folder(dataset, images_dir, annotations)
    tally = Tally(strict, str(annotations))
    tally.merge(dataset.skipped, dataset.examples)
    faults = Tally(strict, str(folder))
    usable = [image for image in images if find_image(image, folder, faults, follow_links)]
    if not usable:
        raise none_usable(folder, len(images), faults)
    truth = truth_of(images, skeleton, tally, dataset.category)
    _announce(truth, tally, faults, say)

    settings = [frame, follow_links, max_detections, skeleton.to_dict(), list(categories), identity]
    plan = [
        dataset.sha256,
        [image.id for image in images],
        settings,
        cv2.__version__,
        np.__version__,
    ]
    name = task(plan, [folder / image.file_name for image in images])
    with Journal.open(Path(out), None if identity is None else name) as journal:
        if len(journal):
            say(f"{out}: resuming after {len(journal)} of {len(images)} images")
        elif journal.replaced:
            say(f"{out}: starting over, as the unfinished results there are of another evaluation")
        _predict_missing(
            predict,
            images,
            folder,
            journal,
            dataset.category,
            progress,
            strict,
            frame,
            follow_links,
            say,
        )
        entries = [journal[image.id] for image in images]
        late = Tally()
        for entry in entries:
            tally.merge(entry["skipped"], entry["examples"])
            late.merge(entry["skipped"], entry["examples"])
        _say_reasons(late, say, except_for=faults.counts)
        keypoints = [result for entry in entries for result in entry["keypoints"]]
        masks = [result for entry in entries for result in entry["masks"]]
        # People of whom none has a mask mean that masks were not asked for; an image set in which
        # nobody was found scores zero.
        mask_results = masks if masks or not keypoints else None
        metrics: Metrics = {
            "images": len(images),
            **judge(truth, keypoints, mask_results, None, max_detections, str(annotations)),
            "skipped": dict(sorted(tally.counts.items())),
            "examples": dict(sorted(tally.examples.items())),
        }
        timings = summarize_timings(_by_stage(entries))
        try:
            _write_files(Path(out), keypoints, mask_results, truth, metrics, timings, tally)
            journal.finish()
        except (InputError, OSError) as error:
            raise NotWritten(error, {**metrics, "timings_ms": timings}) from None
    return {**metrics, "timings_ms": timings}


def _announce(truth: Truth, tally: Tally, faults: Tally, say: Callable[[str], None]) -> None:
    """Says what will be judged, and what of the data set cannot be."""
    counts = {kind: truth.judged(kind) for kind in ("keypoints", "masks")}
    say(
        f"{len(truth.images)} images; judged by the keypoints of {counts['keypoints']} persons "
        f"and the masks of {counts['masks']}"
    )
    for found in (tally, faults):
        _say_reasons(found, say)


def _say_reasons(
    tally: Tally, say: Callable[[str], None], except_for: Collection[str] = ()
) -> None:
    for reason, count in tally.counts.items():
        if reason not in except_for:
            say(f"  {reason}: {count}, for example {tally.examples[reason][0]}")


def _predict_missing(
    predict: Timed | Callable[[np.ndarray], list[Person]],
    images: Sequence[AnnotatedImage],
    folder: Path,
    journal: Journal,
    category: int,
    progress: Callable[[int, int], None] | None,
    strict: bool,
    frame: str,
    follow_links: bool,
    say: Callable[[str], None],
) -> None:
    """Adds the images to the journal that it does not have yet."""
    done = len(journal)
    try:
        for image in images:
            if image.id in journal:
                continue
            tally = Tally(strict, str(folder))
            start = time.perf_counter()
            pixels = read_pixels(image, folder, tally, follow_links, frame)
            people: list[Person] = []
            seconds: dict[str, float] = {}
            if pixels is not None:  # an unreadable image is one in which nobody was found
                rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                after_read = time.perf_counter()
                if isinstance(predict, Timed):
                    people, stages = predict.timed(rgb)
                else:
                    people = predict(rgb)
                    stages = {"predict": time.perf_counter() - after_read}
                seconds = {"read": after_read - start, **stages}
            results = [result for person in people for result in person.to_coco(image.id, category)]
            kept = journal.lost is None
            journal.add(
                image.id,
                {
                    "keypoints": [each for each in results if "keypoints" in each],
                    # Without the box: readers would take the area from it instead of the mask.
                    "masks": [
                        {key: value for key, value in each.items() if key != "bbox"}
                        for each in results
                        if "segmentation" in each
                    ],
                    "seconds": seconds,
                    "skipped": dict(tally.counts),
                    "examples": tally.examples,
                },
            )
            if kept and journal.lost is not None:
                say(f"{journal.lost}; going on, but this evaluation cannot be resumed")
            done += 1
            if progress:
                progress(done, len(images))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted after {done} of {len(images)} images; run the same command to resume"
        ) from None


def _write_files(
    out: Path,
    keypoints: list[dict[str, Any]],
    masks: list[dict[str, Any]] | None,
    truth: Truth,
    metrics: Metrics,
    timings: Mapping[str, Any],
    tally: Tally,
) -> None:
    """`metrics.json` comes last: where it is, the others are complete."""
    optional: dict[str, Any] = {"segm_results.json": masks, **dict.fromkeys(JUDGED_FILES.values())}
    reasons = [Reason(reason) for reason in tally.counts]
    if any(reason.fault or reason is Reason.MASK_MISSING for reason in reasons):
        for kind, name in JUDGED_FILES.items():
            optional[name] = as_json(truth.to_coco(kind))
    _write_json(out / "keypoints_results.json", keypoints)
    for name, content in optional.items():
        if content is None:
            (out / name).unlink(missing_ok=True)
        else:
            _write_json(out / name, content)
    _write_json(out / "timings.json", timings, indent=2)
    _write_json(out / "metrics.json", metrics, indent=2)


def _by_stage(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    timings: dict[str, list[float]] = {}
    for entry in entries:
        for stage, value in entry["seconds"].items():
            timings.setdefault(stage, []).append(value)
    return timings


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


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_atomically(path, json.dumps(value, indent=indent, allow_nan=False).encode())
