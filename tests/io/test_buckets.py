"""Files in buckets, against servers of other packages: moto for S3, gcp-storage-emulator for Cloud
Storage.
"""

import pickle
import sys
import threading

import pytest

from personlab_keras.errors import InputError
from personlab_keras.io import bucket_lock, buckets
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import (
    as_place,
    draft,
    file_sizes,
    local_copy,
    publish,
    read_json,
    read_small,
    sole_writer,
    write_atomically,
)


def test_a_file_is_what_was_written_last(bucket):
    path = bucket / "a.json"
    assert not path.is_file()
    assert not bucket.exists()
    write_atomically(path, b"{}")
    write_atomically(str(path), b'{"b": 1}')
    assert path.is_file()
    assert bucket.exists()
    assert not bucket.is_file()
    assert (path.read_bytes(), path.size(), read_json(path)) == (b'{"b": 1}', 8, {"b": 1})
    assert path.read_range(2, 3) == b'b":'
    assert path.read_range(6, 9) == b"1}"
    with pytest.raises(InputError, match="must have at most 7 bytes"):
        read_small(path, most=7)
    path.unlink()
    path.unlink(missing_ok=True)
    for function in (path.read_bytes, path.size, lambda: path.read_range(0, 4)):
        with pytest.raises(FileNotFoundError, match=str(path)):
            function()
    with pytest.raises(InputError, match=rf"{path}: cannot be read: No such file"):
        read_small(path)


def test_a_folder_is_its_files(bucket):
    for name in ("b.txt", "a.txt", "c.bin", "below/d.txt", ".e.txt"):
        write_atomically(bucket / name, name.encode())
    assert file_sizes(bucket) == {"a.txt": 5, "b.txt": 5, "c.bin": 5, ".e.txt": 6}
    assert bucket.glob("*.txt") == [bucket / ".e.txt", bucket / "a.txt", bucket / "b.txt"]
    assert BucketPath(f"{bucket}x").sizes() == {}
    (bucket / "below").remove_tree()
    assert not (bucket / "below").exists()
    assert len(file_sizes(bucket)) == 4
    bucket.remove_tree()
    assert not bucket.exists()


def test_a_draft_becomes_the_file_as_a_whole(bucket, tmp_path):
    for target in (bucket / "views.bin", tmp_path / "views.bin"):
        with draft(target) as drafted:
            drafted.write_bytes(b"half")
            assert not target.exists()
        assert not target.exists()
        assert not drafted.exists()
        with draft(target) as drafted:
            drafted.write_bytes(b"whole")
            publish(drafted, target)
        with local_copy(target) as copy:
            assert copy.read_bytes() == b"whole"
    assert copy.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "views.bin"]


def test_addresses_are_taken_in_any_form():
    path = as_place("gs:/bucket/folder//")  # what `Path` makes of it
    assert path == as_place("gs://bucket/folder") == pickle.loads(pickle.dumps(path))
    assert hash(path) == hash(as_place(path))
    assert path != as_place("s3://bucket/folder")
    with pytest.raises(InputError, match="hdfs://host/x: must be a local path"):
        as_place("hdfs://host/x")


@pytest.fixture
def quick_lock(monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWAL_S", 0.02)
    monkeypatch.setattr(bucket_lock, "PATIENCE_S", 1.0)


def test_a_folder_has_one_writer(bucket, quick_lock):
    with sole_writer(bucket):
        line = f"{bucket}: another process is writing there: .*, process"
        with pytest.raises(InputError, match=line), sole_writer(bucket):
            pass
        assert file_sizes(bucket).keys() == {".lock"}
    assert not bucket.exists()


def test_the_lock_of_a_dead_process_is_taken_over(bucket, quick_lock):
    (bucket / ".lock").write_bytes(b'{"holder": "dead", "id": "0", "renewals": 7}')
    with sole_writer(bucket):
        assert b"dead" not in (bucket / ".lock").read_bytes()
    assert not bucket.exists()


def test_who_was_away_too_long_says_so(bucket, quick_lock):
    other = b'{"holder": "other", "id": "0", "renewals": 1}'
    writing = sole_writer(bucket)
    writing.__enter__()
    (renewing,) = (each for each in threading.enumerate() if "_renew_often" in each.name)
    while renewing.is_alive():  # a renewal that had looked before writes once more
        (bucket / ".lock").write_bytes(other)
        renewing.join(timeout=0.2)
    with pytest.raises(InputError, match=f"{bucket}: another process has taken over"):
        writing.__exit__(None, None, None)
    assert (bucket / ".lock").read_bytes() == other


def test_of_several_processes_one_creates_a_file(bucket, monkeypatch):
    monkeypatch.setattr(BucketPath, "is_file", lambda self: False)
    if str(bucket).startswith("gs"):
        pytest.skip("this server does not know the condition that Cloud Storage does")
    assert [(bucket / "a").create(content) for content in (b"1", b"2")] == [True, False]
    assert (bucket / "a").read_bytes() == b"1"


@pytest.fixture
def anew(bucket_servers, monkeypatch):
    """File systems that read the environment as it is now."""
    buckets._system.cache_clear()
    yield monkeypatch
    buckets._system.cache_clear()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_is_not_there_is_named(scheme, anew):
    path = BucketPath(f"{scheme}://nobody/a")
    for function in (path.read_bytes, path.is_file, lambda: path.write_bytes(b"x")):
        with pytest.raises(InputError, match=rf"^{path}: no such bucket: {scheme}://nobody$"):
            function()


def test_what_a_bucket_refuses_ends_in_one_line(anew):
    path = BucketPath("s3://bucket/a")
    anew.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"^{path}: cannot be read: the network does not reach it"):
        path.read_bytes()
    anew.setenv("AWS_EC2_METADATA_DISABLED", "true")
    anew.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    anew.delenv("AWS_ACCESS_KEY_ID")
    anew.delenv("AWS_SECRET_ACCESS_KEY")
    buckets._system.cache_clear()
    with pytest.raises(InputError, match=f"^{path}: cannot be written: no credentials. Set AWS_P"):
        path.write_bytes(b"x")


class Refused(Exception):
    """What gcsfs raises, as far as it is looked at."""

    code = 403


@pytest.mark.parametrize("error", [Refused("denied"), PermissionError("denied")])
def test_permissions_are_asked_for(error, bucket, monkeypatch):
    def refuse(*arguments, **named):
        raise error

    monkeypatch.setattr(buckets._system(str(bucket)[:2]), "cat_file", refuse)
    with pytest.raises(InputError, match=r": cannot be read: no permission \(denied\). Credent"):
        bucket.read_bytes()


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_missing_is_named(scheme, package, anew):
    anew.setitem(sys.modules, package, None)
    anew.setitem(sys.modules, f"{package}.core", None)
    line = rf"{scheme}:// needs the package {package}: pip install 'personlab-keras\[\w+\]'"
    with pytest.raises(InputError, match=line):
        BucketPath(f"{scheme}://bucket/a").read_bytes()
