"""Where the cells of a backbone lie, what its weights give, and what is refused."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.legacy.saving import (
    legacy_h5_format,  # the only writer left of the format of keras.applications' files
)

from personlab_keras.errors import InputError
from personlab_keras.model.backbones import BACKBONES, build_backbone, rebuild_at_stride
from personlab_keras.model.layers import PREPROCESSING, CropToMatch, DilatedMaxPooling, Preprocess

pytestmark = pytest.mark.slow

SPATIAL = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
CASES = [
    *[
        (name, stride)
        for name in ("small", "mobilenet", "resnet50", "mobilenetv1_released", "resnet50_released")
        for stride in (8, 16, 32)
    ],
    *[
        (name, 8)
        for name in (
            "mobilenetv2", "mobilenetv3small", "mobilenetv3large", "resnet50v2", "efficientnetb0", "efficientnetv2b0", "xception",
        )
    ],
    ("xception", 16),
]  # fmt: skip
"""Every family at the stride with the most dilation, and some at every stride."""


@cache  # one network serves several tests
def built(name, stride):
    """The backbone in its narrowest width, fixed random weights."""
    keras.utils.set_random_seed(0)
    widths = {"small": 0.25, "mobilenet": 0.25, "mobilenetv2": 0.35, "mobilenetv1_released": 0.5}
    return build_backbone(name, stride, widths.get(name, 1.0))


def features(model, image):
    return ops.convert_to_numpy(model(image, training=False))


def some_image(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def kernels_of(layer):
    """(position in get_weights, whether it is spatial) of the convolution kernels of a layer."""
    if isinstance(layer, layers.SeparableConv2D):
        return [(0, True), (1, False)]
    return [(0, max(layer.kernel_size) > 1)] if isinstance(layer, SPATIAL) else []


def change_kernels(model, change):
    """Weights of the model with `change(kernel, spatial)` laid over every kernel and biases at
    zero; a function that undoes it.
    """
    before = model.get_weights()
    for layer in model.layers:
        positions = dict(kernels_of(layer))
        if positions:
            weights = layer.get_weights()
            gate = tuple(layer.input.shape[1:3]) == (1, 1)
            layer.set_weights(
                # A squeeze-and-excite gate of zeros is a constant factor, so that far pixels do not
                # matter through it.
                [
                    change(w, positions[i]) * (not gate) if i in positions else 0 * w
                    for i, w in enumerate(weights)
                ]
            )
    return lambda: model.set_weights(before)


def centre_only(kernel, spatial):
    """Every kernel reads its centre alone, and adds up its inputs with positive weights."""
    inputs = kernel.shape[2] if kernel.shape[3] > 1 or kernel.shape[2] == 1 else 1
    result = np.zeros_like(kernel)
    result[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1.0 / inputs
    return result


def mirror_symmetric(kernel, spatial):
    return (kernel + kernel[:, ::-1]) / 2


def lit_cells(model, height, width, pixels):
    """For each pixel (x, y): rows and columns of the cells that change when it turns white in a
    black image.
    """
    images = np.zeros((len(pixels) + 1, height, width, 3), np.float32)
    for image, (x, y) in zip(images[:-1], pixels, strict=True):  # the last one stays black
        image[y, x] = 255
    found = features(model, images)
    changes = np.abs(found[:-1] - found[-1:]).max(-1)
    return [
        {tuple(map(int, cell)) for cell in np.argwhere(change > 1e-3 * max(changes.max(), 1e-12))}
        for change in changes
    ]


# --- alignment


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_a_side_of_stride_n_plus_1_gives_n_plus_1_cells(name, stride):
    for height, width in ((4, 7), (1, 2)):
        shape = built(name, stride).compute_output_shape(
            (1, height * stride + 1, width * stride + 1, 3)
        )
        assert shape[1:3] == (height + 1, width + 1)


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_a_pixel_lights_the_cell_that_is_its_point(name, stride):
    # With kernels that read their centre alone, a cell sees exactly the pixel on which it is
    # centred.
    model = built(name, stride)
    undo = change_kernels(model, centre_only)
    cells = [(0, 0), (1, 3), (2, 4), (3, 5), (4, 1)]
    beside = (stride * 3 + stride // 2 + 1, stride * 2 + 1)
    try:
        *lit, lit_beside = lit_cells(
            model,
            4 * stride + 1,
            5 * stride + 1,
            [(stride * j, stride * i) for i, j in cells] + [beside],
        )
    finally:
        undo()
    for (i, j), found in zip(cells, lit, strict=True):
        reach = reach_of(name, stride, i, j)
        block = {
            (r, c) for r in range(i - reach, i + reach + 1) for c in range(j - reach, j + reach + 1)
        }
        assert found == {(r, c) for r, c in block if 0 <= r <= 4 and 0 <= c <= 5}
    if name != "xception":
        assert lit_beside == set()


def reach_of(name, stride, i, j):
    """How many cells around its own a pixel may light: pools that lost their stride, and
    interpolation from stride 16, spread it.
    """
    if name == "xception":
        return {8: 1 + 2, 16: 1}[stride]
    return int((name, stride) == ("small", 8) and i % 2 == 0 and j % 2 == 0)


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_a_mirrored_image_gives_mirrored_features(name, stride):
    model = built(name, stride)
    undo = change_kernels(model, mirror_symmetric)
    # "small" at stride 8 has features of stride 16, whose cells are mirrored exactly on images of
    # 16 * n + 1 pixels only.
    image = some_image(2 * stride + 1, (6 if name == "small" else 5) * stride + 1)
    try:
        straight, mirrored = features(model, image), features(model, image[:, :, ::-1])
    finally:
        undo()
    scale = np.abs(straight).max()
    assert straight.std() > 1e-3 * scale
    np.testing.assert_allclose(mirrored, straight[:, :, ::-1], atol=1e-4 * scale)


@pytest.mark.parametrize("application", ["MobileNetV2", "EfficientNetB0", "Xception"])
def test_the_originals_fail_these_checks(application):
    # What the checks are for (METHOD, items 2 and 20): asymmetric or missing padding moves the
    # cells off their points.
    original = getattr(keras.applications, application)(
        include_top=False, weights=None, input_tensor=keras.Input((None, None, 3))
    )
    change_kernels(original, centre_only)
    assert original.compute_output_shape((1, 129, 161, 3))[1:3] != (5, 6)
    assert lit_cells(original, 129, 161, [(64, 64)]) != [{(2, 2)}]


@pytest.mark.parametrize(
    "name", ["mobilenet", "resnet50", "mobilenetv1_released", "resnet50_released"]
)
@pytest.mark.parametrize(("fine", "coarse"), [(8, 16), (16, 32)])
def test_cells_that_two_output_strides_share_have_equal_features(name, fine, coarse):
    # The defining property of a dilated network; a rate forgotten in a later block (METHOD, item 3)
    # breaks it.
    model, other = built(name, fine), built(name, coarse)
    other.set_weights(model.get_weights())
    image = some_image(97, 65)
    sparse = features(other, image)
    np.testing.assert_allclose(
        features(model, image)[:, ::2, ::2], sparse, atol=1e-4 * np.abs(sparse).max()
    )


def test_rates_of_resnet_at_stride_8():
    model = built("resnet50", 8)
    rates = {
        name: model.get_layer(f"{name}_conv").dilation_rate[0]
        for name in ("conv3_block1_2", "conv4_block1_2", "conv5_block1_2")
    }
    later = {model.get_layer(f"conv5_block{block}_2_conv").dilation_rate for block in (2, 3)}
    assert rates == {"conv3_block1_2": 1, "conv4_block1_2": 2, "conv5_block1_2": 4}
    assert later == {(4, 4)}


def test_rates_of_the_released_mobilenets():
    # The narrow ones have stride 16 of their own: nothing is dilated there, and at stride 8
    # everything after block 6.
    def rates(alpha, stride):
        model = build_backbone("mobilenetv1_released", stride, alpha)
        return [
            model.get_layer(f"block{number}_depthwise").dilation_rate[0] for number in range(1, 14)
        ]

    assert rates(0.5, 16) == [1] * 13
    assert rates(0.75, 8) == [1] * 6 + [2] * 7
    assert rates(1.0, 16) == [1] * 12 + [2]
    assert rates(1.0, 8) == [1] * 6 + [2] * 6 + [4]


# --- equal to the originals


def test_resnet_at_stride_32_equals_the_original():
    model = built("resnet50", 32)
    original = keras.applications.ResNet50(include_top=False, weights=None)
    original.set_weights(model.get_weights())
    image = some_image(97, 129)
    expected = original(keras.applications.resnet.preprocess_input(image.copy()), training=False)
    np.testing.assert_allclose(
        features(model, image), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


def test_mobilenet_equals_the_original_on_a_shifted_image():
    # At strides 2, 4 and 8 the original's cells lie on pixels s * i + s - 1, ours on s * i; far
    # from borders they see the same.
    model = built("mobilenet", 32)
    original = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, input_tensor=keras.Input((None, None, 3))
    )
    original.set_weights(model.get_weights())
    image = some_image(200, 168)
    at_8 = "conv_pw_5_relu"
    theirs = features(
        keras.Model(original.input, original.get_layer(at_8).output), image / 127.5 - 1
    )
    ours = features(
        keras.Model(model.input, model.get_layer(at_8).output), image[:, 7:, 7:][:, :193, :161]
    )
    assert np.abs(theirs).max() > 0
    np.testing.assert_allclose(
        ours[:, 6:-6, 6:-6], theirs[:, 6:-6, 6:-6][:, :13, :9], atol=1e-4 * np.abs(theirs).max()
    )


@pytest.mark.parametrize(
    "name", ["mobilenet", "mobilenetv3small", "resnet50v2", "efficientnetb0", "xception"]
)
def test_layer_names_and_weight_shapes_are_the_originals(name):
    spec, model = BACKBONES[name], built(name, 8)
    width = (
        {"alpha": {"mobilenet": 0.25, "mobilenetv2": 0.35}.get(name, 1.0)} if spec.has_alpha else {}
    )
    original = getattr(keras.applications, spec.application)(
        include_top=False, weights=None, **width
    )
    ours = [layer for layer in model.layers if layer.weights]
    theirs = [layer for layer in original.layers if layer.weights]
    assert [[w.shape for w in layer.weights] for layer in ours] == [
        [w.shape for w in layer.weights] for layer in theirs
    ]
    # Layers that keras.applications leaves unnamed are numbered by the process.
    unnamed = ("conv2d", "batch_normalization", "normalization")
    named = [
        (a.name, b.name)
        for a, b in zip(ours, theirs, strict=True)
        if b.name.rstrip("_0123456789") not in unnamed
    ]
    assert [a for a, _ in named] == [b for _, b in named]
    assert len(named) > 30


# --- preprocessing


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("tf", (-1.0, 0.0, 1.0)),
        ("caffe", (255 - 103.939, 127.5 - 116.779, -123.68)),
        ("slim", (-123.15, 127.5 - 115.90, 255 - 103.06)),
        ("included", (0.0, 127.5, 255.0)),
    ],
)
def test_preprocessing(mode, expected):
    pixel = np.array([0.0, 127.5, 255.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(
        ops.convert_to_numpy(Preprocess(mode, 8)(pixel)).ravel(), expected, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mobilenet", "mobilenet"),
        ("resnet50", "resnet"),
        ("resnet50v2", "resnet_v2"),
        ("xception", "xception"),
    ],
)
def test_preprocessing_is_that_of_keras_applications(name, module):
    # On another scale at inference than in training nothing works (METHOD, item 10).
    image = some_image(3, 5)
    expected = getattr(keras.applications, module).preprocess_input(image.copy())
    preprocess = Preprocess(BACKBONES[name].preprocessing, 2)
    np.testing.assert_allclose(ops.convert_to_numpy(preprocess(image)), expected, atol=1e-4)


def test_every_backbone_has_a_known_preprocessing():
    assert {spec.preprocessing for spec in BACKBONES.values()} <= set(PREPROCESSING)


# --- weights


def as_applications_file(model, path):
    """The weights of a model in the format of keras.applications' own files."""
    import h5py

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return str(path)


