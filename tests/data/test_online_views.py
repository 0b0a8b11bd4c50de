"""Views that training takes of photos: the views that would have been baked."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as rle

from data_prep.baking import gather_people, image_records, view_targets
from data_prep.build import prepare
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.reasons import Tally
from personlab_keras.config import Config, DataConfig, apply_overrides
from personlab_keras.data.augmentation import random_augmentation, view_of_photo
from personlab_keras.data.geometry import random_view, warp_image, whole_image
from personlab_keras.data.pipeline import (
    make_dataset,
    read_example,
    stored_example,
    stored_examples,
)
from personlab_keras.data.records import Meta, read_folder, read_meta, view_image, write_example
from personlab_keras.data.records import read_example as read_record
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.method.targets import (
    IGNORE_CROWD,
    IGNORE_MASKLESS,
    IGNORE_UNANNOTATED,
    OVERLAP,
)

GREY = (127, 127, 127)
ONLINE = (
    "data.online=true",
    "data.rotation=20",
    "targets.ignore_near_unannotated=true",
)
STILL = DataConfig(
    online=True, rotation=0.0, flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)


@pytest.fixture(scope="module")
def photos(scenes, tmp_path_factory) -> Path:
    """The scenes on wide canvases: people without keypoints and without masks among them, masks
    that overlap, a crowd, and an image in which not everybody is annotated.
    """
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    content = json.loads((scenes / "annotations.json").read_text())
    for number, image in enumerate(content["images"]):
        pixels = cv2.imread(str(scenes / "images" / image["file_name"]))
        wide = cv2.copyMakeBorder(pixels, 0, 0, 0, 33, cv2.BORDER_CONSTANT, value=(90, 60, 30))
        image["file_name"] = f"{number}.png"
        cv2.imwrite(str(folder / "images" / image["file_name"]), wide)
        image["width"] += 33
        if number == 3:
            image["complete"] = False
    for number, person in enumerate(content["annotations"]):
        if number % 4 == 1:
            person["keypoints"], person["num_keypoints"] = [0] * 51, 0
        if number % 7 == 2:
            person["segmentation"] = []
        else:
            mask = rle.decode(person["segmentation"])
            if number == 0:
                mask = cv2.dilate(mask, np.ones((31, 31), np.uint8))  # over its neighbour's
            wide = rle.encode(np.asfortranarray(np.pad(mask, ((0, 0), (0, 33)))))
            person["segmentation"] = {"size": [97, 130], "counts": wide["counts"].decode()}
    content["annotations"][-1]["iscrowd"] = 1
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def settings_of(tiny_config, view_size: int) -> Config:
    sizes = [f"data.view_size={view_size}", f"targets.largest_person={view_size / 4}"]
    fixed = ["targets.radius=12", "targets.stride=4", "data.image_quality=100"]
    return apply_overrides(tiny_config, [*ONLINE, *sizes, *fixed])


@pytest.fixture(scope="module")
def folder(photos, tiny_config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("online") / "records"
    config = apply_overrides(settings_of(tiny_config, 97), ["data.workers=1"])
    prepare(photos / "annotations.json", photos / "images", out, config)
    return out


@pytest.fixture(scope="module")
def meta(folder) -> Meta:
    return read_meta(folder)


@pytest.fixture(scope="module")
def example(folder, meta):
    record = next(each for each in read_folder(folder, meta) if len(each.person_ids))
    return stored_example(tf.constant(write_example(record)), meta)


@pytest.mark.parametrize(("view_size", "least"), [(97, 0.999), (65, 0.98)])
def test_a_view_of_a_photo_is_the_view_baked_of_the_image(photos, tiny_config, view_size, least):
    """Views of 65 px need no more than 98 of the 130 px of these images: photos are stored reduced,
    and cells at borders of masks may be read a fraction of a pixel beside.
    """
    config = settings_of(tiny_config, view_size)
    side = -(-3 * view_size // 2)
    made_by = {"targets": {"largest_person": view_size / 4}}
    meta = Meta(view_size, 4, 12.0, COCO_PERSON, 1, (), 8, {}, {}, made_by, photo_side=side)
    taken = tf.function(
        lambda content, affine: view_of_photo(stored_example(content, meta), affine, meta, GREY)
    )
    equal = Counter()
    flags = cells = overlaps = larger = people_seen = 0
    for image in read_coco(photos / "annotations.json", COCO_PERSON).images:
        tally = Tally()
        (record,) = image_records(image, photos / "images", config, COCO_PERSON, Counter(), tally)
        assert max(record.photo.instance.shape) == min(130, side)
        people = gather_people(image, COCO_PERSON, tally)
        stored = stored_example(tf.constant(write_example(record)), meta)["image"].numpy()
        whole = np.vstack([whole_image(image.width, image.height, view_size).affine, [0, 0, 1]])
        rng = np.random.default_rng(image.id)
        for _ in range(4):
            view = random_view(
                image.width, image.height, view_size, replace(config.data, flip=0.0), rng
            )
            affine = np.vstack([view.affine, [0, 0, 1]]) @ np.linalg.inv(whole)
            found = taken(tf.constant(write_example(record)), tf.constant(affine[:2], tf.float32))
            baked = view_targets(people, view, config.targets, COCO_PERSON)
            cells += baked.instance.size
            flags |= int(np.bitwise_or.reduce(baked.ignore, axis=None))
            overlaps += int((baked.instance == OVERLAP).sum())
            larger += int((np.sqrt(people.areas) * view.scale > view_size / 4).sum())
            people_seen += len(people.ids)
            for name in ("instance", "ignore", "disc_owner"):
                same = found[name].numpy() == getattr(baked, name)
                equal[name] += int(same.reshape(*baked.instance.shape, -1).all(-1).sum())
            count = len(baked.keypoints)
            np.testing.assert_allclose(found["keypoints"][:count], baked.keypoints, atol=2e-3)
            np.testing.assert_allclose(
                found["person_areas"][:count], people.areas * view.scale**2, rtol=1e-4
            )
            if max(record.photo.instance.shape) == image.width:
                expected = warp_image(stored, view, GREY).astype(int)
                assert np.abs(found["image"].numpy().astype(int) - expected).max() <= 1
    assert flags == IGNORE_CROWD | IGNORE_UNANNOTATED | IGNORE_MASKLESS
    assert overlaps > 10
    assert 0 < larger < people_seen
    for name, count in equal.items():
        assert count >= least * cells, name


def test_every_pixel_is_read_where_it_lies(example, meta):
    """By a loop, with a random id at every pixel: half a pixel off would be seen here."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 250, example["photo_instance"].shape).astype(np.uint8)
    assert ids.shape == (97, 130)
    moved = {**example, "photo_instance": tf.constant(ids)}
    meta = replace(meta, source={})  # anybody counts, however large
    for seed in range(4):
        settings = replace(STILL, rotation=30.0)
        affine = random_view(97, 97, 97, settings, np.random.default_rng(seed)).affine
        found = view_of_photo(moved, tf.constant(affine, tf.float32), meta, GREY)["instance"]
        inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
        for row, column in np.ndindex(25, 25):
            x, y, _ = inverse @ (4 * column, 4 * row, 1)
            x, y = ((x + 0.5) * 130 / 97, (y + 0.5) * 130 / 97)  # from its upper left corner
            if min(abs(x - round(x)), abs(y - round(y))) < 1e-3:
                continue  # on the line between two pixels
            inside = 0 <= x < 130 and 0 <= y < 97
            assert found[row, column] == (ids[int(y), int(x)] if inside else 0)


