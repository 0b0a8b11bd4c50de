"""Small annotation files in the form in which other data sets are published, made from COCO's
form: every helper takes a file with COCO's 17 keypoints and gives one that says the same.
"""

from __future__ import annotations

import copy

import numpy as np

from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton

FEET = load_skeleton("coco_body_feet").keypoints[17:]


def _points(entry: dict) -> dict[str, np.ndarray]:
    """Keypoint name -> [x, y, visibility]."""
    points = np.array(entry["keypoints"], float).reshape(17, 3)
    return dict(zip(COCO_PERSON.keypoints, points, strict=True))


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The middle of two points where both are labelled."""
    return (a + b) / 2 if min(a[2], b[2]) > 0 else np.zeros(3)


def _above(head: np.ndarray, neck: np.ndarray) -> np.ndarray:
    """As far above the head as the neck is below it, if that is in the picture."""
    top = 2 * head - neck
    ok = min(head[2], neck[2]) > 0 and top[:2].min() >= 0
    return np.append(top[:2], 1) if ok else np.zeros(3)


def _flat(points) -> list[int]:
    return np.rint(np.concatenate(list(points))).astype(int).tolist()


def crowdpose(coco: dict) -> dict:
    """CrowdPose: whole pixels, no area and no masks, `num_keypoints` without head and neck, a crowd
    index for every image.
    """
    skeleton = load_skeleton("crowdpose")
    annotations = []
    for entry in coco["annotations"]:
        named = _points(entry)
        named["neck"] = _between(named["left_shoulder"], named["right_shoulder"])
        named["head"] = named["nose"]
        keypoints = _flat(named[name] for name in skeleton.keypoints)
        annotations.append(
            {
                "num_keypoints": sum(v > 0 for v in keypoints[2:36:3]),
                "iscrowd": 0,
                "keypoints": keypoints,
                "image_id": entry["image_id"],
                "bbox": entry["bbox"],
                "category_id": 1,
                "id": entry["id"],
            }
        )
    levels = [0.0, 0.05, 0.1, 0.5, 0.79, 0.8, 1.0]
    images = [
        {
            "file_name": image["file_name"],
            "id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "crowdIndex": levels[i % len(levels)],
        }
        for i, image in enumerate(coco["images"])
    ]
    category = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[16, 14], [14, 12], [17, 15]],  # of 14 keypoints, as published
    }
    return {"images": images, "annotations": annotations, "categories": [category]}


def ochuman(coco: dict) -> dict:
    """OCHuman: the area of the box, masks as run lengths in text, ids from 1."""
    annotations = []
    for number, entry in enumerate(coco["annotations"], start=1):
        x, y, width, height = entry["bbox"]
        annotations.append(
            {
                "image_id": entry["image_id"],
                "area": width * height,
                "num_keypoints": entry["num_keypoints"],
                "iscrowd": 0,
                "id": number,
                "category_id": 1,
                "keypoints": entry["keypoints"],
                "segmentation": entry["segmentation"],
                "bbox": [x, y, width, height],
            }
        )
    return {
        "annotations": annotations,
        "categories": coco["categories"],
        "images": [
            {key: image[key] for key in ("id", "file_name", "height", "width")}
            for image in coco["images"]
        ],
    }


def mpii(coco: dict) -> dict:
    """MPII as it is usually converted: sides as letters, a misspelt thorax, the area of the box, no
    masks.
    """
    skeleton = load_skeleton("mpii")
    spelt = [
        name.replace("right_", "r_").replace("left_", "l_").replace("thorax", "throax")
        for name in skeleton.keypoints
    ]
    annotations = []
    for entry in coco["annotations"]:
        named = _points(entry)
        named["pelvis"] = _between(named["left_hip"], named["right_hip"])
        named["thorax"] = _between(named["left_shoulder"], named["right_shoulder"])
        named["upper_neck"] = _between(named["thorax"], named["nose"])
        named["head_top"] = _above(named["nose"], named["upper_neck"])
        keypoints = _flat(named[name] for name in skeleton.keypoints)
        annotations.append(
            {
                "id": entry["id"],
                "image_id": entry["image_id"],
                "category_id": 1,
                "area": entry["bbox"][2] * entry["bbox"][3],
                "bbox": entry["bbox"],
                "iscrowd": 0,
                "keypoints": keypoints,
                "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
            }
        )
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": spelt}
    return {"images": coco["images"], "annotations": annotations, "categories": [category]}


def wholebody(coco: dict) -> dict:
    """COCO-WholeBody: COCO's file with more lists in every annotation, of which the categories say
    nothing.
    """
    content = copy.deepcopy(coco)
    for entry in content["annotations"]:
        named = _points(entry)
        feet = []
        for name in FEET:
            ankle = named[f"{name.split('_')[0]}_ankle"]
            reach = {"big_toe": 3, "small_toe": 2, "heel": 1}[name.split("_", 1)[1]]
            feet += [ankle[0], ankle[1] + reach, float(ankle[2])] if ankle[2] else [0.0, 0.0, 0.0]
        entry.update(
            foot_kpts=feet,
            face_kpts=[0.0] * 204,
            lefthand_kpts=[0.0] * 63,
            righthand_kpts=[0.0] * 63,
            face_box=[0.0] * 4,
            lefthand_box=[0.0] * 4,
            righthand_box=[0.0] * 4,
            foot_valid=any(feet),
            face_valid=False,
            lefthand_valid=False,
            righthand_valid=False,
        )
    return content


FORMS = {
    "crowdpose": crowdpose,
    "coco_person": ochuman,
    "mpii": mpii,
    "coco_body_feet": wholebody,
}
"""Shipped skeleton -> the form in which its data set is published."""
