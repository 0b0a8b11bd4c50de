"""One device, two that share every batch, and two processes see the same loss. Each run has
processes of its own: devices are chosen at their start."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny import TINY

from personlab_keras.config import TrainConfig
from personlab_keras.errors import InputError
from personlab_keras.model.backbones import build_backbone
from personlab_keras.training.checkpoints import latest_checkpoint
from personlab_keras.training.devices import Devices, connect
from personlab_keras.training.run_log import read_log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *TINY,
    "train.steps=20",
    "train.log_every=1",
    "train.batch_size=4",
    "train.checkpoint_every=10",
    "train.validate_every=10",
    "train.ema=0.9",
    "train.freeze_batch_norm=true",  # else each device has statistics of its own
    "train.optimizer=sgd",
    "train.learning_rate=0.01",
    "model.middle_layer=stride4_down",
]
# The paper has 2; JAX takes twice as long to compile them.
REFINEMENTS = {"tensorflow": 2, "jax": 1}
CLOSE = {"tensorflow": 1e-3, "jax": 1e-5}
"""Largest relative difference of a loss: devices add gradients in another order."""
RUN = """
import json, os, sys
import keras
import tensorflow as tf
records, workdir, settings, devices = *sys.argv[1:3], json.loads(sys.argv[3]), int(sys.argv[4])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
from personlab_keras.config import load_config
from personlab_keras.training.devices import join
from personlab_keras.training.train import train
from personlab_keras.training.training_model import TrainingModel
config = load_config(None, settings)
join(config.train.strategy)
if keras.backend.backend() == "jax" and config.train.strategy != "single":
    import jax
    original = TrainingModel.compute_loss
    def inspected(self, x=None, y=None, y_pred=None, *others, **named):
        with open(os.path.join(workdir, "traces"), "a") as traces:
            traces.write("x")
        def note(sharding):
            parts = {str(index) for index in sharding.devices_indices_map(y_pred["heatmaps"].shape).values()}
            open(os.path.join(workdir, "parts"), "w").write(str(len(parts)))
        jax.debug.inspect_array_sharding(y_pred["heatmaps"], callback=note)
        return original(self, x, y, y_pred, *others, **named)
    TrainingModel.compute_loss = inspected
train(records, workdir, config, val_records=records)
"""


def start(
    records: Path, workdir: Path, backend: str, devices: int, strategy: str, cluster: dict[str, str]
) -> subprocess.Popen:
    """A process that trains 20 steps, all of them from the same weights beside the workdir."""
    initial = workdir.parent / "small.weights.h5"
    if not initial.is_file():
        keras.utils.set_random_seed(0)
        build_backbone("small", 8, 0.25).save_weights(initial)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        if backend == "jax"
        else "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        # The process that resumes runs what the one of one device has compiled.
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **cluster,
    }
    settings = json.dumps(
        [
            *SETTINGS,
            f"model.mid_refinements={REFINEMENTS[backend]}",
            f"model.long_refinements={REFINEMENTS[backend]}",
            f"train.strategy={strategy}",
            f"model.weights={initial}",
        ]
    )
    arguments = [str(records), str(workdir), settings, str(devices)]
    return subprocess.Popen([sys.executable, "-c", RUN, *arguments], env=environment, cwd=ROOT)


def killed(processes: list[subprocess.Popen], workdir: Path, step: int) -> None:
    """Kills one process once the log has reached a step, and then the others, which wait for it."""
    log = workdir / "log.jsonl"
    while not (log.is_file() and any(line.get("step", 0) >= step for line in read_log(workdir))):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    for process in reversed(processes):
        process.kill()
        process.wait()


def two_processes(backend: str) -> list[dict[str, str]]:
    """The environment of each of two processes on this machine."""
    places = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            places.append(f"127.0.0.1:{free.getsockname()[1]}")
    if backend == "tensorflow":
        tasks = [
            {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
            for index in range(2)
        ]
        return [{"TF_CONFIG": json.dumps(task)} for task in tasks]
    common = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": places[0],
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    return [{**common, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)} for index in range(2)]


def test_strategies_that_cannot_be(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match=r"train\.strategy must be .*Received: .*many"):
        TrainConfig(strategy="many")
    with pytest.raises(InputError, match="multiworker needs TF_CONFIG"), connect("multiworker"):
        pass
    with (
        pytest.raises(InputError, match="no longer supports TPUs; .* KERAS_BACKEND=jax"),
        connect("tpu"),
    ):
        pass
    monkeypatch.setenv("TPU_NAME", "local")
    with (
        pytest.raises(InputError, match="auto with TPU_NAME=local: TensorFlow no longer"),
        connect("auto"),
    ):
        pass
    with pytest.raises(InputError, match="multiple of the 3 devices. Received: 8"):
        Devices(count=3).check_batch(8)


def test_a_tpu_that_is_not_there_is_missed_in_one_line():
    command = "import sys; from personlab_keras.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["train", "--records", "none", "--workdir", "none", "--set", "train.strategy=tpu"]
    run = subprocess.run(
        [sys.executable, "-c", command, *options],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("personlab train: train.strategy=tpu: no TPU here")


WORST = """
import keras
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from personlab_keras.training.training_model import WorstStep
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    worst = WorstStep("worst")
step = tf.function(lambda loss: strategy.run(worst.update_state, args=(loss,)))
for loss in (1.0, 5.0, float("nan"), 7.0):
    step(tf.constant(loss))