def test_random_views_lie_anywhere(example, meta):
    """Magnified photos show every part, and small ones lie in every part of the view."""
    for scale in (0.5, 1.5):
        augment = tf.function(
            random_augmentation(replace(STILL, scale=(scale, scale)), meta, seed=0)
        )
        seen = [augment(tf.constant(i, tf.int64), example) for i in range(60)]
        x, y = np.transpose([view["person_boxes"].numpy()[0, :2] for view in seen])
        # 97 x 72.4 px of the whole view
        for moved, extent in ((x, 97.0), (y, 97.0 * 97 / 130)):
            slack = abs(97 - scale * extent)
            assert 0.9 * slack < np.ptp(moved) <= slack + 1e-3
            assert np.std(moved) > 0.2 * slack  # of a uniform distribution .29
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.5


def test_views_are_smoothed_where_they_shrink(example, meta):
    rows, columns = np.indices((97, 130))
    chequered = np.repeat(((rows + columns) % 2 * 200).astype(np.uint8)[..., None], 3, 2)
    half = tf.constant([[0.67, 0.0, 0.0], [0.0, 0.67, 0.0]])  # 130 px become 65
    shrunk = view_of_photo({**example, "image": tf.constant(chequered)}, half, meta, GREY)["image"]
    inside = shrunk.numpy()[4:40, 4:60]
    np.testing.assert_allclose(inside, 100.0, atol=12.0)  # unsmoothed: 0 to 200


