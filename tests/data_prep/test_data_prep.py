import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from data_prep.baking import image_records
from data_prep.build import prepare
from data_prep.inspection import draw_records
from data_prep.statistics import summary
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.masks import decode_segmentation, decompress_segmentation
from personlab_keras.annotations.reasons import Tally
from personlab_keras.config import DataConfig, load_config
from personlab_keras.data.geometry import (
    View,
    random_view,
    sample_mask,
    warp_boxes,
    warp_image,
    warp_keypoints,
    whole_image,
)
from personlab_keras.data.pipeline import expand, stored_examples
from personlab_keras.data.records import read_meta
from personlab_keras.errors import InputError
from personlab_keras.method.maps import mask_name
from personlab_keras.method.skeleton import COCO_PERSON

GREY = (127, 127, 127)


def coco_file(folder, change=lambda content: content, people=1, size=(80, 60), image=True):
    """A COCO file of one image of `size` = (width, height) with `people` persons, 17 keypoints
    each; returns both paths.
    """
    width, height = size
    entry = {
        "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 400.0, "bbox": [20, 10, 20, 20], "num_keypoints": 17,
        "keypoints": [value for k in range(17) for value in (21 + k, 12 + k, 2)],
        "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]],
    }  # fmt: skip
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": width, "height": height}],
        "annotations": [{**entry, "id": 100 + i} for i in range(people)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
    }
    images = folder / "images"
    images.mkdir(exist_ok=True)
    if image:
        cv2.imwrite(str(images / "a.jpg"), np.full((height, width, 3), 90, np.uint8))
    path = folder / "annotations.json"
    path.write_text(json.dumps(change(content)))
    return path, images


# Geometry


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(90, 200), st.integers(90, 200))
def test_a_painted_blob_and_its_keypoint_land_together(seed, width, height):
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    point = rng.integers(15, [width - 15, height - 15])
    cv2.circle(image, point.tolist(), 6, (255, 255, 255), -1)
    for view in (
        whole_image(width, height, 129),
        random_view(width, height, 129, DataConfig(), rng),
    ):
        keypoint = warp_keypoints(np.array([[[*point, 2.0]] * 17]), view, COCO_PERSON)[0, 0]
        weights = warp_image(image, view, (0, 0, 0))[..., 0].astype(float)
        reach = 7 * view.scale + 1
        if not ((keypoint[:2] > reach) & (keypoint[:2] < 128 - reach)).all():
            continue  # cut at the border: the rest of the blob has another middle
        y, x = np.mgrid[0:129, 0:129]
        np.testing.assert_allclose(
            [(weights * x).sum(), (weights * y).sum()] / weights.sum(), keypoint[:2], atol=0.15
        )
        # The mask sampled at the cells says the same as the image there.
        cells = sample_mask(image[..., 0] > 0, view, 8)
        np.testing.assert_array_equal(cells[weights[::8, ::8] == 255], True)
        np.testing.assert_array_equal(cells[weights[::8, ::8] == 0], False)


def test_scale_augmentation_reaches_its_whole_range():
    # METHOD, mistake 1: the scale cancelled itself and every image was shrunk to 0.8.
    settings_ = DataConfig(scale=(0.5, 1.5))
    rng = np.random.default_rng(0)
    scales = (
        np.array([random_view(640, 480, 401, settings_, rng).scale for _ in range(400)]) * 640 / 401
    )
    assert scales.min() < 0.55
    assert scales.max() > 1.45
    np.testing.assert_allclose(scales.mean(), 1.0, atol=0.05)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_random_views_lie_anywhere(scale):
    """A larger view holds the image anywhere, and a smaller one shows any part of it."""
    still = DataConfig(scale=(scale, scale), rotation=0.0, flip=0.0)
    rng = np.random.default_rng(0)
    corners = np.array([random_view(640, 480, 401, still, rng).affine[:, 2] for _ in range(200)])
    slack = np.abs(401 - scale * 401 / 640 * np.array([640, 480]))
    assert (np.ptp(corners, axis=0) > 0.95 * slack).all()
    assert (np.ptp(corners, axis=0) <= slack).all()
    assert (np.std(corners, axis=0) > 0.2 * slack).all()  # of a uniform distribution .29
    assert abs(np.corrcoef(corners.T)[0, 1]) < 0.3


