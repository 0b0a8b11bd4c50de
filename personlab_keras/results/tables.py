"""Rows of values: CSV and pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import Skeleton

if TYPE_CHECKING:
    import pandas

    from personlab_keras.results.result import Result


def columns(skeleton: Skeleton) -> list[str]:
    """Names of the columns: image, frame, time, width, height, id, score, x, y, w, h (the box in
    pixels), then x, y and score of each keypoint.

    >>> from personlab_keras.method.skeleton import COCO_PERSON
    >>> columns(COCO_PERSON)[7:14]
    ['x', 'y', 'w', 'h', 'nose_x', 'nose_y', 'nose_score']
    """
    common = ["image", "frame", "time", "width", "height", "id", "score", "x", "y", "w", "h"]
    points = [f"{name}_{part}" for name in skeleton.keypoints for part in ("x", "y", "score")]
    return [*common, *points]


def rows(result: Result) -> list[list[Any]]:
    """A row of values per person, in the order of `columns`; None where there is no value."""
    found = result.to_dict()
    place = [result.name, result.frame, found.get("time"), result.width, result.height]
    return [
        [
            *place,
            person.id,
            values["score"],
            *values["box"],
            *(part for point in values["keypoints"] for part in point),
        ]
        for person, values in zip(result, found["people"], strict=True)
    ]


def to_pandas(result: Result) -> pandas.DataFrame:
    """As `Result.to_pandas`."""
    try:
        import pandas
    except ImportError:
        raise InputError(
            "needs the package pandas, which is not installed: pip install 'personlab-keras[pandas]'"
        ) from None
    table = pandas.DataFrame(rows(result), columns=columns(result.skeleton))
    numbers = [name for name in table.columns if name not in ("image", "frame", "id")]
    # A column of None alone has no type yet.
    return table.astype({**dict.fromkeys(numbers, float), "frame": "Int64", "id": "Int64"})
