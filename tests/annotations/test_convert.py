"""Between COCO and YOLO-pose: what is written, and that both say the same to `prepare`."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.convert import convert
from personlab_keras.annotations.formats import read_annotations
from personlab_keras.annotations.yolo_pose import parse_data_yaml
from personlab_keras.cli import main
from personlab_keras.config import load_config
from personlab_keras.data.records import read_folder
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON


@pytest.fixture(scope="module")
def sample(shared):
    """The real sample: annotation file and images."""
    folder = shared / "data" / "coco-sample"
    return folder / "annotations" / "person_keypoints_train2017.json", folder / "train2017"


@pytest.fixture(scope="module")
def yolo(sample, tmp_path_factory):
    """The sample as a YOLO-pose folder."""
    annotations, images = sample
    folder = tmp_path_factory.mktemp("yolo") / "sample"
    convert(annotations, folder, COCO_PERSON, images=images)
    return folder


def as_yolo_can_say(content):
    """COCO's file without masks, areas and crowd regions."""
    people = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    kept = ("id", "image_id", "category_id", "iscrowd", "bbox", "keypoints", "num_keypoints")
    return {**content, "annotations": [{key: entry[key] for key in kept} for entry in people]}


def baked(annotations, images, out, *settings):
    """Meta and the records by (image id, view)."""
    config = load_config(
        None,
        ["data.view_size=129", "data.views_per_image=3", "data.shard_records=40", *settings],
    )
    meta = prepare(annotations, images, out, config, engine=processes(1))
    return meta, {(record.image_id, record.view): record for record in read_folder(out, meta)}


@pytest.fixture(scope="module")
def from_yolo(yolo, tmp_path_factory):
    return baked(yolo, None, tmp_path_factory.mktemp("records"))


def test_the_shards_are_those_of_the_coco_file(sample, from_yolo, tmp_path):
    annotations, images = sample
    (tmp_path / "plain.json").write_text(
        json.dumps(as_yolo_can_say(json.loads(annotations.read_text())))
    )
    meta, records = baked(tmp_path / "plain.json", images, tmp_path / "records")
    yolo_meta, yolo_records = from_yolo
    assert [(shard.name, shard.records) for shard in yolo_meta.shards] == [
        (shard.name, shard.records) for shard in meta.shards
    ]
    assert yolo_meta.counts == meta.counts
    assert list(yolo_records) == list(records)
    assert sum(len(record.person_ids) for record in records.values()) > 200
    for key, record in records.items():
        other = yolo_records[key]
        assert other.image == record.image
        for field in ("disc_owner", "instance", "ignore"):
            np.testing.assert_array_equal(
                getattr(other.targets, field), getattr(record.targets, field), field
            )
        # Whole pixels of keypoints and hundredths of boxes come back as they were.
        np.testing.assert_array_equal(other.targets.keypoints, record.targets.keypoints)
        np.testing.assert_allclose(other.person_boxes, record.person_boxes, rtol=1e-6)
        np.testing.assert_allclose(other.person_areas, record.person_areas, rtol=1e-6)


def test_with_six_decimals_only_the_sixth_is_lost(yolo, from_yolo, tmp_path):
    shutil.copytree(yolo, tmp_path / "set")
    for file in (tmp_path / "set/labels").rglob("*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        file.write_text(
            "".join(" ".join(f"{float(value):.6f}" for value in line) + "\n" for line in lines)
        )
    _, records = baked(tmp_path / "set", None, tmp_path / "records")
    cells = different = 0
    for key, record in from_yolo[1].items():
        other = records[key]
        assert other.image == record.image
        largest = 0.5e-6 * 640 + 0.5e-3
        np.testing.assert_allclose(
            other.targets.keypoints, record.targets.keypoints, rtol=0, atol=largest
        )
        for field in ("disc_owner", "ignore"):
            ours, theirs = getattr(other.targets, field), getattr(record.targets, field)
            cells, different = cells + ours.size, different + int((ours != theirs).sum())
    assert different <= cells * 1e-4  # where a box ends on a whole pixel


