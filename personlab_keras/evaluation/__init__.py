"""COCO's metrics of keypoints and instance masks: predictions over the images of a data set (run),
and the figures (judge, by pycocotools' COCOeval).
"""

from personlab_keras.evaluation.judge import (
    KEYPOINT_DETECTIONS,
    MASK_DETECTIONS,
    Metrics,
    evaluate_results,
    judge,
)
from personlab_keras.evaluation.run import (
    NotWritten,
    Timed,
    evaluate,
    summarize_timings,
)
from personlab_keras.evaluation.truth import Truth, truth_of

__all__ = [
    "KEYPOINT_DETECTIONS",
    "MASK_DETECTIONS",
    "Metrics",
    "NotWritten",
    "Timed",
    "Truth",
    "evaluate",
    "evaluate_results",
    "judge",
    "summarize_timings",
    "truth_of",
]