def original_mobilenet():
    keras.utils.set_random_seed(1)
    return keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_of_the_original_load_from_a_file(suffix, tmp_path):
    original, path = original_mobilenet(), str(tmp_path / f"mobilenet{suffix}")
    if suffix == ".h5":
        as_applications_file(original, path)
    else:
        original.save_weights(path)
    model = build_backbone("mobilenet", 16, 0.25, weights=path)
    for ours, theirs in zip(model.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_backbone_load_at_another_stride(tmp_path):
    model, path = built("mobilenet", 8), str(tmp_path / "backbone.weights.h5")
    model.save_weights(path)
    for ours, theirs in zip(
        build_backbone("mobilenet", 32, 0.25, weights=path).get_weights(),
        model.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "alpha"), [("mobilenet", 0.5), ("mobilenetv2", 0.35)])
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_of_another_network_are_refused(name, alpha, suffix, tmp_path):
    path = str(tmp_path / f"mobilenet{suffix}")
    if suffix == ".h5":
        as_applications_file(original_mobilenet(), path)
    else:
        original_mobilenet().save_weights(path)
    with pytest.raises(InputError, match=f"holds no weights of {name} with alpha {alpha}") as error:
        build_backbone(name, 16, alpha, weights=path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.h5", "no such file"),
        ("corrupt.h5", "holds no weights"),
        ("corrupt.weights.h5", "holds no weights"),
        ("weights.npz", "ends in"),
    ],
)
def test_files_that_are_no_weights_are_refused(file, message, tmp_path):
    path = tmp_path / file
    if not file.startswith("missing"):
        path.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=message) as error:
        build_backbone("small", 16, 0.25, weights=str(path))
    assert "\n" not in str(error.value)


