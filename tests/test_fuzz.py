"""Input of every kind, spoilt at random: one line or success, and nothing lost on the way.

HYPOTHESIS_PROFILE=random looks for new cases, FUZZ=20 for twenty times as many. What was found is
kept, as an example here or as a case of tests/test_broken_data.py.
"""

import copy
import json
import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from released_graphs import mobilenet_file, random_network

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.json_lists import read_lists
from personlab_keras.annotations.masks import decode_segmentation
from personlab_keras.config import Config, config_to_dict, config_to_yaml, load_config
from personlab_keras.data.records import (
    META_FILE,
    Record,
    parse_meta,
    read_example,
    read_folder,
    read_meta,
    write_example,
)
from personlab_keras.data.shard_files import read_shard
from personlab_keras.data.tfrecords import Damage, frame
from personlab_keras.errors import InputError
from personlab_keras.io.image_headers import image_size
from personlab_keras.io.images import decode_image
from personlab_keras.method.maps import ALL_OUTPUTS
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton, load_skeleton, skeleton_to_yaml
from personlab_keras.model.pretrained.binding import bind
from personlab_keras.model.pretrained.tfjs import read_tfjs


def tries(count):
    return settings(
        max_examples=count * int(os.environ.get("FUZZ", "1")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def checked(error):
    """An error that a user reads is one line."""
    if "\n" in str(error):
        raise AssertionError(f"more than one line: {error}")


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 2, 17, 2**31, 2**63, 10**30, -(10**400), 1e308, math.nan, math.inf]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def spoilt(draw, content):
    """The content with one to three places changed, removed, doubled or moved."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        parent, place = content, None
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not keys:
                break
            place = draw(st.sampled_from(keys))
            if (
                isinstance(parent[place], (dict, list))
                and parent[place]
                and draw(st.integers(0, 3))
            ):
                parent = parent[place]
                continue
            break
        if place is None or not len(parent):
            continue
        what = draw(st.sampled_from(["value", "value", "value", "delete", "double", "text"]))
        if what == "value":
            parent[place] = draw(VALUES)
        elif what == "delete":
            del parent[place]
        elif what == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[place]))
        elif what == "text":
            parent[place] = str(parent[place])
    return content


@st.composite
def damaged(draw, data):
    """Bytes with some of them changed, cut out or put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["flip", "flip", "byte", "cut", "insert", "end"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "byte" and data:
            data[at] = draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 1]))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        elif what == "end":
            del data[at:]
    return bytes(data)


PUNCTUATION = st.text(alphabet='{}[]":,0.e-tN \n\\u', max_size=30)

# Annotations

