"""Losses and gradients of a step on all backends, and what is kept beside them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_step import step
from tiny import TINY

from personlab_keras.config import load_config
from personlab_keras.data.pipeline import make_dataset
from personlab_keras.training.checkpoints import AVERAGES
from personlab_keras.training.training_model import (
    WorstStep,
    averaged_weights,
    build_training_model,
    taught,
)
from personlab_keras.training.workdir import training_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def weights(network):
    return [keras.ops.convert_to_numpy(variable) for variable in network.variables]


PAPER = (
    "train.freeze_batch_norm=true",
    "model.mid_refinements=2",
    "model.long_refinements=2",
    "model.middle_layer=stride4_down",
)


@pytest.fixture(scope="module", params=[(), PAPER], ids=["plain", "paper"])
def tensorflow_step(request, records, tiny_config, tmp_path_factory):
    """Settings, and a folder with weights, a batch, and what TensorFlow makes of them."""
    settings = [*TINY, *request.param]
    folder = tmp_path_factory.mktemp("step")
    image, targets = next(make_dataset(records, 4, training=True, seed=1).as_numpy_iterator())
    np.savez(folder / "batch.npz", image=image, **targets)
    keras.utils.set_random_seed(3)
    start = build_training_model(load_config(None, settings), pretrained=False).network.variables
    arrays = {f"{i:04d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(start)}
    np.savez(folder / "start.npz", **arrays)
    step(folder, settings)
    return settings, folder


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backends_agree_on_losses_and_gradients(backend, tensorflow_step):
    """The same weights and batch: losses within 1e-4, each array of the gradient within 1e-3 of its
    size. With the paper's recipe: refined offsets and the heads of a middle layer.
    """
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    settings, folder = tensorflow_step
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
    }
    script = Path(__file__).with_name("backend_step.py")
    command = [sys.executable, script, folder, json.dumps(settings)]
    subprocess.run(command, check=True, env=environment, cwd=ROOT)
    with np.load(folder / "tensorflow.npz") as ours, np.load(folder / f"{backend}.npz") as theirs:
        gradients = [name for name in ours.files if name.startswith("gradient/")]
        losses = [name for name in ours.files if not name.startswith("gradient/")]
        assert set(ours.files) == set(theirs.files)
        assert len(losses) == (5 if len(settings) == len(TINY) else 10) + 1
        assert len(gradients) == len(
            build_training_model(
                load_config(None, settings), pretrained=False
            ).network.trainable_variables
        )
        for name in losses:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, err_msg=name)
        for name in gradients:
            difference, size = np.linalg.norm(theirs[name] - ours[name]), np.linalg.norm(ours[name])
            assert size > 0.0, name
            assert difference <= 1e-3 * size, name


def test_targets_of_a_teacher_by_hand():
    outputs = {
        "segmentation": np.array([[[[0.0], [np.log(3.0)]]]], np.float32),
        "short_offsets": np.array([[[[5.0, -7.0], [0.0, 1.0]]]], np.float32),
        "heatmaps": np.ones((1, 1, 2, 17), np.float32),
    }
    masks = {
        "segmentation_mask": np.array([[[[0.0], [1.0]]]], np.float32),
        "short_offsets_mask": np.zeros((1, 1, 2, 1), np.float32),
    }
    found = taught(outputs, masks, ["segmentation", "short_offsets"])
    assert sorted(found) == sorted([*masks, "segmentation", "short_offsets"])
    np.testing.assert_allclose(found["segmentation"], [[[[0.5], [0.75]]]], rtol=1e-6)
    np.testing.assert_array_equal(found["short_offsets"], outputs["short_offsets"])
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], np.ones_like(mask))


def test_averaged_weights_are_lent_and_given_back(records, tiny_config, tmp_path):
    config = replace(tiny_config, train=replace(tiny_config.train, ema=0.9))
    training_model = build_training_model(config, pretrained=False)
    image = np.random.default_rng(0).uniform(0, 255, (2, 97, 97, 3)).astype(np.float32)
    for batch in make_dataset(records, 2, training=True).take(3):  # `fit` would end by averaging
        training_model.train_on_batch(*batch)
    before = weights(training_model.network)
    raw = training_model.network.predict_on_batch(image)["heatmaps"]
    with averaged_weights(training_model):
        averaged = training_model.network.predict_on_batch(image)["heatmaps"]
    assert np.abs(raw - averaged).max() > 1e-6
    for a, b in zip(before, weights(training_model.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_worst_step_of_an_interval():
    worst = WorstStep("worst")
    assert float(worst.result()) == 0.0
    for loss in (1.0, 3.0, 2.0, 3.0):
        worst.update_state(loss)
    assert float(worst.result()) == 2.0
    for loss in (np.nan, np.inf, 9.0):
        worst.update_state(loss)
    assert float(worst.result()) == 5.0
    worst.reset_state()
    worst.update_state(0.5)
    assert float(worst.result()) == 1.0


def test_the_statistics_of_batch_norm_are_averaged_too(records, tiny_config):
    """By hand from those of every step: mine, and those that validation and export see."""
    config = replace(tiny_config, train=replace(tiny_config.train, ema=0.75))
    training_model = build_training_model(config, pretrained=False)
    norms = [
        layer
        for layer in training_model.network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]

    def statistics():
        return [
            np.array(keras.ops.convert_to_numpy(variable))
            for layer in norms
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    expected = None
    for batch in make_dataset(records, 2, training=True).take(3):
        training_model.train_on_batch(*batch)
        now = statistics()
        expected = (
            now
            if expected is None
            else [0.75 * a + 0.25 * b for a, b in zip(expected, now, strict=True)]
        )
    assert max(np.abs(a - b).max() for a, b in zip(expected, now, strict=True)) > 1e-3
    with averaged_weights(training_model):
        for a, b in zip(expected, statistics(), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    for a, b in zip(now, statistics(), strict=True):
        np.testing.assert_array_equal(b, a)
    names = training_state(training_model)
    assert sum(name.startswith(AVERAGES) for name in names) == 2 * len(norms) + 1
