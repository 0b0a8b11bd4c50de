"""A sound data set told in any number of odd ways: whoever is left to judge is judged right, and
`prepare` and `evaluate` keep the same people.
"""

import copy
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known_people import Perfect, Wrong

from data_prep.baking import gather_people
from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.reasons import Tally
from personlab_keras.annotations.values import identifier
from personlab_keras.config import load_config
from personlab_keras.data.records import read_folder, read_meta
from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate
from personlab_keras.method.skeleton import COCO_PERSON

WIDTH, HEIGHT, IMAGES = 160, 120, 3
BOXES = ((6, 10, 60, 90), (80, 8, 60, 92))
"""Of the two people of every image; the corner below on the right is empty."""


def sound_set(folder: Path) -> dict:
    """Images that differ, with two people each, far apart."""
    rng = np.random.default_rng(0)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
    }
    for number in range(1, IMAGES + 1):
        name = f"{number}.png"
        pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))
        cv2.imwrite(str(folder / name), pixels)
        content["images"].append(
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        )
        for x, y, w, h in BOXES:
            points = np.array([x, y]) + rng.uniform(0.1, 0.9, (17, 2)) * (w, h)
            keypoints = np.concatenate([np.round(points, 1), np.full((17, 1), 2.0)], axis=1)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": float(w * h),
                    "bbox": [x, y, w, h],
                    "num_keypoints": 17,
                    "keypoints": keypoints.reshape(-1).tolist(),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return content


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    content = sound_set(folder)
    (folder / "sound.json").write_text(json.dumps(content))
    return folder, content


DELETE = object()
NOT_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf, None, "12.5", "x", True, [], {}])
IDS = st.one_of(
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, "7", "frame_1", "", None, 1.0, math.nan, DELETE]),
    st.integers(-2, 9),
)
CROWDS = st.sampled_from(
    [0, 1, "0", "1", "true", "No", None, True, False, 0.0, 1.0, math.nan, 2, "perhaps", [], DELETE]
)
COUNT = st.sampled_from([0, 3, 17, "17", None, math.nan, -1, DELETE])
RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
MASKS = st.sampled_from(
    [
        [],
        [[]],
        [[5, 5]],
        [[5, 5, 9, 9]],
        [[math.nan] * 6],
        [["a"] * 6],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1e9, 0, 0, 1e9, 5, 5]],
        None,
        "none",
        3,
        {"counts": "ooo"},
        {"size": [HEIGHT, WIDTH], "counts": "ooo"},
        {"size": [1, 1], "counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
        DELETE,
    ]
)
CATEGORIES = [
    {"id": 2, "name": "dog", "keypoints": ["nose", "tail"]},
    {"id": 0, "name": "person"},
    {"id": "7", "name": "group", "supercategory": "none"},
    {"id": None, "name": "broken", "keypoints": 7},
    {"name": "nameless"},
    3,
]


def put(entry, key, value):
    if value is DELETE:
        entry.pop(key, None)
    else:
        entry[key] = copy.deepcopy(value)