def test_random_views_are_smoothed_where_they_shrink():
    rows, columns = np.indices((400, 400))
    image = np.repeat(((rows + columns) % 2 * 200).astype(np.uint8)[..., None], 3, 2)
    turned = DataConfig(scale=(0.5, 0.5), rotation=10.0)
    view = random_view(400, 400, 401, turned, np.random.default_rng(0))
    warped = warp_image(image, view, GREY).astype(float)
    inside = sample_mask(np.ones((400, 400), bool), view, 1)
    inside &= sample_mask(np.pad(np.ones((392, 392), bool), 4), view, 1)
    np.testing.assert_allclose(warped[inside], 100.0, atol=12.0)  # unsmoothed: 0 to 200


def test_flip_and_rotation_of_views():
    rng = np.random.default_rng(0)
    views = [
        random_view(640, 480, 401, DataConfig(rotation=20.0, flip=0.5), rng) for _ in range(200)
    ]
    mirrored = [np.linalg.det(view.affine[:, :2]) < 0 for view in views]
    assert mirrored == [view.mirrored for view in views]
    assert 60 < sum(mirrored) < 140
    angles = [
        np.degrees(np.arctan2(view.affine[1, 1], view.affine[0, 1]) - np.pi / 2) for view in views
    ]
    assert max(np.abs(angles)) <= 20.0 + 1e-9
    assert max(angles) > 15 > -15 > min(angles)


def test_mirrored_views_exchange_left_and_right():
    mirror = View(np.array([[-1.0, 0.0, 64.0], [0.0, 1.0, 0.0]]), 65, mirrored=True)
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, COCO_PERSON.index("left_wrist")] = [10, 20, 2]
    moved = warp_keypoints(keypoints, mirror, COCO_PERSON)
    assert moved[0, COCO_PERSON.index("right_wrist")].tolist() == [54.0, 20.0, 2.0]
    assert moved[0, COCO_PERSON.index("left_wrist"), 2] == 0


def test_masks_stay_masks():
    # METHOD, mistake 6: masks warped with cubic interpolation as floats leave [0, 1] and grow.
    rng = np.random.default_rng(1)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 100:200] = True
    for _ in range(20):
        view = random_view(300, 200, 257, DataConfig(), rng)
        sampled = sample_mask(mask, view, 1)
        assert sampled.dtype == bool
        corners = warp_boxes(np.array([[99.5, 49.5, 100.0, 100.0]]), view)[0]
        inside = np.zeros_like(sampled)
        x0, y0, x1, y1 = np.clip(
            np.rint([*corners[:2], *(corners[:2] + corners[2:])]) + [-1, -1, 2, 2], 0, 257
        ).astype(int)
        inside[y0:y1, x0:x1] = True
        assert not (sampled & ~inside).any()
        if corners.min() >= 1 and (corners[:2] + corners[2:]).max() < 256:
            np.testing.assert_allclose(sampled.sum(), 10_000 * view.scale**2, rtol=0.03)


def test_the_whole_image_fills_the_view_from_the_upper_left():
    view = whole_image(640, 480, 401)
    image = np.full((480, 640, 3), 200, np.uint8)
    warped = warp_image(image, view, GREY)
    assert warped[:300, :, 0].min() == 200
    assert warped[301:].max() == 127
    # The half-pixel rule: the centre of the image lands at the centre of its 401 x 300.75 pixels.
    np.testing.assert_allclose(view.affine @ [319.5, 239.5, 1], [200.0, 149.875])


# Reading


def test_the_sample_reads_whole(shared):
    coco = read_coco(
        shared / "data/coco-sample/annotations/person_keypoints_train2017.json", COCO_PERSON
    )
    assert len(coco.images) == 80
    people = [annotation for image in coco.images for annotation in image.annotations]
    assert sum(annotation.crowd for annotation in people) > 0
    assert sum(annotation.annotated for annotation in people) == 86
    assert not coco.skipped
    for image in coco.images:
        for annotation in image.annotations:
            mask, dropped = decode_segmentation(
                decompress_segmentation(annotation.segmentation), image.height, image.width
            )
            assert not dropped
            # COCO's areas are of the polygons, the masks of pixels.
            np.testing.assert_allclose(mask.sum(), annotation.area, rtol=0.15, atol=60)