def test_imagenet_weights_are_those_of_keras_applications(monkeypatch, tmp_path):
    original = original_mobilenet()
    path = as_applications_file(original, tmp_path / "fetched.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: path)
    model = build_backbone("mobilenet", 8, 0.25, weights="imagenet")
    for ours, theirs in zip(model.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_efficientnet_scales_its_input_as_its_imagenet_weights_ask(monkeypatch):
    # keras.applications has a layer more where it loads imagenet weights; here the network is the
    # same whatever its weights.
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: "")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *args, **kwargs: None)
    original = keras.applications.EfficientNetB0(include_top=False, weights="imagenet")
    model, image = built("efficientnetb0", 8), some_image(33, 65)
    theirs, ours = (
        keras.Model(each.inputs[0], each.get_layer("stem_conv_pad").input)
        for each in (original, model)
    )
    np.testing.assert_allclose(features(ours, image), features(theirs, image), rtol=1e-5)


def test_imagenet_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.org/weights.h5:\nunreachable")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fail)
    with pytest.raises(
        InputError,
        match=r"URL fetch failure .* model.weights=PATH of a local file .* model.weights=null",
    ) as error:
        build_backbone("mobilenet", 16, 0.25, weights="imagenet")
    assert "\n" not in str(error.value)


def test_small_has_no_imagenet_weights():
    with pytest.raises(InputError, match="no imagenet weights of small"):
        build_backbone("small", 16, weights="imagenet")