@st.composite
def retold(draw, sound):
    """The file as another tool would have written it."""
    content = copy.deepcopy(sound)
    people = content["annotations"]
    for _ in range(draw(st.integers(0, 8))):
        entry = draw(st.sampled_from(people))
        match draw(st.integers(0, 11)):
            case 0:
                put(entry, "id", draw(IDS))
            case 1:  # all ids anew
                start = draw(st.sampled_from([0, -3, 2**62, 10**20]))
                for number, each in enumerate(people):
                    each["id"] = start + number
            case 2:
                put(entry, "area", draw(st.one_of(NOT_NUMBERS, st.sampled_from([0, -5, DELETE]))))
            case 3:
                bad = draw(NOT_NUMBERS)
                put(entry, "bbox", draw(st.sampled_from([bad, [4, 4, bad, 9], [1, 2], DELETE])))
            case 4:
                put(entry, "iscrowd", draw(CROWDS))
            case 5:
                put(entry, "segmentation", draw(MASKS))
            case 6:
                put(entry, "num_keypoints", draw(COUNT))
            case 7:
                bad = draw(st.sampled_from([None, [], [1, 2, 2], "x", {}, [[1, 2]] * 17, DELETE]))
                put(entry, "keypoints", bad)
            case 8 | 9 if (
                isinstance(entry.get("keypoints"), list) and len(entry["keypoints"]) == 51
            ):
                values = st.one_of(NOT_NUMBERS, st.sampled_from([-500.0, 1e9, 10**400]))
                entry["keypoints"][draw(st.integers(0, 50))] = draw(values)
            case 10:
                entry[draw(st.sampled_from(["attributes", "track_id"]))] = draw(NOT_NUMBERS)
            case 11:  # ids of images, here and there
                given = draw(st.sampled_from([0, -4, "im 1", "12", 2**70, 3.0]))
                old = draw(st.sampled_from(content["images"]))["id"]
                if identifier(given) not in [identifier(each["id"]) for each in content["images"]]:
                    for each in content["images"]:
                        each["id"] = given if each["id"] == old else each["id"]
                    for each in people:
                        each["image_id"] = given if each["image_id"] == old else each["image_id"]
    if draw(st.booleans()):  # keypoints nested, visibility as a score
        for each in people:
            points = each.get("keypoints")
            if isinstance(points, list) and len(points) == 51:
                nested = [points[i : i + 3] for i in range(0, 51, 3)]
                each["keypoints"] = [[x, y, 0.7 if v == 2 else v] for x, y, v in nested]
    extra = draw(st.lists(st.sampled_from(CATEGORIES), max_size=4))
    content["categories"] = draw(st.permutations([*content["categories"], *extra]))
    people += draw(st.lists(st.sampled_from([7, None, {}, {"image_id": 99, "category_id": 1}])))
    content["annotations"] = draw(st.permutations(people))
    return content


@settings(
    max_examples=80 * int(os.environ.get("FUZZ", "1")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_people_left_to_judge_are_judged_right(sound, tmp_path_factory, data):
    folder, content = sound
    told = data.draw(retold(content))
    place = tmp_path_factory.mktemp("told")
    path = place / "told.json"
    path.write_text(json.dumps(told))
    dataset = read_coco(path, COCO_PERSON)
    baked = [gather_people(image, COCO_PERSON, Tally()) for image in dataset.images]

    results = {}
    for name, predict in (
        ("perfect", Perfect(folder / "sound.json", folder)),
        ("wrong", Wrong(COCO_PERSON)),
    ):
        results[name] = evaluate(predict, path, folder, place / name)
        json.loads((place / name / "metrics.json").read_text(), parse_constant=pytest.fail)
    counted = {
        "keypoints": sum(int(people.annotated.sum()) for people in baked),
        "segmentation": sum(int(mask.any()) for people in baked for mask in people.masks),
    }
    assert results["perfect"]["persons"] == counted  # whom prepare keeps, evaluate judges
    for kind, count in counted.items():
        for name, right in (("perfect", 1.0), ("wrong", 0.0)):
            metrics = results[name]
            if count:
                assert metrics[kind]["AP"] == pytest.approx(right), (kind, name)
                assert kind not in metrics["unavailable"]
            else:
                assert (metrics[kind] or {"AP": None})["AP"] is None
                assert metrics["unavailable"][kind]

    config = load_config(None, ["data.view_size=41", "targets.radius=4"])
    if not counted["keypoints"]:
        with pytest.raises(InputError, match=r"no image with people|nobody has a labelled"):
            prepare(path, folder, place / "records", config, engine=processes(0))
        return
    prepare(path, folder, place / "records", config, engine=processes(0))
    meta = read_meta(place / "records")
    records = list(read_folder(place / "records", meta))
    assert sum(len(record.person_ids) for record in records) == sum(
        len(people.ids) for people in baked
    )
    assert counted["keypoints"] == sum(
        int(record.targets.keypoints[..., 2].any(axis=1).sum()) for record in records
    )
    assert set(meta.skipped) == set(results["perfect"]["skipped"])
