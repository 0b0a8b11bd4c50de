"""Annotation files as other tools write them, through both commands: each row of the table beside
the files.
"""

import json
import os
from pathlib import Path

import pytest
from known_people import Perfect, Wrong

from personlab_keras import cli
from personlab_keras.data.records import read_folder, read_meta
from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton

SHARED = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[2] / ".." / "shared"))
ODD = SHARED / "data" / "odd-files"
pytestmark = pytest.mark.skipif(
    not ODD.is_dir(), reason=f"the odd files are absent: {ODD} (set PERSONLAB_SHARED)"
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command on an odd file; gives its status and what it printed."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"any")

    def run(command, name, *arguments, images="img", predictor=None):
        monkeypatch.setattr(
            "personlab_keras.inference.predict.load", lambda path, settings: predictor
        )
        files = ["--annotations", str(ODD / name), "--images", str(ODD / images)]
        out = tmp_path / f"{command} {len(list(tmp_path.iterdir()))}"
        extra = {"evaluate": ["--model", str(model)], "prepare": ["--workers", "0"]}[command]
        status = cli.main([command, *files, "--out", str(out), *extra, *arguments])
        captured = capsys.readouterr()
        return status, out, captured.out, captured.err

    return run


@pytest.fixture
def judged(run):
    """Metrics of a perfect predictor, then of a wrong one."""

    def judged(name, *arguments, images="img", skeleton=COCO_PERSON, truth="base.json"):
        metrics = []
        for predictor in (Perfect(ODD / truth, ODD / "img", skeleton), Wrong(skeleton)):
            status, out, printed, _ = run(
                "evaluate", name, *arguments, images=images, predictor=predictor
            )
            assert status == 0
            metrics.append(json.loads((out / "metrics.json").read_text()))
            for kind in ("keypoints", "segmentation"):
                assert kind in printed  # a line of figures, or why there are none
        return metrics

    return judged


@pytest.fixture
def prepared(run):
    """Meta and records of an odd file."""

    def prepared(name, *arguments, images="img"):
        settings = ["--set", "data.view_size=161", "--set", "targets.radius=16"]
        status, out, _, error = run("prepare", name, *arguments, *settings, images=images)
        assert (status, error) == (0, "")
        meta = read_meta(out)
        return meta, {record.image_id: record for record in read_folder(out, meta)}

    return prepared


def labelled(records):
    return sum(int(record.targets.keypoints[..., 2].sum()) for record in records.values())


WHOLE = 8 * 17
ROWS = {
    # file: reasons that are counted, labelled keypoints that prepare keeps, masks that are judged
    "base.json": ({}, WHOLE, 8),
    "ids0.json": ({}, WHOLE, 8),
    "nan_kp_one.json": (
        {
            "keypoint that is not three finite numbers (person kept without it)": 1,
        },
        WHOLE - 1,
        8,
    ),
    "numkp0.json": (
        {"num_keypoints disagrees with the keypoints (keypoints believed)": 8},
        WHOLE,
        8,
    ),
    "roboflow_cat_rev.json": ({}, WHOLE, 8),
    "iscrowd_str.json": ({}, WHOLE, 8),
    "iscrowd_null.json": ({}, WHOLE, 8),
    "no_area.json": (
        {"area missing, malformed or impossible (taken from mask or box)": 8},
        WHOLE,
        8,
    ),
    "mixed_boxonly.json": ({"keypoints missing or malformed (person kept without)": 4}, 4 * 17, 8),
    "seg_empty.json": ({"mask missing (person kept)": 8}, WHOLE, 0),
    "seg_point.json": ({"mask damaged (person kept)": 8}, WHOLE, 0),
    "seg_twopoints.json": ({"mask damaged (person kept)": 8}, WHOLE, 0),
    "kp_nested.json": ({}, WHOLE, 8),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_readable_file(judged, prepared, name):
    reasons, keypoints, masks = ROWS[name]
    perfect, wrong = judged(name)
    assert perfect["skipped"] == wrong["skipped"] == reasons
    assert perfect["persons"] == {"keypoints": -(-keypoints // 17), "segmentation": masks}
    assert perfect["keypoints"]["AP"] == pytest.approx(1.0)
    assert wrong["keypoints"]["AP"] == 0.0
    if masks:
        assert perfect["segmentation"]["AP"] == pytest.approx(1.0)
        assert wrong["segmentation"]["AP"] == 0.0
    else:
        assert perfect["segmentation"] is None
        assert perfect["unavailable"]["segmentation"] == "no annotated person has a usable mask"
    meta, records = prepared(name)
    assert dict(meta.skipped) == reasons
    assert labelled(records) == keypoints
    assert meta.counts["persons"] == 8
    assert meta.counts["crowd regions"] == 0


def test_crowdpose_has_neither_area_nor_masks(judged, prepared):
    skeleton = load_skeleton("crowdpose")
    perfect, wrong = judged("crowdpose_form.json", skeleton=skeleton, truth="crowdpose_form.json")
    assert perfect["keypoints"]["AP"] == pytest.approx(1.0)
    assert wrong["keypoints"]["AP"] == 0.0
    assert perfect["segmentation"] is None
    assert perfect["unavailable"]["segmentation"] == "no annotated person has a usable mask"
    _, records = prepared("crowdpose_form.json", "--skeleton", "crowdpose")
    assert sum(len(record.person_ids) for record in records.values()) == 8


def test_normalised_coordinates_are_refused(run):
    for command in ("prepare", "evaluate"):
        status, out, _, error = run(command, "normalised.json", predictor=Wrong(COCO_PERSON))
        assert status == 2
        assert error.count("\n") == 1
        assert (
            "coordinates must be in pixels. Received: all 136 labelled keypoints within 0..1"
            in (error)
        )
        assert not (out / "metrics.json").exists()
        assert not (out / "meta.json").exists()


def test_absolute_names_are_refused_in_the_same_words(run):
    errors = []
    for command in ("prepare", "evaluate"):
        status, _, _, error = run(command, "fn_abs.json", predictor=Wrong(COCO_PERSON))
        assert status == 2
        errors.append(error.removeprefix(f"personlab {command}: "))
    assert errors[0] == errors[1]
    assert "none of 4 images could be used: 4 image outside the folder" in errors[0]


TURNED = "image with an EXIF orientation (kept; read as data.annotation_frame says)"
SIZE = "image of another size than annotated"


def test_a_photo_upside_down_is_read_in_the_frame_of_its_annotations(judged, prepared):
    stored, _ = judged("exif180.json", images="img_exif")
    assert stored["keypoints"]["AP"] == 0.0  # a perfect predictor sees people upside down
    turned, wrong = judged(
        "exif180.json", "--set", "data.annotation_frame=turned", images="img_exif"
    )
    assert turned["keypoints"]["AP"] == turned["segmentation"]["AP"] == pytest.approx(1.0)
    assert wrong["keypoints"]["AP"] == 0.0
    assert stored["skipped"] == turned["skipped"] == {TURNED: 1}
    for arguments in ((), ("--set", "data.annotation_frame=turned")):
        meta, records = prepared("exif180.json", *arguments, images="img_exif")
        assert dict(meta.skipped) == {TURNED: 1}
        assert len(records) == 1


def test_every_orientation_is_counted(judged, prepared):
    stored, _ = judged("base.json", images="img_exif")
    assert stored["skipped"] == {TURNED: 1, SIZE: 2}
    assert "data.annotation_frame=turned fits" in stored["examples"][SIZE][0]
    arguments = ("--set", "data.annotation_frame=turned")
    turned, wrong = judged("base.json", *arguments, images="img_exif")
    assert turned["skipped"] == {TURNED: 3}
    for kind in ("keypoints", "segmentation"):
        assert turned[kind]["AP"] == pytest.approx(1.0)
        assert wrong[kind]["AP"] == 0.0
    meta, records = prepared("base.json", *arguments, images="img_exif")
    assert (dict(meta.skipped), len(records)) == ({TURNED: 3}, 4)
    meta, records = prepared("base.json", images="img_exif")
    assert (dict(meta.skipped), len(records)) == ({TURNED: 1, SIZE: 2}, 2)


def test_strict_stops_both_commands_at_the_first_fault(run):
    for command in ("prepare", "evaluate"):
        status, _, _, error = run(
            command, "nan_kp_one.json", "--strict", predictor=Wrong(COCO_PERSON)
        )
        assert status == 2
        assert "annotations[0].keypoints[0] in 240 x 180 pixels: [nan, 33.0, 2.0]" in error
        assert run(command, "base.json", "--strict", predictor=Wrong(COCO_PERSON))[0] == 0
