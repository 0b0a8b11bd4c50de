"""Results as objects of the library supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from personlab_keras.errors import InputError

if TYPE_CHECKING:
    import supervision

    from personlab_keras.results.result import Result


def to_supervision(result: Result) -> tuple[supervision.KeyPoints, supervision.Detections]:
    """As `Result.to_supervision`."""
    try:
        import supervision
    except ImportError:
        raise InputError(
            "needs the package supervision, which is not installed: pip install "
            "'personlab-keras[track]'"
        ) from None
    if not result:
        return supervision.KeyPoints.empty(), supervision.Detections.empty()
    found = np.array([person.found for person in result])
    points = np.array([person.keypoints for person in result])
    scores = np.array([person.keypoint_scores for person in result], np.float32)
    confidence = np.array([person.score for person in result], np.float32)
    kinds = np.zeros(len(result), int)
    keypoints = supervision.KeyPoints(
        xy=np.where(found[..., None], points, 0.0).astype(np.float32),
        class_id=kinds,
        keypoint_confidence=np.where(found, scores, 0.0).astype(np.float32),
        detection_confidence=confidence,
        visible=found,
    )
    masks = [person.mask for person in result]
    ids = [person.id for person in result]
    boxes = np.array([person.box for person in result])
    detections = supervision.Detections(
        # As its edges: a pixel at x covers x - 0.5 to x + 0.5 here and x to x + 1 there.
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) + 0.5,
        mask=None if any(mask is None for mask in masks) else np.array(masks),
        confidence=confidence,
        class_id=kinds,
        tracker_id=None if any(number is None for number in ids) else np.array(ids),
        data={"class_name": np.array(["person"] * len(result))},
    )
    return keypoints, detections
