"""Losses against numbers worked by hand, and what masks must keep out of them."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from personlab_keras.config import TrainConfig
from personlab_keras.errors import InputError
from personlab_keras.method.maps import OUTPUTS, PROBABILITIES, mask_name
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.losses import (
    logistic_terms,
    masked_mean,
    offset_terms,
    personlab_losses,
    total_loss,
)

tf = pytest.importorskip("tensorflow")

LOSS_NAMES = tuple(OUTPUTS)


def value(scalar):
    return float(ops.convert_to_numpy(scalar))


def logistic_loss(target, logits, mask):
    return masked_mean(logistic_terms(target, logits, mask))


def offset_loss(target, offsets, mask, radius):
    return masked_mean(offset_terms(target, offsets, mask)) / radius


def gradient(loss, output):
    output = tf.Variable(output)
    with tf.GradientTape() as tape:
        result = loss(output)
    return tape.gradient(result, output).numpy()


def some_targets(rng, cells=(3, 4), counted=0.5):
    """Targets and masks of random content, all names."""
    targets = {}
    for name, channels_of in OUTPUTS.items():
        channels = channels_of(COCO_PERSON)
        fields = 1 if name in PROBABILITIES else channels // 2
        full = (2, *cells, channels)
        values = (
            rng.random(full) < 0.3 if name in PROBABILITIES else rng.normal(scale=50, size=full)
        )
        targets[name] = np.asarray(values, np.float32)
        targets[mask_name(name)] = np.asarray(rng.random((2, *cells, fields)) < counted, np.float32)
    return targets


def some_outputs(rng, cells=(3, 4)):
    return {
        name: rng.normal(scale=3, size=(2, *cells, channels(COCO_PERSON))).astype(np.float32)
        for name, channels in OUTPUTS.items()
    }


def test_logistic_loss_by_hand():
    # Odds 3:1 for the truth cost ln(4/3), against it ln 4; the third cell is not counted.
    logits = np.array([math.log(3), -math.log(3), 7.0], np.float32).reshape(1, 1, 3, 1)
    target = np.array([1.0, 1.0, 0.0], np.float32).reshape(1, 1, 3, 1)
    mask = np.array([1.0, 1.0, 0.0], np.float32).reshape(1, 1, 3, 1)
    assert value(logistic_loss(target, logits, mask)) == pytest.approx(
        (math.log(4 / 3) + math.log(4)) / 2, rel=1e-6
    )


def test_logistic_loss_averages_over_channels():
    logits = np.zeros((1, 2, 2, 17), np.float32)
    mask = np.array([[1, 0], [0, 0]], np.float32).reshape(1, 2, 2, 1)
    assert value(logistic_loss(logits, logits, mask)) == pytest.approx(math.log(2), rel=1e-6)


def test_logistic_loss_at_saturated_and_at_zero_logits():
    logits = np.array([200.0, -200.0, 0.0], np.float32).reshape(1, 1, 3, 1)
    target = np.array([1.0, 0.0, 1.0], np.float32).reshape(1, 1, 3, 1)
    mask = np.ones((1, 1, 3, 1), np.float32)
    assert value(logistic_loss(target[:, :, :2], logits[:, :, :2], mask[:, :, :2])) == 0.0
    assert value(
        logistic_loss(1 - target[:, :, :2], logits[:, :, :2], mask[:, :, :2])
    ) == pytest.approx(200.0)
    # sigmoid(logit) - target, over three counted cells.
    np.testing.assert_allclose(
        gradient(lambda x: logistic_loss(target, x, mask), logits).ravel(),
        [0, 0, -0.5 / 3],
        atol=1e-7,
    )


def test_offset_loss_by_hand():
    # Field 0 is off by (3, -4), field 1 by (0, 9) but not counted; the other cell counts with field
    # 1, off by (-16, 0).
    target = np.array([[10, 20, 1, 1], [0, 0, 30, 5]], np.float32).reshape(1, 1, 2, 4)
    offsets = np.array([[13, 16, 1, 10], [99, 99, 14, 5]], np.float32).reshape(1, 1, 2, 4)
    mask = np.array([[1, 0], [0, 1]], np.float32).reshape(1, 1, 2, 2)
    assert value(offset_loss(target, offsets, mask, radius=32.0)) == pytest.approx(
        (7 + 16) / 2 / 32
    )


def test_offset_gradient_is_the_sign_over_count_and_radius():
    target = np.zeros((1, 1, 2, 4), np.float32)
    offsets = np.array([[5, -5, 1, 1], [0, 2, 3, 3]], np.float32).reshape(1, 1, 2, 4)
    mask = np.array([[1, 0], [1, 0]], np.float32).reshape(1, 1, 2, 2)
    expected = np.array([[1, -1, 0, 0], [0, 1, 0, 0]], np.float32).reshape(1, 1, 2, 4) / 2 / 32
    np.testing.assert_allclose(
        gradient(lambda x: offset_loss(target, x, mask, 32.0), offsets), expected, rtol=1e-6
    )


def test_all_losses_are_zero_at_the_targets():
    targets = some_targets(np.random.default_rng(0))
    outputs = {
        name: (targets[name] - 0.5) * 400 if name in PROBABILITIES else targets[name]
        for name in OUTPUTS
    }
    losses = personlab_losses(targets, outputs, radius=32.0)
    assert tuple(losses) == LOSS_NAMES
    assert [value(loss) for loss in losses.values()] == [0.0] * 5


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("garbage", [1e30, -123.0, np.nan])
def test_masked_places_give_neither_loss_nor_gradient(name, garbage):
    # What other implementations got wrong: fields without a labelled target trained towards zero
    # (METHOD, item 5).
    rng = np.random.default_rng(1)
    targets, outputs = some_targets(rng), some_outputs(rng)
    channels = targets[name].shape[-1]
    counted = (
        np.repeat(targets[mask_name(name)], channels // targets[mask_name(name)].shape[-1], axis=-1)
        > 0
    )
    spoilt = targets | {name: np.where(counted, targets[name], garbage).astype(np.float32)}

    def loss(targets):
        return lambda output: personlab_losses(targets, outputs | {name: output}, 32.0)[name]

    clean = gradient(loss(targets), outputs[name])
    assert value(loss(spoilt)(outputs[name])) == value(loss(targets)(outputs[name]))
    np.testing.assert_array_equal(gradient(loss(spoilt), outputs[name]), clean)
    assert np.all(clean[~counted] == 0)
    assert np.all(clean[counted] != 0)


def test_nothing_counted_is_zero_with_zero_gradient():
    rng = np.random.default_rng(2)
    targets, outputs = some_targets(rng, counted=0.0), some_outputs(rng)
    assert [value(loss) for loss in personlab_losses(targets, outputs, 32.0).values()] == [0.0] * 5
    for name in OUTPUTS:
        slope = gradient(
            lambda output, name=name: personlab_losses(targets, outputs | {name: output}, 32.0)[
                name
            ],
            outputs[name],
        )
        np.testing.assert_array_equal(slope, np.zeros_like(slope))


def test_total_loss_weighs_as_the_paper():
    losses = {
        "heatmaps": 1.0,
        "segmentation": 10.0,
        "short_offsets": 100.0,
        "mid_offsets": 1000.0,
        "long_offsets": 8000.0,
    }
    assert total_loss(losses, TrainConfig()) == 4 + 20 + 100 + 250 + 1000
    middle = {f"middle_{name}": loss for name, loss in losses.items()}
    assert total_loss(losses | middle, TrainConfig(middle_weight=0.5)) == 1.5 * 1374


def test_middle_outputs_use_the_same_targets():
    rng = np.random.default_rng(3)
    targets, outputs = some_targets(rng), some_outputs(rng)
    losses = personlab_losses(
        targets, outputs | {f"middle_{name}": output for name, output in outputs.items()}, 32.0
    )
    for name in OUTPUTS:
        assert value(losses[f"middle_{name}"]) == value(losses[name])


def test_targets_at_another_stride_are_refused():
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match=r"output heatmaps .* \(3, 4\).*target_stride.*\(5, 7\)"):
        personlab_losses(some_targets(rng), some_outputs(rng, cells=(5, 7)), 32.0)


def test_inputs_are_not_changed():
    rng = np.random.default_rng(5)
    targets, outputs = some_targets(rng), some_outputs(rng)
    before = {
        name: array.copy()
        for name, array in (targets | {f"{n}_out": o for n, o in outputs.items()}).items()
    }
    personlab_losses(targets, outputs, 32.0)
    for name, array in before.items():
        np.testing.assert_array_equal(
            array, outputs[name[:-4]] if name.endswith("_out") else targets[name]
        )


JAX_CHECK = """
import sys
import jax, keras, numpy as np
sys.path.insert(0, {tests!r})
from test_losses import some_outputs, some_targets
from personlab_keras.model.losses import personlab_losses
assert keras.backend.backend() == "jax"
rng = np.random.default_rng(6)
targets, outputs = some_targets(rng), some_outputs(rng)
losses, slopes = {{}}, {{}}
for name in outputs:
    losses[name], slopes[name] = jax.value_and_grad(lambda o: personlab_losses(targets, {{**outputs, name: o}}, 32.0)[name])(outputs[name])
np.savez({file!r}, **{{f"loss_{{n}}": v for n, v in losses.items()}}, **{{f"slope_{{n}}": v for n, v in slopes.items()}})
"""


@pytest.mark.slow
def test_jax_gives_the_same_losses_and_gradients(tmp_path):
    pytest.importorskip("jax")
    file = tmp_path / "jax.npz"
    script = JAX_CHECK.format(tests=str(Path(__file__).parent), file=str(file))
    # The script borrows this module's helpers, whose import of TensorFlow is harmless beside the
    # JAX backend.
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    rng = np.random.default_rng(6)
    targets, outputs = some_targets(rng), some_outputs(rng)
    with np.load(file) as jax_results:
        for name in OUTPUTS:

            def loss(output, name=name):
                return personlab_losses(targets, outputs | {name: output}, 32.0)[name]

            assert jax_results[f"loss_{name}"] == pytest.approx(
                value(loss(outputs[name])), rel=1e-5
            )
            np.testing.assert_allclose(
                jax_results[f"slope_{name}"], gradient(loss, outputs[name]), rtol=1e-4, atol=1e-8
            )