def test_three_forms_of_segmentation_agree():
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    compressed = rle.merge(rle.frPyObjects(polygon, 6, 8))
    mask = rle.decode(compressed).astype(bool)
    flat = mask.T.reshape(-1)
    runs, value, start = [], False, 0
    for i, bit in enumerate([*flat, None]):
        if bit is None or bit != value:
            runs.append(i - start)
            value, start = bit, i
    forms = [
        polygon,
        {"size": [6, 8], "counts": runs},
        {"size": [6, 8], "counts": compressed["counts"].decode()},
    ]
    for form in forms:
        np.testing.assert_array_equal(decode_segmentation(form, 6, 8)[0], mask)
    assert mask.sum() == 12


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ([[1, 2, 3, 4]], "three points"),
        ("x", "neither"),
        ({"size": [5, 5], "counts": [25]}, "of size"),
        ([], "three points"),
    ],
)
def test_damaged_segmentations(form, words):
    with pytest.raises(ValueError, match=words):
        decode_segmentation(form, 6, 8)


def changed(path, value):
    """A function that sets content[path] to a value; DELETE removes it."""

    def change(content):
        *parents, last = path
        place = content
        for key in parents:
            place = place[key]
        if value is DELETE:
            del place[last]
        else:
            place[last] = value
        return content

    return change


DELETE = object()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["images"], DELETE, "'images' must be a list with at least one entry. Received: nothing"),
        (
            ["annotations"],
            {},
            "'annotations' must be a list. Received: dict",
        ),
        (["categories"], {}, "'categories' must be a list with at least one entry. Received: dict"),
        (
            ["categories", 0, "keypoints"],
            ["nose"],
            "no category has the 17 keypoints of 'coco_person', in their order. Received: nose",
        ),
        (["categories"], [{"id": 1, "name": "dog"}], "an instances file?"),
        (["images", 0], 3, r"images\[0\] must be an object"),
        (["images", 0, "width"], "80", r"images\[0\].width must be a int. Received: '80'"),
        (
            ["images", 0, "file_name"],
            DELETE,
            r"images\[0\].file_name must be a str. Received: None",
        ),
        (
            ["annotations", 0, "keypoints"],
            [1, 2, 3],
            r"annotations\[0\].keypoints must be 51 numbers. Received: 3 values",
        ),
        (
            ["annotations", 0, "keypoints"],
            DELETE,
            r"annotations\[0\].keypoints must be 51 numbers. Received: None",
        ),
        (
            ["annotations", 0, "bbox"],
            [1, 2, "a", 4],
            r"annotations\[0\].bbox must be 4 finite numbers",
        ),
        (["annotations", 0, "id"], None, r"annotations\[0\].id must be an integer"),
        (
            ["annotations", 0, "area"],
            "big",
            r"annotations\[0\].area must be above 0 and at most that of the image. Received: 'big'",
        ),
        (["annotations", 0], 3, r"annotations\[0\] must be an object"),
    ],
)
def test_bad_annotation_files_get_one_line(tmp_path, path, value, words):
    file, _ = coco_file(tmp_path, changed(path, value))
    with pytest.raises(InputError, match=words) as caught:
        read_coco(file, COCO_PERSON, strict=True)
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_annotation_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_coco(tmp_path / "none.json", COCO_PERSON)
    for text, words in (
        ('{"images": [', "not valid JSON"),
        ("[]", "must hold a JSON object. Received: list"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=words):
            read_coco(tmp_path / "bad.json", COCO_PERSON)
    with pytest.raises(InputError, match="must be a file"):
        read_coco(tmp_path, COCO_PERSON)


def test_strangers_are_left_out_and_counted(tmp_path):
    def change(content):
        content["annotations"][0]["image_id"] = 99
        content["annotations"][1]["category_id"] = 3
        return content

    coco = read_coco(coco_file(tmp_path, change, people=3)[0], COCO_PERSON)
    assert coco.skipped == {
        "annotation of an unknown image": 1,
        "annotation of another category": 1,
    }
    assert [annotation.id for annotation in coco.images[0].annotations] == [102]


# Building


def small(*overrides):
    return load_config(
        None, ["data.view_size=65", "targets.radius=8", "data.workers=1", *overrides]
    )


def records_of(folder):
    meta = read_meta(folder)
    return meta, list(stored_examples(folder, meta).as_numpy_iterator())


def test_records_hold_what_was_annotated(tmp_path):
    file, images = coco_file(tmp_path, size=(65, 65))
    meta = prepare(file, images, tmp_path / "records", small())
    _, (example,) = records_of(tmp_path / "records")
    np.testing.assert_allclose(example["keypoints"][0, 3], [24, 15, 1])
    # COCO's edges 20..40 are pixels 20..39, so 19.5..39.5 from centre to centre.
    assert example["person_boxes"][0].tolist() == [19.5, 9.5, 20.0, 20.0]
    assert example["person_ids"].tolist() == [100]
    # Cells at 24 and 32 lie in columns 20..39 and at 16 and 24 in rows 10..29.
    assert np.argwhere(example["instance"]).tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]
    assert meta.counts["persons"] == 1
    assert not meta.skipped


