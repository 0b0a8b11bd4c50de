"""Reading back: damage is found, named, and skipped as far as that is allowed."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from data_prep.statistics import summary
from personlab_keras.cli import main
from personlab_keras.config import DataConfig
from personlab_keras.data.pipeline import (
    damage_named,
    make_dataset,
    stored_examples,
    training_examples,
)
from personlab_keras.data.records import find_damage, read_example, read_folder, read_meta
from personlab_keras.data.shard_files import read_shard
from personlab_keras.data.stream import Part
from personlab_keras.data.tfrecords import frame
from personlab_keras.errors import InputError
from personlab_keras.training.train import train

PLAIN = DataConfig(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0)


@pytest.fixture
def copy(records, tmp_path):
    return shutil.copytree(records, tmp_path / "records")


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def images_of(examples, count=None):
    examples = examples if count is None else examples.take(count)
    return [
        example["image"].round().astype(np.uint8).tobytes()
        for example in examples.as_numpy_iterator()
    ]


def spoil(copy, record):
    """Flips a bit in the content of a record, counted over the whole folder; returns the file and
    the record's number in it.
    """
    for shard in read_meta(copy).shards:
        if record < shard.records:
            at = sum(
                len(frame(content)) for content in list(read_shard(copy / shard.name))[:record]
            )
            flip(copy / shard.name, 8 * (at + 200) + 3)
            return copy / shard.name, record
        record -= shard.records
    raise AssertionError


def test_a_flipped_bit_is_named_wherever_it_is(copy):
    meta = read_meta(copy)
    chance = random.Random(1)
    for _ in range(12):
        path = copy / chance.choice(meta.shards).name
        bit = chance.randrange(8 * path.stat().st_size)
        flip(path, bit)
        with pytest.raises(
            InputError, match=rf"{path.name}: record \d+ \(at byte \d+\): (its length|its content)"
        ):
            summary(copy)
        with damage_expected(path):
            images_of(stored_examples(copy, meta))
        flip(path, bit)
    assert summary(copy)["damaged"] == []


class damage_expected:
    """TensorFlow's reader stops somewhere; `damage_named` says where."""

    def __init__(self, path):
        self._caught = pytest.raises(
            InputError,
            match=rf"{path.name}: record \d+ \(at byte \d+\).*Damaged records in .*: 1; at most 0",
        )
        self._named = damage_named(path.parent)

    def __enter__(self):
        self._caught.__enter__()
        self._named.__enter__()

    def __exit__(self, *error):
        try:
            if not self._named.__exit__(*error):
                return self._caught.__exit__(*error)
        except InputError as named:
            return self._caught.__exit__(InputError, named, named.__traceback__)
        return self._caught.__exit__(None, None, None)


def test_what_is_allowed_is_passed_over(records, copy, caplog):
    meta = read_meta(copy)
    whole = [
        example["image"].tobytes() for example in stored_examples(records, meta).as_numpy_iterator()
    ]
    named = [spoil(copy, number) for number in (3, 7)]
    kept = [image for number, image in enumerate(whole) if number not in (3, 7)]
    for allowed in (0, 1):
        with (
            pytest.raises(InputError, match=r"Damaged records in .*: 2; at most"),
            damage_named(copy),
        ):
            images_of(stored_examples(copy, meta, allowed))
    settings = replace(PLAIN, skip_corrupt=2)
    assert images_of(stored_examples(copy, meta, 2)) == kept
    for path, number in named:
        assert f"skipped: {path}: record {number} (at byte" in caplog.text
    # In training a sound record takes the place of each; all other positions stay as they are.
    undamaged = images_of(training_examples(records, meta, PLAIN, seed=3), count=20)
    stream = images_of(training_examples(copy, meta, settings, seed=3), count=20)
    for image, before in zip(stream, undamaged, strict=True):
        assert image in kept
        assert (image == before) == (before in kept)
    assert set(stream[:10]) == set(stream[10:]) == set(kept)
    entered = training_examples(copy, meta, settings, seed=3, part=Part(first=11))
    assert images_of(entered, count=9) == stream[11:]
    with (
        pytest.raises(InputError, match=r"Damaged records in .*: 2; at most 1"),
        damage_named(copy, skip_corrupt=1),
    ):
        images_of(
            training_examples(copy, meta, replace(settings, skip_corrupt=1), seed=3), count=10
        )
    counts = summary(copy, skip_corrupt=2)
    assert (counts["views"], len(counts["damaged"])) == (8, 2)


