"""Google's released networks as ours: the same maps as their own files give, from every form of
file, and one line for every bad one.
"""

import http.server
import json
import re
import shutil
import threading
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np
import pytest
from released_graphs import (
    POSENET,
    STYLES,
    GraphFile,
    mobilenet_file,
    quantised,
    random_network,
    resnet_file,
    run_by_tensorflow,
)
from tiny import TINY, saved_model_left_out

from personlab_keras.cli import main
from personlab_keras.config import load_config
from personlab_keras.errors import InputError
from personlab_keras.export.export import export_source, import_weights
from personlab_keras.inference.input_fit import fit_for
from personlab_keras.inference.predict import load
from personlab_keras.io.images import read_image
from personlab_keras.method.maps import OUTPUTS
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.layers import PREPROCESSING
from personlab_keras.model.network import build_model, copy_weights, inference_model
from personlab_keras.model.pretrained.binding import RELEASED_EDGES
from personlab_keras.model.pretrained.catalogue import PUBLISHED
from personlab_keras.model.pretrained.download import RECORD_SUFFIX, cache_folder, locate
from personlab_keras.model.pretrained.graph import Convolution, Graph, Node, below
from personlab_keras.model.pretrained.network import read_network
from personlab_keras.model.pretrained.tfjs import read_tfjs
from personlab_keras.model_directory import read_model_directory
from personlab_keras.training.train import train

pytestmark = pytest.mark.slow

PROBABILITY_TOLERANCE = 1e-5
OFFSET_TOLERANCE = 1e-2  # input pixels


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def weights(network):
    return [keras.ops.convert_to_numpy(variable) for variable in network.variables]


def outputs_of(network, image):
    return {
        name: keras.ops.convert_to_numpy(output)
        for name, output in inference_model(network)(image).items()
    }


def as_read_by_hand(theirs):
    """Released outputs by their short names, in our layout, put together field by field from the
    documentation of their layout.
    """
    ours = {}
    for name, logits in (
        ("heatmaps", "heatmaps"),
        ("segmentation", "segments"),
        ("part_heatmaps", "part_heatmaps"),
    ):
        if logits in theirs:
            ours[name] = 1 / (1 + np.exp(-theirs[logits].astype(np.float64)))
    for name in ("short_offsets", "long_offsets"):
        if name in theirs:
            # dy of keypoint k at channel k, dx at 17 + k.
            fields = [(theirs[name][..., 17 + k], theirs[name][..., k]) for k in range(17)]
            ours[name] = np.stack([component for field in fields for component in field], axis=-1)
    fields = []
    for start, end in COCO_PERSON.edge_indices.tolist():
        forward = (start, end) in RELEASED_EDGES
        map_, edge = (theirs["forward"], RELEASED_EDGES.index((start, end))) if forward else (
            theirs["backward"], RELEASED_EDGES.index((end, start)))  # fmt: skip
        fields += [map_[..., 16 + edge], map_[..., edge]]
    ours["mid_offsets"] = np.stack(fields, axis=-1)
    return ours


def assert_same_maps(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        tolerance = OFFSET_TOLERANCE if "offsets" in name else PROBABILITY_TOLERANCE
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance, err_msg=name)


# --- the real files


@pytest.fixture(scope="module")
def bodypix_file(shared):
    pytest.importorskip("onnx")
    return shared / "weights" / "bodypix-mobilenet-v1-050" / "MobileNetV1-x050-stride16.onnx"


@pytest.fixture(scope="module")
def posenet_file(shared):
    return shared / "weights" / "posenet-mobilenet-v1-075" / "posenet.json"


@pytest.fixture(scope="module")
def bodypix(bodypix_file):
    return read_network(bodypix_file)


