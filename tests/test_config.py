import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from personlab_keras import config as config_module
from personlab_keras.config import (
    Config,
    config_to_described_yaml,
    config_to_dict,
    config_to_yaml,
    load_config,
)
from personlab_keras.errors import InputError
from personlab_keras.model.backbones import BACKBONES
from personlab_keras.training.optimizers import build_optimizer, learning_rate

SHIPPED = sorted((Path(config_module.__file__).parent / "configs").glob("*.yaml"))


def test_file_then_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {steps: 7, learning_rate: 1e-4}\ndata: {scale: [0.8, 1]}\n")
    config = load_config(file, ["train.steps=9", "model.weights=null"])
    assert (config.train.steps, config.train.learning_rate, config.data.scale) == (
        9,
        1e-4,
        (0.8, 1.0),
    )
    assert config.model.weights is None
    assert config.decode == Config().decode


def test_a_base_lies_below_file_and_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {steps: 7}\n")
    base = load_config(None, ["model.backbone=small", "train.steps=3", "train.batch_size=5"])
    config = load_config(file, ["train.batch_size=2"], base=base)
    assert (config.model.backbone, config.train.steps, config.train.batch_size) == ("small", 7, 2)


def test_yaml_round_trip(tmp_path):
    outputs = "model.outputs=[heatmaps, short_offsets, mid_offsets]"
    config = load_config(
        None, ["data.view_size=257", "train.clip_norm=2", "model.middle_layer=conv4", outputs]
    )
    (tmp_path / "c.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config
    assert yaml.safe_load(config_to_yaml(config)) == config_to_dict(config)


@pytest.mark.parametrize("path", [None, *SHIPPED], ids=lambda path: path and path.stem)
def test_described_yaml_loads_back_and_describes_every_setting(path, tmp_path):
    config = load_config(path, ["train.clip_norm=2", "data.scale=[0.75, 1.25]"])
    text = config_to_described_yaml(config)
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml") == config
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for above, line in itertools.pairwise(lines):
        if re.match(r"(  )?\w+:", line):
            assert above.lstrip().startswith("# "), line
    assert "  # Weight of the segmentation loss.\n  segmentation_weight: 2.0\n" in text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load_by_name_and_by_path(path):
    assert load_config(path.stem) == load_config(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learing_rate=1", "unknown key train.learing_rate. Nearest: train.learning_rate"),
        ("target.radius=3", "unknown key target. Nearest: targets"),
        ("train.radius=3", "unknown key train.radius. Nearest: targets.radius"),
        ("model.outputs=heatmaps", "model.outputs must be a list of strings. Received: 'heatmaps'"),
        ("model.outputs=[1]", r"model.outputs must be a string. Received: 1"),
        ("train.steps=many", "train.steps must be an integer. Received: 'many'"),
        ("train.steps=1.5", "train.steps must be an integer. Received: 1.5"),
        ("decode.masks=1", "decode.masks must be true or false. Received: 1"),
        ("data.scale=[1]", "data.scale must be a list of 2 numbers"),
        ("data.view_size=400", "Nearest: 401"),
        ("steps=3", "--set requires section.key=value"),
        ("train.steps=[", "must be YAML"),
    ],
)
def test_bad_overrides_get_one_line_that_helps(override, words):
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "mapping of sections"),
        ("a: [", "not valid YAML"),
        ("train: 3", "train must be a mapping"),
    ],
)
def test_bad_files_are_named(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_config(file)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_lists_the_shipped_ones():
    with pytest.raises(InputError, match="Shipped: .*demo"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_run_and_can_be(path):
    config = load_config(path.stem)
    assert config.model.backbone in BACKBONES
    assert np.isfinite(
        float(keras.ops.convert_to_numpy(learning_rate(config.train)(config.train.steps - 1)))
    )
    build_optimizer(config.train)
    header = "".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.startswith("#")
    )
    assert "personlab " in header
    assert path.stem == "demo" or re.search(r"measured|run this file", header, re.IGNORECASE)
