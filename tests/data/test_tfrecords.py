"""TFRecord files: written as TensorFlow writes them, and every damaged bit found and named."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.data.shard_files import read_shard
from personlab_keras.data.tfrecords import Damage, frame
from personlab_keras.errors import InputError

CONTENTS = [b"", b"a", b"some content", bytes(range(256)) * 3, b"\0" * 40, b"last"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfrecords") / "sound.tfrecord"
    path.write_bytes(b"".join(map(frame, CONTENTS)))
    return path


def test_the_bytes_are_those_of_tensorflow(sound, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for content in CONTENTS:
            writer.write(content)
    assert sound.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(tf.data.TFRecordDataset(str(sound)).as_numpy_iterator()) == CONTENTS
    assert list(read_shard(sound)) == CONTENTS


def test_every_single_bit_counts(sound, tmp_path):
    whole = sound.read_bytes()
    starts = np.cumsum([0, *(len(frame(content)) for content in CONTENTS)])
    path = tmp_path / "damaged"
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        record = int(np.searchsorted(starts, bit // 8, side="right")) - 1
        found = list(read_shard(path))
        assert [type(each) for each in found].count(Damage) == 1, bit
        damage = found[record]
        assert isinstance(damage, Damage)
        assert (damage.path, damage.record, damage.offset) == (path, record, starts[record])
        # What is around it is read all the same.
        assert found[:record] + found[record + 1 :] == CONTENTS[:record] + CONTENTS[record + 1 :]


def test_a_cut_file_is_damaged_where_it_ends(sound, tmp_path):
    whole = sound.read_bytes()
    path = tmp_path / "cut"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = list(read_shard(path))
        kept = [each for each in found if isinstance(each, bytes)]
        assert kept == CONTENTS[: len(kept)]
        cut_between_records = length == sum(len(frame(content)) for content in kept)
        assert len(found) == len(kept) + (not cut_between_records)
        if not cut_between_records:
            assert found[-1].what == "the file ends within it"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.binary(max_size=20).map(frame)), max_size=6).map(
        b"".join
    )
)
def test_any_bytes_are_read_to_their_end(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.tfrecord"
    path.write_bytes(content)
    for each in read_shard(path):
        assert isinstance(each, (bytes, Damage))
        if isinstance(each, bytes):
            assert frame(each) in content


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read: No such file"):
        list(read_shard(tmp_path / "none"))