def test_beside_the_whole_coco_file_only_masks_and_crowds_are_missing(sample, from_yolo, tmp_path):
    _, records = baked(*sample, tmp_path / "records")
    _, yolo_records = from_yolo
    assert list(yolo_records) == list(records)
    for key, record in records.items():
        other = yolo_records[key]
        assert other.image == record.image
        labelled, other_labelled = (
            each.targets.keypoints[each.targets.keypoints[..., 2].any(axis=1)]
            for each in (record, other)
        )
        np.testing.assert_array_equal(other_labelled, labelled)
        np.testing.assert_array_equal(other.targets.disc_owner > 0, record.targets.disc_owner > 0)
        assert not other.targets.instance.any()


def test_what_is_written(scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    done = convert(
        scenes / "annotations.json", tmp_path / "set", COCO_PERSON, images=scenes / "images"
    )
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    assert (done.images, done.people) == (10, len(content["annotations"]) - crowds)
    assert done.without_place == crowds > 0
    data = parse_data_yaml(yaml.safe_load((tmp_path / "set/data.yaml").read_text()), "x")
    assert (data.keypoints, data.dimensions, data.columns) == (17, 3, 56)
    assert (data.names, data.root, data.splits) == ({0: "person"}, "", {"train": ("images/train",)})
    assert data.flip_order == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    for image in content["images"]:
        stem = image["file_name"].removesuffix(".jpg")
        copied = tmp_path / f"set/images/train/{stem}.jpg"
        assert copied.read_bytes() == (scenes / "images" / image["file_name"]).read_bytes()
        lines = (tmp_path / f"set/labels/train/{stem}.txt").read_text().splitlines()
        people = [
            entry
            for entry in content["annotations"]
            if entry["image_id"] == image["id"] and not entry["iscrowd"]
        ]
        for line, entry in zip(lines, people, strict=True):
            numbers = np.array(line.split(), float)
            x, y, w, h = entry["bbox"]
            assert numbers[0] == 0
            np.testing.assert_allclose(numbers[1:5] * 97, [x + w / 2, y + h / 2, w, h], atol=1e-6)
            points = numbers[5:].reshape(17, 3)
            expected = np.array(entry["keypoints"], float).reshape(17, 3)
            expected = np.where(expected[:, 2:] > 0, expected, 0)
            np.testing.assert_allclose(points * (97, 97, 1), expected, atol=1e-6)


def test_there_and_back(scenes, tmp_path):
    convert(scenes / "annotations.json", tmp_path / "set", COCO_PERSON, images=scenes / "images")
    done = convert(tmp_path / "set", tmp_path / "back.json", COCO_PERSON)
    assert done.place_of_images == tmp_path / "set/images/train"
    first = read_coco(scenes / "annotations.json", COCO_PERSON)
    again = read_coco(tmp_path / "back.json", COCO_PERSON, strict=True)
    for image, other in zip(first.images, again.images, strict=True):
        assert (other.id, other.file_name) == (image.id, image.file_name)
        assert (other.width, other.height) == (image.width, image.height)
        people = [person for person in image.annotations if not person.crowd]
        for person, copied in zip(people, other.annotations, strict=True):
            np.testing.assert_allclose(copied.box, person.box, atol=1e-6)
            np.testing.assert_allclose(copied.keypoints, person.keypoints, atol=1e-6)
            assert copied.area == pytest.approx(0.53 * person.box[2] * person.box[3])
            assert not copied.crowd
    # And once more: the text is the same.
    convert(tmp_path / "back.json", tmp_path / "again", COCO_PERSON)
    for file in (tmp_path / "set/labels").rglob("*.txt"):
        other = tmp_path / "again/labels" / file.relative_to(tmp_path / "set/labels")
        assert other.read_text() == file.read_text()


def test_another_split_joins_the_folder(scenes, tmp_path):
    for split in ("train", "val"):
        convert(
            scenes / "annotations.json",
            tmp_path / "set",
            COCO_PERSON,
            images=scenes / "images",
            split=split,
        )
    for split in ("train", "val"):
        assert len(read_annotations(tmp_path / "set", COCO_PERSON, split=split).images) == 10
    with pytest.raises(InputError, match="holds val already. Choose another folder or --split"):
        convert(scenes / "annotations.json", tmp_path / "set", COCO_PERSON, split="val")


def another_data_set(folder):
    (folder / "set").mkdir()
    (folder / "set/data.yaml").write_text("kpt_shape: [4, 2]\nnames: [beetle]\n")


def leading_out(folder):
    content = json.loads((folder / "in.json").read_text())
    content["images"][0]["file_name"] = "../secret.jpg"
    (folder / "in.json").write_text(json.dumps(content))


def sharing(folder):
    content = json.loads((folder / "in.json").read_text())
    for image, name in zip(content["images"], ("a.jpg", "a.png"), strict=False):
        image["file_name"] = name
    (folder / "in.json").write_text(json.dumps(content))


def turned(folder):
    content = json.loads((folder / "in.json").read_text())
    exif = Image.Exif()
    exif[0x0112] = 6
    name = content["images"][3]["file_name"]
    Image.new("RGB", (97, 97)).save(folder / "images" / name, exif=exif)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (another_data_set, {}, "belongs to another data set"),
        (sharing, {}, "a.jpg and a.png would share the label file labels/train/a.txt"),
        (turned, {}, "has the EXIF orientation 6, and YOLO's labels are"),
        (lambda folder: None, {"split": "all"}, "--split must be one of train, val, test"),
        (lambda folder: None, {"out": "b.json"}, "is converted into a YOLO-pose folder"),
        (lambda folder: None, {"in": "images"}, "is converted into a COCO file, NAME.json"),
    ],
)
def test_what_cannot_be_converted_gets_one_line(scenes, tmp_path, spoil, options, words):
    (tmp_path / "in.json").write_text((scenes / "annotations.json").read_text())
    (tmp_path / "images").mkdir()
    for file in (scenes / "images").iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        convert(
            tmp_path / options.pop("in", "in.json"),
            tmp_path / options.pop("out", "set"),
            COCO_PERSON,
            images=tmp_path / "images",
            **options,
        )
    assert "\n" not in str(caught.value)


