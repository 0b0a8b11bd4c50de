"""Where images and label files lie, in the layouts that real YOLO data sets have."""

import os
import re

import pytest

from personlab_keras.annotations.yolo_folder import image_ids, is_yolo, label_path, open_yolo
from personlab_keras.errors import InputError

SHAPE = "kpt_shape: [17, 3]\nnames: [person]\n"


def make(folder, *names):
    """Files with nothing in them: where they lie is told by names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def data_yaml(folder, text, name="data.yaml"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(SHAPE + text)
    return folder / name


def test_as_ultralytics_lays_it_out(tmp_path):
    make(tmp_path / "coco8-pose", "images/train/9.jpg", "images/val/36.jpg", "labels/train/9.txt")
    file = data_yaml(
        tmp_path / "coco8-pose", "path: coco8-pose\ntrain: images/train\nval: images/val"
    )
    for place in (file, file.parent):
        found = open_yolo(place, "train")
        assert found.images == ("9.jpg",)
        assert found.root == tmp_path / "coco8-pose/images/train"
        assert found.label_file("9.jpg") == tmp_path / "coco8-pose/labels/train/9.txt"
        assert open_yolo(place, "val").images == ("36.jpg",)


def test_as_roboflow_exports_it(tmp_path):
    make(tmp_path / "set", "train/images/a.jpg", "train/labels/a.txt", "valid/images/b.jpg")
    data_yaml(
        tmp_path / "set", "train: ../train/images\nval: ../valid/images\ntest: ../test/images"
    )
    found = open_yolo(tmp_path / "set", "train")
    assert (found.images, found.strays) == (("a.jpg",), ())
    assert found.label_file("a.jpg") == tmp_path / "set/train/labels/a.txt"
    assert open_yolo(tmp_path / "set", "val").images == ("b.jpg",)
    with pytest.raises(InputError, match=r"test must be there. Received: '../test/images', looked"):
        open_yolo(tmp_path / "set", "test")


def test_a_data_yaml_beside_the_data_set(tmp_path):
    make(tmp_path / "datasets/mine", "images/a.jpg")
    file = data_yaml(tmp_path / "configs", "path: ../datasets/mine\ntrain: images", "mine.yaml")
    assert open_yolo(file).images == ("a.jpg",)
    assert open_yolo(file.parent).images == ("a.jpg",)  # whatever the file is called


def test_a_path_of_another_machine_gives_way_to_the_folder_of_the_file(tmp_path):
    make(tmp_path, "images/a.jpg")
    file = data_yaml(tmp_path, "path: /home/somebody/data/set\ntrain: images")
    assert open_yolo(file).root == tmp_path / "images"


def test_a_path_from_the_working_directory(tmp_path, monkeypatch):
    make(tmp_path / "work/sets/mine", "images/a.jpg")
    file = data_yaml(tmp_path / "elsewhere", "path: sets/mine\ntrain: images")
    monkeypatch.chdir(tmp_path / "work")
    assert open_yolo(file).root == tmp_path / "work/sets/mine/images"


def test_folders_within_folders_and_several_of_them(tmp_path):
    make(tmp_path, "images/one/cam 1/a.jpg", "images/one/cam 2/deep/b.PNG", "images/two/c.jpeg")
    make(tmp_path, "images/one/.hidden.jpg", "images/one/notes.md", "images/one/._a.jpg")
    file = data_yaml(tmp_path, "train: [images/one, images/two]")
    found = open_yolo(file)
    assert found.images == ("one/cam 1/a.jpg", "one/cam 2/deep/b.PNG", "two/c.jpeg")
    assert found.label_file("one/cam 2/deep/b.PNG") == tmp_path / "labels/one/cam 2/deep/b.txt"


def test_lists_of_images(tmp_path):
    make(tmp_path, *(f"images/{name}.jpg" for name in "abcdefg"))
    lines = [
        "./images/a.jpg",
        "images/b.jpg\r",
        f"{tmp_path}/images/c.jpg",
        "  images\\d.jpg  ",
        "",
        "images/b.jpg",
        "/etc/e.jpg",
        "../f.jpg",
        "images/gone.jpg",
    ]
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    found = open_yolo(data_yaml(tmp_path, "train: train.txt"))
    assert found.root == tmp_path
    assert found.images == tuple(f"images/{name}.jpg" for name in ("a", "b", "c", "d", "gone"))
    assert found.outside == ("/etc/e.jpg", "../f.jpg")
    assert found.repeated == ("images/b.jpg",)


def test_a_list_below_another_root(tmp_path):
    make(tmp_path / "set", "images/a.jpg", "splits/b.jpg")
    (tmp_path / "set/splits/train.txt").write_text("images/a.jpg\n./b.jpg\n")
    file = data_yaml(tmp_path, "path: set\ntrain: splits/train.txt")
    assert open_yolo(file).images == ("images/a.jpg", "splits/b.jpg")


def test_label_files_of_no_image(tmp_path):
    make(tmp_path, "images/a.jpg", "images/b.heic", "labels/a.txt", "labels/b.txt")
    make(tmp_path, "labels/classes.txt", "labels/deep/c.TXT", "labels/train.cache")
    found = open_yolo(tmp_path)
    assert found.images == ("a.jpg",)
    assert found.strays == (tmp_path / "labels/b.txt", tmp_path / "labels/deep/c.TXT")


def test_folders_without_a_data_yaml(tmp_path):
    make(tmp_path / "flat", "images/a.jpg", "labels/a.txt")
    assert open_yolo(tmp_path / "flat").images == ("a.jpg",)
    with pytest.raises(InputError, match="has no splits. Received: --split val"):
        open_yolo(tmp_path / "flat", "val")
    make(tmp_path / "split", "images/train/a.jpg", "images/val/b.jpg")
    assert open_yolo(tmp_path / "split", "val").images == ("b.jpg",)
    make(tmp_path / "pairs", "train/images/a.jpg", "val/images/b.jpg")
    assert open_yolo(tmp_path / "pairs", "val").images == ("b.jpg",)
    with pytest.raises(InputError, match="--split must be one of train, val. Received: nothing"):
        open_yolo(tmp_path / "pairs")


def test_a_linked_folder_of_images_is_its_owners_wish(tmp_path):
    make(tmp_path / "disk", "images/a.jpg", "labels/a.txt")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "disk/images")
    found = open_yolo(data_yaml(tmp_path / "set", "train: images"))
    assert (found.root, found.images) == (tmp_path / "disk/images", ("a.jpg",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must have train or val, folders of images. Received: neither"),
        ("train: images\nval: more", "--split must be one of train, val. Received: nothing"),
        ("train: nowhere", "train must be there. Received: 'nowhere', looked for below"),
        ("train: empty", "must have images"),
        ("train: [", "not valid YAML"),
    ],
)
def test_what_cannot_be_used_gets_one_line(tmp_path, text, words):
    make(tmp_path, "images/a.jpg", "empty/readme.md")
    file = data_yaml(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        open_yolo(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(InputError, match="must be a COCO file, or a YOLO-pose folder"):
        open_yolo(tmp_path)
    data_yaml(tmp_path, "train: a", "one.yaml")
    data_yaml(tmp_path, "train: b", "two.yaml")
    with pytest.raises(InputError, match=r"must hold one data.yaml. Received: one.yaml, two.yaml"):
        open_yolo(tmp_path)
    with pytest.raises(InputError, match=r"gone.yaml: no such file"):
        open_yolo(tmp_path / "gone.yaml")


def test_pipes_and_other_encodings_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match="must be a file"):
        open_yolo(tmp_path / "pipe.yaml")
    (tmp_path / "wide.yaml").write_text(SHAPE, encoding="utf-16")
    with pytest.raises(InputError, match=r"wide\.yaml: must be in UTF-8"):
        open_yolo(tmp_path / "wide.yaml")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("images/train/a.tar.jpg", "labels/train/a.tar.txt"),
        ("myimages/a.jpg", "myimages/a.txt"),
        ("Images/a.jpg", "Images/a.txt"),
    ],
)
def test_the_last_images_becomes_labels(tmp_path, image, label):
    assert label_path(tmp_path / image) == tmp_path / label


def test_ids():
    assert image_ids(("a/1.jpg", "b/1.jpg")) == {"a/1.jpg": 1, "b/1.jpg": 2}
    assert image_ids(("7.jpg", "x.jpg")) == {"7.jpg": 1, "x.jpg": 2}
    assert image_ids((f"{'9' * 18}.jpg", "000.jpg")) == {
        f"{'9' * 18}.jpg": int("9" * 18),
        "000.jpg": 0,
    }
    assert image_ids((f"{'9' * 19}.jpg",)) == {f"{'9' * 19}.jpg": 1}
    assert image_ids(()) == {}


def test_what_is_yolo_is_told_by_the_path(tmp_path):
    assert is_yolo(tmp_path)
    assert is_yolo("data.yaml")
    assert is_yolo("DATA.YML")
    assert not is_yolo("annotations.json")
