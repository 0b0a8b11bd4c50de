"""Small things that many tests share, made once: a synthetic COCO set, its records, a model
directory; and the real samples.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The suite is a function of the code: an example that fails does so every time.
# HYPOTHESIS_PROFILE=random looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TINY = [
    "data.view_size=97",
    "data.workers=1",
    "data.shuffle_records=16",
    "targets.radius=8",
    "targets.stride=8",
    "model.backbone=small",
    "model.alpha=0.25",
    "model.output_stride=8",
    "model.weights=null",
    "train.freeze_batch_norm=false",
    "train.optimizer=adam",
    "train.batch_size=2",
    "train.log_every=2",
    "train.steps=4",
    "predict.longer_side=97",
]
"""Overrides that make everything small."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples and weights, named by PERSONLAB_SHARED."""
    folder = Path(os.environ.get("PERSONLAB_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real samples are not at {folder}; set PERSONLAB_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    from personlab_keras.config import load_config

    return load_config(None, TINY)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder with `annotations.json` and `images/` of ten synthetic scenes of 97 pixels."""
    from personlab_keras.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, 10, 97, seed=5, workers=1)
    return folder


@pytest.fixture(scope="session")
def records(scenes, tiny_config, tmp_path_factory) -> Path:
    """Records of the scenes, one view each."""
    from data_prep.build import prepare

    folder = tmp_path_factory.mktemp("data") / "records"
    prepare(scenes / "annotations.json", scenes / "images", folder, tiny_config)
    return folder


@pytest.fixture(scope="session")
def workdir(records, tiny_config, tmp_path_factory) -> Path:
    """A finished training run of four steps."""
    from personlab_keras.training.train import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(records, folder, tiny_config)
    return folder


@pytest.fixture(scope="session")
def model_directory(workdir, tmp_path_factory) -> Path:
    """The run exported."""
    from personlab_keras.export.export import export_source

    return export_source(workdir, tmp_path_factory.mktemp("models") / "exported")