# --- bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_50", r"Received: resnet_50. Nearest: resnet50"),
        ("mobilnet", r"Nearest: mobilenet"),
        ("zzz", r"Nearest: small, mobilenet"),
        ("vgg16", r"vgg16 cannot be used, its 2x2 pools lie between pixels"),
        ("DenseNet121", r"cannot be used"),
        ("convnext_tiny", r"cannot be used"),
        ("nasnetlarge", r"cannot be used"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(InputError, match=message):
        build_backbone(name, 16)


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnet50", 16, 0.5),
        ("small", 16, 0.0),
        ("small", 16, -1.0),
        ("mobilenetv1_released", 16, 0.25),
    ],
)
def test_widths_that_are_none(arguments):
    with pytest.raises(InputError, match=r"model.alpha.* must be .* Received"):
        build_backbone(*arguments)


@pytest.mark.parametrize(
    "layer", [layers.MaxPooling2D(2), layers.AveragePooling2D(3), layers.Conv2D(4, 4, strides=4)]
)
def test_layers_that_cannot_be_aligned_are_recognised(layer):
    # What VGG, DenseNet and ConvNeXt are made of.
    image = keras.Input((None, None, 3))
    with pytest.raises(InputError, match=f"layer {layer.name} .*cannot be aligned with pixels"):
        rebuild_at_stride(keras.Model(image, layer(image)), 8)