def test_a_shard_cut_between_records_is_noticed(copy):
    shard = max(read_meta(copy).shards, key=lambda shard: shard.records)
    path = copy / shard.name
    first = next(iter(read_shard(path)))
    path.write_bytes(frame(first))
    words = rf"{shard.name}: must be {shard.bytes} bytes long, as meta.json says. Received: {len(frame(first))}"
    with pytest.raises(InputError, match=words):
        make_dataset(copy, 1, training=True)
    lost = shard.records - 1
    assert [each.what for each in find_damage(copy, read_meta(copy))] == [
        "the file ends before it"
    ] * lost
    batches = make_dataset(
        copy, 2, training=False, settings=replace(PLAIN, skip_corrupt=lost)
    ).as_numpy_iterator()
    left = [image for images, _ in batches for image in images]
    assert len(left) == read_meta(copy).records - lost


def test_a_record_of_something_else_is_named(copy):
    meta = read_meta(copy)
    path = copy / meta.shards[0].name
    content = frame(b"not an example")
    path.write_bytes(content)
    values = json.loads((copy / "meta.json").read_text())
    values["shards"][0]["bytes"] = len(content)
    values["shards"][0]["records"] = 1
    (copy / "meta.json").write_text(json.dumps(values))
    with pytest.raises(
        InputError, match=rf"{path.name}: record 0 \(at byte 0\): no tf.train.Example"
    ):
        summary(copy)
    with pytest.raises(InputError, match=rf"{path.name}: record 0"), damage_named(copy):
        list(make_dataset(copy, 1, training=False).as_numpy_iterator())


def test_examples_with_other_features_are_no_records(records):
    meta = read_meta(records)
    sound = next(iter(read_shard(records / meta.shards[0].name)))
    assert read_example(sound, meta).image
    for wrong, words in (
        (b"", "feature 'image' must be one byte string. Received: 0"),
        (sound[:-3], "no tf.train.Example"),
        (
            sound.replace(b"person_ids", b"person_idz"),
            "feature 'person_ids' must be one byte string",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            read_example(wrong, meta)
    with pytest.raises(
        ValueError, match=r"feature 'disc_owner' must be uint8 of shape \[25, 25, 17\]"
    ):
        read_example(sound, replace(meta, view_size=193))
    persons = max(len(record.person_ids) for record in read_folder(records, meta))
    crowded = next(
        content
        for shard in meta.shards
        for content in read_shard(records / shard.name)
        if len(read_example(content, meta).person_ids) == persons
    )
    with pytest.raises(ValueError, match=f"at most {persons - 1}"):
        read_example(crowded, replace(meta, max_persons=persons - 1))


@pytest.mark.slow
def test_training_and_inspection_stop_with_one_line_or_go_on(copy, tmp_path, capsys, tiny_config):
    path, number = spoil(copy, 4)
    with pytest.raises(
        InputError,
        match=rf"{path.name}: record {number} \(at byte \d+\): its content does not match its checksum",
    ):
        train(
            copy,
            tmp_path / "stopped",
            replace(tiny_config, train=replace(tiny_config.train, steps=20)),
        )
    assert main(["inspect", str(copy)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert f"{path.name}: record {number}" in errors
    assert main(["inspect", str(copy), "--skip-corrupt", "1"]) == 0
    assert f"{path.name}: record {number}" in capsys.readouterr().out
    settings = [part for setting in TINY for part in ("--set", setting)]
    arguments = ["--records", str(copy), "--workdir", str(tmp_path / "run"), "--skip-corrupt", "1"]
    assert main(["train", *arguments, *settings]) == 0
