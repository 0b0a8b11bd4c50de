"""Results as annotation files of LabelMe."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np

from personlab_keras.method.coordinates import box_to_coco
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.results.result import Result

_VERSION = "5.5.0"
"""Version of LabelMe whose format this is. Later ones read it."""


def labelme_text(result: Result, image_path: str) -> str:
    """The JSON text of LabelMe for a result; `image_path` is relative to the JSON file."""
    shapes = [
        shape
        for number, person in enumerate(result, start=1)
        for shape in _shapes(person, number, result.skeleton)
    ]
    values: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": result.height,
        "imageWidth": result.width,
    }
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _shapes(person: Person, number: int, skeleton: Skeleton) -> list[dict[str, Any]]:
    def shape(label: str, kind: str, points: np.ndarray, mask: str | None = None) -> dict[str, Any]:
        return {
            "label": label,
            "points": np.round(points, 2).tolist(),
            "group_id": number,
            "description": "",
            "shape_type": kind,
            "flags": {},
            "mask": mask,
        }

    x, y, width, height = box_to_coco(person.box)
    box = shape("person", "rectangle", np.array([[x, y], [x + width, y + height]]))
    # LabelMe counts from the edge of the first pixel, not from its centre.
    points = [
        shape(skeleton.keypoints[k], "point", person.keypoints[k : k + 1] + 0.5)
        for k in np.flatnonzero(person.found)
    ]
    mask = person.mask
    if mask is None or not person.has_pixels:
        return [box, *points]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]])
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    png = cv2.imencode(".png", inside.astype(np.uint8) * 255)[1].tobytes()
    text = base64.b64encode(png).decode("ascii")
    return [box, shape("person", "mask", corners, text), *points]
