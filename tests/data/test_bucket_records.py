"""Records in a bucket are those of a disk, and a process reads its own part of them."""

from collections import Counter

import numpy as np
import pytest
from tiny import TINY

from data_prep.build import prepare
from data_prep.engines import beam, processes
from personlab_keras.config import DataConfig, load_config
from personlab_keras.data.array_records import ArrayRecordWriter, BucketArrayRecordFile
from personlab_keras.data.pipeline import damage_named, make_dataset
from personlab_keras.data.records import read_meta
from personlab_keras.data.shard_files import open_shard
from personlab_keras.data.stream import Part, Stream
from personlab_keras.data.tfrecords import Damage, frame
from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import file_sizes


@pytest.fixture
def requests(monkeypatch):
    """Counts requests and the bytes of records that they bring."""
    seen = Counter()

    def noted(self, at, length, original=BucketPath.read_range):
        content = original(self, at, length)
        seen["requests"] += 1
        seen["bytes"] += len(content)
        return content

    monkeypatch.setattr(BucketPath, "read_range", noted)
    return seen


@pytest.mark.parametrize("sizes", [[5], [70_000, 1, 65_536, 0, 131_072, 65_472], [3000] * 300])
def test_array_records_are_read_by_their_ranges(sizes, bucket, tmp_path, requests):
    pytest.importorskip("array_record", reason="ArrayRecord is not installed")
    random = np.random.default_rng(0)
    records = [random.bytes(size) for size in sizes]
    local = tmp_path / "views.array_record"
    writer = ArrayRecordWriter(local)
    for record in records:
        writer.write(record)
    writer.close()
    path = bucket / local.name
    path.upload(local)
    file = open_shard(path)
    assert isinstance(file, BucketArrayRecordFile)
    assert len(file) == len(records)
    assert requests.pop("requests") == 3
    requests.clear()
    chosen = random.permutation(len(records))[:20]
    for number in chosen:
        assert file.read(number) == records[number]
    assert requests["requests"] == len(chosen)
    # A header of 40 bytes, and of 24 for each block of 64 KiB.
    own = sum(len(records[number]) for number in chosen)
    assert requests["bytes"] <= 1.001 * own + 128 * len(chosen)
    assert isinstance(file.read(len(records)), Damage)


def test_damage_is_found_as_on_a_disk(bucket, tmp_path):
    pytest.importorskip("array_record", reason="ArrayRecord is not installed")
    local = tmp_path / "views.array_record"
    writer = ArrayRecordWriter(local)
    for size in (1000, 2000, 3000):
        writer.write(bytes(size))
    writer.close()
    whole = local.read_bytes()
    path = bucket / local.name
    for damage in (whole[:500] + b"x" + whole[501:], whole[:-100], b"", b"short"):
        path.write_bytes(damage)
        local.write_bytes(damage)
        files = open_shard(local), open_shard(path)
        on_disk, in_bucket = (
            [isinstance(file.read(number), Damage) for number in range(3)] for file in files
        )
        assert on_disk == in_bucket
        assert True in in_bucket


def test_a_tfrecord_is_opened_by_its_lengths_alone(bucket, requests):
    path = bucket / "views.tfrecord"
    path.write_bytes(b"".join(frame(bytes([number]) * 5000) for number in range(8)))
    file = open_shard(path)
    assert len(file) == 8
    assert requests == {"requests": 8, "bytes": 8 * 12}
    assert file.read(3) == b"\3" * 5000
    assert requests == {"requests": 9, "bytes": 8 * 12 + 5004}
    damaged = bytearray(path.read_bytes())
    damaged[5016 + 3] ^= 1  # the length of record 1
    path.write_bytes(damaged)
    file = open_shard(path)
    assert str(file.read(1)) == f"{path}: record 1 (at byte 5016): its length is damaged"
    assert file.read(2) == b"\2" * 5000


@pytest.mark.parametrize(
    ("record_format", "engine", "bucket"),
    [("tfrecord", processes(1), "s3"), ("array_record", beam(), "gs")],
    indirect=["bucket"],
    ids=["tfrecord-s3", "array_record-beam-gs"],
)
def test_prepare_writes_the_bytes_of_a_disk(
    record_format, engine, scenes, bucket, tmp_path, requests
):
    config = load_config(None, [*TINY, f"data.record_format={record_format}"])

    def prepared(out, engine=None):
        return prepare(scenes / "annotations.json", scenes / "images", out, config, engine=engine)

    meta = prepared(tmp_path)
    assert prepared(bucket, engine) == meta == read_meta(bucket)
    assert file_sizes(bucket) == {
        name: size for name, size in file_sizes(tmp_path).items() if name != ".lock"
    }
    for shard in meta.shards:
        assert (bucket / shard.name).read_bytes() == (tmp_path / shard.name).read_bytes()
    # The same command again mends what is damaged, and keeps the rest.
    shard = bucket / meta.shards[0].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{shard}: must be {len(whole)} bytes long"):
        Stream(bucket, meta, DataConfig(), seed=0)
    prepared(bucket)
    assert shard.read_bytes() == whole
    other = load_config(None, [*TINY, "data.seed=1", f"data.record_format={record_format}"])
    with pytest.raises(InputError, match="made from other input or settings: data.seed was 0"):
        prepare(scenes / "annotations.json", scenes / "images", bucket, other)

    def batches(folder, part):
        dataset = make_dataset(
            folder, 4, training=True, settings=DataConfig(), seed=3, part=part, parts=2
        )
        return [image for image, _ in dataset.take(5).as_numpy_iterator()]

    for part in (0, 1):
        np.testing.assert_array_equal(batches(bucket, part), batches(tmp_path, part))
    # Two processes read a half each, but for the index or the lengths.
    requests.clear()
    stream = Stream(bucket, meta, DataConfig(shuffle_records=16), seed=3)
    own = [Part(0, 4, 1, 2).position(i) for i in range(meta.records)]
    share = sum(len(stream.read(position)) for position in own)
    overhead = 12 * meta.records if record_format == "tfrecord" else 140_000 * len(meta.shards)
    assert share < requests["bytes"] < 1.05 * share + overhead


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_a_bucket_that_fails_in_the_middle_ends_in_its_line(records, bucket, monkeypatch, requests):
    for path in records.iterdir():
        (bucket / path.name).upload(path)

    def broken(self, at, length):
        requests["refused"] += 1
        raise InputError(f"{self}: cannot be read: the network does not reach it (gone)")

    monkeypatch.setattr(BucketPath, "read_range", broken)
    line = rf"^{bucket}/views-\S+: cannot be read: the network does not reach it \(gone\)$"
    with pytest.raises(InputError, match=line), damage_named(bucket):
        next(iter(make_dataset(bucket, 2, training=True)))
    assert requests["refused"] < 2 * len(read_meta(bucket).shards)


def test_records_that_are_not_there_end_in_one_line(bucket, bucket_servers):
    with pytest.raises(InputError, match=rf"{bucket}: no meta.json there"):
        read_meta(bucket)
    with pytest.raises(InputError, match="s3://nobody/records/meta.json: no such bucket"):
        read_meta("s3://nobody/records")
