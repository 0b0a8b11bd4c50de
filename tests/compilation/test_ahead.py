"""The step compiled for a TPU that is not there, and run on devices that are."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.view_size=193",
    "targets.stride=16",
    "model.backbone=small",
    "model.output_stride=16",
    "model.weights=null",
    "model.mid_refinements=1",
    "model.long_refinements=1",
    "train.freeze_batch_norm=true",
    "train.ema=0.9",
    "train.clip_norm=1.0",
    "train.batch_size=8",
]


def run(code: str, *arguments: str, **environment: str) -> str:
    """The output of a Python process of its own: JAX chooses its devices when it is imported."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


COMMAND = "import sys; from personlab_keras.cli import main; sys.exit(main(sys.argv[1:]))"
CONVOLUTIONS = """
import json, sys, keras
from personlab_keras.config import load_config
from personlab_keras.model.network import build_model
config = load_config(None, json.loads(sys.argv[1]))
model = build_model(config.model)
side = config.data.view_size
fixed = keras.models.clone_model(model, input_tensors=keras.Input((side, side, 3)))
print(json.dumps([
    [*layer.input.shape[1:3], layer.input.shape[3], *layer.output.shape[1:],
     layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0], layer.padding]
    for layer in fixed.layers if isinstance(layer, keras.layers.Conv2D)
]))
"""


def taps(cells: int, outputs: int, kernel: int, stride: int, rate: int, padding: str) -> int:
    """How many pairs of an output and an input cell a convolution multiplies along an axis."""
    span = rate * (kernel - 1) + 1
    before = max(0, (outputs - 1) * stride + span - cells) // 2 if padding == "same" else 0
    return sum(
        0 <= output * stride - before + rate * tap < cells
        for output in range(outputs)
        for tap in range(kernel)
    )


def test_a_step_compiled_for_four_chips():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed")
    overrides = [part for setting in SMALL for part in ("--set", setting)]
    output = run(COMMAND, "train", "--compile-for", "v5e:2x2", "--json", *overrides)
    report = json.loads(output)

    layers = json.loads(run(CONVOLUTIONS, json.dumps(SMALL), KERAS_BACKEND="jax"))
    products = [
        2
        * ins
        * outs
        * taps(height, new_height, kernel, stride, rate, padding)
        * taps(width, new_width, kernel, stride, rate, padding)
        for height, width, ins, new_height, new_width, outs, kernel, stride, rate, padding in layers
    ]
    # Forward, and backward to the weights and to the input, except that of the first.
    by_hand = 3 * sum(products) - products[0]
    # Refinement: of 13 x 13 cells in every field and step, each is read with three neighbours, two
    # components, by a product with a square matrix, and so it is backward.
    by_hand += (32 + 2 * 17) * 2 * 2 * 8 * (13 * 13) ** 2
    # Activations, losses and the optimizer come on top, and zeros where strides are turned around.
    assert by_hand < report["flops_per_view"] < 1.25 * by_hand

    # Weights, their momentum and average, all float32, are handed over.
    state = 3 * 4 * report["parameters"]
    assert report["donated"] == pytest.approx(state, rel=0.2)
    assert set(report["program"]["collectives"]) == {"all-reduce"}
    assert (report["program"]["gathers"], report["program"]["scatters"]) == (0, 0)
    assert report["needed"] < report["chip"]["memory"]


EQUAL = """
import json, sys
import jax, keras, numpy as np
from personlab_keras.compilation.ahead import meta_of
from personlab_keras.compilation.step import shardings, state_of, step_on
from personlab_keras.config import load_config
from personlab_keras.data.pipeline import batch_spec
from personlab_keras.training.training_model import build_training_model
config = load_config(None, json.loads(sys.argv[1]))
meta = meta_of(config)
rng = np.random.default_rng(0)
def random(spec):
    scale = 255 if spec.shape[-1] == 3 else 1
    return (scale * rng.random(spec.shape)).astype(spec.dtype.as_numpy_dtype)
batch = jax.tree.map(random, batch_spec(meta, config.train.batch_size))
def model(on_tpu):
    keras.utils.set_random_seed(0)
    return build_training_model(config, meta.skeleton, on_tpu=on_tpu)
results = []
for devices in (jax.devices()[:1], jax.devices()):
    whole, divided = shardings(devices)
    step = step_on(model(True), devices)
    state = jax.device_put(state_of(model(True)), whole)
    given = jax.device_put(batch, divided)
    assert "all-gather" not in step.lower(state, given).compile().as_text()
    for _ in range(2):
        logs, state = step(state, given)
    assert len(state[0][0].sharding.device_set) == len(devices)
    results.append((jax.tree.leaves(state[:3]), jax.tree.leaves(logs)))
trained = model(False)
for _ in range(2):
    trained.train_on_batch(*batch)
# `train_on_batch` counts its losses anew each time.
results.append((jax.tree.leaves(state_of(trained)[:3]), results[0][1]))
before = jax.tree.leaves(state_of(model(False)))
for other in results[1:]:
    for one, same in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, same, rtol=2e-3, atol=1e-5)
moved = max(float(np.abs(a - b).max()) for a, b in zip(state[0], before))
print(len(jax.devices()), moved)
"""


def test_a_step_on_eight_devices_equals_that_on_one():
    settings = [*SMALL, "model.alpha=0.25", "data.view_size=97", "train.freeze_batch_norm=false"]
    output = run(
        EQUAL,
        json.dumps(settings),
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    devices, moved = output.split()
    assert devices == "8"
    assert float(moved) > 1e-4  # the steps changed the weights
