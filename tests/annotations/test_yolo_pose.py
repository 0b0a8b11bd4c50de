"""YOLO-pose text and plain values: lines and data.yaml as tools write them, and what is wrong in
real ones.
"""

import math
import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from personlab_keras.annotations.yolo_pose import (
    YoloPose,
    check_skeleton,
    data_yaml_text,
    label_text,
    parse_data_yaml,
    parse_line,
)
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton

# As Ultralytics ships it for its eight images of COCO.
COCO8_POSE = """
path: coco8-pose # dataset root dir
train: images/train # train images (relative to 'path') 4 images
val: images/val # val images (relative to 'path') 4 images
test: # test images (optional)

# Keypoints
kpt_shape: [17, 3] # number of keypoints, number of dims (2 for x,y or 3 for x,y,visible)
flip_idx: [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]

# Classes
names:
  0: person

# Keypoint names per class
kpt_names:
  0:
    - nose
    - left_eye
    - right_eye
    - left_ear
    - right_ear
    - left_shoulder
    - right_shoulder
    - left_elbow
    - right_elbow
    - left_wrist
    - right_wrist
    - left_hip
    - right_hip
    - left_knee
    - right_knee
    - left_ankle
    - right_ankle

download: https://example.org/coco8-pose.zip
"""


def test_the_data_yaml_of_coco8_pose():
    data = parse_data_yaml(yaml.safe_load(COCO8_POSE), "coco8-pose.yaml")
    assert dict(data.names) == {0: "person"}
    assert (data.keypoints, data.dimensions, data.columns) == (17, 3, 56)
    assert (data.root, data.splits) == (
        "coco8-pose",
        {"train": ("images/train",), "val": ("images/val",)},
    )
    assert data.keypoint_names == {0: COCO_PERSON.keypoints}
    check_skeleton(data, COCO_PERSON, "coco8-pose.yaml")


# As Roboflow exports: lists of names, paths that lead out of the folder, numbers as text.
@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"names": ["person", "dog"]}, {0: "person", 1: "dog"}),
        ({"names": {"0": "person"}}, {0: "person"}),
        ({"names": {0: False}}, {0: "False"}),
        ({"nc": 2}, {0: "class_0", 1: "class_1"}),
    ],
)
def test_names_in_every_form(said, names):
    assert dict(parse_data_yaml({"kpt_shape": [4, 2], **said}, "x").names) == names


def test_splits_in_every_form():
    said = {
        "train": ["../train/images", "more.txt"],
        "valid": "../valid/images",
        "test": None,
        "minival": "images/mini",
    }
    data = parse_data_yaml({"kpt_shape": [4, 2], "nc": 1, **said}, "x")
    assert data.splits == {"train": ("../train/images", "more.txt"), "val": ("../valid/images",)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kpt_shape": None}, "kpt_shape must be [number of keypoints, 2 or 3]. Received: nothing"),
        ({"kpt_shape": [17]}, "kpt_shape must be [number of keypoints, 2 or 3]. Received: [17]"),
        ({"kpt_shape": [17, 4]}, "Received: [17, 4]"),
        ({"kpt_shape": [0, 3]}, "Received: [0, 3]"),
        ({"kpt_shape": "17, 3"}, "Received: '17, 3'"),
        (
            {"flip_idx": [0, 1]},
            "flip_idx must hold every number from 0 to 3 once. Received: [0, 1]",
        ),
        ({"flip_idx": [0, 1, 2, 2]}, "Received: [0, 1, 2, 2]"),
        ({"names": None}, "names must say what the class numbers mean. Received: nothing"),
        ({"names": []}, "names must say"),
        ({"names": "person"}, "names must say"),
        ({"names": ["a", "a"]}, "distinct names"),
        ({"names": {"x": "a"}}, "whole numbers from 0"),
        ({"names": {-1: "a"}}, "whole numbers from 0"),
        ({"kpt_names": {0: ["a"]}}, "kpt_names must give 4 names for a class. Received: ['a']"),
        ({"kpt_names": 7}, "kpt_names must give 4 names"),
        ({"train": 7}, "train must be a folder of images, a text file that lists them"),
        ({"val": ["a", None]}, "val must be a folder"),
        ({"path": 3}, "path must be a text. Received: 3"),
    ],
)
def test_a_bad_data_yaml_gets_one_line(changes, words):
    sound = {"kpt_shape": [4, 3], "names": ["person"], "train": "images"}
    parse_data_yaml(sound, "data.yaml")
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        parse_data_yaml({**sound, **changes}, "data.yaml")
    assert str(caught.value).startswith("data.yaml: ")
    assert "\n" not in str(caught.value)


def test_no_mapping_is_no_data_yaml():
    with pytest.raises(InputError, match="must hold names and kpt_shape"):
        parse_data_yaml(["person"], "data.yaml")


def test_the_skeleton_must_fit():
    data = parse_data_yaml(yaml.safe_load(COCO8_POSE), "x")
    with pytest.raises(InputError, match=r"the 14 keypoints of 'crowdpose'. Received: \[17, 3\]"):
        check_skeleton(data, load_skeleton("crowdpose"), "data.yaml")
    other = YoloPose({0: "person"}, 17, 3, flip_order=tuple(range(17)))
    with pytest.raises(InputError, match=r"flip_idx must be that of 'coco_person', \[0, 2, 1"):
        check_skeleton(other, COCO_PERSON, "data.yaml")


