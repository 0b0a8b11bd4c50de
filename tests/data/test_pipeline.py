import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from personlab_keras.config import DataConfig
from personlab_keras.data.augmentation import flip, random_augmentation, recolour
from personlab_keras.data.pipeline import (
    WAIT,
    compiled_expansion,
    expand,
    make_dataset,
    parse_example,
    stored_example,
    stored_examples,
    watch_waits,
)
from personlab_keras.data.records import (
    Meta,
    Record,
    Shard,
    check_meta,
    read_meta,
    write_example,
    write_meta,
)
from personlab_keras.errors import InputError
from personlab_keras.io.images import decode_image
from personlab_keras.method.coordinates import grid
from personlab_keras.method.maps import OUTPUTS, mask_name
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.method.targets import IGNORE_CROWD, OVERLAP, encode

SIDE, STRIDE, RADIUS = 65, 8, 20.0


@pytest.fixture(scope="module")
def meta() -> Meta:
    return Meta(SIDE, STRIDE, RADIUS, COCO_PERSON, 1, (), 3, {}, {}, {})


@pytest.fixture(scope="module")
def record() -> Record:
    """Two people, some keypoints unlabelled, masks that overlap, a crowd region, one bright pixel
    under the first nose.
    """
    rng = np.random.default_rng(2)
    keypoints = np.concatenate(
        [rng.uniform(4, 60, (2, 17, 2)), (rng.random((2, 17, 1)) > 0.3) * 2.0], axis=-1
    )
    keypoints[0, 0] = [40, 16, 2]
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 2:7, 1:5], masks[1, 3:8, 4:8] = True, True
    crowd = np.zeros((9, 9), bool)
    crowd[7:, 7:] = True
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[16, 40] = 255
    return Record(
        image_id=2**40 + 1,
        view=3,
        image=cv2.imencode(".png", image)[1].tobytes(),
        targets=encode(keypoints, masks, np.ones(2, bool), crowd, (SIDE, SIDE), RADIUS, STRIDE),
        person_ids=np.array([11, 2**33]),
        person_boxes=np.array([[1.5, 2.5, 10.0, 20.0], [30.0, 31.0, 5.0, 6.0]], np.float32),
        person_areas=np.array([100.5, 7.0], np.float32),
    )


@pytest.fixture(scope="module")
def example(record, meta):
    parsed = parse_example(tf.constant(write_example(record)), meta)
    return {**parsed, "image": tf.io.decode_png(parsed["image"])}


def test_what_is_written_is_what_is_parsed(record, meta, example):
    assert int(example["persons"]) == 2
    for name in ("disc_owner", "instance", "ignore"):
        np.testing.assert_array_equal(example[name], getattr(record.targets, name))
    np.testing.assert_array_equal(example["keypoints"][:2], record.targets.keypoints)
    assert example["keypoints"].shape == (meta.max_persons, 17, 3)
    assert not example["keypoints"][2].numpy().any()
    for name in ("person_ids", "person_boxes", "person_areas"):
        np.testing.assert_array_equal(example[name][:2], getattr(record, name))
    assert (int(example["image_id"]), int(example["view"])) == (2**40 + 1, 3)


def slow_targets(example, radius):
    """Every target and mask by the definitions in METHOD.md, cell by cell, from keypoints and ids
    alone.
    """
    keypoints, instance, ignore = (
        example[name].numpy() for name in ("keypoints", "instance", "ignore")
    )
    side, fields = (
        len(instance),
        {
            "heatmaps": 17,
            "short_offsets": 17,
            "mid_offsets": 32,
            "long_offsets": 17,
            "segmentation": 1,
        },
    )
    target = {
        name: np.zeros((side, side, channels(COCO_PERSON)), np.float32)
        for name, channels in OUTPUTS.items()
    }
    mask = {
        name: np.zeros((side, side, 1 if name in ("heatmaps", "segmentation") else n), np.float32)
        for name, n in fields.items()
    }
    for i in range(side):
        for j in range(side):
            cell = np.array([STRIDE * j, STRIDE * i], np.float32)
            crowd = ignore[i, j] & IGNORE_CROWD
            mask["heatmaps"][i, j] = not ignore[i, j]
            mask["segmentation"][i, j] = not crowd
            target["segmentation"][i, j] = instance[i, j] > 0
            distance = np.where(
                keypoints[..., 2] > 0, np.linalg.norm(keypoints[..., :2] - cell, axis=-1), np.inf
            )
            nearest = distance.argmin(axis=0)
            within = distance.min(axis=0) <= radius
            target["heatmaps"][i, j] = within
            for k in np.flatnonzero(within):
                target["short_offsets"][i, j, 2 * k : 2 * k + 2] = (
                    keypoints[nearest[k], k, :2] - cell
                )
                mask["short_offsets"][i, j, k] = 1
            for e, (start, end) in enumerate(COCO_PERSON.edge_indices):
                if within[start] and keypoints[nearest[start], end, 2]:
                    target["mid_offsets"][i, j, 2 * e : 2 * e + 2] = (
                        keypoints[nearest[start], end, :2] - cell
                    )
                    mask["mid_offsets"][i, j, e] = 1
            if instance[i, j] not in (0, OVERLAP) and not crowd:
                person = keypoints[instance[i, j] - 1]
                for k in np.flatnonzero(person[:, 2]):
                    target["long_offsets"][i, j, 2 * k : 2 * k + 2] = person[k, :2] - cell
                    mask["long_offsets"][i, j, k] = 1
    return target, mask


