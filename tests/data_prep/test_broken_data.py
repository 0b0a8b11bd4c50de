"""A corpus of everything that is wrong with real data sets, made here, and what becomes of each."""

import json
import math
import os
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.json_lists import read_lists
from personlab_keras.annotations.masks import decode_segmentation
from personlab_keras.annotations.reasons import EXAMPLES, Reason
from personlab_keras.config import load_config
from personlab_keras.data.records import read_folder, read_meta
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 80, 60
KEYPOINTS = [value for k in range(17) for value in (21 + k, 12 + k, 2)]
SQUARE = [20, 10, 40, 10, 40, 30, 20, 30]
RAMP = np.dstack(
    np.broadcast_arrays(np.arange(WIDTH) * 3, np.arange(HEIGHT)[:, None] * 4, 90)
).astype(np.uint8)
"""(H, W, 3): no two corners alike."""


class Case:
    """A small sound data set, and the hands to spoil it with: two images of one person each."""

    def __init__(self, folder):
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir(parents=True)
        for name in ("a.jpg", "b.jpg"):
            Image.fromarray(RAMP).save(self.images / name, quality=95)
        person = {
            "category_id": 1, "iscrowd": 0, "area": 400.0, "bbox": [20, 10, 20, 20], "num_keypoints": 17, "keypoints": KEYPOINTS,
            "segmentation": [SQUARE],
        }  # fmt: skip
        self.content = {
            "images": [
                {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
                for i, name in ((1, "a.jpg"), (2, "b.jpg"))
            ],
            "annotations": [{**person, "id": 10 + i, "image_id": i} for i in (1, 2)],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
        }
        self.image, self.person = self.content["images"][1], self.content["annotations"][1]

    def prepare(self, *overrides, **named):
        """Meta and the records by image id."""
        (self.folder / "annotations.json").write_text(json.dumps(self.content))
        config = load_config(None, ["data.view_size=81", "targets.radius=8", *overrides])
        out = self.folder / "records"
        meta = prepare(
            self.folder / "annotations.json",
            self.images,
            out,
            config,
            engine=processes(1),
            overwrite=True,
            **named,
        )
        return meta, {record.image_id: record for record in read_folder(out, meta)}

    def file(self, data, name="b.jpg"):
        (self.images / name).write_bytes(data)

    def encoded(self, form, pixels=RAMP, **options):
        path = self.folder / f"encoded.{form}"
        (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
            path, **options
        )
        return path.read_bytes()


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path / "set")


