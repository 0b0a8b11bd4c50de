"""`Result`, and that the tools for which its files are find the same people in them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.annotations.formats import read_annotations
from personlab_keras.annotations.reasons import Tally
from personlab_keras.annotations.subjects import subjects
from personlab_keras.errors import InputError
from personlab_keras.method.person import Person, encode_mask
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.results import Result
from personlab_keras.results.fiftyone import to_fiftyone, to_samples
from personlab_keras.results.writers import FORMATS, Found, make_writers, mask_png

WIDTH, HEIGHT = 120, 90


def somebody(left: int, top: int, score: float, number: int | None = None) -> Person:
    """A person of 20 x 40 pixels whose nose and left eye were not found."""
    keypoints = np.array([[left + 2.25 + k % 5 * 3, top + 3.5 + k * 2] for k in range(17)], float)
    keypoints[:2] = np.nan
    scores = np.where(np.isfinite(keypoints[:, 0]), 0.75, 0.0)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 40, left : left + 20] = True
    return Person(keypoints, scores, score, encode_mask(mask), number)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def result(image) -> Result:
    return Result([somebody(10, 20, 0.9), somebody(70, 30, 0.5)], image, name="a.png")


@pytest.fixture
def found(result, image, tmp_path) -> list[Found]:
    """Two images, the second without people."""
    sources = [tmp_path / "photos" / name for name in ("a.png", "b.png")]
    sources[0].parent.mkdir()
    for source in sources:
        cv2.imwrite(str(source), image[..., ::-1])
    nobody = Result([], image, name="b.png")
    return [
        Found(each, source.stem, source.name, source)
        for each, source in zip((result, nobody), sources, strict=True)
    ]


def write(name: str, found: list[Found], out: Path) -> Path:
    (writer,) = make_writers([name], out, COCO_PERSON)
    for each in found:
        writer.add(each)
    assert not (out / "people.csv").exists()
    assert not (out / "coco.json").exists()
    writer.finish()
    assert not list(out.rglob("*.part"))
    return out


# --- the object


def test_a_result_is_the_list_of_its_people(result, image):
    assert isinstance(result, list)
    assert len(result) == 2
    assert result[0].score == 0.9
    assert result == list(result)
    assert (result.width, result.height) == (WIDTH, HEIGHT)
    other = result.replaced(result[:1])
    assert (len(other), other.name, other.image is image) == (1, "a.png", True)


def test_it_prints_in_one_short_line(result):
    assert repr(result) == "<Result: 2 people in a.png, 120 x 90 pixels>"
    assert repr(result[0]) == (
        "Person(score=0.90, keypoints=15 of 17, box=[10, 20, 20, 40], mask=True)"
    )
    assert repr(somebody(1, 2, 0.5, 7)).startswith("Person(id=7, score=0.50")


def test_the_dict_names_its_keypoints_and_the_place_of_a_frame(result, image):
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(values) == ["image", "width", "height", "keypoint_names", "people"]
    assert values["keypoint_names"] == list(COCO_PERSON.keypoints)
    assert len(values["people"][0]["keypoints"]) == len(values["keypoint_names"])
    frame = Result([somebody(10, 20, 0.9, 3)], image, name="clip.mp4", frame=7, time=0.29166666)
    values = frame.to_dict()
    assert (values["video"], values["frame"], values["time"]) == ("clip.mp4", 7, 0.2917)
    assert values["people"][0]["id"] == 3
    assert "image" not in values


def test_a_notebook_shows_the_drawn_image(result):
    grey = Result(result, np.full((HEIGHT, WIDTH, 3), 120, np.uint8))
    shown = cv2.imdecode(np.frombuffer(grey._repr_jpeg_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown[..., ::-1].astype(int) - grey.draw()).mean() < 4  # of JPEG
    assert np.abs(shown.astype(int) - 120).mean() > 6  # without the people it would be 0
    html = result._repr_html_()
    assert "2 people in a.png" in html
    assert "data:image/jpeg;base64," in html
    large = Result([], np.zeros((900, 3000, 3), np.uint8))
    small = cv2.imdecode(np.frombuffer(large._repr_jpeg_(), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (300, 1000, 3)


def test_help_on_the_package_has_no_line_of_defaults():
    import pydoc

    import personlab_keras

    lines = pydoc.plain(pydoc.render_doc(personlab_keras)).splitlines()
    assert max(map(len, lines)) < 600
    assert not [line for line in lines if "sigmas=(" in line or "peak_threshold=0.01" in line]


# --- files, each read by the tool for which it is


def test_pycocotools_judges_the_predictions_as_perfect_against_themselves(found, result, tmp_path):
    path = write("coco", found, tmp_path / "out") / "coco.json"
    truth = COCO(str(path))
    assert [image["file_name"] for image in truth.loadImgs(truth.getImgIds())] == ["a.png", "b.png"]
    assert [truth.annToMask(a).sum() for a in truth.loadAnns([1, 2])] == [800, 800]
    entries = [entry for person in result for entry in person.to_coco(1)]
    for kind, key in (("keypoints", "keypoints"), ("segm", "segmentation")):
        predictions = truth.loadRes([entry for entry in entries if key in entry])
        judge = COCOeval(truth, predictions, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert judge.stats[0] == pytest.approx(1.0)


def test_frames_of_a_video_in_one_coco_file(image, tmp_path):
    frames = [
        Result([somebody(10 + i, 20, 0.9, 4)], image, name="clip.mp4", frame=i, time=i / 10)
        for i in range(3)
    ]
    out = write("coco", [Found(f, "x", f"clip/{f.frame}.jpg", None) for f in frames], tmp_path)
    values = json.loads((out / "coco.json").read_text())
    assert [image["frame"] for image in values["images"]] == [0, 1, 2]
    assert {annotation["track_id"] for annotation in values["annotations"]} == {4}


def test_the_table_is_the_same_in_csv_and_in_pandas(found, result, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = write("csv", found, tmp_path) / "people.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [0.9, 0.5]
    assert rows[0]["nose_x"] == ""
    assert rows[0]["right_eye_x"] == "18.25"
    read, made = pandas.read_csv(path), result.to_pandas()
    assert list(read.columns) == list(made.columns)
    np.testing.assert_array_equal(read["left_hip_y"], made["left_hip_y"])
    np.testing.assert_array_equal(made[["x", "y", "w", "h"]].iloc[1], [69.5, 29.5, 20, 40])
    assert made["nose_x"].isna().all()
    assert made["id"].isna().all()


def test_the_yolo_folder_is_a_data_set_of_the_same_people(found, result, tmp_path):
    folder = write("yolo-pose", found, tmp_path / "out") / "yolo-pose"
    dataset = read_annotations(folder, COCO_PERSON)
    people = {image.file_name: subjects(image, Tally()) for image in dataset.images}
    assert {len(each) for each in people.values()} == {0, 2}
    for subject, person in zip(max(people.values(), key=len), result, strict=True):
        points = subject.annotation.keypoints
        np.testing.assert_array_equal(points[:, 2] > 0, person.found)
        np.testing.assert_allclose(points[2:, :2], person.keypoints[2:], atol=1e-3)
        np.testing.assert_allclose(subject.box, [*(person.box[:2] + 0.5), 20, 40], atol=1e-3)


def test_supervision_reads_the_yolo_folder(found, tmp_path):
    supervision = pytest.importorskip("supervision")
    folder = write("yolo-pose", found, tmp_path / "out") / "yolo-pose"
    # It reads boxes alone, of lines without keypoints.
    for path in (folder / "labels" / "train").iterdir():
        lines = path.read_text().splitlines()
        path.write_text("".join(" ".join(line.split()[:5]) + "\n" for line in lines))
    read = supervision.DetectionDataset.from_yolo(
        str(folder / "images" / "train"),
        str(folder / "labels" / "train"),
        str(folder / "data.yaml"),
    )
    boxes = next(each.xyxy for _, _, each in read if len(each))
    np.testing.assert_allclose(boxes, [[10, 20, 30, 60], [70, 30, 90, 70]], atol=1e-2)


def test_keypoints_outside_the_image_are_left_out_of_yolo(image, tmp_path):
    person = somebody(-5, 20, 0.9)
    out = write("yolo-pose", [Found(Result([person], image), "c", "c.jpg", None)], tmp_path)
    (line,) = (out / "yolo-pose" / "labels" / "train" / "c.txt").read_text().splitlines()
    values = np.array(line.split()[5:], float).reshape(17, 3)
    assert ((values[:, :2] >= 0) & (values[:, :2] <= 1)).all()
    assert 0 < (values[:, 2] > 0).sum() < person.found.sum()


def test_supervision_objects_hold_the_same_people(result, image):
    pytest.importorskip("supervision")
    keypoints, detections = result.to_supervision()
    assert len(keypoints) == len(detections) == 2
    np.testing.assert_allclose(keypoints.xy[0, 2:], result[0].keypoints[2:])
    np.testing.assert_array_equal(keypoints.visible[0], result[0].found)
    np.testing.assert_array_equal(detections.mask, [person.mask for person in result])
    np.testing.assert_allclose(detections.xyxy, [[10, 20, 30, 60], [70, 30, 90, 70]])
    np.testing.assert_array_equal(detections.area, [800, 800])
    assert detections.tracker_id is None
    tracked = result.replaced([somebody(10, 20, 0.9, 5)])
    assert tracked.to_supervision()[1].tracker_id.tolist() == [5]
    nobody = Result([], image).to_supervision()
    assert [len(each) for each in nobody] == [0, 0]


def test_labelme_files_hold_box_mask_and_points(found, result, tmp_path):
    folder = write("labelme", found, tmp_path / "out") / "labelme"
    values = json.loads((folder / "a.json").read_text())
    assert (folder / values["imagePath"]).is_file()
    kinds = [shape["shape_type"] for shape in values["shapes"] if shape["group_id"] == 1]
    assert kinds == ["rectangle", "mask", *["point"] * 15]
    labelme = pytest.importorskip("labelme")
    read = labelme.LabelFile(str(folder / "a.json"))
    mask = next(shape for shape in read.shapes if shape["shape_type"] == "mask")
    assert np.asarray(mask["mask"]).shape == (40, 20)
    assert np.asarray(mask["mask"]).all()


def test_fiftyone_holds_the_same_people(found, result):
    pytest.importorskip("fiftyone")
    first, second = to_samples({each.source: each.result for each in found})
    assert [Path(sample.filepath).name for sample in (first, second)] == ["a.png", "b.png"]
    assert [len(sample.people.detections) for sample in (first, second)] == [2, 0]
    person, pose = first.people.detections[0], first.keypoints.keypoints[0]
    np.testing.assert_allclose(
        np.array(person.bounding_box) * ([WIDTH, HEIGHT] * 2), [10, 20, 20, 40]
    )
    assert person.mask.shape == (40, 20)
    assert person.mask.all()
    np.testing.assert_allclose(
        np.array(pose.points)[2:] * (WIDTH, HEIGHT) - 0.5, result[0].keypoints[2:]
    )
    assert np.isnan(pose.points[0]).all()


def test_a_data_set_of_fiftyone(found):
    pytest.importorskip("fiftyone")
    from fiftyone.core.config import FiftyOneConfigError

    try:
        dataset = to_fiftyone({each.source: each.result for each in found})
    except FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne has no database here: {error}")
    assert dataset.count("people.detections") == 2
    assert dataset.default_skeleton.labels == list(COCO_PERSON.keypoints)
    dataset.delete()


def test_numbered_masks(result):
    numbers = cv2.imdecode(np.frombuffer(mask_png(result), np.uint8), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint8
    assert numbers.shape == (HEIGHT, WIDTH)
    assert [(numbers == i).sum() for i in range(3)] == [HEIGHT * WIDTH - 1600, 800, 800]
    overlapping = result.replaced([somebody(10, 20, 0.9), somebody(15, 20, 0.5)])
    numbers = cv2.imdecode(np.frombuffer(mask_png(overlapping), np.uint8), cv2.IMREAD_UNCHANGED)
    assert [(numbers == i).sum() for i in (1, 2)] == [800, 200]
    poses = result.replaced([Person(each.keypoints, each.keypoint_scores, 0.5) for each in result])
    with pytest.raises(InputError, match=r"--masks: this network predicts poses only"):
        mask_png(poses)


@pytest.mark.parametrize("given", [["jpeg"], ["coco", "coco"]])
def test_other_formats_are_refused(given, tmp_path):
    with pytest.raises(InputError, match=r"--format must be .* coco, csv, yolo-pose, labelme"):
        make_writers(given, tmp_path, COCO_PERSON)
    assert not list(tmp_path.iterdir())
    assert set(FORMATS) == {"coco", "csv", "yolo-pose", "labelme"}