def real_image(shared, name, longer_side):
    image = read_image(shared / "data" / "photos" / name)
    fit = fit_for(image.shape[1], image.shape[0], longer_side, stride=16)
    return fit.apply(image)[None].astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["random", "random upright", "coral_test_couple.jpg", "pexels-fauxels-3184419.jpg"]
)
def test_maps_equal_those_of_the_onnx_file(kind, bodypix, bodypix_file, shared):
    onnxruntime = pytest.importorskip("onnxruntime")
    images = {"random": random_image(193, 321), "random upright": random_image(273, 145)}
    image = images[kind] if kind in images else real_image(shared, kind, 513)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # it warns of every one of the file's weights that they are inputs as well
    )
    session = onnxruntime.InferenceSession(
        bodypix_file, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    theirs = dict(zip(names, session.run(names, {"input": image / 127.5 - 1}), strict=True))
    theirs = {
        "forward": theirs["displacement_fwd"],
        "backward": theirs["displacement_bwd"],
        **theirs,
    }
    ours = outputs_of(bodypix.network, image)
    assert ours["heatmaps"].max() > (0.5 if kind.endswith("jpg") else 0)
    assert_same_maps(ours, as_read_by_hand(theirs))


def test_maps_equal_those_of_the_posenet_file(posenet_file, shared):
    network = read_network(posenet_file).network
    for image in (random_image(193, 321), real_image(shared, "coral_test_couple.jpg", 401)):
        theirs = run_by_tensorflow(posenet_file, image / 127.5 - 1)
        names = {
            "heatmaps": "heatmap",
            "short_offsets": "offset",
            "forward": "displacement_fwd",
            "backward": "displacement_bwd",
        }
        theirs = {
            name: theirs[f"MobilenetV1/{theirs_name}_2/BiasAdd"]
            for name, theirs_name in names.items()
        }
        assert_same_maps(outputs_of(network, image), as_read_by_hand(theirs))


def test_cells_that_strides_share_have_equal_maps(bodypix, shared):
    # A dilated network computes the same there, up to the borders: what lies beyond is zero at
    # every stride.
    image = real_image(shared, "coral_test_couple.jpg", 385)
    image = image[:, : 32 * ((image.shape[1] - 1) // 32) + 1]
    maps = {}
    for stride in (8, 16, 32):
        network = build_model(replace(bodypix.config, output_stride=stride))
        copy_weights(bodypix.network, network)
        maps[stride] = outputs_of(network, image)
    for coarse, fine in ((16, 8), (32, 16)):
        assert_same_maps(
            {name: values[:, ::2, ::2] for name, values in maps[fine].items()}, maps[coarse]
        )


def test_people_are_found_in_a_photo(bodypix_file, shared, tmp_path, no_saved_model):
    import_weights(bodypix_file, tmp_path / "bodypix")
    predictor = load(tmp_path / "bodypix", ["predict.longer_side=513"])
    image = read_image(shared / "data" / "photos" / "coral_test_couple.jpg")
    people = predictor(image)
    assert len(people) == 2
    for person in people:
        heads, feet = person.keypoints[:5, 1], person.keypoints[15:, 1]
        assert np.nanmax(heads) < np.nanmin(feet)
        x, y = person.keypoints[person.found].astype(int).T
        assert person.mask[y, x].mean() > 0.8
    assert not (people[0].mask & people[1].mask).any()
    parts = predictor.maps(image).part_heatmaps
    assert parts.shape[2] == 24


def test_provenance_says_where_the_weights_come_from(bodypix_file, tmp_path, no_saved_model):
    import_weights(bodypix_file, tmp_path)
    described = json.loads((tmp_path / "personlab.json").read_text())
    assert described["provenance"]["licence"] == "Apache-2.0"
    assert described["predict"]["scales"] == [1.0, 0.5]  # portraits and crowds
    file = described["provenance"]["files"][bodypix_file.name]
    assert (file["size"], len(file["sha256"])) == (bodypix_file.stat().st_size, 64)
    assert (described["radius"], described["stride"], described["preprocessing"]["scaling"]) == (
        32.0,
        16,
        "tf",
    )


def test_onnx_without_the_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    (tmp_path / "network.onnx").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"takes the onnx package: pip install 'personlab-keras\[onnx\]'"
    ):
        read_network(tmp_path / "network.onnx")


# --- made by the tests


@cache  # built once, read by many
def mobilenet(alpha=0.5, stride=16):
    return random_network(alpha=alpha, stride=stride)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small BodyPix network in three shards."""
    return mobilenet_file(mobilenet()).write(
        tmp_path_factory.mktemp("released") / "bodypix", shards=3
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("alpha", "stride"), [(0.5, 16), (0.75, 8), (1.0, 8), (1.0, 32)])
def test_a_mobilenet_is_read_from_every_form(style, alpha, stride, tmp_path):
    network = mobilenet(alpha, stride)
    path = mobilenet_file(network, style).write(tmp_path, shards=2)
    imported = read_network(path)
    assert (imported.config.alpha, imported.config.output_stride) == (alpha, stride)
    for theirs, ours in zip(weights(network), weights(imported.network), strict=True):
        np.testing.assert_allclose(
            ours,
            theirs,
            rtol=1e-5 if style in STYLES[2:] else 0,
            atol=1e-6 if style in STYLES[2:] else 0,
        )
    image = random_image(65, 97)
    theirs = run_by_tensorflow(path, image / 127.5 - 1)
    assert_same_maps(outputs_of(imported.network, image), as_read_by_hand(short_names(theirs)))


@pytest.mark.parametrize(("style", "stride"), [("fused", 32), ("batch_norm", 16)])
def test_a_slim_resnet_is_read_and_computes_what_tensorflow_does(style, stride, tmp_path):
    network = random_network("resnet50_released", 1.0, stride)
    path = resnet_file(network, style).write(tmp_path, shards=5)
    imported = read_network(path)
    assert (imported.config.backbone, imported.config.output_stride) == (
        "resnet50_released",
        stride,
    )
    for theirs, ours in zip(weights(network), weights(imported.network), strict=True):
        np.testing.assert_allclose(
            ours, theirs, rtol=0 if style == "fused" else 1e-5, atol=0 if style == "fused" else 1e-6
        )
    image = random_image(65, 97)
    # Convolutions padded explicitly and pools in the shortcuts, as in TF-slim, lie on the same
    # pixels as ours.
    theirs = run_by_tensorflow(path, image + np.float32(PREPROCESSING["slim"].offset))
    assert_same_maps(outputs_of(imported.network, image), as_read_by_hand(short_names(theirs)))


def short_names(theirs):
    return {
        re.sub("float_|.*/displacement_|_2/BiasAdd", "", name)
        .replace("fwd", "forward")
        .replace("bwd", "backward"): values
        for name, values in theirs.items()
    }


def test_the_file_of_posenet_has_poses_only(tmp_path):
    path = mobilenet_file(random_network(outputs=POSENET)).write(tmp_path)
    assert read_network(path).config.outputs == POSENET


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16"])
def test_quantised_manifests(kind, tmp_path):
    file = mobilenet_file(mobilenet())
    exact = read_tfjs(file.write(tmp_path / "exact")).constants
    path = file.write(tmp_path / "quantised", quantization=kind)
    stored = sum(shard.stat().st_size for shard in path.parent.glob("*.bin"))
    assert stored == sum(values.size for values in exact.values()) * np.dtype(kind).itemsize
    for name, values in read_tfjs(path).constants.items():
        _, entry = quantised(exact[name], kind)
        tolerance = (
            np.abs(exact[name]) * 2**-11 + 1e-7
            if kind == "float16"
            else entry["scale"] / 2 + 1e-6 * np.abs(exact[name]).max()
        )
        assert (np.abs(values - exact[name]) <= tolerance).all()
    assert read_network(path).config.outputs[-1] == "part_heatmaps"


def test_quantised_integers_stay_integers(tmp_path):
    entry = {
        "name": "a",
        "shape": [3],
        "dtype": "int32",
        "quantization": {"dtype": "uint8", "scale": 2.0, "min": -3.0},
    }
    (tmp_path / "a.bin").write_bytes(bytes([0, 1, 2]))
    model = {
        "modelTopology": {"node": []},
        "weightsManifest": [{"paths": ["a.bin"], "weights": [entry]}],
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert read_tfjs(tmp_path / "model.json").constants["a"].tolist() == [-3, -1, 1]


def test_folding_by_hand():
    # ((x * 2 + 1) - 3) * 5, with a relu last.
    graph = Graph(
        "by hand",
        {
            "x": Node("x", "Placeholder"),
            "conv": Node("conv", "Conv2D", ("x", "kernel"), {"strides": (1, 2, 2, 1)}),
            "bias": Node("bias", "BiasAdd", ("conv", "one")),
            "sub": Node("sub", "Sub", ("bias", "three")),
            "mul": Node("mul", "Mul", ("five", "sub")),
            "relu": Node("relu", "Relu", ("mul",)),
            "late": Node("late", "BiasAdd", ("relu", "one")),
        },
        {
            "kernel": np.full((1, 1, 1, 1), 2.0),
            **{
                name: np.array([value])
                for name, value in (("one", 1.0), ("three", 3.0), ("five", 5.0))
            },
        },
    )
    found = below(graph, "relu")
    assert isinstance(found, Convolution)
    assert (found.kernel.item(), found.bias.item(), found.stride, found.activation) == (
        10.0,
        -10.0,
        2,
        "Relu",
    )
    with pytest.raises(InputError, match="the activation relu must come last"):
        below(graph, "late")


def test_the_layers_of_resnet_50_are_those_of_keras_applications_with_the_last_strides(tmp_path):
    ours = build_model(
        load_config(None, ["model.backbone=resnet50_released", "model.weights=null"]).model
    )
    original = keras.applications.ResNet50(include_top=False, weights=None)
    kernels = sorted(
        tuple(layer.kernel.shape)
        for layer in original.layers
        if isinstance(layer, keras.layers.Conv2D)
    )  # the same multiset: only strides differ
    found = sorted(
        tuple(layer.kernel.shape)
        for layer in ours.layers
        if isinstance(layer, keras.layers.Conv2D) and not layer.name.endswith("_head")
    )
    assert found == kernels
    assert (
        sum(np.prod(shape) for shape in found) == 23_454_912
    )  # TF-slim's resnet_v1_50 without its classifier
    natural = build_model(
        load_config(
            None,
            ["model.backbone=resnet50_released", "model.weights=null", "model.output_stride=32"],
        ).model
    )
    strided = [
        layer.name
        for layer in natural.layers
        if getattr(layer, "strides", (1, 1))[0] > 1 and "conv" in layer.name
    ]
    assert strided == ["conv1", "block1_unit3_conv2", "block2_unit4_conv2", "block3_unit6_conv2"]


# --- what the networks become


@pytest.fixture(scope="module")
def imported(file, tmp_path_factory):
    """The model directory of the small BodyPix network."""
    folder = tmp_path_factory.mktemp("imported") / "bodypix"
    with saved_model_left_out():
        import_weights(file, folder)
    return folder


def test_settings_are_honoured(file, imported, tmp_path, no_saved_model):
    directory = import_weights(
        file, tmp_path / "fine", ["model.output_stride=8", "predict.longer_side=257"]
    )
    assert (directory.stride, directory.config.predict.longer_side) == (8, 257)
    for a, b in zip(
        weights(directory.network), weights(read_model_directory(imported).network), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    again = export_source(
        imported, tmp_path / "coarse", ["model.output_stride=32", "model.target_stride=32"]
    )
    assert read_model_directory(again).stride == 32


def test_poses_without_masks_and_it_says_so(scenes, tmp_path, capsys):
    path = mobilenet_file(random_network(outputs=POSENET)).write(tmp_path / "posenet")
    out = tmp_path / "model"
    assert main(["import-weights", str(path.parent), "--out", str(out)]) == 0
    assert "predicts poses only" in capsys.readouterr().out
    predictor = load(out, ["predict.longer_side=97", "decode.max_people=3"])
    assert not predictor.decode_options.masks
    assert all(person.mask is None for person in predictor(np.zeros((60, 80, 3), np.uint8)))
    for asked in (["predict", str(scenes / "images"), "--model", str(out), "--out", str(tmp_path / "people")],
                  ["import-weights", str(path), "--out", str(tmp_path / "other")]):  # fmt: skip
        assert main([*asked, "--set", "decode.masks=true"]) == 2
        error = capsys.readouterr().err
        assert (
            "decode.masks: this network predicts poses only, it has no long_offsets and no segmentation"
            in error
        )
        assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_training_starts_from_it_without_being_told_its_architecture(
    imported, records, tmp_path, capsys, no_saved_model
):
    # The records are the tests' own: small discs at stride 8.
    settings = [setting for setting in TINY if not setting.startswith("model.")] + [
        "train.learning_rate=1e-4",
        "train.steps=2",
    ]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    run = [
        "train",
        "--records",
        str(records),
        "--val-records",
        str(records),
        "--workdir",
        str(tmp_path / "run"),
    ]
    assert main([*run, "--init", str(imported), *arguments]) == 0
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.model.backbone, config.model.alpha, config.model.target_stride) == (
        "mobilenetv1_released",
        0.5,
        8,
    )
    before = read_model_directory(imported).network
    after = read_model_directory(export_source(tmp_path / "run", tmp_path / "tuned")).network
    moved = {
        layer.name: not all(
            map(np.array_equal, layer.get_weights(), after.get_layer(layer.name).get_weights())
        )
        for layer in before.layers
        if layer.weights
    }
    assert {name for name, changed in moved.items() if not changed} == {"part_heatmaps_head"}
    logged = (tmp_path / "run" / "log.jsonl").read_text()
    assert "loss/long_offsets" in logged
    assert "part_heatmaps" not in logged
    # The same command goes on; another network in its place is refused.
    assert main([*run, "--init", str(imported), *arguments]) == 0
    assert (
        main(
            [
                *run[:-1],
                str(tmp_path / "other"),
                "--init",
                str(imported),
                *arguments,
                "--set",
                "model.alpha=0.75",
            ]
        )
        == 2
    )
    assert "the weights are those of another network" in capsys.readouterr().err


def test_a_network_without_mask_heads_trains(records, tiny_config, tmp_path, no_saved_model):
    poses = replace(tiny_config.model, outputs=POSENET)
    train(records, tmp_path / "run", replace(tiny_config, model=poses), val_records=records)
    losses = {
        name
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        for name in json.loads(line)
    }
    assert {name for name in losses if name.startswith("loss/")} == {
        f"loss/{name}" for name in POSENET
    }
    export_source(tmp_path / "run", tmp_path / "model")
    assert not load(tmp_path / "model").decode_options.masks


# --- bad input


def tampered(file, folder, change):
    """A copy of a model folder whose JSON `change` has altered in place."""
    shutil.copytree(file.parent, folder)
    path = folder / file.name
    model = json.loads(path.read_text())
    change(model, folder)
    path.write_text(json.dumps(model))
    return path


def node_of(model, name):
    return next(node for node in model["modelTopology"]["node"] if node["name"] == name)


def truncate(model, folder):
    shard = folder / model["weightsManifest"][0]["paths"][-1]
    shard.write_bytes(shard.read_bytes()[:-1000])


def lose_shard(model, folder):
    (folder / model["weightsManifest"][0]["paths"][1]).unlink()


def climb_out(model, folder):
    model["weightsManifest"][0]["paths"][0] = "../../etc/passwd"


def unknown_op(model, folder):
    node_of(model, "Conv2d_3_pointwise/out")["op"] = "Softplus"


def unknown_fused_op(model, folder):
    node_of(model, "Conv2d_3_pointwise/out")["attr"]["fused_ops"] = {"list": {"s": ["RWx1"]}}


def other_stride(model, folder):
    node_of(model, "Conv2d_2_depthwise/out")["attr"]["strides"] = {
        "list": {"i": ["1", "1", "1", "1"]}
    }


def other_activation(model, folder):
    node_of(model, "Conv2d_2_depthwise/out")["attr"]["fused_ops"] = {
        "list": {"s": ["Qmlhc0FkZA==", "UmVsdQ=="]}
    }


def no_heatmaps(model, folder):
    node_of(model, "float_heatmaps")["name"] = "something"


def other_channels(model, folder):
    heatmaps, segments = node_of(model, "float_heatmaps"), node_of(model, "float_segments")
    heatmaps["name"], segments["name"] = segments["name"], heatmaps["name"]


def missing_node(model, folder):
    model["modelTopology"]["node"].remove(node_of(model, "Conv2d_5_depthwise/out"))


def circle(model, folder):
    node_of(model, "Conv2d_5_depthwise/out").update(op="Identity", input=["Conv2d_5_pointwise/out"])
    node_of(model, "Conv2d_5_pointwise/out").update(op="Identity")


def shorter(model, folder):
    node_of(model, "Conv2d_5_depthwise/out")["input"][0] = "Conv2d_3_pointwise/out"


def unknown_dtype(model, folder):
    model["weightsManifest"][0]["weights"][0]["dtype"] = "complex64"


def negative_side(model, folder):
    model["weightsManifest"][0]["weights"][0]["shape"] = [-1, 3]


def strange_attribute(model, folder):
    node_of(model, "Conv2d_3_pointwise/out")["attr"]["strides"] = {"list": {"i": ["one"]}}


def not_finite(model, folder):
    shard = folder / model["weightsManifest"][0]["paths"][0]
    shard.write_bytes(b"\xff" * 4000 + shard.read_bytes()[4000:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "truncated, or of another network. Received: "),
        (lose_shard, "names 3 shards of which 1 are missing, first group1-shard2of3.bin"),
        (climb_out, r"a shard must lie beside the JSON that names it. Received: ../../etc/passwd"),
        (unknown_op, "the op Softplus of node Conv2d_3_pointwise/out is not known here"),
        (unknown_fused_op, "the op Elu, fused into node Conv2d_3_pointwise/out, is not known here"),
        (
            other_stride,
            r"the stride of Conv2d_2_depthwise/out \(block2_depthwise\) must be 2. Received: 1",
        ),
        (
            other_activation,
            "the activation of Conv2d_2_depthwise/out .* must be Relu6. Received: Relu",
        ),
        (no_heatmaps, "it has no head of heatmaps"),
        (other_channels, "must have 17 channels. Received: 1"),
        (missing_node, "no node makes Conv2d_5_depthwise/out"),
        (circle, "the graph runs in circles"),
        (shorter, "a chain of 25 convolutions, where a MobileNetV1 has 27"),
        (unknown_dtype, "must be of one of float32, .* Received: complex64"),
        (negative_side, "has a negative side"),
        (strange_attribute, "damaged: ValueError"),
        (not_finite, "not finite"),
    ],
)
def test_damaged_files_get_one_line_and_leave_no_model_directory(change, words, file, tmp_path):
    path = tampered(file, tmp_path / "released", change)
    with pytest.raises(InputError, match=words) as caught:
        import_weights(path, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["released"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.json", b"{}", "no TensorFlow.js graph model"),
        (
            "model.json",
            b'{"format": "layers-model", "modelTopology": {"layers": []}}',
            "no TensorFlow.js graph model",
        ),
        ("model.json", b"[]", "must hold a JSON object"),
        ("model.json", b"\x00", "not valid JSON"),
        ("model.onnx", b"no onnx at all", "no ONNX model"),
        ("model.onnx", b"", "no ONNX model"),
        # Found by fuzzing: a node without outputs, a tensor of no known type, a constant that is
        # no tensor.
        (
            "model.onnx",
            b'\x08\x0e:\x0b\n\x06"\x04Conv\x12\x01gB\x02\x10\x1c',
            "Conv without outputs",
        ),
        (
            "model.onnx",
            b'\x08\x0e:\x1a\n\x0c\n\x01a\x12\x01b"\x04Relu\x12\x01g*\x07\x08\x01\x10UB\x01aB\x02\x10\x1c',
            "damaged: 85",
        ),
        (
            "model.onnx",
            b'\x08\x0e: \n\x1b\x12\x01b"\x08Constant*\x0c\n\x05value\x18\x01\xa0\x01\x02\x12\x01g'
            b"B\x02\x10\x1c",
            "damaged: 'int' object has no attribute",
        ),
        ("model.h5", b"x", "must be a TensorFlow.js model"),
        (None, b"", "holds no network"),
        ("missing/model.json", None, "no such file or folder"),
    ],
)
def test_files_that_are_no_such_model(name, content, words, tmp_path):
    if str(name).endswith("onnx"):
        pytest.importorskip("onnx")
    if name and content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_network(tmp_path / name if name else tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("operation", "attributes", "words"),
    [
        # The first was found by fuzzing: an attribute without a value.
        ("Conv", {"strides": None}, "strides of g must be two whole numbers of at least 1"),
        ("Conv", {"strides": [2]}, r"two whole .* Received: '\[2\]'"),
        ("Conv", {"dilations": [1, -2]}, "dilations of g must be two"),
        ("Conv", {"dilations": "ab"}, "dilations of g must be two"),
        ("Conv", {"group": 0}, "group of g must be a whole number of at least 1"),
        ("Conv", {"group": 1.5}, "group of g must be a whole"),
        ("MaxPool", {"kernel_shape": 3}, "kernel_shape of g must be two"),
        ("BatchNormalization", {"epsilon": "small"}, "epsilon of g must be a number"),
        ("Clip", {"min": [0.0], "max": 6.0}, "min of g must be a number"),
        ("Clip", {}, "it has no head of heatmaps"),  # whose limits are words
    ],
)
def test_attributes_of_an_onnx_file_are_checked(operation, attributes, words, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    arrays = {"k": np.zeros((8, 3, 3, 3), np.float32), "few": np.array(["0"], object)}
    node = helper.make_node(operation, ["x", "few" if operation == "Clip" else "k", "few"], ["g"])
    for name, value in attributes.items():
        attribute = helper.make_attribute(name, 1 if value is None else value)
        if value is None:
            attribute.type = onnx.AttributeProto.UNDEFINED
        node.attribute.append(attribute)
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", floats, [1, 3, 9, 9])]
    outputs = [helper.make_tensor_value_info("g", floats, None)]
    model = helper.make_model(helper.make_graph([node], "net", inputs, outputs, tensors))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=words) as caught:
        read_network(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_a_folder_with_two_networks_asks_which(file, tmp_path):
    shutil.copytree(file.parent, tmp_path / "two")
    shutil.copy(file, tmp_path / "two" / "model-stride8.json")
    with pytest.raises(
        InputError,
        match=r"holds several networks: model-stride16.json, model-stride8.json; name one",
    ):
        read_network(tmp_path / "two")


def test_a_graph_that_scales_its_own_input_is_refused(tmp_path):
    file = mobilenet_file(mobilenet())
    file.add("scaled", "Mul", ["image", file.weight(np.float32([2.0]))], {})
    next(node for node in file.nodes if node["name"] == "Conv2d_0/out")["input"][0] = "scaled"
    with pytest.raises(
        InputError, match="scaled stands between the image and the first convolution"
    ):
        read_network(file.write(tmp_path))


def test_a_small_graph_is_no_released_network(tmp_path):
    file = GraphFile()
    x = file.convolution(
        "conv",
        "image",
        np.zeros((3, 3, 3, 16), np.float32),
        np.zeros(16, np.float32),
        2,
        1,
        "Relu6",
    )
    for name, channels in (("float_heatmaps", 17), ("float_short_offsets", 34), ("a/displacement_fwd_2/BiasAdd", 32),
                           ("a/displacement_bwd_2/BiasAdd", 32)):  # fmt: skip
        file.convolution(
            name,
            x,
            np.zeros((1, 1, 16, channels), np.float32),
            np.zeros(channels, np.float32),
            final_name=name,
        )
    with pytest.raises(InputError, match="a chain of 1 convolutions, where a MobileNetV1 has 27"):
        read_network(file.write(tmp_path))


# --- downloads


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word; of those named "cut" only a part, though all is promised."""

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(1000) if "cut" in self.path else source.read())


@pytest.fixture
def server(file, monkeypatch, tmp_path):
    """The address of the small network's JSON; an empty cache."""
    monkeypatch.setenv("PERSONLAB_CACHE", str(tmp_path / "cache"))
    served = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(file.parent.parent))
    )
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/{file.parent.name}/{file.name}", served
    served.shutdown()
    served.server_close()