def test_an_image_of_another_side_is_refused():
    with pytest.raises(InputError, match=r"stride=16.*Received: 64. Nearest: 65"):
        built("small", 16)(np.zeros((1, 65, 64, 3), np.float32))


# --- layers


def test_dilated_max_pooling_by_hand():
    x = np.array([5, 1, 2, 0, 3, 4], np.float32).reshape(1, 1, 6, 1) * [1, -1]
    pooled = ops.convert_to_numpy(DilatedMaxPooling(3, 2)(x.astype(np.float32)))
    assert pooled[0, 0, :, 0].tolist() == [5, 1, 5, 4, 3, 4]
    assert pooled[0, 0, :, 1].tolist() == [-2, 0, -2, 0, -2, 0]


def test_dilated_max_pooling_at_rate_1_is_max_pooling():
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 3)).astype(np.float32)
    expected = layers.MaxPooling2D(3, 1, "same")(x)
    np.testing.assert_array_equal(DilatedMaxPooling(3, 1)(x), expected)


def test_crop_to_match():
    x, reference = np.arange(12.0).reshape(1, 3, 4, 1), np.zeros((1, 2, 4, 5))
    np.testing.assert_array_equal(CropToMatch()(x, reference), x[:, :2])


@pytest.mark.parametrize("name", ["small", "xception"])
def test_save_and_load(name, tmp_path):
    model, image = built(name, 8), some_image(33, 41)
    model.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(features(loaded, image), features(model, image))


JAX_CHECK = """
import jax, keras, numpy as np
from personlab_keras.model.backbones import build_backbone
from personlab_keras.model.layers import DilatedMaxPooling
assert keras.backend.backend() == "jax"
image = np.random.default_rng(0).uniform(0, 255, (1, 33, 49, 3)).astype(np.float32)
model = build_backbone("mobilenet", 8, 0.25, weights={weights!r})
np.save({features!r}, np.asarray(jax.jit(lambda image: model(image, training=False))(image)))
pooled = DilatedMaxPooling(3, 2)(np.array([5, 1, 2, 0, 3, 4], np.float32).reshape(1, 1, 6, 1))
assert np.asarray(pooled).ravel().tolist() == [5, 1, 5, 4, 3, 4]
"""


def test_jax_gives_the_same_features(tmp_path):
    pytest.importorskip("jax")
    model, files = (
        built("mobilenet", 8),
        {"weights": str(tmp_path / "it.weights.h5"), "features": str(tmp_path / "features.npy")},
    )
    model.save_weights(files["weights"])
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run(
        [sys.executable, "-c", JAX_CHECK.format(**files)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    expected = features(model, some_image(33, 49))
    np.testing.assert_allclose(
        np.load(files["features"]), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