def test_expansion_equals_the_definitions(example, meta):
    dense = expand(example, meta)
    target, mask = slow_targets(example, RADIUS)
    for name in OUTPUTS:
        np.testing.assert_allclose(dense[name], target[name], atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(dense[mask_name(name)], mask[name], err_msg=name)
    # The example has what the definitions tell apart.
    assert (mask["mid_offsets"].sum(axis=-1) < 2 * mask["short_offsets"].sum(axis=-1)).any()
    assert (example["instance"].numpy() == OVERLAP).any()


def test_the_compiled_expansion_is_the_expansion(example, meta):
    compiled, plain = compiled_expansion(meta)(example), expand(example, meta)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, atol=1e-5, err_msg=name)


def test_mid_and_long_targets_of_unlabelled_keypoints_do_not_count(example, meta):
    # METHOD, mistake 5: they trained towards zero where the target keypoint is unlabelled.
    dense = expand(example, meta)
    labelled = example["keypoints"].numpy()[..., 2] > 0
    for e, (_, end) in enumerate(COCO_PERSON.edge_indices):
        if not labelled[:, end].any():
            assert not dense["mid_offsets_mask"].numpy()[..., e].any()
    assert dense["long_offsets_mask"].numpy()[..., ~labelled.any(axis=0)].sum() == 0
    assert not labelled.all()


def test_flip_twice_is_the_identity(example):
    twice = flip(flip(example, COCO_PERSON, SIDE), COCO_PERSON, SIDE)
    for name, value in example.items():
        # Points may lose the last bit of their fraction.
        np.testing.assert_allclose(twice[name], value, atol=1e-5, err_msg=name)


def test_flipped_targets_equal_targets_of_the_flipped(example, meta):
    # METHOD, mistake 14: images flipped at random while the targets stay.
    flipped, straight = expand(flip(example, COCO_PERSON, SIDE), meta), expand(example, meta)
    orders = {
        "short_offsets": COCO_PERSON.flip_order,
        "long_offsets": COCO_PERSON.flip_order,
        "mid_offsets": COCO_PERSON.edge_flip_order,
    }
    for name, order in orders.items():
        fields = straight[name].numpy().reshape(9, 9, -1, 2)[:, ::-1][:, :, order] * np.array(
            [-1.0, 1.0]
        )
        np.testing.assert_allclose(
            flipped[name].numpy().reshape(9, 9, -1, 2), fields, atol=1e-5, err_msg=name
        )
        mask = straight[mask_name(name)].numpy()[:, ::-1][:, :, order]
        np.testing.assert_array_equal(flipped[mask_name(name)], mask, err_msg=name)
    np.testing.assert_array_equal(
        flipped["heatmaps"], straight["heatmaps"].numpy()[:, ::-1][:, :, COCO_PERSON.flip_order]
    )
    np.testing.assert_array_equal(
        flipped["segmentation"], straight["segmentation"].numpy()[:, ::-1]
    )


def test_a_painted_pixel_and_its_keypoint_flip_together(example):
    flipped = flip(example, COCO_PERSON, SIDE)
    x, y, _ = flipped["keypoints"][0, 0].numpy()
    assert flipped["image"][int(y), int(x)].numpy().tolist() == [255, 255, 255]
    # A box, too: 1.5..11.5 becomes 52.5..62.5.
    assert flipped["person_boxes"][0].numpy().tolist() == [52.5, 2.5, 10.0, 20.0]