def test_what_leaves_the_view_is_gone(example, meta):
    away = tf.constant([[1.0, 0.0, 300.0], [0.0, 1.0, 0.0]])
    found = view_of_photo(example, away, meta, (1, 2, 3))
    for name in ("keypoints", "disc_owner", "instance", "ignore"):
        assert not found[name].numpy().any()
    assert (found["image"].numpy() == (1, 2, 3)).all()


def test_another_view_at_every_visit(folder, meta):
    views = make_dataset(folder, 10, training=True, settings=replace(STILL), seed=1)
    (first, targets), (second, _) = views.take(2).as_numpy_iterator()
    assert first.shape == (10, 97, 97, 3)
    assert targets["heatmaps"].shape == (10, 25, 25, 17)
    again, _ = next(views.as_numpy_iterator())
    np.testing.assert_array_equal(first, again)
    assert not (np.abs(first[:, None] - second[None]).max(axis=(2, 3, 4)) < 1).any()


def test_validation_sees_the_whole_photo(folder, meta, photos, tiny_config, tmp_path):
    """As records of baked views have it, with everybody in it, however large."""
    baked = apply_overrides(
        settings_of(tiny_config, 97),
        ["data.online=false", "data.workers=1", "targets.largest_person=null"],
    )
    prepare(photos / "annotations.json", photos / "images", tmp_path / "baked", baked)
    other = read_meta(tmp_path / "baked")
    assert (meta.online, other.online) == (True, False)
    views = stored_examples(folder, meta).as_numpy_iterator()
    for expected, found in zip(
        stored_examples(tmp_path / "baked", other).as_numpy_iterator(), views, strict=True
    ):
        assert expected.keys() == found.keys()
        for name in expected.keys() - {"image"}:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        difference = np.abs(found["image"].astype(int) - expected["image"])
        assert difference.mean() < 2.0  # JPEGs of the photo and of the view
    record = next(read_folder(folder, meta))
    whole = read_example(tf.constant(write_example(record)), meta)["image"]
    np.testing.assert_allclose(view_image(record, meta), whole, atol=8)  # two JPEG decoders


def test_baked_views_are_refused_where_photos_are_asked_for(records, folder):
    with pytest.raises(InputError, match=r"data.online=true needs records of photos") as caught:
        make_dataset(records, 2, training=True, settings=replace(STILL))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"requires data.views_per_image=1.* Received: 4"):
        DataConfig(online=True, views_per_image=4)


def test_a_photo_of_another_size_than_its_maps_is_refused(folder, meta):
    record = next(read_folder(folder, meta))
    content = write_example(record)
    assert read_record(content, meta).photo.reach == record.photo.reach
    with pytest.raises(ValueError, match="'photo_size' must be 1 to 100"):
        read_record(content, replace(meta, photo_side=100))
    cut = replace(record.photo, ignore=record.photo.ignore[:-1])
    with pytest.raises(ValueError, match="'photo_ignore' must be uint8 of shape"):
        read_record(write_example(replace(record, photo=cut)), meta)