def test_records_do_not_depend_on_the_number_of_workers(scenes, tmp_path):
    for workers in (1, 2):
        prepare(
            scenes / "annotations.json",
            scenes / "images",
            tmp_path / str(workers),
            small(f"data.workers={workers}", "data.views_per_image=3"),
        )
    for first in sorted((tmp_path / "1").iterdir()):
        second = tmp_path / "2" / first.name
        assert first.read_bytes() == second.read_bytes(), first.name


def test_views_of_an_image_differ_and_the_first_is_the_whole(tmp_path):
    file, images = coco_file(tmp_path)
    prepare(file, images, tmp_path / "records", small("data.views_per_image=4"))
    meta, examples = records_of(tmp_path / "records")
    assert meta.records == len(examples) == 4
    assert [int(example["view"]) for example in examples] == [0, 1, 2, 3]
    np.testing.assert_allclose(
        examples[0]["keypoints"][0, 0, :2], (np.array([21, 12]) + 0.5) * 65 / 80 - 0.5, atol=1e-5
    )
    noses = {tuple(example["keypoints"][0, 0]) for example in examples}
    assert len(noses) == 4
    # Areas are in view pixels.
    np.testing.assert_allclose(examples[0]["person_areas"][0], 400 * (65 / 80) ** 2, rtol=1e-5)


def test_crowd_and_unannotated_people_are_masked(tmp_path):
    def change(content):
        crowd, unannotated = content["annotations"][1:]
        crowd |= {"iscrowd": 1, "segmentation": {"size": [65, 65], "counts": [0, 65 * 10, 65 * 55]}}
        del crowd["keypoints"]
        unannotated |= {"keypoints": [0] * 51, "segmentation": [[45, 45, 65, 45, 65, 65, 45, 65]]}
        return content

    file, images = coco_file(tmp_path, change, people=3, size=(65, 65))
    meta = prepare(file, images, tmp_path / "records", small())
    _, (example,) = records_of(tmp_path / "records")
    assert (example["ignore"][:, :2] == 1).all()  # columns 0..9 hold the cells at 0 and 8
    assert (example["ignore"][6:, 6:] == 2).all()
    assert np.count_nonzero(example["ignore"]) == 9 * 2 + 3 * 3
    assert (
        meta.counts["crowd regions"],
        meta.counts["persons"],
        meta.counts["persons without keypoints"],
    ) == (1, 2, 1)


def test_the_disc_around_a_person_without_keypoints_is_left_out_on_request(tmp_path):
    def change(content):
        # A set in which nobody has a keypoint would be refused: the other image has somebody.
        content["images"].append({**content["images"][0], "id": 8})
        content["annotations"].append({**content["annotations"][0], "id": 200, "image_id": 8})
        content["annotations"][0] |= {
            "keypoints": [0] * 51,
            "segmentation": [[30, 30, 35, 30, 35, 35, 30, 35]],  # pixels 30 to 34
        }
        return content

    def example_of_image_7(records):
        return next(each for each in records_of(records)[1] if int(each["image_id"]) == 7)

    file, images = coco_file(tmp_path, change, size=(65, 65))
    prepare(file, images, tmp_path / "plain", small())
    plain = example_of_image_7(tmp_path / "plain")
    rows, columns = np.nonzero(plain["ignore"])
    assert list(zip(8 * rows, 8 * columns, strict=True)) == [(32, 32)]
    prepare(file, images, tmp_path / "wide", small("targets.ignore_near_unannotated=true"))
    wide = example_of_image_7(tmp_path / "wide")
    points = np.arange(9) * 8
    beyond = np.maximum(0, np.maximum(30 - points, points - 34))
    away = np.hypot(beyond, beyond[:, None])
    np.testing.assert_array_equal(wide["ignore"], np.where(away <= 8, 2, 0))  # the radius is 8