def test_a_download_is_kept_verified_and_used_again(server, file, tmp_path):
    url, served = server
    seen = []
    path, _ = locate(url, lambda received, total: seen.append((received, total)))
    total = sum(shard.stat().st_size for shard in file.parent.glob("*.bin"))
    assert seen[-1] == (total, total)
    assert path.is_relative_to(tmp_path / "cache")
    record = json.loads(path.with_name(path.name + RECORD_SUFFIX).read_text())
    assert (record["url"], record["size"]) == (url, file.stat().st_size)
    assert not list(path.parent.glob("*.part"))
    served.shutdown()
    again = read_network(url)  # from the cache: nobody answers any more
    assert again.provenance["source"] == url
    shard = path.parent / "group1-shard2of3.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(
        InputError, match="damaged: sha256 must be .* Delete it to download it again"
    ) as caught:
        read_network(url)
    assert "\n" not in str(caught.value)


def test_a_download_that_was_cut_off_leaves_nothing(server, file, tmp_path):
    url, _ = server
    shutil.copy(file.parent / "group1-shard1of3.bin", file.parent / "cut.onnx")
    try:
        with pytest.raises(InputError, match="cut off after 1000 of|IncompleteRead"):
            locate(url.replace(file.name, "cut.onnx"))
    finally:
        (file.parent / "cut.onnx").unlink()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_a_network_it_says_what_to_download(server, monkeypatch, tmp_path, capsys):
    url, served = server
    served.shutdown()
    served.server_close()
    name = "bodypix-mobilenet-v1-050"
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], url=url))
    assert main(["import-weights", name, "--out", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{url}: cannot be downloaded" in error
    assert (
        f"Download {url}, and the shards that it names, on a machine with a network into one folder"
        in error
    )
    assert not (tmp_path / "model").exists()


def test_a_name_is_resolved_and_remembered(server, monkeypatch):
    url, _ = server
    monkeypatch.setitem(
        PUBLISHED,
        "bodypix-mobilenet-v1-050",
        replace(PUBLISHED["bodypix-mobilenet-v1-050"], url=url),
    )
    assert (
        read_network("bodypix-mobilenet-v1-050").provenance["source"]
        == f"bodypix-mobilenet-v1-050, {url}"
    )


def test_published_addresses():
    assert len(PUBLISHED) == 24
    base = "https://storage.googleapis.com/tfjs-models/savedmodel"
    assert (
        PUBLISHED["bodypix-mobilenet-v1-050"].url
        == f"{base}/bodypix/mobilenet/float/050/model-stride16.json"
    )
    assert (
        PUBLISHED["posenet-resnet50-quant2"].url
        == f"{base}/posenet/resnet50/quant2/model-stride16.json"
    )


def test_names_that_are_none():
    with pytest.raises(InputError, match="Nearest: bodypix-mobilenet-v1-050"):
        read_network("bodypix-mobilenet-050")


@pytest.mark.parametrize(
    "url", ["http://host/", "http:///file.json", "https://host/a/%2e%2e/%2e%2e/x.json"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="an address must be"):
        read_network(url)


def test_the_cache_is_the_platforms_unless_named(monkeypatch):
    monkeypatch.delenv("PERSONLAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    for platform, end in (
        ("linux", "/somewhere/personlab"),
        ("darwin", "Library/Caches/personlab"),
    ):
        monkeypatch.setattr("sys.platform", platform)
        assert cache_folder().as_posix().endswith(end)
    monkeypatch.setenv("PERSONLAB_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_the_list_names_every_network_with_its_licence(capsys):
    assert main(["import-weights", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PUBLISHED)
    assert all("MB" in line and line.endswith("Apache-2.0") for line in lines)


def test_every_output_of_the_method_has_a_head(file):
    assert set(OUTPUTS) < set(read_network(file).config.outputs)
