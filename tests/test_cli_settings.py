"""--config and --set: applied by the commands that use a setting, refused by all others."""

import json
import os
from pathlib import Path

import pytest

from personlab_keras import cli
from personlab_keras.cli.settings import network_overrides
from personlab_keras.errors import InputError

SHARED = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[1] / ".." / "shared"))

PREDICT = ["predict", "x.jpg", "--model", "m", "--out", "o"]
EVALUATE = ["evaluate", "--model", "m", "--annotations", "a", "--images", "i", "--out", "o"]
EXPORT = ["export", "m", "--out", "o"]
IMPORT = ["import-weights", "bodypix-mobilenet-v1-050", "--out", "o"]
SERVE = ["serve", "--model", "m"]
PLACES = {
    "predict": "personlab_keras.inference.predict.load",
    "evaluate": "personlab_keras.inference.predict.load",
    "export": "personlab_keras.export.formats.export_formats",
    "import-weights": "personlab_keras.export.export.import_weights",
    "serve": "personlab_keras.serving.serve",
}


@pytest.fixture
def threshold(tmp_path):
    path = tmp_path / "threshold.yaml"
    path.write_text("decode: {max_people: 1, score_threshold: 0.99}\n")
    return path


@pytest.mark.parametrize(
    "arguments", [PREDICT, EVALUATE, EXPORT, IMPORT, SERVE], ids=lambda a: a[0]
)
def test_the_file_applies_and_set_goes_over_it(arguments, threshold, monkeypatch, capsys):
    monkeypatch.chdir(threshold.parent)
    for name in ("x.jpg", "a", "i"):
        Path(name).touch()
    seen = []

    def instead(*positional, **named):
        seen.extend(part for part in positional if isinstance(part, list) and "=" in "".join(part))
        raise InputError("enough")

    monkeypatch.setattr(PLACES[arguments[0]], instead)
    monkeypatch.setattr("personlab_keras.model.pretrained.download.locate", lambda *_: None)
    options = ["--config", str(threshold), "--set", "decode.max_people=7"]
    assert cli.main([*arguments, *options]) == 2
    assert "enough" in capsys.readouterr().err
    (settings,) = seen
    assert [each for each in settings if each != "decode.score_threshold=0"] == [
        "decode.max_people=1",
        "decode.score_threshold=0.99",
        "decode.max_people=7",
    ]


@pytest.mark.parametrize(("arguments", "setting"), [
    (PREDICT, "train.steps=3"),
    (PREDICT, "model.output_stride=8"),
    (PREDICT, "data.seed=1"),
    (PREDICT, "serve.port=1"),
    (EVALUATE, "demo.val_scenes=3"),
    (EXPORT, "train.seed=3"),
    (IMPORT, "serve.port=3"),
    (SERVE, "train.seed=3"),
    (["prepare", "--annotations", "a", "--images", "i", "--out", "o"], "train.steps=3"),
    (["convert", "a", "--out", "o"], "data.seed=3"),
    (["inspect", "r"], "decode.masks=false"),
    (["train", "--records", "r", "--workdir", "w"], "serve.port=3"),
    (["demo"], "serve.port=3"),
])  # fmt: skip
def test_a_setting_without_use_is_refused(arguments, setting, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--set", setting]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"--set: this command has no use for {setting.partition('=')[0]}" in said
    assert not list(tmp_path.iterdir())


def test_a_file_of_other_settings_is_refused_where_the_network_brings_them(capsys, tmp_path):
    assert cli.main([*PREDICT, "--config", "coco"]) == 2
    said = capsys.readouterr().err
    assert "--config coco: this command has no use for data.view_size" in said
    assert said.count("\n") == 1
    assert cli.main([*PREDICT, "--config", str(tmp_path / "none.yaml")]) == 2
    assert "no such configuration file" in capsys.readouterr().err


def test_commands_that_share_one_file_read_their_own_sections(capsys, tmp_path):
    arguments = ["prepare", "--annotations", str(tmp_path / "a"), "--out", str(tmp_path / "o")]
    assert cli.main([*arguments, "--config", "coco"]) == 2
    assert "a: no such file" in capsys.readouterr().err


def test_values_of_every_kind_survive(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "predict: {scales: [1, 0.5], flip: true, runtime: onnx}\ndecode: {peak_threshold: 1e-3}\n"
    )
    assert network_overrides("predict", str(path), []) == [
        "predict.scales=[1, 0.5]",
        "predict.flip=true",
        'predict.runtime="onnx"',
        'decode.peak_threshold="1e-3"',
    ]
    from personlab_keras.config import load_config

    config = load_config(None, network_overrides("predict", str(path), ["serve.port=1"]))
    assert config.predict.scales == (1.0, 0.5)
    assert config.decode.peak_threshold == 0.001
    assert config == load_config(path)


@pytest.mark.slow
def test_a_file_of_thresholds_leaves_one_person_at_most(model_directory, scenes, tmp_path):
    """The row on threshold.yaml in the table beside the odd files."""
    if not SHARED.is_dir():
        pytest.skip(f"real samples are not at {SHARED}; set PERSONLAB_SHARED")
    file = SHARED / "data" / "odd-files" / "threshold.yaml"
    many = ["--set", "decode.peak_threshold=0", "--set", "decode.keypoint_threshold=0"]
    arguments = ["predict", str(scenes / "images"), "--model", str(model_directory), *many]
    lower = ["--set", "decode.score_threshold=0"]
    counts = {}
    for name, options in (
        ("none", lower),
        ("file", ["--config", str(file)]),
        ("both", ["--config", str(file), *lower]),
    ):
        assert cli.main([*arguments, "--out", str(tmp_path / name), *options]) == 0
        counts[name] = {
            len(json.loads(path.read_text())["people"]) for path in (tmp_path / name).glob("*.json")
        }
    assert max(counts["none"]) > 1
    assert counts["file"] == {0}
    assert counts["both"] == {1}
