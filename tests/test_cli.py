"""The commands as a user types them: in a process of their own where that matters, else through
`main`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import flags

import personlab_keras
from personlab_keras.cli import main
from personlab_keras.cli.console import say
from personlab_keras.config import load_config
from personlab_keras.errors import InputError

ROOT = Path(__file__).parents[1]
NAME = "bodypix-mobilenet-v1-050"
COMMANDS = (
    "demo",
    "prepare",
    "inspect",
    "train",
    "export",
    "import-weights",
    "predict",
    "evaluate",
    "serve",
    "benchmark",
    "push",
    "config",
)
SETTINGS = flags()


def personlab(*arguments):
    """Exit status, standard output and standard error of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "personlab_keras.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command", [["config"], ["train"], ["predict", "x", "--model", "m", "--out", "o"]]
)
def test_another_backend_is_refused_in_one_line(command, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("KERAS_BACKEND must be one of tensorflow, jax, torch. Received: openvino")


def test_a_backend_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("torch, which is not installed: pip install 'personlab-keras[torch]'")


def test_the_demo_exports_and_so_asks_for_its_backend_first(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "set KERAS_BACKEND=tensorflow. Received: jax" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_another_backend_is_refused_in_python():
    network = "import keras, personlab_keras; print('imported'); personlab_keras.build_model"
    done = subprocess.run(
        [sys.executable, "-c", network],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "numpy"},
    )
    assert done.stdout == "imported\n"
    assert done.stderr.splitlines()[-1].endswith(
        "InputError: KERAS_BACKEND must be one of tensorflow, jax, torch. Received: numpy"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--annotations", "gs://bucket/x", "--out", "o"],
        ["prepare", "--annotations", "a", "--images", "gs://bucket/x", "--out", "o"],
        ["inspect", "r", "--out", "gs://bucket/x"],
        ["serve", "--model", "gs://bucket/x"],
        ["export", "w", "--out", "gs://bucket/x"],
        [
            "evaluate",
            "--model",
            "m",
            "--annotations",
            "a",
            "--images",
            "i",
            "--out",
            "gs://bucket/x",
        ],
    ],
    ids=" ".join,
)
def test_buckets_are_refused_in_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("gs://bucket/x: must be a local path; mount the bucket")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--records", "gs://bucket/x", "--workdir", "w"],
        ["train", "--records", "gs://bucket/x", "--workdir", "gs://bucket/y"],
        ["inspect", "gs://bucket/x"],
    ],
    ids=" ".join,
)
def test_a_bucket_needs_its_package(command, tmp_path, monkeypatch, capsys):
    from personlab_keras.io import buckets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    buckets._system.cache_clear()
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"personlab {command[0]}: gs:// needs the package gcsfs: pip install 'personlab-keras[gcs]'"
    )
    assert not list(tmp_path.iterdir())


