"""The network's outputs, the aligned upsampling of its maps, and the refinement of its offsets."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from personlab_keras.config import ModelConfig, TrainConfig
from personlab_keras.decoder.sampling import step_along
from personlab_keras.errors import InputError
from personlab_keras.method.maps import OUTPUTS, mask_name
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.model.layers import AlignedUpsampling
from personlab_keras.model.losses import personlab_losses, total_loss
from personlab_keras.model.network import (
    HEATMAP_PRIOR,
    OFFSET_UNIT,
    attach_heads,
    build_model,
    copy_weights,
    freeze_batch_norm,
    freeze_untrained_heads,
    inference_model,
    weights_by_name,
)
from personlab_keras.model.refinement import (
    LongRefinement,
    MidRefinement,
    refine,
    sample,
    sample_by_products,
)

tf = pytest.importorskip("tensorflow")

CHANNELS = {
    "heatmaps": 17,
    "short_offsets": 34,
    "mid_offsets": 64,
    "long_offsets": 34,
    "segmentation": 1,
}
MIDDLE = {f"middle_{name}": channels for name, channels in CHANNELS.items()}
TINY = ModelConfig(backbone="small", alpha=0.25, output_stride=8, weights=None)
BODY = Skeleton(
    "body",
    ("head", "left", "right"),
    (("head", "left"), ("head", "right")),
    (0.1, 0.1, 0.1),
    (("left", "right"),),
)


def arrays(outputs):
    return {name: ops.convert_to_numpy(output) for name, output in outputs.items()}


def some_image(height=65, width=97, batch=1):
    return np.random.default_rng(0).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


def identity_backbone(channels=3):
    """The image itself as features, so that heads can be followed by hand."""
    image = keras.Input((None, None, channels), name="image")
    return keras.Model(image, layers.Identity(name="features")(image), name="identity")


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    return build_model(TINY)


@pytest.fixture(scope="module")
def refined():
    keras.utils.set_random_seed(0)
    return build_model(
        ModelConfig(
            "small",
            0.25,
            16,
            None,
            target_stride=8,
            middle_layer="stride16_block2",
            mid_refinements=2,
            long_refinements=2,
        )
    )


# --- outputs


def test_outputs_and_their_channels(tiny):
    outputs = arrays(tiny(some_image(65, 97, batch=2)))
    assert list(outputs) == list(OUTPUTS)
    for name, channels in CHANNELS.items():
        assert outputs[name].shape == (2, 9, 13, channels)
        assert outputs[name].dtype == np.float32


@pytest.mark.parametrize(
    ("target_stride", "cells"),
    [(None, (5, 7)), (16, (5, 7)), (8, (9, 13)), (2, (33, 49)), (1, (65, 97))],
)
def test_target_stride(target_stride, cells):
    model = build_model(ModelConfig("small", 0.25, 16, None, target_stride=target_stride))
    assert {output.shape[1:3] for output in arrays(model(some_image())).values()} == {cells}


def test_other_skeletons_have_other_channels():
    outputs = attach_heads(identity_backbone(), ModelConfig(output_stride=8), BODY).output
    assert [output.shape[-1] for output in outputs.values()] == [3, 6, 8, 6, 1]


def test_heads_as_configured_in_the_order_of_the_method():
    names = ("part_heatmaps", "mid_offsets", "short_offsets", "heatmaps")
    model = attach_heads(
        identity_backbone(),
        ModelConfig(output_stride=8, outputs=names, middle_layer="features"),
        BODY,
    )
    assert list(model.output) == [
        "heatmaps", "short_offsets", "mid_offsets", "part_heatmaps", "middle_heatmaps", "middle_short_offsets", "middle_mid_offsets",
    ]  # fmt: skip
    served = arrays(inference_model(model)(some_image()))
    assert list(served) == list(model.output)[:4]
    assert served["part_heatmaps"].shape[-1] == 24
    assert 0 <= served["part_heatmaps"].min() <= served["part_heatmaps"].max() <= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"outputs": ("heatmaps", "short_offsets")},
            "model.outputs must hold heatmaps, short_offsets, mid_offsets",
        ),
        ({"outputs": (*OUTPUTS, "depth")}, "must be .*'depth'"),
        ({"outputs": (*OUTPUTS, "heatmaps")}, "each once"),
        ({"outputs": tuple(OUTPUTS)[:3], "long_refinements": 1}, "long_refinements must be 0"),
    ],
)
def test_outputs_that_are_none(settings, words):
    with pytest.raises(InputError, match=words):
        attach_heads(identity_backbone(), ModelConfig(output_stride=8, **settings), BODY)


def test_heads_without_targets_are_frozen_and_cost_nothing():
    model = attach_heads(
        identity_backbone(), ModelConfig(output_stride=8, outputs=(*OUTPUTS, "part_heatmaps")), BODY
    )
    freeze_untrained_heads(model)
    assert [layer.name for layer in model.layers if not layer.trainable] == ["part_heatmaps_head"]
    assert personlab_losses({}, {"part_heatmaps": np.zeros((1, 2, 2, 24))}, 8.0) == {}


def test_heads_are_one_convolution_with_names_to_rely_on(tiny):
    for name in OUTPUTS:
        head = tiny.get_layer(f"{name}_head")
        assert head.kernel_size == (1, 1)
        assert head.kernel.shape == (1, 1, 24, CHANNELS[name])


def test_offsets_are_the_head_times_the_offset_unit():
    # An importer of heads trained in pixels divides kernel and bias by the unit.
    model = attach_heads(identity_backbone(), ModelConfig(output_stride=8), BODY)
    head = model.get_layer("short_offsets_head")
    kernel, bias = np.arange(18.0).reshape(1, 1, 3, 6), np.arange(6.0)
    head.set_weights([kernel / OFFSET_UNIT, bias / OFFSET_UNIT])
    pixel = np.array([1, 10, 100], np.float32)
    offsets = arrays(model(pixel.reshape(1, 1, 1, 3)))["short_offsets"]
    np.testing.assert_allclose(offsets.ravel(), pixel @ kernel[0, 0] + bias, rtol=1e-6)


def test_untrained_heatmaps_show_the_prior(tiny):
    probability = arrays(inference_model(tiny)(some_image()))["heatmaps"]
    assert np.median(probability) == pytest.approx(HEATMAP_PRIOR, rel=0.2)


def test_middle_heads_are_brought_to_the_target_stride(refined):
    outputs = arrays(refined(some_image()))
    assert {name: output.shape for name, output in outputs.items()} == {
        name: (1, 9, 13, channels) for name, channels in (CHANNELS | MIDDLE).items()
    }


def test_a_finer_middle_layer_is_subsampled_to_the_cells_it_shares():
    model = build_model(ModelConfig("small", 0.25, 8, None, middle_layer="stride4_down"))
    image = some_image()
    head, outputs = model.get_layer("middle_heatmaps_head"), model(image)
    fine = keras.Model(model.input, head.output)(image)
    np.testing.assert_array_equal(outputs["middle_heatmaps"], fine[:, ::2, ::2])


def test_inference_model_gives_probabilities_of_the_same_network(refined):
    image = some_image()
    trained, served = arrays(refined(image)), arrays(inference_model(refined)(image))
    assert set(served) == set(OUTPUTS)
    for name in OUTPUTS:
        expected = (
            1 / (1 + np.exp(-trained[name]))
            if name in ("heatmaps", "segmentation")
            else trained[name]
        )
        np.testing.assert_allclose(served[name], expected, rtol=1e-5, atol=1e-6)


def test_inference_ignores_its_neighbours_in_the_batch(tiny):
    # Batch-norm in training mode would mix them (METHOD, item 10).
    images = some_image(batch=2)
    alone, together = (
        arrays(inference_model(tiny)(images[:1])),
        arrays(inference_model(tiny)(images)),
    )
    for name in OUTPUTS:
        np.testing.assert_allclose(together[name][:1], alone[name], rtol=1e-4, atol=1e-4)


def test_layers_called_again_give_the_same(tiny):
    # A closure over a loop variable reads its last value when called later (METHOD, item 8).
    image = keras.Input((None, None, 3))
    again = keras.Model(image, tiny(image))
    for name, output in arrays(again(some_image())).items():
        np.testing.assert_allclose(output, arrays(tiny(some_image()))[name], rtol=1e-5, atol=1e-5)


# --- bad input


def test_a_side_that_is_no_stride_n_plus_1_is_refused_in_one_line(tiny):
    for call in (tiny, inference_model(tiny), lambda image: tiny.predict(image, verbose=0)):
        with pytest.raises(InputError) as error:
            call(np.zeros((1, 65, 100, 3), np.float32))
        assert (
            str(error.value)
            == "an image side must be stride*n + 1 (stride=8). Received: 100. Nearest: 97"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"middle_layer": "stride16_blok2"},
            r"middle_layer .* Received: stride16_blok2. Nearest: stride16_block2",
        ),
        (
            {"output_stride": 16, "target_stride": 32},
            r"target_stride must divide model.output_stride \(16\). Received: 32",
        ),
        ({"output_stride": 16, "target_stride": 3}, r"Received: 3"),
        ({"target_stride": 0}, r"Received: 0"),
        ({"output_stride": 4}, r"output_stride must be one of 8, 16, 32. Received: 4. Nearest: 8"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        build_model(
            ModelConfig(**({"backbone": "small", "weights": None, "output_stride": 8} | changes))
        )


def test_a_middle_layer_must_give_a_map():
    image = keras.Input((None, None, 3))
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="gate")(image)
    backbone = keras.Model(image, layers.Multiply()([image, gate]))
    with pytest.raises(InputError, match="must name a layer that gives a map. Received: gate"):
        attach_heads(backbone, ModelConfig(output_stride=8, middle_layer="gate"))


def test_a_middle_layer_must_not_be_coarser_than_the_features():
    # Between its cells some image sides end.
    with pytest.raises(
        InputError,
        match=r"no coarser than model.output_stride \(8\). Received: stride16_block2, of stride 16",
    ):
        build_model(ModelConfig("small", 0.25, 8, None, middle_layer="stride16_block2"))


# --- saving, export, precision


def test_save_and_load(refined, tmp_path):
    refined.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = arrays(refined(some_image()))
    for name, output in arrays(loaded(some_image())).items():
        np.testing.assert_array_equal(output, expected[name])


LOAD = """
import sys
if sys.argv[2] == "after":
    import keras
