"""What predictions are judged by: a data set in the form that COCOeval takes, with ids of its own.

Crowd regions are ignored, as COCO does it. So is, for masks, everybody whose mask is unknown, for
keypoints everybody without labelled ones, and everybody without annotation in an image that says
`"complete": false`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle

from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.masks import box_pixels
from personlab_keras.annotations.reasons import Tally
from personlab_keras.annotations.subjects import Subject, subjects
from personlab_keras.method.skeleton import Skeleton


@dataclass(frozen=True)
class Truth:
    """Annotations to judge by.

    Attributes:
        images: {"id", "width", "height", "file_name"} each, ids as in the data set;
            "crowdIndex" where it has one.
        keypoints: COCO annotations without masks.
        masks: COCO annotations with their masks as run lengths.
        skeleton: of the keypoints.
        category: id of the only category: people of several are one kind here.
    """

    images: list[dict[str, Any]]
    keypoints: list[dict[str, Any]]
    masks: list[dict[str, Any]]
    skeleton: Skeleton
    category: int = 1

    def of_images(self, ids: Collection[int]) -> Truth:
        """The annotations of some of the images."""
        return replace(
            self,
            images=[entry for entry in self.images if entry["id"] in ids],
            keypoints=[entry for entry in self.keypoints if entry["image_id"] in ids],
            masks=[entry for entry in self.masks if entry["image_id"] in ids],
        )

    def judged(self, kind: str) -> int:
        """Number of people who count, for "keypoints" or "masks"."""
        entries = self.keypoints if kind == "keypoints" else self.masks
        return sum(
            not entry["iscrowd"] and (kind == "masks" or entry["num_keypoints"] > 0)
            for entry in entries
        )

    def to_coco(self, kind: str) -> dict[str, Any]:
        """COCO's form, for "keypoints" or "masks"; run lengths are bytes."""
        return {
            "images": self.images,
            "annotations": self.keypoints if kind == "keypoints" else self.masks,
            "categories": [
                {"id": self.category, "name": "person", "keypoints": list(self.skeleton.keypoints)}
            ],
        }


def truth_of(
    images: Iterable[AnnotatedImage], skeleton: Skeleton, tally: Tally, category: int = 1
) -> Truth:
    """The annotations of images as COCOeval takes them; adds to the tally what was repaired."""
    described: list[dict[str, Any]] = []
    keypoints: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for image in images:
        described.append(
            {
                "id": image.id,
                "width": image.width,
                "height": image.height,
                "file_name": image.file_name,
                **({} if image.crowd_index is None else {"crowdIndex": image.crowd_index}),
            }
        )
        whole = (0.0, 0.0, float(image.width), float(image.height))
        for subject in sorted(subjects(image, tally), key=lambda each: each.annotation.place):
            common = {
                # COCOeval takes an id of 0 for "not matched".
                "id": len(keypoints) + 1,
                "image_id": image.id,
                "category_id": category,
                "area": subject.area,
                "bbox": list(whole) if subject.box is None else subject.box.tolist(),
            }
            points = subject.annotation.keypoints
            keypoints.append(
                {
                    **common,
                    "iscrowd": int(not subject.person),
                    "keypoints": points.reshape(-1).tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
            known = subject.person and subject.rle is not None
            mask = _ignored_region(subject, image) if subject.rle is None else subject.rle
            masks.append({**common, "iscrowd": int(not known), "segmentation": mask})
        if not image.complete:
            # A crowd everywhere: who is found and not annotated may well be there.
            common = {
                "id": len(keypoints) + 1,
                "image_id": image.id,
                "category_id": category,
                "area": whole[2] * whole[3],
                "bbox": list(whole),
                "iscrowd": 1,
            }
            nowhere = [0] * (3 * skeleton.keypoint_count)
            keypoints.append({**common, "keypoints": nowhere, "num_keypoints": 0})
            everywhere = np.ones((image.height, image.width), np.uint8, order="F")
            masks.append({**common, "segmentation": rle.encode(everywhere)})
    return Truth(described, keypoints, masks, skeleton, category)


def _ignored_region(subject: Subject, image: AnnotatedImage) -> dict[str, Any]:
    """Run lengths of where a mask may lie that nobody knows: within the annotated box, else
    anywhere. A box around keypoints alone would cut it off.
    """
    inside = np.zeros((image.height, image.width), np.uint8, order="F")
    if np.isfinite(subject.annotation.box).all():
        inside[box_pixels(subject.annotation.box, image.height, image.width)] = 1
    if not inside.any():
        inside[:] = 1
    return rle.encode(inside)


def as_json(coco: dict[str, Any]) -> dict[str, Any]:
    """What `Truth.to_coco` returned with its run lengths as text."""

    def entry_as_json(entry: dict[str, Any]) -> dict[str, Any]:
        if "segmentation" not in entry:
            return entry
        mask = entry["segmentation"]
        return {**entry, "segmentation": {**mask, "counts": mask["counts"].decode("ascii")}}

    return {**coco, "annotations": [entry_as_json(entry) for entry in coco["annotations"]]}
