"""Predictors of known people, for tests that judge: one that is always right, one that never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from personlab_keras.annotations.masks import decode_segmentation
from personlab_keras.io.images import read_image
from personlab_keras.method.person import Person, encode_mask


def person_of(entry: dict, height: int, width: int) -> Person:
    """The person of a sound annotation."""
    points = np.array(entry["keypoints"], float).reshape(-1, 3)
    if entry.get("segmentation"):
        mask, _ = decode_segmentation(entry["segmentation"], height, width)
    else:
        x, y, w, h = np.rint(entry["bbox"]).astype(int)
        mask = np.zeros((height, width), bool)
        mask[y : y + h, x : x + w] = True
    return Person(points[:, :2], np.ones(len(points)), 0.9, encode_mask(mask))


class Perfect:
    """Knows the people of every picture of a sound data set, and recognises a picture also if it is
    turned.
    """

    def __init__(self, annotations: Path, images: Path, skeleton=None) -> None:
        content = json.loads(annotations.read_text())
        self.skeleton = skeleton
        self._known = []
        for image in content["images"]:
            pixels = read_image(images / Path(image["file_name"]).name)
            people = [
                person_of(entry, image["height"], image["width"])
                for entry in content["annotations"]
                if entry["image_id"] == image["id"]
            ]
            self._known.append((pixels, people))

    def __call__(self, image: np.ndarray) -> list[Person]:
        candidates = [
            (np.abs(np.rot90(pixels, turns).astype(int) - image).mean(), turns, people)
            for pixels, people in self._known
            for turns in range(4)
            if np.rot90(pixels, turns).shape == image.shape
        ]
        difference, turns, people = min(candidates, key=lambda each: each[0])
        assert difference < 10
        return [_turned(person, turns) for person in people]

    def timed(self, image: np.ndarray) -> tuple[list[Person], dict[str, float]]:
        return self(image), {"predict": 0.001}


def _turned(person: Person, turns: int) -> Person:
    """By quarter turns, as np.rot90 turns pictures."""
    points, mask = person.keypoints, person.mask
    for _ in range(turns):
        points = np.stack([points[:, 1], mask.shape[1] - 1 - points[:, 0]], axis=1)
        mask = np.rot90(mask)
    return Person(points, person.keypoint_scores, person.score, encode_mask(mask))


class Wrong:
    """Sees one small person in the lower right corner of every picture, where nobody is."""

    def __init__(self, skeleton) -> None:
        self.skeleton = skeleton

    def __call__(self, image: np.ndarray) -> list[Person]:
        height, width = image.shape[:2]
        count = self.skeleton.keypoint_count
        points = np.array([width - 8.0, height - 8.0]) + np.linspace(0, 6, count)[:, None]
        mask = np.zeros((height, width), bool)
        mask[-8:, -8:] = True
        return [Person(points, np.ones(count), 0.9, encode_mask(mask))]

    def timed(self, image: np.ndarray) -> tuple[list[Person], dict[str, float]]:
        return self(image), {"predict": 0.001}