PERSON = {
    "id": 11, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400.0, "bbox": [20, 10, 20, 20], "num_keypoints": 17,
    "keypoints": [value for k in range(17) for value in (21 + k, 12 + k, 2)], "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]],
}  # fmt: skip
COCO = {
    "info": {}, "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}],
    "annotations": [
        PERSON,
        {**PERSON, "id": 12, "segmentation": {"size": [60, 80], "counts": [100, 300, 4400]}},
        {**PERSON, "id": 13, "segmentation": {"size": [60, 80], "counts": "T3d00g01000O1000O10000O10O100000000O1000]D"}, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.jpg"), np.full((60, 80, 3), 90, np.uint8))
    return folder


@tries(250)
@given(spoilt(COCO))
@example(
    {**COCO, "annotations": [{**PERSON, "segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}]}
)  # ended the process
@example(
    {**COCO, "annotations": [{**PERSON, "segmentation": [[0, 0, math.nan, 0, 3, 3]]}]}
)  # ended the process
@example(
    {**COCO, "annotations": [{**PERSON, "segmentation": {"size": [60, 80], "counts": ""}}]}
)  # gave whatever memory held
@example({**COCO, "annotations": [{**PERSON, "bbox": [1e300, 0, 1e300, 1]}]})
def test_annotation_files(place, content):
    (place / "annotations.json").write_text(json.dumps(content))
    shutil.rmtree(place / "records", ignore_errors=True)
    config = load_config(None, ["data.view_size=33", "targets.radius=8", "data.views_per_image=2"])
    try:
        meta = prepare(
            place / "annotations.json",
            place / "images",
            place / "records",
            config,
            engine=processes(1),
        )
    except InputError as error:
        checked(error)
        return
    records = list(read_folder(place / "records", meta))
    assert len(records) == meta.records
    for record in records:
        assert isinstance(record, Record), record
        for values in (record.person_boxes, record.person_areas, record.targets.keypoints):
            assert np.isfinite(values).all()
    # Of what was of the right category, everything is in a record or in the counts.
    in_records = (
        sum(len(record.person_ids) for record in records) // 2 + meta.counts["crowd regions"]
    )
    listed = sum(entry is not None for entry in content["annotations"])
    assert in_records + sum(meta.skipped.values()) >= min(listed, 1)


@tries(300)
@given(
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {
                "size": st.just([6, 8]),
                "counts": st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=9),
            }
        ),
        st.fixed_dictionaries(
            {"size": st.just([6, 8]), "counts": st.lists(st.integers(-3, 50), max_size=6)}
        ),
        st.lists(st.lists(NUMBERS, min_size=4, max_size=9), max_size=3),
        st.lists(st.lists(st.floats(-30, 60), min_size=4, max_size=9), max_size=3),
    )
)
def test_segmentations(form):
    try:
        mask, _ = decode_segmentation(form, 6, 8)
    except ValueError:
        return
    assert (mask.shape, mask.dtype) == ((6, 8), bool)
    assert np.isin(mask.view(np.uint8), (0, 1)).all()


@tries(300)
@given(
    st.one_of(
        damaged(json.dumps(COCO).encode()), st.binary(max_size=60), PUNCTUATION.map(str.encode)
    )
)
def test_bytes_in_place_of_json(place, content):
    path = place / "any.json"
    path.write_bytes(content)
    try:
        expected = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        expected = None
    found = []
    try:
        read_lists(path, {"images": lambda number, entry: found.append(entry)})
    except InputError as error:
        checked(error)
        # Keys that occur twice are refused; else what is JSON is read.
        assert not isinstance(expected, dict) or content.count(b'"images"') > 1
        return
    assert isinstance(expected, dict)
    assert repr(found) == repr(
        expected["images"] if isinstance(expected.get("images"), list) else []
    )


# Images

PICTURE = cv2.resize(
    np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8),
    (40, 32),
    interpolation=cv2.INTER_CUBIC,
)
FILES = [
    cv2.imencode(form, PICTURE, options)[1].tobytes()
    for form, options in (
        (".jpg", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), (".png", []), (".webp", []), (".bmp", []), (".tiff", []),
    )
]  # fmt: skip


@tries(400)
@given(st.sampled_from(FILES).flatmap(damaged))
def test_image_bytes(data):
    size = image_size(data)
    assert size is None or min(size) > 0
    try:
        image = decode_image(data, "spoilt", max_pixels=1_000_000)
    except InputError as error:
        checked(error)
        return
    assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)


# Records


@pytest.fixture(scope="module")
def contents(records):
    meta = read_meta(records)
    return meta, [content for shard in meta.shards for content in read_shard(records / shard.name)][
        :3
    ]


@tries(150)
@given(st.data())
def test_records_with_a_checksum_that_fits(contents, data):
    meta, sound = contents
    content = data.draw(damaged(data.draw(st.sampled_from(sound))))
    try:
        record = read_example(content, meta)
    except ValueError:
        return
    assert record.targets.instance.shape == (meta.map_side, meta.map_side)
    assert read_example(write_example(record), meta).image == record.image


@tries(150)
@given(st.data())
def test_shards(contents, place, data):
    _, sound = contents
    path = place / "spoilt.tfrecord"
    whole = b"".join(map(frame, (content[:200] for content in sound)))
    spoilt_file = data.draw(damaged(whole))
    path.write_bytes(spoilt_file)
    found = list(read_shard(path))
    kept = [each for each in found if isinstance(each, bytes)]
    # A cut between records shows in the number of records alone; what is read, was written.
    assert all(
        each in {content[:200] for content in sound} or frame(each) in spoilt_file for each in kept
    )
    assert (
        spoilt_file == whole
        or len(kept) < len(sound)
        or any(isinstance(each, Damage) for each in found)
        or len(kept) > len(sound)
    )


@tries(150)
@given(st.data())
def test_meta_files(records, place, data):
    content = data.draw(spoilt(json.loads((records / META_FILE).read_text())))
    (place / META_FILE).write_text(json.dumps(content))
    try:
        meta = parse_meta(place)
    except InputError as error:
        checked(error)
        return
    assert isinstance(meta.skeleton, Skeleton)
    assert meta.map_side >= 1


# Settings


@tries(200)
@given(
    st.one_of(
        spoilt(config_to_dict(Config())).map(lambda content: yaml.safe_dump(content)),
        st.text(max_size=60),
    )
)
@example("a: &a [*a]")
@example("data: {view_size: 401, view_size: x}")
@example("? [1, 2]\n: 3")
@example("data: 2026-13-45")  # a ValueError of the date
def test_configuration_files(place, text):
    path = place / "settings.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        config = load_config(path)
    except InputError as error:
        checked(error)
        return
    assert load_config(None, base=config) == config
    config_to_yaml(config)


@tries(150)
@given(
    st.one_of(
        spoilt(yaml.safe_load(skeleton_to_yaml(COCO_PERSON))).map(
            lambda content: yaml.safe_dump(content)
        ),
        st.text(max_size=60),
    )
)
@example("a: &a [*a]")
def test_skeleton_files(place, text):
    path = place / "skeleton.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        skeleton = load_skeleton(path)
    except InputError as error:
        checked(error)
        return
    assert len(skeleton.edge_flip_order) == 2 * (skeleton.keypoint_count - 1)
    assert Path(path).is_file()


# Released weights


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A network in the form in which Google released its own."""
    folder = tmp_path_factory.mktemp("released")
    mobilenet_file(random_network()).write(folder)
    return next(folder.glob("*.json"))


@tries(60)
@given(st.data())
def test_weights_files(released, data):
    content = data.draw(spoilt(json.loads(released.read_text())))
    path = released.with_name("spoilt.json")  # beside the shards that it names
    path.write_text(json.dumps(content))
    try:
        bound = bind(read_tfjs(path))
    except InputError as error:
        checked(error)
        return
    assert set(bound.heads) <= set(ALL_OUTPUTS)
