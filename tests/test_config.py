import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from personlab_keras import config as config_module
from personlab_keras.config import (
    BACKBONE_NAMES,
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
    assert (
        "  # Weight of the segmentation loss. Allowed: a number from 0 to 1000000.\n  segmentation_weight: 2.0\n"
        in text
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load_by_name_and_by_path(path):
    assert load_config(path.stem) == load_config(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learing_rate=1", "unknown key train.learing_rate. Nearest: train.learning_rate"),
        ("target.radius=3", "unknown key target. Nearest: targets"),
        ("train.radius=3", "unknown key train.radius. Nearest: targets.radius"),
        ("model.outputs=heatmaps", "model.outputs must be a list of values, each one of heatmaps"),
        ("model.outputs=[1]", "part_heatmaps. Received: [1]"),
        ("train.steps=many", "an integer from 1 to 1000000000. Received: 'many'"),
        ("train.steps=1.5", "an integer from 1 to 1000000000. Received: 1.5"),
        ("train.batch_size=0", "Received: 0. Nearest: 1"),
        (
            "train.schedule=cosin",
            "constant, cosine, polynomial. Received: 'cosin'. Nearest: 'cosine'",
        ),
        ("decode.nms_radius=.nan", "a number from 0 to 1000. Received: nan"),
        (
            "predict.longer_side=200000",
            "an integer from 9 to 16385. Received: 200000. Nearest: 16385",
        ),
        ("data.pad_colour=[-1, 5, 300]", "Received: [-1, 5, 300]. Nearest: [0, 5, 255]"),
        (
            "train.clip_norm=-1",
            "a number from 1e-06 to 1000000 or null. Received: -1. Nearest: 1e-06",
        ),
        (
            "data.scale=[2, 1]",
            "the first number is at most the second. Received: [2.0, 1.0]. Nearest: [1.0, 2.0]",
        ),
        ("decode.scale_range=[2, 1]", "decode.scale_range must not fall"),
        ("targets.radius=2", "at least 4 for a targets.stride of 8"),
        (
            "model.target_stride=32",
            "must divide model.output_stride (16). Received: 32. Nearest: 16",
        ),
        ("serve.gpus=1.5", "a fraction of one GPU or a whole number of them"),
        ("decode.masks=1", "decode.masks must be true or false. Received: 1"),
        (
            "data.scale=[1]",
            "data.scale must be a list of 2 values, each a number from 0.05 to 20. Received: [1]",
        ),
        ("data.view_size=400", "Nearest: 401"),
        ("steps=3", "--set requires section.key=value"),
        ("train.steps=[", "--set train.steps: not valid YAML"),
        ("train.steps={a: 1, a: 2}", "key 'a' twice"),
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


def test_the_settings_know_every_backbone():
    assert tuple(BACKBONES) == BACKBONE_NAMES