def test_help_names_every_command_and_each_explains_itself(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert any(line.split()[:1] == [command] for line in text.splitlines())
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert "--set SECTION.KEY=VALUE" in capsys.readouterr().out


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    listed = [line.split()[0] for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert set(COMMANDS) <= set(listed)


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"personlab {personlab_keras.__version__}\n"


def test_config_prints_what_was_set(capsys):
    assert main(["config", "--set", "train.steps=12"]) == 0
    assert "  steps: 12\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_main_path(scenes, tmp_path, capsys):
    annotations, images = scenes / "annotations.json", scenes / "images"
    records, run, model = tmp_path / "records", tmp_path / "run", tmp_path / "model"
    steps = [
        [
            "prepare",
            "--annotations",
            annotations,
            "--images",
            images,
            "--out",
            records,
            *flags("data", "targets"),
        ],
        ["inspect", records, "--out", tmp_path / "drawings", "--count", 2],
        ["train", "--records", records, "--val-records", records, "--workdir", run, *SETTINGS],
        ["export", run, "--out", model],
        [
            "evaluate",
            "--model",
            model,
            "--annotations",
            annotations,
            "--images",
            images,
            "--out",
            tmp_path / "eval",
        ],
        [
            "predict",
            images,
            "--model",
            model,
            "--out",
            tmp_path / "people",
            "--scales",
            1,
            0.5,
            "--flip",
        ],
        # What is unsaid comes from the records and from the model.
        [
            "train",
            "--records",
            records,
            "--workdir",
            tmp_path / "finetuned",
            "--init",
            model,
            "--set",
            "train.steps=1",
        ],
    ]
    for step in steps:
        assert main([str(argument) for argument in step]) == 0, step
    finetuned = load_config(tmp_path / "finetuned" / "config.yaml")
    assert (finetuned.data.view_size, finetuned.targets.radius, finetuned.model.backbone) == (
        97,
        8.0,
        "small",
    )
    printed = capsys.readouterr().out
    assert f"{records}: 10 views" in printed
    assert "skipped or repaired: 0" in printed
    assert "validation/keypoint_AP" in printed
    assert "keypoints: AP" in printed
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["images"] == 10
    results = sorted(path.name for path in (tmp_path / "people").iterdir())
    assert len(results) == 20
    values = json.loads((tmp_path / "people" / results[0]).read_text())
    assert (values["width"], values["height"]) == (97, 97)
    assert cv2.imread(str(tmp_path / "people" / results[1])).shape == (97, 97, 3)
    assert len(list((tmp_path / "drawings").glob("*.png"))) == 2
    assert "<h1>" in (tmp_path / "drawings" / "index.html").read_text()


@pytest.mark.slow
def test_the_demo_in_small(tmp_path, capsys, no_saved_model):
    settings = [
        *SETTINGS,
        "--set",
        "demo.train_scenes=6",
        "--set",
        "demo.val_scenes=3",
        "--set",
        "demo.scene_size=97",
    ]
    out = tmp_path / "demo"
    for _ in range(2):  # a second run replaces the first
        assert main(["demo", "--out", str(out), *settings]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"keypoints", "segmentation", "seconds", "weights"} <= metrics.keys()
    page = (out / "index.html").read_text()
    assert page.count(".overlay.jpg") == 2 * 3
    assert page.count("targets/") == 2 * 3
    assert "<polyline" in page
    for link in page.split('src="')[1:]:
        assert (out / link.split('"')[0]).is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    assert main(["demo", "--out", str(tmp_path / "mine"), *settings]) == 2
    assert (tmp_path / "mine" / "letter.txt").is_file()
    assert "is not an earlier demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["prepare", "--annotations", "none.json", "--images", ".", "--out", "r"],
            "none.json: no such file",
        ),
        (["inspect", "."], "no meta.json there"),
        (["train", "--records", ".", "--workdir", "w"], "no meta.json there"),
        (["train", "--records", ".", "--workdir", "w", "--init", "."], "no meta.json there"),
        (["export", ".", "--out", "m"], "neither a workdir"),
        (["import-weights", "--out", "m"], "requires SOURCE and --out DIR, or --list"),
        (["import-weights", "bodypix", "--out", "m"], "nor a published network. Nearest: bodypix-"),
        (["import-weights", "none.onnx", "--out", "m"], "no such file or folder"),
        (["predict", "x.jpg", "--model", ".", "--out", "o"], "x.jpg: no such file or folder"),
        (["predict", "0", "--model", ".", "--out", "o"], "no personlab.json there"),
        (
            ["evaluate", "--model", ".", "--annotations", "a", "--images", "i", "--out", "o"],
            "a: no such file or folder",
        ),
        (
            ["predict", "x.jpg", "--model", ".", "--out", "o", "--beam", "--data-only"],
            "--data-only: --beam runs the SavedModel, which is a program",
        ),
        (["config", "--set", "train.setps=1"], "unknown key train.setps. Nearest: train.steps"),
        (["config", "--config", "none.yaml"], "no such configuration file"),
    ],
)
def test_bad_input_is_one_line_and_status_two(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"personlab {arguments[0]}: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_names_may_hold_brackets_line_breaks_and_codes_for_terminals(tmp_path, monkeypatch, capsys):
    """Found by fuzzing a network's names: a message of several lines."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.zeros((40, 60, 3), np.uint8))
    name = "[/bold]a\n\x1b[31mb.jpg"
    assert main(["predict", name, "--out", "found"]) == 2
    assert "[/bold]a\\n\\x1b[31mb.jpg" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    assert "\x1b" not in told
    assert main(["predict", ".", "--model", "[/red]", "--out", "found"]) == 2
    assert "[/red]" in "".join(capsys.readouterr())
    say(f"reading {name}")
    assert capsys.readouterr().out == "reading [/bold]a\\n\\x1b[31mb.jpg\n"


@pytest.mark.parametrize("source", [".", "*.png", "**/*.png"])
def test_results_among_the_sources_are_refused(tmp_path, monkeypatch, capsys, source):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.zeros((40, 60, 3), np.uint8))
    assert main(["predict", source, "--model", "model", "--out", "."]) == 2
    assert "--out must lie outside of the sources" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_predict_reports_what_it_could_not_read_and_goes_on(model_directory, tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    status, out, err = personlab(
        "predict", tmp_path, "--model", model_directory, "--out", tmp_path / "out"
    )
    assert status == 2
    assert "1 image, 0 people" in out
    assert "nobody scored 0.3 or more" in out
    assert "bad.jpg" in err
    assert err.count("\n") == 1, err  # TensorFlow's chatter is kept out, too
    assert (tmp_path / "out" / "good.json").is_file()


def test_the_script_is_the_command(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", "--records", tmp_path, "--workdir", tmp_path / "w"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr
        == f"personlab train: {tmp_path}: no meta.json there; a records folder is what `personlab prepare --out` wrote\n"
    )


def test_scales_and_flip_are_settings_of_the_predictor(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("x.jpg", "a", "i"):
        Path(name).touch()
    seen = []

    def load(folder, overrides):
        seen.append(list(overrides))
        raise InputError("enough")

    monkeypatch.setattr("personlab_keras.inference.predict.load", load)
    main(
        [
            "predict",
            "x.jpg",
            "--model",
            ".",
            "--out",
            "o",
            "--scales",
            "1",
            "0.5",
            "--flip",
            "--set",
            "predict.batch_size=2",
        ]
    )
    main(
        ["evaluate", "--model", ".", "--annotations", "a", "--images", "i", "--out", "o", "--flip"]
    )
    main(["predict", "x.jpg", "--model", ".", "--out", "o"])
    assert seen == [
        ["predict.scales=[1.0, 0.5]", "predict.flip=true", "predict.batch_size=2"],
        ["decode.score_threshold=0", "predict.flip=true"],
        [],
    ]
    assert load_config(None, seen[0]).predict.scales == (1.0, 0.5)


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m personlab_keras.cli config | true"
    process = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "none.jpg", "--model", NAME, "--out", "o"], "none.jpg: no such file"),
        (["predict", "x.jpg", "--model", NAME, "--format", "xml"], "--format must be"),
        (["explain", "none.jpg", "--model", NAME, "--out", "o"], "none.jpg: cannot read"),
        (["benchmark", "--images", "none", "--model", NAME], "none: no such file"),
        (
            ["evaluate", "--annotations", "none.json", "--model", NAME, "--out", "o"],
            "none.json: no such file",
        ),
        (
            [*("evaluate", "--annotations", "x.jpg", "--images", "none"), "--model", NAME]
            + ["--out", "o"],
            "none: no such file",
        ),
        (["serve", "--model", NAME, "--host", "0.0.0.0"], "other machines could use the server"),
        (["serve", "--model", NAME, "--api-key", "none"], "none"),
        (["export", NAME, "--out", "o", "--format", "onxx"], "--format must be"),
        (
            ["export", NAME, "--out", "o", "--format=litert", "--weights=int8"]
            + ["--calibration", "none"],
            "none: no such file",
        ),
        (["train", "--init", NAME, "--records", "none", "--workdir", "w"], "none"),
    ],
)
def test_everything_else_is_looked_at_before_a_model_is_downloaded(
    arguments, said, tmp_path, capsys, monkeypatch
):
    def fetched(name, progress):
        raise AssertionError(f"{name} was fetched")

    monkeypatch.setattr("personlab_keras.hub.model_path", fetched)
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").touch()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.jpg"]