def test_images_that_are_not_there_or_lead_out_are_left_out(scenes, tmp_path):
    (tmp_path / "in.json").write_text((scenes / "annotations.json").read_text())
    leading_out(tmp_path)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    done = convert(tmp_path / "in.json", tmp_path / "set", COCO_PERSON, images=scenes / "images")
    assert (done.images, done.skipped["image outside the folder"]) == (9, 1)
    (tmp_path / "few").mkdir()
    with pytest.raises(InputError, match="none of 10 images could be used: 9 image missing"):
        convert(tmp_path / "in.json", tmp_path / "none", COCO_PERSON, images=tmp_path / "few")
    assert not (tmp_path / "none").exists()


def test_masks_of_crowds_never_stop_a_conversion(scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    spoilt = copy.deepcopy(content)
    for entry in spoilt["annotations"]:
        entry["segmentation"] = [[1, 2]]
        del entry["bbox"]
    (tmp_path / "in.json").write_text(json.dumps(spoilt))
    done = convert(tmp_path / "in.json", tmp_path / "set", COCO_PERSON)
    labelled = [
        entry for entry in content["annotations"] if entry["num_keypoints"] and not entry["iscrowd"]
    ]
    assert done.people == len(labelled)  # boxes around keypoints; nothing is known of the others
    assert done.without_place == len(content["annotations"]) - len(labelled)


def test_the_command(scenes, tmp_path, capsys):
    into = ["convert", str(scenes / "annotations.json"), "--out", str(tmp_path / "set")]
    assert main([*into, "--images", str(scenes / "images")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/set: 10 images, ")
    assert "crowd regions and people without box and keypoints, not in YOLO-pose: " in out
    assert main(["convert", str(tmp_path / "set"), "--out", str(tmp_path / "back.json")]) == 0
    assert f"images: {tmp_path}/set/images/train" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "set"), "--out", str(tmp_path / "back.json")]) == 2
    assert capsys.readouterr().err == (
        f"personlab convert: {tmp_path}/back.json: is there already. Choose another name\n"
    )
