"""The people of an image or frame in a journal, exactly as the decoder found them: the JSON of the
results is rounded, and tracking and drawing need more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from personlab_keras.method.person import Person


def to_values(people: Iterable[Person]) -> list[dict[str, Any]]:
    """Plain values for JSON."""
    return [
        {
            "keypoints": person.keypoints.tolist(),
            "scores": person.keypoint_scores.tolist(),
            "types": [person.keypoints.dtype.str, person.keypoint_scores.dtype.str],
            "score": person.score,
            "rle": person.rle,
        }
        for person in people
    ]


def from_values(values: Iterable[dict[str, Any]]) -> list[Person]:
    """Inverse of `to_values`.

    >>> person = Person(np.float32([[0.1, 9.0]]), np.array([0.7]), score=0.4)
    >>> (again,) = from_values(to_values([person]))
    >>> again.keypoints.tolist() == person.keypoints.tolist(), again.keypoints.dtype
    (True, dtype('float32'))
    """
    return [
        Person(
            np.array(each["keypoints"], each["types"][0]).reshape(-1, 2),
            np.array(each["scores"], each["types"][1]),
            each["score"],
            each["rle"],
        )
        for each in values
    ]