assert strategy.num_replicas_in_sync == 2
print("worst", float(keras.ops.reshape(worst.result(), (1,))[0]))  # as `TrainingModel.get_metrics_result` reads it
"""


def test_the_worst_step_is_counted_once_on_two_devices():
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, "-c", WORST],
        check=True,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().splitlines()[-1] == "worst 3.0"


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_and_two_processes_see_the_losses_of_one(backend, records, tmp_path):
    runs = {
        "one": [start(records, tmp_path / "one", backend, 1, "single", {})],
        "two": [start(records, tmp_path / "two", backend, 2, "mirrored", {})],
        "processes": [
            start(records, tmp_path / "processes", backend, 1, "multiworker", cluster)
            for cluster in two_processes(backend)
        ],
    }
    if backend == "jax":
        # Nobody says goodbye, and another number of processes resumes.
        killed(runs["processes"], tmp_path / "processes", step=12)
        assert latest_checkpoint(tmp_path / "processes").name == "step-00000010.npz"
        assert runs["one"][0].wait(timeout=600) == 0  # its program is the same
        runs["processes"] = [start(records, tmp_path / "processes", backend, 1, "single", {})]
    assert {
        name: [process.wait(timeout=600) for process in processes]
        for name, processes in runs.items()
    } == {name: [0] * len(processes) for name, processes in runs.items()}
    logs = {name: [line for line in read_log(tmp_path / name) if "loss" in line] for name in runs}
    losses = {name: np.array([line["loss"] for line in log]) for name, log in logs.items()}
    assert [line["step"] for line in logs["processes"]] == list(
        range(1, 21)
    )  # one process alone writes them, and whoever resumes goes on where the checkpoint is
    assert losses["one"][-1] < 0.9 * losses["one"][0]
    validations = {
        name: [
            line["validation/loss"]
            for line in read_log(tmp_path / name)
            if "validation/loss" in line
        ]
        for name in runs
    }
    assert len(validations["one"]) == 2
    for name in ("two", "processes"):
        np.testing.assert_allclose(losses[name], losses["one"], rtol=CLOSE[backend])
        np.testing.assert_allclose(validations[name], validations["one"], rtol=1e-3)
        with (
            np.load(latest_checkpoint(tmp_path / "one")) as one,
            np.load(latest_checkpoint(tmp_path / name)) as other,
        ):
            assert set(one.files) == set(other.files)
            for array in set(one.files) - {"versions"}:
                np.testing.assert_allclose(other[array], one[array], rtol=1e-2, atol=1e-4)
        if backend == "jax":
            # The batch is divided, not computed on each device.
            assert (tmp_path / name / "parts").read_text() == "2"
            # A step is compiled, not computed operation by operation, which would come by here at
            # each of the 20.
            assert len((tmp_path / name / "traces").read_text()) < 20
