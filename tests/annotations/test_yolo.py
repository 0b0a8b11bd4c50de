"""YOLO-pose data sets as people have them: what is read, and what becomes of everything odd."""

import re

import numpy as np
import pytest
from PIL import Image

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.formats import images_folder, read_annotations
from personlab_keras.annotations.reasons import Reason
from personlab_keras.annotations.yolo_pose import YoloPose, data_yaml_text, label_text
from personlab_keras.cli import main
from personlab_keras.config import load_config
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON, load_skeleton

R = Reason
WIDTH, HEIGHT = 80, 60
BOX = [20.0, 10.0, 20.0, 20.0]
KEYPOINTS = np.array([(21 + k, 12 + k, 2) for k in range(17)], float)
LINE = label_text([(0, BOX, KEYPOINTS)], WIDTH, HEIGHT)
FIELDS = LINE.split()
YAML = data_yaml_text(
    YoloPose(
        names={0: "person", 1: "dog"},
        keypoints=17,
        dimensions=3,
        flip_order=tuple(COCO_PERSON.flip_order.tolist()),
        splits={"train": ("images",)},
    )
)


class Case:
    """Two images of one person each, and the hands to spoil the second."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir()
        (folder / "data.yaml").write_text(YAML)
        for name in ("a", "b"):
            self.image(name)
            self.labels(LINE, name)

    def image(self, name, **options):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30))
        picture.save(self.folder / f"images/{name}.jpg", **options)

    def labels(self, text, name="b"):
        data = text if isinstance(text, bytes) else text.encode()
        (self.folder / f"labels/{name}.txt").write_bytes(data)

    def read(self, **options):
        options = {"categories": ["person"], **options}
        return read_annotations(self.folder, COCO_PERSON, **options)

    def people(self, **options):
        """Image name -> people."""
        return {image.file_name: image.annotations for image in self.read(**options).images}


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path / "set")


def check_sound(person):
    np.testing.assert_allclose(person.box, BOX, atol=1e-6)
    np.testing.assert_allclose(person.keypoints, KEYPOINTS, atol=1e-6)


def test_what_a_line_says_in_pixels(case):
    dataset = case.read(strict=True)
    assert dataset.skipped == {}
    assert [(image.id, image.file_name) for image in dataset.images] == [(1, "a.jpg"), (2, "b.jpg")]
    assert {(image.width, image.height) for image in dataset.images} == {(WIDTH, HEIGHT)}
    for image in dataset.images:
        (person,) = image.annotations
        check_sound(person)
        assert person.area == pytest.approx(0.53 * 400)
        assert (person.segmentation, person.crowd) == (None, False)
    assert images_folder(dataset, None, "x") == case.folder / "images"


def two_lines(*others):
    return LINE + "".join(" ".join(map(str, other)) + "\n" for other in others)


def changed(**values):
    """The fields of the line with some replaced, by their place."""
    return [values.get(f"at{place}", field) for place, field in enumerate(FIELDS)]


def spoil_image(data):
    return lambda case: (case.folder / "images/b.jpg").write_bytes(data)


def labels(text):
    return lambda case: case.labels(text)


def stray(case):
    case.labels(LINE, "c")


def in_a_list(*lines):
    def spoil(case):
        (case.folder / "data.yaml").write_text(YAML.replace("train: images", "train: train.txt"))
        (case.folder / "train.txt").write_text("\n".join(["images/a.jpg", *lines]))

    return spoil


SOUND = "sound"
NOBODY = "an image without people"
NO_KEYPOINTS = "a person without keypoints"
ONE_LESS = "a person with a keypoint less"
NO_BOX = "a person without a box"
UNKNOWN = "a person of whom nothing is known"
GONE = "no such image"

CASES = {
    "nothing": (lambda case: None, (), SOUND),
    "an empty file": (labels(""), (), NOBODY),
    "blank lines": (labels("\n  \r\n\t\n"), (), NOBODY),
    "no file": (lambda case: (case.folder / "labels/b.txt").unlink(), (), NOBODY),
    "Windows line ends": (labels(LINE.replace("\n", "\r\n")), (), SOUND),
    "a byte order mark": (labels(b"\xef\xbb\xbf" + LINE.encode()), (), SOUND),
    "spaces and tabs": (labels("\n  " + "  \t".join(FIELDS) + "  \n\n"), (), SOUND),
    "no end of line": (labels(LINE.strip()), (), SOUND),
    "a class as a decimal": (labels(" ".join(changed(at0="0.0"))), (), SOUND),
    "visibilities as decimals": (
        labels(" ".join(f"{f}.000" if i > 5 and i % 3 == 1 else f for i, f in enumerate(FIELDS))),
        (),
        SOUND,
    ),
    "UTF-16": (labels(LINE.encode("utf-16")), (R.LABELS_UNREADABLE,), GONE),
    "another class": (labels(two_lines(changed(at0=1))), (R.ANNOTATION_OTHER_CATEGORY,), SOUND),
    "an unknown class": (labels(two_lines(changed(at0=7))), (R.ANNOTATION_MALFORMED,), SOUND),
    "a class below 0": (labels(two_lines(changed(at0=-1))), (R.ANNOTATION_MALFORMED,), SOUND),
    "a class by name": (labels(two_lines(changed(at0="dog"))), (R.ANNOTATION_MALFORMED,), SOUND),
    "a class by halves": (labels(two_lines(changed(at0=0.5))), (R.ANNOTATION_MALFORMED,), SOUND),
    "commas": (labels(LINE + LINE.replace(" ", ",")), (R.ANNOTATION_MALFORMED,), SOUND),
    "the same line twice": (labels(LINE + LINE), (R.ANNOTATION_REPEATED,), SOUND),
    "a box alone": (labels(" ".join(FIELDS[:5])), (R.KEYPOINTS_MALFORMED,), NO_KEYPOINTS),
    "a number too few": (
        labels(" ".join(FIELDS[:-1])),
        (R.KEYPOINTS_MALFORMED, R.BOX_MALFORMED, R.AREA_MALFORMED),
        UNKNOWN,
    ),
    "a number too many": (
        labels(" ".join([*FIELDS, "0.9"])),
        (R.KEYPOINTS_MALFORMED, R.BOX_MALFORMED, R.AREA_MALFORMED),
        UNKNOWN,
    ),
    "a polygon": (
        labels("0 .1 .1 .9 .1 .9 .9 .1 .9"),
        (R.KEYPOINTS_MALFORMED, R.BOX_MALFORMED, R.AREA_MALFORMED),
        UNKNOWN,
    ),
    "a keypoint that is NaN": (labels(" ".join(changed(at5="nan"))), (R.KEYPOINT_MALFORMED,), ONE_LESS),
    "a keypoint that is text": (labels(" ".join(changed(at5="0,2"))), (R.KEYPOINT_MALFORMED,), ONE_LESS),
    "an infinite keypoint": (labels(" ".join(changed(at5="inf"))), (R.KEYPOINT_MALFORMED,), ONE_LESS),
    "a keypoint outside": (labels(" ".join(changed(at5="1.2"))), (R.KEYPOINT_OUTSIDE,), ONE_LESS),
    "a keypoint in pixels": (labels(" ".join(changed(at5="21"))), (R.KEYPOINT_OUTSIDE,), ONE_LESS),
    "a box that is NaN": (
        labels(" ".join(changed(at3="nan"))),
        (R.BOX_MALFORMED, R.AREA_MALFORMED),
        NO_BOX,
    ),
    "a box without width": (
        labels(" ".join(changed(at3="0"))),
        (R.BOX_MALFORMED, R.AREA_MALFORMED),
        NO_BOX,
    ),
    "a box in pixels": (
        labels(" ".join(changed(at1="30", at2="20", at3="20", at4="20"))),
        (R.BOX_MALFORMED, R.AREA_MALFORMED),
        NO_BOX,
    ),
    "labels of no image": (stray, (R.ANNOTATION_UNKNOWN_IMAGE,), SOUND),
    "an image of zero bytes": (spoil_image(b""), (R.IMAGE_EMPTY,), GONE),
    "no image": (spoil_image(b"no image at all"), (R.IMAGE_UNREADABLE,), GONE),
    "a list with an image that is not there": (in_a_list("images/b.jpg", "images/c.jpg"), (R.IMAGE_MISSING,), SOUND),
    "a list with an image twice": (in_a_list("images/b.jpg", "./images/b.jpg"), (R.IMAGE_REPEATED,), SOUND),
    "a list that leads out": (in_a_list("images/b.jpg", "../c.jpg", "/d.jpg"), (R.IMAGE_OUTSIDE,), SOUND),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_it(case, name):
    spoil, reasons, fate = CASES[name]
    spoil(case)
    dataset = case.read()
    assert set(dataset.skipped) == {reason.value for reason in reasons}
    people = {
        image.file_name.removeprefix("images/"): image.annotations for image in dataset.images
    }
    check_sound(people["a.jpg"][0])
    if fate == GONE:
        assert "b.jpg" not in people
        return
    if fate == NOBODY:
        assert people["b.jpg"] == ()
        return
    (person,) = people["b.jpg"]
    labelled = person.keypoints[:, 2] > 0
    assert labelled.sum() == {NO_KEYPOINTS: 0, UNKNOWN: 0, ONE_LESS: 16}.get(fate, 17)
    np.testing.assert_allclose(person.keypoints[labelled], KEYPOINTS[labelled], atol=1e-6)
    assert np.isnan(person.box).all() == np.isnan(person.area) == (fate in (NO_BOX, UNKNOWN))


@pytest.mark.parametrize(
    "name", [name for name, (_, reasons, _) in CASES.items() if any(r.fault for r in reasons)]
)
def test_strict_stops_at_it_with_one_line(case, name):
    spoil, reasons, _ = CASES[name]
    spoil(case)
    with pytest.raises(InputError) as caught:
        case.read(strict=True)
    assert any(f"[{reason.value}]" in str(caught.value) for reason in reasons)
    assert str(caught.value).startswith(str(case.folder / "data.yaml"))
    assert "\n" not in str(caught.value)


def test_an_example_names_the_file_and_the_line(case):
    case.labels(LINE + "\n0 1 2 3\n" + " ".join(changed(at1="7")))
    examples = case.read().examples
    assert examples[R.KEYPOINTS_MALFORMED.value] == [
        "b.txt:3.keypoints must be 51 numbers. Received: 'a line of 4 numbers instead of 56'"
    ]
    assert examples[R.BOX_MALFORMED.value][1].startswith(
        "b.txt:4.bbox must be 4 finite numbers, the last two above 0. "
        "Received: 'centre and size 7 0."
    )


def test_a_label_file_that_is_a_folder(case):
    (case.folder / "labels/b.txt").unlink()
    (case.folder / "labels/b.txt").mkdir()
    assert case.read().skipped == {R.LABELS_UNREADABLE.value: 1}


REFUSED = {
    "another number of keypoints": (
        lambda case: (case.folder / "data.yaml").write_text(
            "kpt_shape: [14, 3]\nnames: [person]\ntrain: images"
        ),
        "kpt_shape must be that of the 17 keypoints of 'coco_person'. Received: [14, 3]",
    ),
    "other sides": (
        lambda case: (case.folder / "data.yaml").write_text(
            YAML.replace("- 1\n- 4", "- 4\n- 1", 1)
        ),
        "flip_idx must be that of 'coco_person'",
    ),
    "other names": (
        lambda case: (case.folder / "data.yaml").write_text(
            YAML + f"kpt_names: {[f'point {k}' for k in range(17)]}"
        ),
        "category 'person' must have the 17 keypoints of 'coco_person', in their order. "
        "Received: point 0, point 1",
    ),
    "no labels at all": (
        lambda case: [file.unlink() for file in (case.folder / "labels").iterdir()],
        "images must have label files. Received: none for 2 images, such as",
    ),
    "two numbers a keypoint": (
        lambda case: [
            case.labels(label_text([(0, BOX, KEYPOINTS)], WIDTH, HEIGHT, 2), name) for name in "ab"
        ],
        "a line of labels must have 56 numbers: class, box, and 17 keypoints of 3. "
        "Received: 39 numbers in a.txt:1",
    ),
    "pixels": (
        lambda case: [case.labels(label_text([(0, BOX, KEYPOINTS)], 1, 1), name) for name in "ab"],
        "coordinates must be fractions of the image, from 0 to 1. "
        "Received: no box with its centre there in 2 lines",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_another_thing_is_refused_in_one_line(case, name):
    spoil, words = REFUSED[name]
    spoil(case)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        case.read()
    assert "\n" not in str(caught.value)


def test_several_classes_must_be_chosen_among(case):
    with pytest.raises(InputError, match=r"several .* 'person', 'dog'\. "):
        case.read(categories=())
    case.labels(two_lines(changed(at0=1, at1="0.7")))
    both = case.people(categories=["person", "dog"])["b.jpg"]
    assert len(both) == 2
    with pytest.raises(InputError, match="no category is called 'cat'"):
        case.read(categories=["cat"])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_a_data_yaml_the_lines_tell_all(case, dimensions):
    (case.folder / "data.yaml").unlink()
    some = KEYPOINTS.copy()
    some[5:] = 0
    for name in "ab":
        case.labels(label_text([(3, BOX, some)], WIDTH, HEIGHT, dimensions), name)
    for people in case.people(categories=()).values():
        np.testing.assert_allclose(people[0].keypoints, some, atol=1e-6)
    assert len(case.people(categories=["3"])["b.jpg"]) == 1


def test_other_skeletons_need_their_own_shape(case):
    with pytest.raises(InputError, match="kpt_shape must be that of the 14 keypoints"):
        read_annotations(case.folder, load_skeleton("crowdpose"))


def test_reading_is_a_function_of_the_content(case):
    first = case.read()
    assert case.read().sha256 == first.sha256
    case.labels(LINE.replace("2\n", "1\n"))
    assert case.read().sha256 != first.sha256
    case.labels("")
    empty = case.read().sha256
    (case.folder / "labels/b.txt").unlink()
    assert case.read().sha256 != empty  # for prepare, that a file came is a change


def test_the_command_takes_the_folder(case, tmp_path, capsys):
    prepare = ["prepare", "--annotations", str(case.folder), "--out", str(tmp_path / "records")]
    settings = ["--category", "person", "--workers", "1", "--set", "data.view_size=81"]
    assert main([*prepare, *settings, "--split", "val"]) == 2
    assert "--split must be one of train. Received: 'val'" in capsys.readouterr().err
    assert main([*prepare, *settings, "--split", "train"]) == 0
    assert "images: 2" in capsys.readouterr().out


@pytest.mark.parametrize(("frame", "size"), [("auto", (60, 80)), ("stored", (80, 60))])
def test_fractions_are_of_the_picture_as_viewers_show_it(case, frame, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    case.image("b", exif=exif)
    dataset = case.read(frame=frame)
    assert (dataset.images[1].width, dataset.images[1].height) == size
    width, height = size
    expected = KEYPOINTS[0, :2] / (WIDTH, HEIGHT) * (width, height)
    np.testing.assert_allclose(
        dataset.images[1].annotations[0].keypoints[0, :2], expected, atol=1e-3
    )
    meta = prepare(
        case.folder,
        None,
        case.folder / "records",
        load_config(None, ["data.view_size=81", f"data.annotation_frame={frame}"]),
        engine=processes(1),
        categories=["person"],
    )
    assert meta.counts["images"] == 2
    assert meta.skipped[R.IMAGE_TURNED.value] == 1
    assert meta.source["data"]["annotation_frame"] == {"auto": "turned"}.get(frame, frame)


def test_where_images_lie(case, scenes):
    dataset = case.read()
    with pytest.raises(InputError, match="tells where its images are, .* Received: --images here"):
        images_folder(dataset, "here", "data.yaml")
    coco = read_annotations(scenes / "annotations.json", COCO_PERSON)
    assert images_folder(coco, scenes / "images", "x") == scenes / "images"
    with pytest.raises(InputError, match="a COCO file needs --images"):
        images_folder(coco, None, "annotations.json")
    with pytest.raises(InputError, match="gone: no such folder of images"):
        images_folder(coco, "gone", "annotations.json")
    with pytest.raises(InputError, match="only a YOLO-pose data set has splits"):
        read_annotations(scenes / "annotations.json", COCO_PERSON, split="val")
