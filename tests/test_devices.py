"""One device and two that share every batch see the same loss. Each run has a process of its own: devices are chosen at its start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from personlab_keras.journal import read_log

ROOT = Path(__file__).parents[1]
SETTINGS = [
    *TINY,
    "train.steps=20",
    "train.log_every=1",
    "train.batch_size=4",
    "train.ema=0.9",
    "train.freeze_batch_norm=true",  # else each device has statistics of its own
    "train.optimizer=sgd",
    "train.learning_rate=0.01",
]
RUN = """
import json, sys
import tensorflow as tf
records, workdir, settings, devices = *sys.argv[1:3], json.loads(sys.argv[3]), int(sys.argv[4])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
from personlab_keras.config import load_config
from personlab_keras.train import train
train(records, workdir, load_config(None, settings))
"""


def losses(records: Path, workdir: Path, backend: str, devices: int) -> np.ndarray:
    """(20,) the loss of every step."""
    flags = f"--xla_force_host_platform_device_count={devices}" if backend == "jax" else ""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": flags,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
    }
    settings = json.dumps([*SETTINGS, f"train.strategy={'mirrored' if devices > 1 else 'single'}"])
    arguments = [str(records), str(workdir), settings, str(devices)]
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, env=environment, cwd=ROOT)
    return np.array([line["loss"] for line in read_log(workdir)])


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_see_the_losses_of_one(backend, records, tmp_path):
    one, two = (losses(records, tmp_path / str(devices), backend, devices) for devices in (1, 2))
    assert len(one) == 20
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(two, one, rtol=1e-3)
