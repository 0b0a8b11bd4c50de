"""Processes that share batches: what each reads, and what all of them see together."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from personlab_keras.config import DataConfig
from personlab_keras.data.pipeline import damage_named, make_dataset, small_images
from personlab_keras.data.records import read_meta
from personlab_keras.data.tfrecords import TfrecordFile, frame
from personlab_keras.errors import InputError

ROOT = Path(__file__).parents[2]
STEPS, BATCH = 100, 8
PROCESS = f"""
import hashlib, json, sys
from personlab_keras.config import DataConfig
from personlab_keras.data.pipeline import make_dataset
def read():  # bytes that this process has asked the system for
    return int(open("/proc/self/io").read().split()[1])
records, part, parts, first = sys.argv[1], *map(int, sys.argv[2:])
dataset = make_dataset(
    records, {BATCH}, training=True, settings=DataConfig(shuffle_records=4), seed=3,
    first_example=first, part=part, parts=parts,
)
next(iter(dataset))  # what TensorFlow itself reads
before = read()
digests = [
    [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    for images, _ in dataset.take({STEPS}).as_numpy_iterator()
]
print(json.dumps({{"read": read() - before, "digests": digests}}))
"""


@pytest.fixture(scope="module")
def stream(records):
    """The batches of one process, which begins at 0."""
    settings = DataConfig(shuffle_records=4)
    dataset = make_dataset(records, BATCH, training=True, settings=settings, seed=3)
    return [
        [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        for images, _ in dataset.take(STEPS + 3).as_numpy_iterator()
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="counts bytes as Linux does")
@pytest.mark.parametrize(("parts", "first"), [(2, 0), (4, 24)])
def test_each_process_reads_its_part_and_all_see_the_stream_of_one(parts, first, records, stream):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(records), str(part), str(parts), str(first)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in range(parts)
    ]
    found = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    batches = zip(*(each["digests"] for each in found), strict=True)
    together = [[digest for part in batch for digest in part] for batch in batches]
    assert together == stream[first // BATCH :][:STEPS]
    meta = read_meta(records)
    share = sum(shard.bytes for shard in meta.shards) / meta.records * STEPS * BATCH / parts
    for each in found:
        assert 0.9 * share < each["read"] < 1.2 * share


def test_records_are_read_in_any_order(tmp_path):
    contents = [b"one", b"", b"three" * 1000]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(map(frame, contents)))
    file = TfrecordFile(path)
    assert [file.read(number) for number in (2, 0, 1)] == [contents[2], b"one", b""]
    assert "record 3 (at byte 5051): the file ends before it" in str(file.read(3))

    damaged = bytearray(path.read_bytes())
    damaged[13] ^= 1  # in the content of the first record
    path.write_bytes(damaged)
    file = TfrecordFile(path)
    assert "record 0 (at byte 0): its content" in str(file.read(0))
    assert file.read(2) == contents[2]
    damaged[0] ^= 1  # in its length
    path.write_bytes(damaged)
    file = TfrecordFile(path)
    assert "record 0 (at byte 0): its length" in str(file.read(0))
    assert file.read(2) == contents[2]


def test_damage_is_named_where_a_part_is_read(records, tmp_path):
    copy = tmp_path / "records"
    copy.mkdir()
    for path in Path(records).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / read_meta(copy).shards[0].name
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    dataset = make_dataset(copy, 2, training=True, part=1, parts=2)
    with pytest.raises(InputError, match=f"{shard.name}: record 0"), damage_named(copy):
        for _ in dataset.take(20):
            pass


def test_images_go_to_the_device_as_bytes(records):
    settings = DataConfig(shuffle_records=4)
    dataset = make_dataset(records, 4, training=True, settings=settings).take(3)
    pairs = zip(dataset, small_images(dataset), strict=True)
    for (exact, targets), (small, same) in pairs:
        assert small.dtype.name == "uint8"
        assert np.abs(exact.numpy() - small.numpy()).max() <= 0.5
        assert targets.keys() == same.keys()