def test_a_line_by_hand():
    line = parse_line("0 0.5 0.25 0.2 0.1 0.25 0.75 2 0 0 0\r", 2, 3)
    assert (line.class_id, line.columns) == (0, 11)
    assert line.coco_box(200, 100) == pytest.approx([80, 20, 40, 10])
    assert line.coco_keypoints(200, 100) == pytest.approx([50, 75, 2, 0, 0, 0])


@pytest.mark.parametrize(
    ("text", "box", "keypoints"),
    [
        ("0 .5 .5 1 1 .1 .2 .3 .4", [0, 0, 10, 10], [1, 2, 2, 3, 4, 2]),
        ("0\t.5  .5 1 1   .1 .2 .3 .4  ", [0, 0, 10, 10], [1, 2, 2, 3, 4, 2]),
        ("0.0 5e-1 .5 1 1 .1 .2 .3 .4", [0, 0, 10, 10], [1, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 1 0 0 .3 .4", [0, 0, 10, 10], [0, 0, 0, 3, 4, 2]),
        ("0 .5 .5 1 1 -1 -1 .3 .4", [0, 0, 10, 10], [-10, -10, 0, 3, 4, 2]),
        ("0 .5 .5 1 1 0 .2 .3 .4", [0, 0, 10, 10], [0, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 1 nan .2 .3 .4", [0, 0, 10, 10], [math.nan, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 1 x1 .2 .3 .4", [0, 0, 10, 10], [math.nan, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 1 1_0 .2 .3 .4", [0, 0, 10, 10], [math.nan, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 inf .1 .2 .3 .4", [0, -math.inf, 10, math.inf], [1, 2, 2, 3, 4, 2]),
        ("0 .5 .5 1 1", [0, 0, 10, 10], None),
        ("0 .5 .5 1 1 .1 .2 .3", None, None),
        ("0 .5 .5 1 1 .1 .2 .3 .4 .9", None, None),
        ("0 .5 .5 1", None, None),
        ("0", None, None),
    ],
)
def test_lines_without_visibilities(text, box, keypoints):
    line = parse_line(text, 2, 2)
    for found, expected in (
        (line.coco_box(10, 10), box),
        (line.coco_keypoints(10, 10), keypoints),
    ):
        assert found is None if expected is None else np.allclose(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    "text", ["person .5 .5 1 1", "1.5 .5 .5 1 1", "-1 .5 .5 1 1", "nan 0", "0,.5,.5,1,1", "1e300 0"]
)
def test_lines_without_a_class_are_refused(text):
    with pytest.raises(ValueError, match=r"must begin with the number of a class, .* Received: "):
        parse_line(text, 2, 3)


@given(st.text(min_size=1).filter(lambda text: text.split()), st.sampled_from([2, 3]))
def test_any_line_is_read_or_refused(text, dimensions):
    try:
        line = parse_line(text, 2, dimensions)
    except ValueError:
        return
    assert (line.keypoints is not None) == (line.columns == 5 + 2 * dimensions)


def hundredths(lowest, highest):
    """Numbers as COCO writes boxes."""
    return st.integers(100 * lowest, 100 * highest).map(lambda number: number / 100)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.lists(hundredths(-50, 5000), min_size=4, max_size=4),
            st.lists(
                st.tuples(hundredths(1, 4000), hundredths(1, 3000), st.sampled_from([0, 1, 2])),
                min_size=3,
                max_size=3,
            ),
        ),
        max_size=4,
    ),
    st.integers(1, 8000),
    st.integers(1, 8000),
)
def test_written_lines_read_back_to_the_same_pixels(people, width, height):
    text = label_text(
        [(class_id, box, np.array(points, float)) for class_id, box, points in people],
        width,
        height,
    )
    lines = [parse_line(line, 3, 3) for line in text.splitlines()]
    assert [line.class_id for line in lines] == [person[0] for person in people]
    for line, (_, box, points) in zip(lines, people, strict=True):
        assert line.coco_box(width, height) == box
        labelled = [value for x, y, v in points for value in ((x, y, v) if v else (0, 0, 0))]
        assert line.coco_keypoints(width, height) == labelled


def test_written_text_is_plain():
    keypoints = np.array([[320.0, 240.0, 2.0], [7.0, 9.0, 0.0], [1.0, 3.0, 1.0]])
    person = (0, [100.0, 100.0, 64.0, 48.0], keypoints)
    assert (
        label_text([person], 640, 480)
        == "0 0.20625 0.258333333 0.1 0.1 0.5 0.5 2 0 0 0 0.0015625 0.00625 1\n"
    )
    assert label_text([person], 640, 480, dimensions=2).split()[5:] == [
        *("0.5", "0.5", "0", "0", "0.0015625", "0.00625")
    ]
    assert label_text([], 640, 480) == ""


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_written_data_yaml_reads_back(dimensions):
    data = YoloPose(
        names={0: "person", 3: "größer"},
        keypoints=17,
        dimensions=dimensions,
        flip_order=tuple(COCO_PERSON.flip_order.tolist()),
        keypoint_names={0: COCO_PERSON.keypoints},
        root="",
        splits={"train": ("images/train",), "val": ("a.txt", "images/val")},
    )
    assert parse_data_yaml(yaml.safe_load(data_yaml_text(data)), "x") == data