import personlab_keras
assert sys.argv[2] == "after" or not {"keras", "tensorflow", "jax"} & sys.modules.keys()
import keras
print(len(keras.models.load_model(sys.argv[1]).layers))
"""


@pytest.mark.slow
@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_saved_network_loads_with_the_package_alone(refined, tmp_path, imported):
    refined.save(tmp_path / "model.keras")
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "model.keras"), imported],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.stdout.split()[-1:] == [str(len(refined.layers))], loaded.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="checks TensorFlow's own format"
)
def test_exported_model_takes_images_of_any_size(refined, tmp_path):
    served = inference_model(refined)
    served.export(str(tmp_path / "exported"), verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for image in (some_image(65, 97), some_image(81, 33, batch=3)):
        expected, outputs = arrays(served(image)), exported.serve(image)
        assert set(outputs) == set(OUTPUTS)
        for name in OUTPUTS:
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-3, atol=1e-3)


def test_mixed_precision_keeps_heads_in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(
            ModelConfig("small", 0.25, 8, None, mid_refinements=1, long_refinements=1)
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("joined_conv").compute_dtype == "bfloat16"
    assert model.get_layer("preprocess").compute_dtype == "float32"
    assert {output.dtype for output in arrays(model(some_image())).values()} == {
        np.dtype(np.float32)
    }
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


def test_frozen_batch_norm_neither_trains_nor_moves():
    model = build_model(TINY)
    freeze_batch_norm(model)
    assert not [variable.path for variable in model.trainable_variables if "_bn" in variable.path]
    before = [
        layer.get_weights()
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    ]
    outputs = arrays(model(some_image(), training=True))
    after = [
        layer.get_weights()
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    ]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    for name, output in arrays(model(some_image(), training=False)).items():
        np.testing.assert_array_equal(outputs[name], output)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a gradient tape")
def test_the_network_learns_one_image():
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig("small", 0.25, 8, None, mid_refinements=1, long_refinements=1))
    rng = np.random.default_rng(0)
    image, targets = some_image(), {}
    for name, channels in CHANNELS.items():
        fields = channels // 2 if name.endswith("offsets") else 1
        values = (
            rng.normal(scale=30, size=channels)
            if name.endswith("offsets")
            else rng.random(channels) < 0.5
        )
        targets[name] = np.broadcast_to(values, (1, 9, 13, channels)).astype(np.float32)
        targets[mask_name(name)] = np.ones((1, 9, 13, fields), np.float32)
    optimizer = keras.optimizers.Adam(0.01)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = total_loss(
                personlab_losses(targets, model(image, training=True), 32.0), TrainConfig()
            )
        optimizer.apply_gradients(
            zip(
                tape.gradient(loss, model.trainable_variables),
                model.trainable_variables,
                strict=True,
            )
        )
        return loss

    losses = [float(step()) for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


# --- upsampling


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_upsampling_keeps_every_cell_at_its_point(height, width, factor, seed):
    coarse = np.random.default_rng(seed).normal(size=(2, height, width, 3)).astype(np.float32)
    fine = ops.convert_to_numpy(AlignedUpsampling(factor)(coarse))
    assert fine.shape == (2, (height - 1) * factor + 1, (width - 1) * factor + 1, 3)
    np.testing.assert_array_equal(fine[:, ::factor, ::factor], coarse)


def test_upsampling_reproduces_a_plane():
    # A map that is linear in the image point, as an offset field towards a fixed keypoint, is so at
    # every stride.
    def plane(height, width, stride):
        y, x = np.mgrid[:height, :width] * stride
        return (3.0 * x - 2.0 * y + 5.0)[None, ..., None].astype(np.float32)

    np.testing.assert_allclose(AlignedUpsampling(4)(plane(5, 7, 16)), plane(17, 25, 4), atol=1e-4)


def test_half_pixel_upsampling_would_move_the_cells():
    coarse = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    fine = ops.convert_to_numpy(ops.image.resize(coarse, (7, 7), interpolation="bilinear"))
    assert not np.allclose(fine[:, ::2, ::2], coarse, atol=0.05)


# --- refinement


def slow_sample(field, x, y):
    """(h, w, 2) at one position in cells, clamped to the map: the formula cell by cell."""
    height, width, _ = field.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    total = np.zeros(2)
    for row in range(height):
        for column in range(width):
            total += max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row)) * field[row, column]
    return total


def slow_refine(fields, sources, stride):
    """(h, w, F, 2) twice to the same, one cell and field at a time."""
    height, width = fields.shape[:2]
    result = np.zeros_like(fields)
    for i, j, f in np.ndindex(fields.shape[:3]):
        dx, dy = fields[i, j, f]
        x = min(max(j + dx / stride, 0), width - 1)
        y = min(max(i + dy / stride, 0), height - 1)
        moved = np.array([x - j, y - i]) * stride
        result[i, j, f] = moved + slow_sample(sources[:, :, f], x, y)
    return result


def some_fields(rng, count, shape=(2, 4, 5), scale=20):
    return rng.normal(scale=scale, size=(*shape, 2 * count)).astype(np.float32)


def test_mid_refinement_by_hand():
    # Edge 0 is head -> left. From cell (0, 0) its offset leads to (8, 4), between cells (0, 1) and
    # (1, 1) at stride 8, where the short offsets of "left" (the target, METHOD item 12) are (1, 2)
    # and (3, 4); those of "head" are far off.
    short = np.full((1, 2, 2, 6), 50.0, np.float32)
    short[0, :, 1, 2:4] = [(1, 2), (3, 4)]
    mid = np.zeros((1, 2, 2, 8), np.float32)
    mid[0, 0, 0, 0:2] = (8, 4)
    refined = MidRefinement(1, 8, BODY.edge_indices[:, 1].tolist())(mid, short)
    np.testing.assert_allclose(refined[0, 0, 0, 0:2], (8 + 2, 4 + 3))


@pytest.mark.parametrize("by_products", [False, True])
@pytest.mark.parametrize("stride", [4, 16])
def test_mid_refinement_equals_the_slow_one(stride, by_products):
    rng = np.random.default_rng(1)
    mid, short = some_fields(rng, 4), some_fields(rng, 3)
    layer = MidRefinement(2, stride, BODY.edge_indices[:, 1].tolist())
    layer.by_products = by_products
    refined = ops.convert_to_numpy(layer(mid, short))
    for image in range(2):
        expected, source = (
            mid[image].reshape(4, 5, 4, 2).astype(float),
            short[image].reshape(4, 5, 3, 2)[:, :, BODY.edge_indices[:, 1]],
        )
        for _ in range(2):
            expected = slow_refine(expected, source, stride)
        np.testing.assert_allclose(
            refined[image].reshape(4, 5, 4, 2), expected, rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("by_products", [False, True])
def test_long_refinement_equals_the_slow_one(by_products):
    rng = np.random.default_rng(2)
    long, short = some_fields(rng, 3), some_fields(rng, 3)
    layer = LongRefinement(2, 8)
    layer.by_products = by_products
    refined = ops.convert_to_numpy(layer(long, short))
    for image in range(2):
        raw = expected = long[image].reshape(4, 5, 3, 2).astype(float)
        for source in (
            raw,
            raw,
            short[image].reshape(4, 5, 3, 2),
            short[image].reshape(4, 5, 3, 2),
        ):
            expected = slow_refine(expected, source, 8)
        np.testing.assert_allclose(
            refined[image].reshape(4, 5, 3, 2), expected, rtol=1e-4, atol=1e-3
        )


def test_refinement_finds_the_keypoint_that_the_short_offsets_point_at():
    # METHOD, item 18: sampled at x' itself, a field that points exactly at (21.5, 9.25) leads there
    # from anywhere near.
    y, x = np.mgrid[:5, :6] * 8.0
    short = np.stack([21.5 - x, 9.25 - y], axis=-1)[None, :, :, None].astype(np.float32)
    mid = short + np.random.default_rng(3).uniform(-6, 6, short.shape).astype(np.float32)
    # Beyond the border the field is held, not continued: only positions inside come out exact.
    landed = mid[0, :, :, 0] + np.stack([x, y], axis=-1)
    inside = np.all((landed >= 0) & (landed <= (40, 32)), axis=-1)
    refined = ops.convert_to_numpy(refine(mid, short, stride=8))
    np.testing.assert_allclose(refined[0, :, :, 0][inside], short[0, :, :, 0][inside], atol=1e-4)
    assert inside.sum() > 20


@pytest.mark.parametrize("how", [sample, sample_by_products])
@pytest.mark.parametrize("wild", [1e9, -1e9, np.inf, -np.inf, np.nan, 4.0, 4.0 - 1e-7, -0.0])
def test_sampling_never_reads_outside_the_map(wild, how):
    # METHOD, item 13: on a CPU a read out of range is an error, elsewhere it is silent.
    fields = np.arange(30, dtype=np.float32).reshape(1, 3, 5, 1, 2) + 1
    x = np.full((1, 3, 5, 1), wild, np.float32)
    y = np.full((1, 3, 5, 1), 1.0, np.float32)
    values = ops.convert_to_numpy(how(fields, x, y))
    if not np.isnan(wild):
        np.testing.assert_allclose(
            values[0, 0, 0, 0], fields[0, 1, 0 if wild <= 0 else 4, 0], rtol=1e-6
        )
    swapped = ops.convert_to_numpy(how(fields, y, x))
    assert swapped.shape == fields.shape


@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (1, 1, 4, 2), (1, 3, 1, 2)])
@pytest.mark.parametrize("how", [sample, sample_by_products])
def test_gradients_of_sampling_are_its_differences(how, shape):
    """By differences of a sum that weighs every value differently, far from the kinks: positions
    beyond the border, which have no gradient, among them."""
    rng = np.random.default_rng(4)
    fields, weights = (rng.normal(size=(*shape, 2)).astype(np.float32) for _ in "ab")
    side = [count + 2 for count in shape[1:3]]
    y, x = (
        (rng.integers(-2, each, shape) + rng.uniform(0.2, 0.8, shape)).astype(np.float32)
        for each in side
    )
    variables = [keras.Variable(each) for each in (fields, x, y)]

    def total():
        return ops.sum(how(*(v.value for v in variables)) * weights)

    with tf.GradientTape() as tape:
        loss = total()
    found = tape.gradient(loss, [v.value for v in variables])
    for variable, gradient in zip(variables, found, strict=True):
        direction = rng.normal(size=variable.shape).astype(np.float32)
        before, step = variable.numpy(), np.float32(1e-2)
        ends = []
        for sign in (1, -1):
            variable.assign(before + sign * step * np.clip(direction, -9, 9))
            ends.append(float(total()))
        variable.assign(before)
        slope = (ends[0] - ends[1]) / (2 * step)
        expected = float(np.sum(ops.convert_to_numpy(gradient) * np.clip(direction, -9, 9)))
        assert slope == pytest.approx(expected, rel=1e-2, abs=1e-2)
        assert np.abs(gradient).max() > 0.1 or 1 in shape[1:3]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
def test_a_step_inside_the_network_is_a_step_of_the_decoder(seed, stride):
    """Also where an offset leads beyond the border of the map, on every side."""
    rng = np.random.default_rng(seed)
    field, source = (rng.normal(scale=40, size=(1, 4, 5, 2, 2)).astype(np.float32) for _ in "ab")
    refined = ops.convert_to_numpy(refine(field, source, stride))[0]
    outside = 0
    for i, j, f in np.ndindex(4, 5, 2):
        x, y = j * stride + field[0, i, j, f, 0], i * stride + field[0, i, j, f, 1]
        outside += not (0 <= x <= 4 * stride and 0 <= y <= 3 * stride)
        landed = np.array(step_along(source[0], f, float(x), float(y), stride))
        np.testing.assert_allclose(
            refined[i, j, f], landed - (j * stride, i * stride), rtol=1e-4, atol=1e-3
        )
    assert outside > 3


def test_weights_are_copied_by_name_whatever_the_refinement():
    plain = build_model(TINY)
    refining = build_model(
        replace(TINY, mid_refinements=2, long_refinements=2, middle_layer="stride4_down")
    )
    middle = [v for v in refining.variables if v.path.startswith("middle_")]
    kept = [ops.convert_to_numpy(v).copy() for v in middle]
    copy_weights(plain, refining)
    theirs = {v.path: ops.convert_to_numpy(v) for v in plain.variables}
    for variable in refining.variables:
        if not variable.path.startswith("middle_"):
            np.testing.assert_array_equal(theirs.pop(variable.path), variable)
    assert not theirs
    for before, variable in zip(kept, middle, strict=True):
        np.testing.assert_array_equal(before, variable)
    other = build_model(TINY)
    copy_weights(refining, other)  # the heads of the middle layer have no place in it
    for a, b in zip(plain.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backbone", ["small", "mobilenetv3small", "efficientnetb0", "xception"])
def test_networks_of_one_kind_have_the_same_names(backbone):
    config = replace(TINY, backbone=backbone, alpha=1.0, output_stride=16)
    first, second = (build_model(config) for _ in range(2))
    names = weights_by_name(first)
    assert len(names) == len(first.variables)
    assert [v.shape for v in names.values()] == [v.shape for v in weights_by_name(second).values()]
    assert list(names) == list(weights_by_name(second))
    copy_weights(first, second)
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_another_network_are_named():
    wider = build_model(replace(TINY, alpha=0.5))
    with pytest.raises(InputError, match=r"kernel must have shape \(.*\)\. Received: \("):
        copy_weights(wider, build_model(TINY))
    poses_only = build_model(replace(TINY, outputs=("heatmaps", "short_offsets", "mid_offsets")))
    with pytest.raises(InputError, match=r"lacks long_offsets_head/bias"):
        copy_weights(poses_only, build_model(TINY))


def test_maps_of_one_cell_can_be_refined():
    field = np.array([3.0, -2.0], np.float32).reshape(1, 1, 1, 1, 2)
    # Wherever the field leads, the step starts at the only cell.
    np.testing.assert_allclose(ops.convert_to_numpy(refine(field, field, 8)).ravel(), [3, -2])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a gradient tape")
@pytest.mark.parametrize("layer", [MidRefinement(2, 8, [1, 2, 0, 0]), LongRefinement(1, 8)])
def test_refinement_gradients_flow_through_both_branches(layer):
    """Finite differences in random directions, in one branch at a time."""
    rng = np.random.default_rng(4)
    # float64 and smooth fields: the differences must not step over a cell's border, where the slope
    # changes.
    layer = type(layer).from_config(layer.get_config() | {"dtype": "float64"})
    fields = [
        some_fields(rng, 4 if isinstance(layer, MidRefinement) else 3, scale=6),
        some_fields(rng, 3, scale=6),
    ]
    inputs = [tf.Variable(field.astype(np.float64)) for field in fields]
    weights = rng.normal(size=inputs[0].shape)

    def loss(field, source):
        return tf.reduce_sum(layer(field, source) * weights)

    with tf.GradientTape() as tape:
        result = loss(*inputs)
    slopes = tape.gradient(result, inputs)
    for branch in range(2):
        slope = tf.convert_to_tensor(slopes[branch]).numpy()
        direction = rng.normal(size=slope.shape)
        step = 1e-7
        forward, backward = list(inputs), list(inputs)
        forward[branch] = inputs[branch] + step * direction
        backward[branch] = inputs[branch] - step * direction
        measured = (loss(*forward) - loss(*backward)).numpy() / (2 * step)
        assert np.sum(slope * direction) == pytest.approx(measured, rel=1e-4)
        assert np.abs(slope).max() > 0


# --- jax

JAX_CHECK = """
import jax, keras, numpy as np
from personlab_keras.config import ModelConfig
from personlab_keras.model.network import build_model, inference_model
assert keras.backend.backend() == "jax"
model = inference_model(build_model(ModelConfig("small", 0.25, 16, None, target_stride=8, mid_refinements=1, long_refinements=1)))
model.load_weights({weights!r})
image = np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype(np.float32)
outputs = jax.jit(lambda image: model(image, training=False))(image)
np.savez({outputs!r}, **{{name: np.asarray(output) for name, output in outputs.items()}})
keras.models.load_model({model!r})
"""


@pytest.mark.slow
def test_jax_gives_the_same_outputs(tmp_path):
    pytest.importorskip("jax")
    model = inference_model(
        build_model(
            ModelConfig(
                "small", 0.25, 16, None, target_stride=8, mid_refinements=1, long_refinements=1
            )
        )
    )
    files = {
        "weights": tmp_path / "model.weights.h5",
        "model": tmp_path / "model.keras",
        "outputs": tmp_path / "jax.npz",
    }
    model.save_weights(files["weights"])
    model.save(files["model"])
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    script = JAX_CHECK.format(**{name: str(file) for name, file in files.items()})
    subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    expected = arrays(model(some_image()))
    with np.load(files["outputs"]) as outputs:
        for name in OUTPUTS:
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-3, atol=1e-3)