def png_that_promises(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def outside(case):
    Image.fromarray(RAMP).save(case.folder / "secret.jpg")
    case.image["file_name"] = "../secret.jpg"


def by_link(case):
    Image.fromarray(RAMP).save(case.folder / "secret.jpg")
    (case.images / "b.jpg").unlink()
    (case.images / "b.jpg").symlink_to(case.folder / "secret.jpg")


def in_a_circle(case):
    (case.images / "b.jpg").unlink()
    (case.images / "b.jpg").symlink_to("b.jpg")


def absolute(case):
    case.image["file_name"] = str(case.images / "b.jpg")


def gone(case):
    (case.images / "b.jpg").unlink()


def folder_instead(case):
    gone(case)
    (case.images / "b.jpg").mkdir()


def pipe_instead(case):
    gone(case)
    os.mkfifo(case.images / "b.jpg")


def shared_id(case):
    case.image["id"] = 1


def extra_image(**fields):
    def spoil(case):
        case.content["images"].append({**case.image, **fields})

    return spoil


def image_field(**fields):
    def spoil(case):
        case.image |= fields

    return spoil


def person_field(**fields):
    def spoil(case):
        case.person |= fields

    return spoil


def without(field, of="person"):
    def spoil(case):
        del getattr(case, of)[field]

    return spoil


def keypoint(*values):
    return [*values, *KEYPOINTS[3:]]


def second_person(**fields):
    def spoil(case):
        case.content["annotations"].append({**case.person, **fields})

    return spoil


def half(data):
    return data[: len(data) // 2]


LEFT_OUT, KEPT, UNLABELLED, ONE_LESS, CROWD, CROWD_IMAGE, MASKLESS, BOTH_OUT = (
    "left out", "kept", "kept without keypoints", "kept without that keypoint", "masked as crowd", "whole image masked", "without mask",
    "both left out",
)  # fmt: skip

R = Reason
CASES = {
    # Images
    "missing": (gone, R.IMAGE_MISSING, LEFT_OUT),
    "a folder of that name": (folder_instead, R.IMAGE_MISSING, LEFT_OUT),
    "a pipe of that name": (pipe_instead, R.IMAGE_MISSING, LEFT_OUT),
    "a name that no file can have": (image_field(file_name="x\0y"), R.IMAGE_MISSING, LEFT_OUT),
    "a name too long": (image_field(file_name="x" * 5000), R.IMAGE_UNREADABLE, LEFT_OUT),
    "an empty name": (image_field(file_name=""), R.IMAGE_MISSING, LEFT_OUT),
    "a link to itself": (in_a_circle, R.IMAGE_MISSING, LEFT_OUT),
    "zero bytes": (lambda case: case.file(b""), R.IMAGE_EMPTY, LEFT_OUT),
    "truncated JPEG": (lambda case: case.file(half(case.encoded("jpg"))), R.IMAGE_UNREADABLE, LEFT_OUT),
    "truncated PNG": (lambda case: case.file(half(case.encoded("png"))), R.IMAGE_UNREADABLE, LEFT_OUT),
    "truncated in its header": (lambda case: case.file(case.encoded("jpg")[:20]), R.IMAGE_UNREADABLE, LEFT_OUT),
    "no image": (lambda case: case.file(b"<html>404</html>"), R.IMAGE_UNREADABLE, LEFT_OUT),
    "PNG called jpg": (lambda case: case.file(case.encoded("png")), None, KEPT),
    "WebP called jpg": (lambda case: case.file(case.encoded("webp", lossless=True)), None, KEPT),
    "16 bits": (lambda case: case.file(cv2.imencode(".png", RAMP[..., ::-1].astype(np.uint16) * 257)[1].tobytes()), None, KEPT),
    "CMYK": (lambda case: case.file(case.encoded("jpg", Image.fromarray(RAMP).convert("CMYK"), quality=95)), None, KEPT),
    "EXIF says turned": (lambda case: case.file(case.encoded("jpg", exif=turned(6), quality=95)), R.IMAGE_TURNED, KEPT),
    "another size than annotated": (lambda case: case.file(case.encoded("jpg", RAMP[:50])), R.IMAGE_SIZE, LEFT_OUT),
    "annotated as turned by EXIF": (image_field(width=HEIGHT, height=WIDTH), R.IMAGE_SIZE, LEFT_OUT),
    "decompression bomb": (lambda case: case.file(png_that_promises(60_000, 60_000)), R.IMAGE_TOO_LARGE, LEFT_OUT),
    "name that climbs": (outside, R.IMAGE_OUTSIDE, LEFT_OUT),
    "absolute name": (absolute, R.IMAGE_OUTSIDE, LEFT_OUT),
    "link out of the folder": (by_link, R.IMAGE_OUTSIDE, LEFT_OUT),
    "entry that is a number": (lambda case: case.content["images"].append(7), R.IMAGE_MALFORMED, KEPT),
    "size as text": (extra_image(id=3, width="80"), R.IMAGE_MALFORMED, KEPT),
    "size of zero": (extra_image(id=3, height=0), R.IMAGE_MALFORMED, KEPT),
    "size as a fraction": (extra_image(id=3, height=60.5), R.IMAGE_MALFORMED, KEPT),
    "id as a list": (extra_image(id=[3]), R.IMAGE_MALFORMED, KEPT),
    "id as text": (extra_image(id="frame 3"), None, KEPT),
    "id below zero": (extra_image(id=-3), None, KEPT),
    "id of a hundred digits": (extra_image(id=10**100), None, KEPT),
    "id missing in an image": (extra_image(id=None), R.IMAGE_MALFORMED, KEPT),
    "name of half a character": (extra_image(id=3, file_name="\ud800"), R.IMAGE_MALFORMED, KEPT),
    "image listed twice": (extra_image(), R.IMAGE_REPEATED, KEPT),
    "two images of one id": (extra_image(file_name="c.jpg"), R.IMAGE_ID_SHARED, LEFT_OUT),
    # Annotations
    "annotation that is a text": (lambda case: case.content["annotations"].append("x"), R.ANNOTATION_MALFORMED, KEPT),
    "image_id as text": (person_field(image_id="2"), None, KEPT),
    "image_id missing": (second_person(id=9, image_id=None), R.ANNOTATION_MALFORMED, KEPT),
    "category_id missing": (person_field(category_id=None), R.CATEGORY_MISSING, CROWD),
    "category_id as text": (person_field(category_id="1"), None, KEPT),
    "unknown image": (second_person(id=9, image_id=99), R.ANNOTATION_UNKNOWN_IMAGE, KEPT),
    "another category": (second_person(id=9, category_id=3), R.ANNOTATION_OTHER_CATEGORY, KEPT),
    "iscrowd as text": (person_field(iscrowd="no"), None, KEPT),
    "iscrowd null": (person_field(iscrowd=None), None, KEPT),
    "iscrowd of no meaning": (person_field(iscrowd="some"), R.ANNOTATION_MALFORMED, CROWD),
    "listed twice": (second_person(), R.ANNOTATION_REPEATED, KEPT),
    "id of another": (person_field(id=11), R.ANNOTATION_ID, KEPT),
    "id missing": (without("id"), R.ANNOTATION_ID, KEPT),
    "keypoints missing": (without("keypoints"), R.KEYPOINTS_MALFORMED, UNLABELLED),
    "keypoints too few": (person_field(keypoints=KEYPOINTS[:-1]), R.KEYPOINTS_MALFORMED, UNLABELLED),
    "keypoints as text": (person_field(keypoints=[*KEYPOINTS[:-1], "2"]), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoints null": (person_field(keypoints=keypoint(None, 5, 2)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoints with true": (person_field(keypoints=[*KEYPOINTS[:-1], True]), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoints nested": (person_field(keypoints=[KEYPOINTS[i : i + 3] for i in range(0, 51, 3)]), None, KEPT),
    "keypoints nested unevenly": (person_field(keypoints=[[1, 2]] * 17), R.KEYPOINTS_MALFORMED, UNLABELLED),
    "keypoints beyond any float": (person_field(keypoints=keypoint(10**400, 5, 2)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoint NaN": (person_field(keypoints=keypoint(math.nan, 5, 2)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoint infinite": (person_field(keypoints=keypoint(5, -math.inf, 2)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "visibility NaN": (person_field(keypoints=keypoint(5, 5, math.nan)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "visibility as a score": (person_field(keypoints=keypoint(5, 5, 0.4)), None, KEPT),
    "visibility below zero": (person_field(keypoints=keypoint(5, 5, -1)), R.KEYPOINT_MALFORMED, ONE_LESS),
    "keypoint outside": (person_field(keypoints=keypoint(5, 70, 2)), R.KEYPOINT_OUTSIDE, ONE_LESS),
    "keypoint far outside": (person_field(keypoints=keypoint(-1e300, 5, 2)), R.KEYPOINT_OUTSIDE, ONE_LESS),
    "keypoint on the edge": (person_field(keypoints=keypoint(40, 60, 2)), None, KEPT),
    "num_keypoints disagrees": (person_field(num_keypoints=3), R.COUNT_DISAGREES, KEPT),
    "num_keypoints as text": (person_field(num_keypoints="17"), R.COUNT_DISAGREES, KEPT),
    "box missing": (without("bbox"), R.BOX_MALFORMED, KEPT),
    "box of texts": (person_field(bbox=["20", "10", "20", "20"]), R.BOX_MALFORMED, KEPT),
    "box NaN": (person_field(bbox=[20, 10, math.nan, 20]), R.BOX_MALFORMED, KEPT),
    "box without width": (person_field(bbox=[20, 10, 0, 20]), R.BOX_MALFORMED, KEPT),
    "area zero": (person_field(area=0), R.AREA_MALFORMED, KEPT),
    "area missing": (without("area"), R.AREA_MALFORMED, KEPT),
    "area as text": (person_field(area="400"), R.AREA_MALFORMED, KEPT),
    "area above that of the image": (person_field(area=10**6), R.AREA_MALFORMED, KEPT),
    "area infinite": (person_field(area=math.inf), R.AREA_MALFORMED, KEPT),
    "mask missing": (without("segmentation"), R.MASK_MISSING, MASKLESS),
    "mask empty": (person_field(segmentation=[]), R.MASK_MISSING, MASKLESS),
    "mask of a text": (person_field(segmentation="none"), R.MASK_DAMAGED, MASKLESS),
    "two points": (person_field(segmentation=[[1, 2, 3, 4]]), R.MASK_DAMAGED, MASKLESS),
    "odd number of coordinates": (person_field(segmentation=[[*SQUARE, 3]]), R.MASK_DAMAGED, MASKLESS),
    "polygon NaN": (person_field(segmentation=[[*SQUARE[:-1], math.nan]]), R.MASK_DAMAGED, MASKLESS),
    "polygon beyond all bounds": (person_field(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), R.MASK_DAMAGED, MASKLESS),
    "polygon of texts": (person_field(segmentation=[["20"] * 8]), R.MASK_DAMAGED, MASKLESS),
    "polygon of lists": (person_field(segmentation=[[[20, 10], [40, 10], [40, 30]]]), R.MASK_DAMAGED, MASKLESS),
    "polygons of which one is a point": (person_field(segmentation=[SQUARE, [1, 2]]), R.POLYGON_DROPPED, KEPT),
    "run lengths of another size": (person_field(segmentation={"size": [5, 5], "counts": [25]}), R.MASK_DAMAGED, MASKLESS),
    "run lengths below zero": (person_field(segmentation={"size": [60, 80], "counts": [-5, 4805]}), R.MASK_DAMAGED, MASKLESS),
    "run lengths too long": (person_field(segmentation={"size": [60, 80], "counts": [0, 10**9]}), R.MASK_DAMAGED, MASKLESS),
    "run lengths too short": (person_field(segmentation={"size": [60, 80], "counts": "1"}), R.MASK_DAMAGED, MASKLESS),
    "run lengths empty": (person_field(segmentation={"size": [60, 80], "counts": ""}), R.MASK_DAMAGED, MASKLESS),
    "run lengths of no pixel": (person_field(segmentation={"size": [60, 80], "counts": [4800]}), R.MASK_DAMAGED, MASKLESS),
    "run lengths of noise": (person_field(segmentation={"size": [60, 80], "counts": "\x7fnoise"}), R.MASK_DAMAGED, MASKLESS),
    "run lengths cut": (person_field(segmentation={"size": [60, 80], "counts": "ooo"}), R.MASK_DAMAGED, MASKLESS),
    "run lengths without size": (person_field(segmentation={"counts": [4800]}), R.MASK_DAMAGED, MASKLESS),
    "crowd without mask": (lambda case: case.person.update(iscrowd=1, segmentation=[]), R.CROWD_DAMAGED, CROWD),
    "neither keypoints nor mask": (person_field(keypoints=[0] * 51, num_keypoints=0, segmentation=[]), R.PERSON_UNKNOWN, CROWD),
    "nothing at all": (lambda case: [case.person.pop(f) for f in ("keypoints", "bbox", "segmentation")], R.PERSON_NOWHERE, CROWD_IMAGE),
}  # fmt: skip
ALSO = {
    "two images of one id": {R.ANNOTATION_UNKNOWN_IMAGE},
    "neither keypoints nor mask": {R.MASK_MISSING},
    "nothing at all": {R.MASK_MISSING, R.KEYPOINTS_MALFORMED, R.BOX_MALFORMED},
}
ELSEWHERE = {R.IMAGE_NEGATIVE, R.IMAGE_INCOMPLETE, R.PERSON_BEYOND, R.LABELS_UNREADABLE}
"""Reasons that test_data_prep.py and tests/annotations/test_yolo.py have."""


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_it(case, name):
    spoil, reason, fate = CASES[name]
    spoil(case)
    meta, records = case.prepare()
    expected = {each.value for each in {reason} | ALSO.get(name, set()) if each}
    assert set(meta.skipped) == expected
    for counted in expected:
        assert 1 <= len(meta.examples[counted]) <= EXAMPLES
    sound, spoilt = records[1], records.get(2)
    assert (sound.person_ids.tolist(), int(sound.targets.keypoints[..., 2].sum())) == ([11], 17)
    assert (spoilt is None) == (fate == LEFT_OUT)
    if spoilt is None:
        return
    labelled, ignore = int(spoilt.targets.keypoints[..., 2].sum()), spoilt.targets.ignore
    if fate in (CROWD, CROWD_IMAGE):
        assert not len(spoilt.person_ids)
        assert (ignore[2:4, 3:5] == 1).all()
        assert (ignore[:8, :10] == 1).all() == (fate == CROWD_IMAGE)
        return
    assert len(spoilt.person_ids) == 1
    assert labelled == {KEPT: 17, UNLABELLED: 0, ONE_LESS: 16, MASKLESS: 17}[fate]
    # View 0 of an image 80 x 60 at 81 pixels: next to nothing moves. Cells at 24 and 32 lie in
    # columns 20..39, at 16 and 24 in rows 10..29.
    assert (spoilt.targets.instance[2:4, 3:5] == (0 if fate == MASKLESS else 1)).all()
    assert (ignore[2:4, 3:5] == {UNLABELLED: 2, MASKLESS: 4}.get(fate, 0)).all()
    assert np.count_nonzero(ignore) == (4 if fate in (UNLABELLED, MASKLESS) else 0)
    scale = 81 / 80
    np.testing.assert_allclose(
        spoilt.person_boxes[0], [19.5 * scale + 0.0, 9.5 * scale, 20 * scale, 20 * scale], atol=0.6
    )
    np.testing.assert_allclose(spoilt.person_areas[0], 400 * scale**2, rtol=1e-5)
    pixels = cv2.imdecode(np.frombuffer(spoilt.image, np.uint8), cv2.IMREAD_COLOR)[
        :HEIGHT, :WIDTH, ::-1
    ].astype(int)
    if name != "CMYK":  # another gamut
        assert np.abs(pixels - RAMP).mean() < 6


@pytest.mark.parametrize(
    "name", [name for name, (_, reason, _) in CASES.items() if reason and reason.fault]
)
def test_strict_stops_at_it_with_one_line(case, name):
    CASES[name][0](case)
    with pytest.raises(InputError) as caught:
        case.prepare(strict=True)
    assert any(
        f"[{each.value}]" in str(caught.value) for each in {CASES[name][1]} | ALSO.get(name, set())
    )
    assert "\n" not in str(caught.value)
    assert not (case.folder / "records" / "meta.json").exists()


def test_strict_lets_a_sound_set_pass(case):
    meta, records = case.prepare(strict=True)
    assert (meta.skipped, sorted(records)) == ({}, [1, 2])


def test_every_reason_has_a_case_and_a_line_in_the_documentation():
    covered = {reason for _, reason, _ in CASES.values()} | set().union(*ALSO.values()) | ELSEWHERE
    assert covered >= set(Reason)
    table = re.findall(
        r"^\| `([^`]+)` \|",
        (ROOT / "docs" / "data-format.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [line for line in table if line in {reason.value for reason in Reason}] == [
        reason.value for reason in Reason
    ]


def test_links_may_lead_out_where_that_is_wanted(case):
    by_link(case)
    meta, records = case.prepare("data.follow_links=true")
    assert (meta.skipped, sorted(records)) == ({}, [1, 2])


def test_names_with_spaces_and_letters_of_all_kinds(tmp_path):
    case = Case(tmp_path / "ein Ordner mit Ümläuten 日本")
    (case.images / "b.jpg").rename(case.images / "zwölf Äpfel 猫.jpg")
    case.image["file_name"] = "zwölf Äpfel 猫.jpg"
    (case.images / "deeper down").mkdir()
    (case.images / "a.jpg").rename(case.images / "deeper down" / "a.jpg")
    case.content["images"][0]["file_name"] = "deeper down/./a.jpg"
    meta, records = case.prepare()
    assert (meta.skipped, sorted(records)) == ({}, [1, 2])


def test_nothing_that_can_be_used(case):
    for entry in case.content["annotations"]:
        entry["image_id"] = 5
    with pytest.raises(
        InputError,
        match=r"no image with people. Skipped or repaired: 2 annotation of an unknown image \(annotations\[0\].image_id",
    ):
        case.prepare()


def test_examples_are_few_and_of_the_first(case):
    case.content["annotations"] += [{"category_id": 1, "image_id": 100 + i} for i in range(50)]
    meta, _ = case.prepare()
    assert meta.skipped == {"annotation of an unknown image": 50}
    assert meta.examples["annotation of an unknown image"] == [
        f"annotations[{i}].image_id {98 + i}" for i in range(2, 7)
    ]


def test_three_forms_of_masks_are_those_of_pycocotools():
    rng = np.random.default_rng(5)
    for _ in range(50):
        mask = cv2.blur(rng.random((60, 80)), (9, 9)) > rng.uniform(0.3, 0.7)
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        edges = np.flatnonzero(np.diff(mask.T.reshape(-1).astype(int), prepend=0, append=2))
        runs = np.diff([0, *edges]).tolist()
        for counts in (encoded["counts"].decode(), runs):
            found, dropped = decode_segmentation({"size": [60, 80], "counts": counts}, 60, 80)
            np.testing.assert_array_equal(found, mask)
            assert not dropped


# The file as a whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON: Expecting value, at about byte 0"),
        ("{", "not valid JSON: expecting a name"),
        ('{"images": [1, 2', "not valid JSON: expecting , or ]"),
        ('{"images": [{"a": tru}]}', "not valid JSON: Expecting value"),
        ('{"images": []} more', "not valid JSON: more behind the object"),
        ('{"images": [], "images": []}', "'images' must occur once"),
        ('{"images" 3}', "expecting :"),
        ('{images: 3}', "expecting a name in double quotes"),
        ('["images"]', "must hold a JSON object. Received: list"),
        ("3", "must hold a JSON object. Received: int"),
        ('{"images": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
        ('{"images": [' + "9" * 5000 + "]}", "not valid JSON: Exceeds the limit"),
        ('{"images": ["' + "x" * 5000, "not valid JSON: Unterminated string"),
        (b'{"images": ["\xff\xfe"]}', "not valid JSON: not in UTF-8"),
        (b"\x00\x01\x02", "not valid JSON"),
    ],
)  # fmt: skip
def test_files_that_are_no_json(tmp_path, text, words):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read_lists(path, {"images": lambda number, element: None})
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_lists_are_read_whole_wherever_the_window_ends(tmp_path, monkeypatch):
    content = {
        "info": {"a": [1, {"b": None}], "c": "d"}, "empty": [], "numbers": [1, -2.5, 1e3, math.inf, 12345678901234567890], "number": 17,
        "texts": ["", 'qu"ote', "back\\slash", "ü猫", "[{", "x" * 90], "nested": [[[1], [2, 3]], {"k": [4]}], "true": True,
    }  # fmt: skip
    path = tmp_path / "file.json"
    for indent in (None, 3):
        path.write_text(
            "\ufeff" + json.dumps(content, ensure_ascii=indent is None, indent=indent) + " \n"
        )
        for chunk in (1, 2, 3, 5, 7, 11, 64, 1 << 20):
            monkeypatch.setattr("personlab_keras.annotations.json_lists._CHUNK", chunk)
            found = {name: [] for name in ("numbers", "texts", "nested", "empty")}
            handlers = {
                name: (lambda number, element, into=into: into.insert(number, element))
                for name, into in found.items()
            }
            lists = read_lists(path, handlers)
            assert found == {name: content[name] for name in found}
            assert lists.found == {
                "info": "dict",
                "empty": 0,
                "numbers": 5,
                "number": "number",
                "texts": 6,
                "nested": 2,
                "true": "bool",
            }
            assert lists.bytes == path.stat().st_size


def test_categories_by_name(case, tmp_path):
    dogs = {"id": 4, "name": "dog", "keypoints": list(COCO_PERSON.keypoints)}
    case.content["categories"].append(dogs)
    case.person["category_id"] = 4
    with pytest.raises(
        InputError,
        match=r"several categories have the keypoints of 'coco_person': 'person', 'dog'. Choose by --category",
    ):
        case.prepare()
    meta, records = case.prepare(categories=["dog"])
    assert meta.skipped == {"annotation of another category": 1}
    assert [len(records[i].person_ids) for i in (1, 2)] == [0, 1]
    meta, records = case.prepare(categories=["dog", "person"])
    assert [len(records[i].person_ids) for i in (1, 2)] == [1, 1]
    dogs["keypoints"] = ["tail"]
    with pytest.raises(
        InputError,
        match=r"category 'dog' must have the 17 keypoints of 'coco_person', in their order. Received: tail",
    ):
        case.prepare(categories=["dog"])
    case.content["categories"] = [3, {"id": "x"}, {"id": 1, "name": ["person"], "keypoints": 7}]
    with pytest.raises(InputError, match=r"no category has the 17 keypoints"):
        case.prepare()


def test_a_person_of_no_extent_does_not_upset_the_reader(tmp_path):
    case = Case(tmp_path / "set")
    case.person |= {"keypoints": [5, 5, 2] * 17, "bbox": None, "area": None, "segmentation": None}
    _, records = case.prepare()
    assert np.isfinite(records[2].person_boxes).all()
    assert records[2].person_areas[0] > 0
    assert read_meta(case.folder / "records").max_persons == 1
    assert (
        read_coco(case.folder / "annotations.json", COCO_PERSON).images[1].annotations[0].annotated
    )
