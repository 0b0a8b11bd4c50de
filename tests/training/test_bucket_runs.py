"""A run in a bucket is that on a disk, also when it is killed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from personlab_keras.cli import main
from personlab_keras.config import config_to_yaml
from personlab_keras.errors import InputError
from personlab_keras.export.export import read_source
from personlab_keras.io import bucket_lock
from personlab_keras.io.files import file_sizes
from personlab_keras.model_directory import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    describe,
    fetch_model_directory,
)
from personlab_keras.training.checkpoints import latest_checkpoint
from personlab_keras.training.run_log import read_log
from personlab_keras.training.train import train
from personlab_keras.training.workdir import load_workdir, workdir_skeleton

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def copy_records(records, folder):
    for path in records.iterdir():
        if path.name != ".lock":
            (folder / path.name).upload(path)


KILLED = """
import os, signal, sys
from personlab_keras.io.buckets import BucketPath
from personlab_keras.cli import main
original = BucketPath.write_bytes
def killed(self, content):
    if self.name == "step-00000004.npz":
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, content)
BucketPath.write_bytes = killed
main(sys.argv[1:])
"""


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_killed_run_in_a_bucket_ends_as_one_on_a_disk(
    workdir, records, tiny_config, bucket, tmp_path, monkeypatch, capsys
):
    whole, config, _ = load_workdir(workdir)
    config = replace(config, train=replace(config.train, checkpoint_every=2, keep_checkpoints=1))
    at, run = bucket / "records", bucket / "run"
    copy_records(records, at)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--records", str(at)]
    command += ["--workdir", str(run)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert f"{run}: no tensorboard/ in a bucket" in done.stderr + done.stdout
    assert latest_checkpoint(run).name == "step-00000002.npz"
    # The lock of the dead process stays until nobody has renewed it for a while.
    assert ".lock" in file_sizes(run)
    monkeypatch.setattr(bucket_lock, "PATIENCE_S", 0.1)
    assert main(command) == 0
    output = capsys.readouterr()
    assert f"{run}: resuming from step 2 of 4" in output.err + output.out
    assert sorted(file_sizes(run)) == ["config.yaml", "log.jsonl", "skeleton.yaml"]
    assert [path.name for path in (run / "checkpoints").glob("*")] == ["step-00000004.npz"]
    losses = [
        [(line["step"], line["loss"]) for line in read_log(folder)] for folder in (run, workdir)
    ]
    assert losses[0] == losses[1]
    # An export reads it there.
    source = read_source(str(run))
    assert source.provenance["trained_steps"] == 4
    assert source.skeleton == workdir_skeleton(workdir)
    for a, b in zip(whole.variables, source.network.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))


def test_a_run_starts_from_a_model_in_a_bucket(workdir, bucket, tmp_path):
    network, config, _ = load_workdir(workdir)
    network.save_weights(tmp_path / WEIGHTS_FILE)
    (bucket / WEIGHTS_FILE).upload(tmp_path / WEIGHTS_FILE)
    skeleton = workdir_skeleton(workdir)
    (bucket / DESCRIPTION_FILE).write_bytes(describe(config, skeleton, {}))
    fetched = fetch_model_directory(bucket)
    assert (fetched.skeleton, fetched.config.model) == (skeleton, config.model)
    for a, b in zip(fetched.network.variables, network.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))
    (bucket / DESCRIPTION_FILE).unlink()
    line = f"{bucket / DESCRIPTION_FILE}: missing; a model directory contains"
    with pytest.raises(InputError, match=line):
        fetch_model_directory(bucket)


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_a_run_that_fails_before_it_starts_leaves_nothing_in_a_bucket(records, tiny_config, bucket):
    frozen = replace(tiny_config, train=replace(tiny_config.train, freeze_batch_norm=True))
    with pytest.raises(InputError, match="has none"):
        train(records, bucket, frozen)
    assert not bucket.exists()
