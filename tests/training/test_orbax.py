"""Checkpoints that Orbax writes while the run goes on, on JAX."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from personlab_keras.data.records import read_meta
from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath
from personlab_keras.training.checkpoints import (
    CHECKPOINTS,
    latest_checkpoint,
    open_saver,
    restore,
)
from personlab_keras.training.run_log import read_log
from personlab_keras.training.train import train
from personlab_keras.training.training_model import build_training_model
from personlab_keras.training.workdir import load_workdir, training_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUN = """
import os, signal, sys
import orbax.checkpoint
from personlab_keras.config import load_config
from personlab_keras.training.train import train
records, whole, killed, kill, *settings = sys.argv[1:]
def end(self, directory, *arguments, original=orbax.checkpoint.CompositeCheckpointHandler.finalize):
    if "step-00000004" in str(directory):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, directory, *arguments)
config = load_config(None, [*settings, "train.checkpoints=orbax"])
if kill == "yes":
    orbax.checkpoint.CompositeCheckpointHandler.finalize = end
else:
    train(records, whole, load_config(None, settings))
train(records, killed, config)
"""


def test_a_run_that_is_killed_while_it_saves_ends_as_an_undisturbed_one(records, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*TINY, "train.steps=6", "train.checkpoint_every=2", "train.keep_checkpoints=1"]

    def run(kill):
        return subprocess.run(
            [sys.executable, "-c", RUN, records, whole, killed, kill, *settings, "train.ema=0.9"],
            env={
                **os.environ,
                **{"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
            },
            capture_output=True,
            text=True,
        )

    done = run("yes")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert latest_checkpoint(killed).name == "step-00000002.orbax"
    names = [path.name for path in (killed / CHECKPOINTS).iterdir()]
    assert any("step-00000004.orbax.orbax-checkpoint-tmp" in name for name in names), names
    done = run("no")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (killed / CHECKPOINTS).iterdir()] == ["step-00000006.orbax"]
    # TensorFlow reads what JAX has written, in either form.
    _, config, _ = load_workdir(killed)
    states, positions = [], []
    for folder in (whole, killed):
        model = build_training_model(config, read_meta(records).skeleton, pretrained=False)
        state = training_state(model)
        positions.append(restore(state, latest_checkpoint(folder)))
        states.append({name: np.asarray(value) for name, value in state.items()})
    assert positions == [(6, 12), (6, 12)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)
    losses = [[line["loss"] for line in read_log(folder)] for folder in (whole, killed)]
    assert losses[0] == losses[1]
    # A part that is missing is damage.
    shutil.rmtree(latest_checkpoint(killed) / "position")
    with pytest.raises(InputError, match=r"step-00000006.orbax: damaged checkpoint: .*Delete it"):
        load_workdir(killed)


def test_orbax_is_for_jax_and_for_disks(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, checkpoints="orbax"))
    with pytest.raises(InputError, match="train.checkpoints=orbax needs KERAS_BACKEND=jax. Rec"):
        train(records, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    bucket = BucketPath("s3://bucket/run")
    with pytest.raises(InputError, match=f"{bucket}: train.checkpoints=orbax needs a workdir on"):
        open_saver("orbax", bucket, keep=1)
