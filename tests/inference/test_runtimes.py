"""Files of other runtimes: what `personlab export --format` writes, and `predict` with nothing but
one of them.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from tiny import saved_model_left_out

from personlab_keras.cli import main
from personlab_keras.config import load_config
from personlab_keras.errors import InputError
from personlab_keras.export.export import export_model, import_weights
from personlab_keras.export.file_options import FileOptions
from personlab_keras.export.formats import export_formats
from personlab_keras.inference import runtimes
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.inference.runtimes import may_have_accelerator, read_network_file
from personlab_keras.io.images import read_image
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.model.network import build_model
from personlab_keras.model_directory import DESCRIPTION_FILE, describe, read_model_directory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "model.backbone=small",
    "model.alpha=0.25",
    "model.weights=null",
    "model.output_stride=16",
    "predict.longer_side=97",
    "decode.score_threshold=0",
]
KINDS = ("float32", "float16", "int8")
ALL_FILES = [
    "model.tflite",
    "model.float16.tflite",
    "model.int8.tflite",
    "model.onnx",
    "model.float16.onnx",
    "model.int8.onnx",
]
ONE_OF_EACH = ["model.tflite", "model.onnx"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """The model directory of a small network whose maps differ from place to place, with every file
    in it.
    """
    return make_directory(tmp_path_factory.mktemp("runtimes") / "model", [], FileOptions(KINDS))


@pytest.fixture(scope="module")
def finer(tmp_path_factory) -> Path:
    """Files of a dilated network at stride 8 with maps at stride 4, refined, and without masks."""
    settings = [
        "model.backbone=mobilenetv1_released",
        "model.alpha=0.5",
        "model.output_stride=8",
        "model.target_stride=4",
        "model.mid_refinements=1",
        "model.outputs=[heatmaps, short_offsets, mid_offsets]",
        "decode.masks=false",
    ]
    return make_directory(tmp_path_factory.mktemp("finer") / "model", settings, FileOptions())


@pytest.fixture(scope="module")
def fixed(directory, tmp_path_factory) -> Path:
    """Files of the first network that take one size, in float32 and in int8 calibrated with one
    image.
    """
    folder = tmp_path_factory.mktemp("fixed")
    assert cv2.imwrite(str(folder / "image.png"), image_of(65, 97)[0, ..., ::-1].astype(np.uint8))
    options = FileOptions(
        ("float32", "int8"), input_size=(97, 65), calibration=(str(folder / "image.png"),)
    )
    export_formats(directory, folder, ["litert", "onnx"], options)
    return folder


def make_directory(folder: Path, settings: list[str], options: FileOptions) -> Path:
    config = load_config(None, [*SETTINGS, *settings])
    keras.utils.set_random_seed(1)
    network = build_model(config.model)
    for weights in network.weights:
        if weights.name == "kernel":
            fan_in = 9 if "depthwise" in weights.path else int(np.prod(weights.shape[:-1]))
            weights.assign(keras.random.normal(weights.shape, stddev=1.4 / fan_in**0.5))
    with saved_model_left_out():
        export_model(network, config, COCO_PERSON, folder, {"trained_steps": 0})
    assert export_formats(folder, folder, ["litert", "onnx"], options)
    return folder


def image_of(height: int, width: int, count: int = 1) -> np.ndarray:
    return (
        np.random.default_rng(height).uniform(0, 255, (count, height, width, 3)).astype(np.float32)
    )


def outputs(network, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(output) for name, output in network.predict_on_batch(inputs).items()}


def assert_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], share: float
) -> None:
    """Each map is off, in the root mean square, by no more than this share of what its values
    vary.
    """
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        assert np.sqrt(np.mean((found[name] - values) ** 2)) <= share * values.std(), name


def test_litert_has_an_interpreter_for_each_of_two_shapes(directory, monkeypatch):
    file = read_network_file(directory / "model.tflite")
    rng = np.random.default_rng(0)
    small, large, turned = (
        rng.uniform(0, 255, (1, height, width, 3)).astype(np.float32)
        for height, width in ((33, 49), (65, 97), (97, 65))
    )
    images = [large, small, large, small, turned, large]
    alone = [file.open(threads=1).predict_on_batch(image) for image in images]
    opened = []
    open_one = runtimes._litert_interpreter
    monkeypatch.setattr(
        runtimes, "_litert_interpreter", lambda *args: opened.append(args) or open_one(*args)
    )
    network = file.open(threads=1)
    for image, expected in zip(images, alone, strict=True):
        found = network.predict_on_batch(image)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    assert len(opened) == 2


@pytest.mark.parametrize("file", ALL_FILES)
def test_files_take_any_size_and_batch_and_give_the_maps_by_name(directory, file):
    model = read_model_directory(directory).model
    network = read_network_file(directory / file).open(threads=1)
    share = {"float32": 1e-4, "float16": 0.01, "int8": 0.1}[
        next((kind for kind in KINDS if kind in file), "float32")
    ]
    for inputs in (image_of(97, 65), image_of(33, 129, count=2), image_of(97, 65)):
        expected = outputs(model, inputs)
        assert (
            min(np.ptp(values) for values in expected.values()) > 1e-3
        )  # maps that tell places apart
        assert_close(outputs(network, inputs), expected, share)


def test_weights_in_fewer_bits_take_less_room_and_differ(directory):
    for ending in ("tflite", "onnx"):
        sizes = [
            (directory / f"model{kind}.{ending}").stat().st_size
            for kind in ("", ".float16", ".int8")
        ]
        assert sizes == sorted(sizes, reverse=True)
        exact, halved, quartered = (
            outputs(
                read_network_file(directory / f"model{kind}.{ending}").open(1), image_of(65, 65)
            )["mid_offsets"]
            for kind in ("", ".float16", ".int8")
        )
        assert 0 < np.abs(halved - exact).max() < np.abs(quartered - exact).max()


@pytest.mark.parametrize("file", ONE_OF_EACH)
def test_finer_maps_refined_in_the_network_and_no_masks(finer, file):
    read = read_network_file(finer / file)
    assert read.description.stride == 4
    for inputs in (image_of(65, 97), image_of(33, 49, count=2)):
        assert_close(
            outputs(read.open(), inputs), outputs(read_model_directory(finer).model, inputs), 1e-4
        )
    predictor = load(finer / file)
    assert predictor.maps(np.zeros((50, 97, 3), np.uint8)).shape == (
        15,
        25,
    )  # 57 x 97: features at stride 8
    with pytest.raises(InputError, match=r"decode\.masks: this network predicts poses only"):
        load(finer / file, ["decode.masks=true"])


@pytest.mark.parametrize("file", ONE_OF_EACH)
def test_a_fixed_input_size(directory, fixed, file):
    read = read_network_file(fixed / file)
    assert (read.batch_size, read.input_size) == (1, (97, 65))
    inputs = image_of(65, 97, count=3)  # more than its batch size
    expected = outputs(read_model_directory(directory).model, inputs)
    assert_close(outputs(read.open(), inputs), expected, 1e-4)
    quantised = read_network_file(fixed / file.replace("model", "model.int8")).open()
    assert_close(outputs(quantised, inputs), expected, 0.3)
    predictor = load(fixed / file)
    for height, width in ((300, 100), (100, 300), (65, 97), (1, 1)):
        fit = predictor.fit(np.zeros((height, width, 3), np.uint8))
        assert (fit.input_width, fit.input_height) == (97, 65)
        assert fit.resized_width == 97 or fit.resized_height == 65
        assert fit.resized_width <= 97
        assert fit.resized_height <= 65
    with pytest.raises(
        InputError, match=r"at most 1 for a network that takes 97 x 65 pixels only\. Received: 1\.5"
    ):
        load(fixed / file, ["predict.scales=[1.0, 1.5]"])


def test_one_file_is_enough_for_the_same_people_as_the_model_directory(
    shared, tmp_path, capsys, no_saved_model
):
    model, files = tmp_path / "model", tmp_path / "files"
    import_weights(
        shared / "weights" / "bodypix-mobilenet-v1-050" / "MobileNetV1-x050-stride16.onnx", model
    )
    export_formats(model, files, ["litert", "onnx"])
    # import-weights has written the same LiteRT file already.
    shutil.copytree(model, files / "model")
    photo = sorted((shared / "data" / "photos").glob("*.jpg"))[0]
    settings = ["predict.longer_side=513"]
    expected = load(model, [*settings, "predict.runtime=keras"])(read_image(photo))
    assert len(expected) >= 2
    for file in sorted(files.iterdir()):
        arguments = [
            "predict",
            photo,
            "--model",
            file,
            "--out",
            tmp_path / "people",
            "--set",
            *settings,
        ]
        # Neither TensorFlow nor Keras can be imported.
        code = (
            "import sys; sys.modules.update(tensorflow=None, keras=None, onnx=None); "
            "import personlab_keras.inference.runtimes as runtimes; "
            "runtimes.may_have_accelerator = lambda: False; "
            "from personlab_keras.cli import main; sys.exit(main())"
        )
        subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        people = json.loads((tmp_path / "people" / f"{photo.stem}.json").read_text())["people"]
        assert len(people) == len(expected)
        for found, person in zip(people, expected, strict=True):
            points = np.array(found["keypoints"])
            np.testing.assert_allclose(points[:, :2], person.keypoints, atol=0.5)
            np.testing.assert_allclose(points[:, 2], person.keypoint_scores, atol=1e-3)
            assert found["score"] == pytest.approx(person.score, abs=1e-3)


def test_device_files_say_whether_there_may_be_an_accelerator(tmp_path):
    if not sys.platform.startswith("linux"):
        assert may_have_accelerator(tmp_path)
        return
    (tmp_path / "nvidiactl").touch()  # of a driver without a card
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()
    assert not may_have_accelerator(tmp_path)
    for name in ("nvidia0", "kfd", "dxg", "accel0", "vfio/0"):
        (tmp_path / name).touch()
        assert may_have_accelerator(tmp_path), name
        (tmp_path / name).unlink()


# --- which runtime a folder uses


def test_on_a_cpu_a_model_directory_runs_in_its_fastest_file(directory, fixed, tmp_path):
    def runtime(predictor: Predictor) -> str:
        return type(predictor.model).__name__

    assert runtime(load(directory)) == "LiteRtNetwork"
    assert runtime(load(directory, ["predict.runtime=onnx"])) == "OnnxNetwork"
    assert runtime(load(directory, ["predict.runtime=keras"])) == "Functional"
    bare = shutil.copytree(
        directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*.onnx", "*.tflite")
    )
    assert runtime(load(bare)) == "Functional"
    shutil.copy(directory / "model.onnx", bare)
    assert runtime(load(bare)) == "OnnxNetwork"
    with pytest.raises(
        InputError,
        match=r"predict\.runtime=litert needs model\.tflite in this folder; `personlab export --format` adds it",
    ):
        load(bare, ["predict.runtime=litert"])
    # A file for one size is used on request only.
    shutil.copy(fixed / "model.tflite", bare)
    assert runtime(load(bare)) == "OnnxNetwork"
    assert load(bare, ["predict.runtime=litert"]).input_size == (97, 65)


def test_with_a_gpu_a_model_directory_runs_in_keras(directory, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr("personlab_keras.inference.runtimes.may_have_accelerator", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    assert type(load(directory).model).__name__ == "Functional"


def test_settings_of_the_directory_hold_for_its_files(directory, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in (DESCRIPTION_FILE, "model.onnx"):
        (changed / name).write_bytes((directory / name).read_bytes())
    description = json.loads((changed / DESCRIPTION_FILE).read_text())
    description["predict"]["longer_side"] = 65
    (changed / DESCRIPTION_FILE).write_text(json.dumps(description))
    assert load(changed).options.longer_side == 65
    assert load(changed / "model.onnx").options.longer_side == 97
    description["radius"] = 9.0
    (changed / DESCRIPTION_FILE).write_text(json.dumps(description))
    with pytest.raises(
        InputError, match=r"model\.onnx: does not hold the network of .*changed; export it again"
    ):
        load(changed)


@pytest.mark.parametrize(("setting", "message"), [
    ("predict.runtime=torch", r"predict\.runtime must be one of auto, keras, onnx, litert, openvino\. Received: 'torch'"),
    ("predict.runtime=keras", r"model\.onnx: runs in onnx\. Received: predict\.runtime=keras"),
    ("predict.threads=-1", r"predict\.threads must be an integer from 0 to 1024\. Received: -1\. Nearest: 0"),
])  # fmt: skip
def test_invalid_settings_are_refused(directory, setting, message):
    with pytest.raises(InputError, match=message):
        load(directory / "model.onnx", [setting])


def test_openvino_finds_what_keras_finds(directory, scenes, tmp_path, capsys):
    pytest.importorskip("openvino")
    export_formats(directory, tmp_path, ["openvino"])
    file = tmp_path / "model.openvino"
    read = read_network_file(file)
    assert (read.batch_size, read.input_size) == (None, None)
    for height, width in ((97, 97), (65, 97)):
        inputs = image_of(height, width, count=2)
        expected = outputs(read_model_directory(directory).model, inputs)
        assert_close(outputs(read.open(), inputs), expected, 1e-4)
    image = read_image(min((scenes / "images").iterdir()))
    settings = ["decode.score_threshold=0"]
    found = load(file, settings)(image)
    assert len(found) == len(load(directory, [*settings, "predict.runtime=keras"])(image)) > 0
    export_formats(directory, tmp_path / "fixed", ["openvino"], FileOptions(input_size=(97, 65)))
    fixed = read_network_file(tmp_path / "fixed" / "model.openvino")
    assert (fixed.batch_size, fixed.input_size) == (1, (97, 65))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.openvino: damaged, or not a OpenVINO file"):
        load(file)
    arguments = [
        "export",
        directory,
        "--out",
        tmp_path / "x",
        "--format",
        "openvino",
        "--weights",
        "int8",
    ]
    assert main([str(argument) for argument in arguments]) == 2
    assert "--format openvino stores float32 weights alone" in capsys.readouterr().err


def test_the_provider_of_onnx_runtime_is_a_setting(directory, monkeypatch):
    import onnxruntime

    file = directory / "model.onnx"
    assert load(file).model._session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(InputError, match=r"ONNX Runtime has no tensorrt\. It has: .*cpu"):
        load(file, ["predict.providers=[tensorrt, cpu]"])
    with pytest.raises(InputError, match=r"predict\.providers"):
        load(file, ["predict.providers=[gpu]"])
    asked = []
    every = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    whole = onnxruntime.InferenceSession

    def session(path, options, providers):
        asked.append(providers)
        return whole(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load(file, ["predict.providers=[cuda, cpu]"])
    assert asked[-1] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_each_runtime_is_timed_on_the_same_people(directory, scenes, tmp_path, capsys):
    arguments = ["benchmark", "--model", directory, "--images", scenes / "images", "--count", 2]
    arguments += ["--rounds", 1, "--sizes", 65, 97, "--set", "decode.score_threshold=0"]
    assert main([str(argument) for argument in arguments]) == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ][2:]
    assert [row[:2] for row in rows] == [
        [runtime, size] for runtime in ("litert", "onnx", "keras") for size in ("65", "97")
    ]
    assert all(float(cell) >= 0 for row in rows for cell in row[2:])
    people = {size: {row[-1] for row in rows if row[1] == size} for size in ("65", "97")}
    assert all(len(found) == 1 for found in people.values())
    assert (
        main(
            [
                "benchmark",
                "--model",
                str(directory / "model.onnx"),
                "--images",
                str(scenes / "images"),
                "--rounds",
                "0",
            ]
        )
        == 2
    )
    assert "--rounds must be at least 1" in capsys.readouterr().err


def test_a_model_without_files_says_how_to_add_them(directory, scenes, tmp_path, capsys):
    bare = shutil.copytree(
        directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*.onnx", "*.tflite")
    )
    arguments = ["benchmark", "--model", str(bare), "--images", str(scenes / "images")]
    assert main([*arguments, "--count", "1", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    assert "litert: no model.tflite; `personlab export --format litert` adds it" in said
    assert "| keras | 97 |" in said


def test_threads_of_keras_are_set_before_it_starts(directory):
    code = (
        "import sys; from personlab_keras.inference.predict import load; import tensorflow as tf; "
        "load(sys.argv[1], ['predict.runtime=keras', 'predict.threads=3']); "
        "print(tf.config.threading.get_intra_op_parallelism_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.split() == ["3"]
    with pytest.raises(
        InputError,
        match=r"predict\.threads=3: TensorFlow already runs in this process with another number of threads",
    ):
        load(directory, ["predict.runtime=keras", "predict.threads=3"])


# --- what is refused


@pytest.mark.parametrize("file", ONE_OF_EACH)
def test_truncated_and_other_files_are_refused_in_one_line(directory, tmp_path, file, capsys):
    whole = (directory / file).read_bytes()
    ours = tmp_path / file
    photo = tmp_path / "photo.jpg"
    photo.touch()
    contents = {
        "damaged": whole[: len(whole) // 2],
        "damaged, or no": b"something else",
        "damaged,": b"",
    }
    for words, content in contents.items():
        ours.write_bytes(content)
        assert (
            main(["predict", str(photo), "--model", str(ours), "--out", str(tmp_path / "out")]) == 2
        )
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{ours}: {words}" in said
    with pytest.raises(InputError, match=f"missing{ours.suffix}: no such file"):
        load(tmp_path / f"missing{ours.suffix}")


def test_files_without_a_description_are_refused(directory, tmp_path):
    import onnx

    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(directory / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(InputError, match=r"foreign\.onnx: holds no personlab\.json"):
        load(foreign)
    foreign = tmp_path / "foreign.tflite"
    with zipfile.ZipFile(directory / "model.tflite") as archive:
        start = archive.getinfo(DESCRIPTION_FILE).header_offset
    foreign.write_bytes((directory / "model.tflite").read_bytes()[:start])
    with zipfile.ZipFile(foreign, "a") as archive:
        archive.writestr("labels.txt", "cat")
    with pytest.raises(InputError, match=r"foreign\.tflite: holds no personlab\.json"):
        load(foreign)


@pytest.mark.parametrize(("file", "package", "extra"), [
    ("model.onnx", "onnxruntime", "onnx"),
    ("model.tflite", "ai_edge_litert", "litert"),
])  # fmt: skip
def test_a_missing_package_to_run_a_file(
    directory, monkeypatch, capsys, tmp_path, file, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    photo = tmp_path / "photo.jpg"
    photo.touch()
    arguments = ["--model", str(directory / file), "--out", str(tmp_path / "out")]
    assert main(["predict", str(photo), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{file}: needs the package {package}" in said
    assert f"pip install 'personlab-keras[{extra}]'" in said


LITTLE_MEMORY = """
import os, sys
known = os.sysconf
os.sysconf = lambda name: 250_000 if name == "SC_PHYS_PAGES" else known(name)  # 1 GB
from personlab_keras.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_graph_that_wants_more_than_half_of_the_memory(directory, scenes, tmp_path):
    """600 MB that depend on the input, of which nobody can tell before."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(directory / "model.onnx")
    graph, output = model.graph, model.graph.output[0].name
    for node in graph.node:
        node.output[:] = ["plain" if name == output else name for name in node.output]
    side = numpy_helper.from_array(np.array([0, 1_550_000, 0, 0]), "side")
    graph.initializer.extend([side, numpy_helper.from_array(np.array([0]), "first")])
    for node in (
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Mul", ["shape", "side"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["size"], keepdims=1),
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Gather", ["large", "first"], ["zero"]),
        helper.make_node("Add", ["plain", "zero"], [output]),
    ):
        graph.node.append(node)
    onnx.save(model, tmp_path / "large.onnx")
    done = subprocess.run(
        [
            *(sys.executable, "-c", LITTLE_MEMORY, "predict", scenes / "images"),
            *("--model", tmp_path / "large.onnx", "--out", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"personlab predict: not enough memory: {tmp_path / 'large.onnx'}: [ONNXRuntimeError]"
    )


@pytest.mark.parametrize("package", ["tf2onnx", "onnx"])
def test_a_missing_package_to_write_a_file(directory, monkeypatch, capsys, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(directory), "--out", str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert (
        f"--format onnx: needs the package {package}, which is not installed"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--format", "onxx"],
     "--format must be a comma-separated list of saved_model, litert, onnx, openvino, each at most once. Received: onxx"),
    (["--format", "onnx", "--weights", "int4"],
     "--weights must be a comma-separated list of float32, float16, int8, each at most once. Received: int4"),
    (["--weights", "int8"], "--weights, --input-size and --calibration need --format litert or onnx. Received: --format saved_model"),
    (["--format", "onnx", "--input-size", "400x"], "--input-size must be WIDTHxHEIGHT in pixels, or one number for both. Received: 400x"),
    (["--format", "onnx", "--input-size", "400"], "Received: 400. Nearest: 401"),
    (["--format", "onnx", "--calibration", "x"], "--calibration needs --weights int8. Received: --weights float32"),
    (["--format", "onnx", "--weights", "int8", "--calibration", "nowhere"], "nowhere"),
])  # fmt: skip
def test_invalid_options_are_refused(directory, tmp_path, capsys, arguments, message):
    assert main(["export", str(directory), "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_files_are_added_to_a_model_directory_from_itself_only(directory, finer, tmp_path):
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(
        InputError,
        match="is a model directory, to which only files of its own network can be added",
    ):
        export_formats(finer, directory, ["onnx"])
    with pytest.raises(
        InputError,
        match=r"changed settings need another folder\. Received: --set decode\.masks=false",
    ):
        export_formats(directory, directory, ["onnx"], overrides=["decode.masks=false"])
    with pytest.raises(InputError, match=r"must be a folder\. Received: a file"):
        export_formats(directory, directory / DESCRIPTION_FILE, ["onnx"])
    assert sorted(path.name for path in directory.iterdir()) == before


def test_the_command_writes_several_formats_at_once(directory, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "export",
        directory,
        "--out",
        out,
        "--format",
        "onnx,saved_model",
        "--set",
        "decode.max_people=7",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [str(out), str(out / "model.onnx")]
    inside = read_network_file(out / "model.onnx").description
    assert inside.config.decode.max_people == 7
    assert inside.is_of(read_model_directory(out))
    assert (out / "saved_model.pb").is_file()


def test_a_file_contains_the_description_of_the_directory(directory):
    stored = read_model_directory(directory)
    for file in ONE_OF_EACH:
        description = read_network_file(directory / file).description
        assert description.config == stored.config
        assert describe(
            description.config, description.skeleton, description.provenance
        ) == describe(stored.config, stored.skeleton, stored.provenance)
