"""A detected person: what the decoder returns, and how it is written to JSON and COCO results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.method.coordinates import box_from_coco, box_to_coco, transform_points


@dataclass(frozen=True, repr=False)
class Person:
    """A person in the frame of some image.

    Attributes:
        keypoints: (K, 2) float (x, y) in pixels; NaN where the keypoint was not found.
        keypoint_scores: (K,) float in [0, 1]; 0 where not found.
        score: confidence in the whole person, in [0, 1].
        rle: COCO's compressed run-length form of the mask over that image, as `encode_mask` gives
            it, maybe without a pixel; None where masks were not asked for. A hundred masks of a
            photo of 12 megapixels would take 1.2 GB as pixels.
        id: number of the person in a video, the same in every frame, from 1; None if not tracked.

    Raises:
        ValueError: shapes disagree.

    >>> person = Person(np.array([[10.0, 20.0], [np.nan, np.nan]]), np.array([0.8, 0.0]), score=0.4)
    >>> person.found
    array([ True, False])
    >>> person
    Person(score=0.40, keypoints=1 of 2, box=[10, 20, 0, 0], mask=False)
    """

    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    score: float
    rle: dict[str, Any] | None = None
    id: int | None = None

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 2 or self.keypoints.shape[1] != 2:
            raise ValueError(f"`keypoints` must be (K, 2). Received: {self.keypoints.shape}")
        if self.keypoint_scores.shape != self.keypoints.shape[:1]:
            raise ValueError(
                f"`keypoint_scores` must be ({len(self.keypoints)},). Received: {self.keypoint_scores.shape}"
            )
        if self.rle is not None and not (
            isinstance(self.rle, dict) and set(self.rle) == {"size", "counts"}
        ):
            raise ValueError(
                f"`rle` must be as `encode_mask` gives it. Received: {type(self.rle).__name__}"
            )

    def __repr__(self) -> str:
        number = "" if self.id is None else f"id={self.id}, "
        box = ", ".join(f"{value:.0f}" for value in self.box)
        return (
            f"Person({number}score={self.score:.2f}, keypoints={int(self.found.sum())} of "
            f"{len(self.keypoints)}, box=[{box}], mask={self.has_pixels})"
        )

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool over the image, decoded anew whenever it is asked for; None where masks were
        not asked for.
        """
        return None if self.rle is None else decode_mask(self.rle)

    @property
    def has_pixels(self) -> bool:
        """Whether there is a mask with any pixels; files hold no other."""
        return self.rle is not None and bool(rle.area(self.rle))

    @property
    def found(self) -> np.ndarray:
        """(K,) bool: which keypoints have a position."""
        return np.isfinite(self.keypoints).all(axis=-1)

    @property
    def box(self) -> np.ndarray:
        """(4,) float [x, y, width, height] in pixel-centre coordinates: around the mask's pixels
        where there are any, else around the keypoints found; zeros where there is nothing."""
        if self.has_pixels:
            return box_from_coco(rle.toBbox(self.rle))
        points = self.keypoints[self.found]
        if not len(points):
            return np.zeros(4)
        low, high = points.min(axis=0), points.max(axis=0)
        return np.concatenate([low, high - low])

    def transformed(self, affine: np.ndarray) -> Person:
        """The same person with keypoints under an affine map (2, 3) and without the mask, which
        belongs to one frame.
        """
        return replace(self, keypoints=transform_points(self.keypoints, affine), rle=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: id if tracked, score, box [x, y, w, h], keypoints
        [[x, y, score] * K] (null where not found), mask as COCO RLE if it has pixels.
        """
        points = [
            [round(float(x), 2), round(float(y), 2), round(float(s), 4)]
            if ok
            else [None, None, 0.0]
            for (x, y), s, ok in zip(self.keypoints, self.keypoint_scores, self.found, strict=True)
        ]
        values: dict[str, Any] = {
            **({} if self.id is None else {"id": self.id}),
            "score": round(float(self.score), 6),
            "box": [round(float(value), 2) for value in self.box],
            "keypoints": points,
        }
        if self.has_pixels:
            values["mask"] = self.rle
        return values

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """Entries of COCO's result format: one with keypoints and, if there is a mask with pixels,
        one with its segmentation.

        A keypoint that was not found is written at the middle of the box around the others, with
        score 0. The format cannot mark it as missing, and COCO's evaluator takes the size of a
        person from all points, so (0, 0) would make the person huge."""
        found = self.keypoints[self.found]
        middle = (found.min(axis=0) + found.max(axis=0)) / 2 if len(found) else np.zeros(2)
        points = np.where(self.found[:, None], self.keypoints, middle)
        scores = np.where(self.found, self.keypoint_scores, 0.0)
        points = np.concatenate([points, scores[:, None]], axis=1)
        common = {"image_id": image_id, "category_id": category_id, "score": float(self.score)}
        entries: list[dict[str, Any]] = [
            {**common, "keypoints": np.round(points, 3).reshape(-1).tolist()}
        ]
        if self.has_pixels:
            box = np.round(box_to_coco(self.box), 2)
            entries.append({**common, "segmentation": self.rle, "bbox": box.tolist()})
        return entries


def people_to_dict(width: int, height: int, people: Sequence[Person]) -> dict[str, Any]:
    """Plain values for JSON of the people in an image of width x height pixels, best first.

    >>> people_to_dict(640, 480, [])
    {'width': 640, 'height': 480, 'people': []}
    """
    return {
        "width": width,
        "height": height,
        "people": [person.to_dict() for person in people],
    }


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length form of a (H, W) bool mask, with its counts as text for JSON.
    Inverse: `decode_mask`.

    >>> encode_mask(np.array([[False, True], [False, True]]))
    {'size': [2, 2], 'counts': '22'}
    """
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": encoded["counts"].decode("ascii"),
    }


def decode_mask(encoded: dict[str, Any]) -> np.ndarray:
    """The (H, W) bool mask of COCO's compressed run-length form."""
    return rle.decode(encoded).astype(bool)