@pytest.mark.parametrize("complete", [True, False])
def test_an_image_says_whether_everybody_in_it_is_annotated(tmp_path, complete):
    def change(content):
        content["images"][0]["complete"] = complete
        return content

    file, images = coco_file(tmp_path, change, size=(65, 65))
    prepare(file, images, tmp_path / "records", small())
    meta, (example,) = records_of(tmp_path / "records")
    targets = expand(example, meta)
    # Edges at 20 and 40: the mask covers the cells at 24 and 32 of both axes.
    assert targets[mask_name("segmentation")].numpy().sum() == (81 if complete else 4)
    discs = example["disc_owner"].any(axis=2)
    mask = example["instance"] > 0
    expected = np.ones((9, 9)) if complete else discs | mask
    np.testing.assert_array_equal(targets[mask_name("heatmaps")][..., 0], expected)


def test_within_the_box_of_a_larger_person_only_others_count(tmp_path):
    """Area 400, side 20: the largest allowed is 19. Its box covers the cells at 16 and 24 of a
    column, 24 and 32 of a row.
    """
    for limit in ("null", 21, 19):
        (tmp_path / str(limit)).mkdir()
        file, images = coco_file(tmp_path / str(limit), size=(65, 65))
        config = small(f"targets.largest_person={limit}")
        prepare(file, images, tmp_path / f"records-{limit}", config)
        meta, (example,) = records_of(tmp_path / f"records-{limit}")
        targets = expand(example, meta)
        for name in ("heatmaps", "segmentation"):
            counted = targets[mask_name(name)].numpy()[..., 0]
            expected = np.ones((9, 9))
            if limit == 19:
                expected[2:4, 3:5] = 0
            np.testing.assert_array_equal(counted, expected)
        learned = limit != 19
        assert example["instance"].any() == learned
        assert example["keypoints"].any() == learned
        assert example["disc_owner"].any() == learned


def test_completeness_must_be_true_or_false(tmp_path):
    def change(content):
        content["images"].append({**content["images"][0], "id": 8, "complete": "no"})
        return content

    coco = read_coco(coco_file(tmp_path, change)[0], COCO_PERSON)
    assert coco.skipped == {"image entry malformed": 1}
    assert "images[1].complete must be true or false. Received: 'no'" in str(coco.examples)


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    def change(content):
        image, person = content["images"][0], content["annotations"][0]
        for i, name in enumerate(["gone.jpg", "cut.jpg", "text.jpg", "small.jpg"]):
            content["images"].append({**image, "id": 20 + i, "file_name": name})
            content["annotations"].append({**person, "id": 200 + i, "image_id": 20 + i})
        content["images"].append({**image, "id": 30})
        content["annotations"][0]["segmentation"] = [[1, 2]]
        content["annotations"].append({**person, "id": 300, "segmentation": []})
        return content

    file, images = coco_file(tmp_path, change)
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (images / "text.jpg").write_text("no image")
    cv2.imwrite(str(images / "small.jpg"), np.zeros((30, 40, 3), np.uint8))
    meta = prepare(file, images, tmp_path / "records", small())
    assert meta.skipped == {
        "image missing": 1,
        "image unreadable": 2,
        "image of another size than annotated": 1,
        "mask damaged (person kept)": 1,
        "mask missing (person kept)": 1,
    }
    assert meta.counts["images without people"] == 1


