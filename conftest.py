"""Fixtures that tests and docstring examples share: a synthetic COCO set, its records, a model
directory, and the real samples.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.doctest import DoctestItem
from hypothesis import settings
from tiny import TINY, saved_model_left_out

from personlab_keras.io.buckets import BucketPath

# The suite is a function of the code: an example that fails does so every time.
# HYPOTHESIS_PROFILE=random looks for new ones.
# No deadlines: a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure():
    """A shell starts background jobs deaf to Ctrl-C, and they hand that on to the commands that
    tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Whatever needs a trained network is slow."""
    for item in items:
        if isinstance(item, DoctestItem):
            trained = "exported" in _names_in(item)
        else:
            trained = bool({"workdir", "model_directory"} & set(item.fixturenames))
        if trained:
            item.add_marker(pytest.mark.slow)


def _names_in(item: DoctestItem) -> set[str]:
    """The quoted strings of a docstring's examples."""
    return {word for example in item.dtest.examples for word in example.source.split('"')[1::2]}


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of pytest-xdist's workers to need it makes, for all of them."""
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder, done = session / f"shared-{name}" / name, session / f"shared-{name}" / "done"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples and weights, named by PERSONLAB_SHARED."""
    folder = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[1] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real samples are not at {folder}; set PERSONLAB_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    from personlab_keras.config import load_config

    return load_config(None, TINY)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder with `annotations.json` and `images/` of ten synthetic scenes of 97 pixels."""
    from personlab_keras.synthetic import write_dataset

    return _made_once(
        tmp_path_factory,
        "scenes",
        lambda folder: write_dataset(folder, 10, 97, seed=5, workers=1),
    )


@pytest.fixture(scope="session")
def records(scenes, tiny_config, tmp_path_factory) -> Path:
    """Records of the scenes, one view each."""
    from data_prep.build import prepare

    return _made_once(
        tmp_path_factory,
        "records",
        lambda folder: prepare(scenes / "annotations.json", scenes / "images", folder, tiny_config),
    )


@pytest.fixture(scope="session")
def workdir(records, tiny_config, tmp_path_factory) -> Path:
    """A finished training run of four steps."""
    from personlab_keras.training.train import train

    return _made_once(tmp_path_factory, "run", lambda folder: train(records, folder, tiny_config))


@pytest.fixture(scope="session")
def model_directory(workdir, tmp_path_factory) -> Path:
    """The run exported."""
    from personlab_keras.export.export import export_source

    return _made_once(tmp_path_factory, "exported", lambda folder: export_source(workdir, folder))


@pytest.fixture
def no_saved_model():
    """Exports leave out the SavedModel."""
    with saved_model_left_out():
        yield


@pytest.fixture(autouse=True)
def _example_files(request, tmp_path_factory, monkeypatch):
    """Docstring examples run in a folder with the files that they name."""
    if not isinstance(request.node, DoctestItem):
        return
    folder = tmp_path_factory.mktemp("example")
    monkeypatch.chdir(folder)
    named = _names_in(request.node)
    if "exported" in named:
        (folder / "exported").symlink_to(request.getfixturevalue("model_directory"))
    if "records" in named:
        (folder / "records").symlink_to(request.getfixturevalue("records"))
    if {"photo.jpg", "annotations.json"} & named:
        scenes = request.getfixturevalue("scenes")
        shutil.copytree(scenes, folder, dirs_exist_ok=True)
        shutil.copy(min((scenes / "images").iterdir()), folder / "photo.jpg")


@pytest.fixture(scope="session")
def bucket_servers():
    """An S3 and a Cloud Storage server in this process, with a bucket named `bucket` each. The
    environment leads to them, that of child processes too.
    """
    boto3 = pytest.importorskip("boto3", reason="moto is not installed")
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gs = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    gs.start()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*s3.get_host_and_port()),
            "AWS_ACCESS_KEY_ID": "known",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        }.items():
            environment.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield
    gs.stop()
    s3.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request, bucket_servers) -> BucketPath:
    """A folder of its own in a bucket of either kind."""
    return BucketPath(f"{request.param}://bucket/{uuid.uuid4().hex}")