def test_every_offset_points_at_the_keypoint(example, meta):
    dense = expand(example, meta)
    cells = grid(9, 9, STRIDE)
    short = dense["short_offsets"].numpy().reshape(9, 9, 17, 2) + cells[:, :, None]
    owner = example["disc_owner"].numpy()
    for i, j, k in np.argwhere(owner):
        np.testing.assert_allclose(
            short[i, j, k], example["keypoints"][owner[i, j, k] - 1, k, :2], atol=1e-4
        )


def test_augmentation_is_a_function_of_seed_and_position(example, meta):
    augment = random_augmentation(DataConfig(), meta, seed=1)
    images = [augment(tf.constant(i, tf.int64), example)["image"].numpy() for i in (0, 0, 1)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
    other = random_augmentation(DataConfig(), meta, seed=2)(tf.constant(0, tf.int64), example)
    assert (other["image"].numpy() != images[0]).any()


def test_augmentation_flips_as_often_as_asked(example, meta):
    for probability, expected in ((0.0, {40}), (1.0, {24}), (0.5, {24, 40})):
        settings = DataConfig(flip=probability, brightness=0.0, contrast=0.0, saturation=0.0)
        augment = tf.function(random_augmentation(settings, meta, seed=0))
        columns = {
            int(augment(tf.constant(i, tf.int64), example)["image"].numpy()[16, :, 0].argmax())
            for i in range(20)
        }
        assert columns == expected


def test_recolour_by_hand():
    image = tf.constant([[[100, 100, 160], [40, 80, 60]]], tf.uint8)
    zero = tf.constant(0.0)
    np.testing.assert_allclose(
        recolour(image, zero, zero, zero), tf.cast(image, tf.float32), atol=1e-4
    )
    np.testing.assert_allclose(
        recolour(image, tf.constant(0.2), zero, zero), tf.cast(image + 51, tf.float32), atol=1e-4
    )
    # Saturation -1 leaves the mean of the channels: 120 and 60. Contrast -1 leaves the mean of all:
    # 90.
    np.testing.assert_allclose(
        recolour(image, zero, zero, tf.constant(-1.0)), [[[120] * 3, [60] * 3]], atol=1e-4
    )
    np.testing.assert_allclose(
        recolour(image, zero, tf.constant(-1.0), zero), np.full((1, 2, 3), 90), atol=1e-4
    )
    # Half the saturation, then twice the contrast about 90: 100 -> 110 -> 130.
    np.testing.assert_allclose(
        recolour(image, zero, tf.constant(1.0), tf.constant(-0.5))[0, 0, 0], 130, atol=1e-4
    )
    assert recolour(image, tf.constant(1.0), zero, zero).numpy().max() == 255


def test_training_batches_have_fixed_shapes_and_are_full(records):
    dataset = make_dataset(records, 4, training=True)
    image_spec, target_specs = dataset.element_spec
    assert image_spec.shape == (4, 97, 97, 3)
    assert all(spec.shape.is_fully_defined() for spec in target_specs.values())
    assert target_specs.keys() == {key for name in OUTPUTS for key in (name, mask_name(name))}


def test_an_epoch_shows_every_record_once(records):
    meta = read_meta(records)
    settings = DataConfig(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, shuffle_records=4)
    stored = sorted(
        example["image"].tobytes() for example in stored_examples(records, meta).as_numpy_iterator()
    )
    stream = make_dataset(records, 1, training=True, settings=settings, seed=3).as_numpy_iterator()
    epochs = [
        [next(stream)[0][0].round().astype(np.uint8).tobytes() for _ in range(meta.records)]
        for _ in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == stored
    assert epochs[0] != epochs[1]


def test_the_stream_can_be_entered_anywhere(records):
    def examples(first, count):
        dataset = make_dataset(records, 1, training=True, seed=9, first_example=first)
        return list(dataset.take(count).as_numpy_iterator())

    whole = examples(0, 30)
    for first in (3, 10, 27):  # in the first pass, between two, in the third
        for (image, targets), (again, targets_again) in zip(
            whole[first:], examples(first, 3), strict=False
        ):
            np.testing.assert_array_equal(image, again)
            np.testing.assert_array_equal(targets["mid_offsets"], targets_again["mid_offsets"])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_processes_together_see_the_stream_of_one(records, parts):
    def batches(**named):
        stream = make_dataset(records, 4, training=True, seed=3, first_example=9, **named)
        return [
            (image, targets["heatmaps"]) for image, targets in stream.take(5).as_numpy_iterator()
        ]

    whole = batches()
    shares = [batches(part=part, parts=parts) for part in range(parts)]
    for batch, *pieces in zip(whole, *shares, strict=True):
        for kind in range(2):
            assert {len(piece[kind]) for piece in pieces} == {4 // parts}
            np.testing.assert_array_equal(
                np.concatenate([piece[kind] for piece in pieces]), batch[kind]
            )


def test_pixels_are_those_that_prediction_sees(record, meta):
    """Noise of full contrast, in which decoders that round differently give other values."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    read = stored_example(tf.constant(write_example(replace(record, image=jpeg))), meta)
    np.testing.assert_array_equal(read["image"], decode_image(jpeg, "noise.jpg"))


def test_waits_are_noted_with_the_batch():
    def slow_at_the_end(value):
        time.sleep(1.0 if value == 5 else 0)
        return value

    numbers = tf.data.Dataset.range(6).map(
        lambda i: tf.ensure_shape(tf.py_function(slow_at_the_end, [i], tf.int64), [])
    )
    batches = list(
        watch_waits(numbers.map(lambda i: (i, {"doubled": 2 * i})).batch(2)).as_numpy_iterator()
    )
    assert [list(image) for image, _ in batches] == [[0, 1], [2, 3], [4, 5]]
    assert [list(targets["doubled"]) for _, targets in batches] == [[0, 2], [4, 6], [8, 10]]
    waits = [targets[WAIT] for _, targets in batches]
    assert all(wait.shape == (2,) and wait[0] == wait[1] for wait in waits)
    assert np.argmax([wait[0] for wait in waits]) == 2


def test_a_global_seed_of_zero_changes_nothing(records):
    first = next(make_dataset(records, 2, training=True, seed=4).as_numpy_iterator())[0]
    tf.random.set_seed(0)
    np.testing.assert_array_equal(
        next(make_dataset(records, 2, training=True, seed=4).as_numpy_iterator())[0], first
    )


def test_validation_sees_each_record_once_in_order_and_untouched(records):
    meta = read_meta(records)
    images = [image for image, _ in make_dataset(records, 4, training=False).as_numpy_iterator()]
    assert [len(image) for image in images] == [4, 4, 2]
    stored = [example["image"] for example in stored_examples(records, meta).as_numpy_iterator()]
    np.testing.assert_array_equal(np.concatenate(images), np.array(stored))


def test_meta_round_trip_and_refusals(tmp_path, meta):
    meta = replace(
        meta, shards=(Shard("a.tfrecord", 1, 9, "00"),), examples={"image missing": ["a.jpg"]}
    )
    (tmp_path / "a.tfrecord").touch()
    write_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta
    check_meta(meta, "here", radius=RADIUS, stride=STRIDE)
    for wanted, words in (
        ({"radius": 32.0}, "radius must be 32"),
        ({"stride": 4}, "stride must be 4"),
    ):
        with pytest.raises(InputError, match=words):
            check_meta(meta, "here", **wanted)
    other = replace(COCO_PERSON, keypoints=("tail", *COCO_PERSON.keypoints[1:]), edges=tuple(
        tuple("tail" if name == "nose" else name for name in edge) for edge in COCO_PERSON.edges
    ))  # fmt: skip
    with pytest.raises(InputError, match="other keypoints or edges"):
        check_meta(meta, "here", skeleton=other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 9}', "must be 2 or 3. Received: 9"),
        ('{"format_version": 1}', "must be 2 or 3. Received: 1. Prepare the records again"),
        ('{"format_version": 2}', "damaged"),
    ],
)
def test_a_bad_meta_file_is_named(tmp_path, text, words):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_meta(tmp_path)
    assert "meta.json" in str(caught.value)


def test_missing_records_and_shards_are_named(tmp_path, meta):
    with pytest.raises(InputError, match=r"no meta.json"):
        read_meta(tmp_path)
    write_meta(
        tmp_path,
        replace(
            meta,
            records=2,
            shards=tuple(Shard(name, 1, 1, "") for name in ("a.tfrecord", "b.tfrecord")),
        ),
    )
    with pytest.raises(InputError, match="2 shards of which 2 are missing, first a.tfrecord"):
        read_meta(tmp_path)
