"""Results as a data set of FiftyOne, from which they go on to CVAT, Label Studio and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.errors import InputError
from personlab_keras.method.coordinates import box_to_coco
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.results.result import Result


def to_fiftyone(results: Mapping[Path, Result], name: str | None = None) -> Any:
    """Makes a `fiftyone.Dataset` of the samples of `to_samples`, with the keypoints' skeleton.

    FiftyOne keeps data sets in a MongoDB, its own or the one that its configuration names.

    Args:
        results: image file -> its result.
        name: name of the data set; None for a temporary one.

    Raises:
        InputError: FiftyOne is not installed.
    """
    samples = to_samples(results)
    import fiftyone

    dataset = fiftyone.Dataset(name)
    skeleton = next((result.skeleton for result in results.values()), COCO_PERSON)
    dataset.default_skeleton = fiftyone.KeypointSkeleton(
        labels=list(skeleton.keypoints),
        edges=skeleton.edge_indices[: len(skeleton.edges)].tolist(),
    )
    dataset.add_samples(samples)
    return dataset


def to_samples(results: Mapping[Path, Result]) -> list[Any]:
    """Makes a `fiftyone.Sample` of each image file and the people found in it.

    A sample has the fields "people" (`Detections` with boxes, masks and ids) and "keypoints"
    (`Keypoints` with NaN where not found), in the same order.

    Args:
        results: image file -> its result.

    Raises:
        InputError: FiftyOne is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        raise InputError(
            "needs the package fiftyone, which is not installed: pip install fiftyone"
        ) from None
    return [_sample(fiftyone, path, result) for path, result in results.items()]


def _sample(fiftyone: Any, path: Path, result: Result) -> Any:
    size = np.array([result.width, result.height], float)
    return fiftyone.Sample(
        filepath=str(path.absolute()),
        people=fiftyone.Detections(detections=[_detection(fiftyone, p, size) for p in result]),
        keypoints=fiftyone.Keypoints(keypoints=[_keypoint(fiftyone, p, size) for p in result]),
    )


def _detection(fiftyone: Any, person: Person, size: np.ndarray) -> Any:
    box = box_to_coco(person.box)
    mask = person.mask if person.has_pixels else None
    if mask is not None:
        left, top = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[:2] + box[2:]).astype(int)
        mask = mask[max(0, top) : bottom, max(0, left) : right]
    return fiftyone.Detection(
        label="person",
        bounding_box=(box / np.tile(size, 2)).tolist(),
        confidence=float(person.score),
        mask=mask,
        index=person.id,
    )


def _keypoint(fiftyone: Any, person: Person, size: np.ndarray) -> Any:
    # FiftyOne marks keypoints without a position by NaN, as `Person` does.
    return fiftyone.Keypoint(
        label="person",
        points=((person.keypoints + 0.5) / size).tolist(),
        confidence=person.keypoint_scores.tolist(),
        index=person.id,
    )