def test_negatives_are_kept_or_left_out_and_counted(tmp_path):
    def change(content):
        content["images"].append({**content["images"][0], "id": 30})
        return content

    file, images = coco_file(tmp_path, change)
    assert prepare(file, images, tmp_path / "with", small()).records == 2
    without = prepare(file, images, tmp_path / "without", small("data.negatives=false"))
    assert without.records == 1
    assert without.skipped == {"image without people (data.negatives is false)": 1}


def test_an_image_folder_without_any_of_the_images(tmp_path):
    file, images = coco_file(tmp_path, image=False)
    with pytest.raises(
        InputError, match=r"none of 1 images could be used: 1 image missing \(image 7 'a.jpg'\)"
    ):
        prepare(file, images, tmp_path / "records", small())
    assert not (tmp_path / "records").exists()
    with pytest.raises(InputError, match="no such folder of images"):
        prepare(file, tmp_path / "nowhere", tmp_path / "records", small())


def test_people_beyond_what_a_view_can_tell_apart_become_crowd(tmp_path):
    file, _ = coco_file(tmp_path, people=256, size=(65, 65))
    image = read_coco(file, COCO_PERSON).images[0]
    largest = tuple(
        replace(a, area=1000.0 + i) if i < 254 else a for i, a in enumerate(image.annotations)
    )
    tally = Tally()
    (record,) = image_records(
        replace(image, annotations=largest),
        tmp_path / "images",
        small(),
        COCO_PERSON,
        Counter(),
        tally,
    )
    assert len(record.person_ids) == 254
    assert tally.counts == {"person beyond the 254 largest of an image (masked as crowd)": 2}
    assert (record.targets.ignore[2:4, 3:5] == 1).all()


def test_nothing_to_train_on_is_refused_with_the_counts(tmp_path):
    def crowd(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1
        return content

    def unlabelled(content):
        for entry in content["annotations"]:
            entry.update(keypoints=[0] * 51, num_keypoints=0)
        return content

    for number, (change, words) in enumerate(
        (
            (lambda content: {**content, "annotations": []}, "no image with people"),
            (crowd, "nobody has a labelled keypoint to train on: 0 persons, 3 crowd regions"),
            (unlabelled, "nobody has a labelled keypoint to train on: 3 persons, 0 crowd regions"),
        )
    ):
        file, images = coco_file(tmp_path, change, people=3)
        with pytest.raises(InputError, match=words):
            prepare(file, images, tmp_path / f"records{number}", small())
        assert not (tmp_path / f"records{number}").exists()


def test_images_of_all_labelled_people_may_be_missing(tmp_path):
    def with_an_empty_image(content):
        empty = {"id": 8, "file_name": "b.jpg", "width": 80, "height": 60}
        return {**content, "images": [*content["images"], empty]}

    file, images = coco_file(tmp_path, with_an_empty_image)
    (images / "a.jpg").rename(images / "b.jpg")
    with pytest.raises(InputError, match="nobody has a labelled keypoint to train on: 0 persons"):
        prepare(file, images, tmp_path / "records", small())
    assert not (tmp_path / "records" / "meta.json").exists()


def test_stored_orientation_is_kept(tmp_path):
    # COCO annotates stored pixels; a turned photo would no longer fit its keypoints.
    file, images = coco_file(tmp_path)
    plain = (images / "a.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (images / "a.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    )
    meta = prepare(file, images, tmp_path / "records", small())
    assert meta.skipped == {
        "image with an EXIF orientation (kept; read as data.annotation_frame says)": 1
    }
    assert meta.examples[next(iter(meta.skipped))] == ["image 7 'a.jpg': orientation 6"]


def test_summary_counts_the_records_and_drawings_appear(records, tmp_path):
    counts = summary(records)
    meta = read_meta(records)
    assert counts["views"] == meta.records == 10
    assert counts["persons"] == meta.counts["persons"]
    assert counts["bytes of dense float16 targets per view"] == 2 * 150 * 13 * 13
    files = draw_records(records, tmp_path, 2)
    assert len(files) == 2
    assert all(cv2.imread(str(file)) is not None for file in files)


def test_a_damaged_shard_is_named(records, tmp_path):
    for file in records.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / read_meta(tmp_path).shards[0].name
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(
        InputError, match=rf"{shard.name}: record \d+ \(at byte \d+\): the file ends within it"
    ):
        summary(tmp_path)
