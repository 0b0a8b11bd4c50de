"""Model directories: a SavedModel for serving, Keras weights to train further from, and `personlab.json` that says what they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from personlab_keras.backbones import BACKBONES
from personlab_keras.config import Config, TargetsConfig, apply_overrides, config_to_dict
from personlab_keras.description import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    Description,
    check_masks,
    description_file,
    latest_version,
    parse_description,
    with_possible_masks,
)
from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically
from personlab_keras.model import build_model, inference_model
from personlab_keras.pretrained.network import RELEASED_LONGER_SIDE, RELEASED_RADIUS, read_network
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.train import CONFIG_FILE, load_workdir, workdir_skeleton
from personlab_keras.trainee import copy_weights

WEIGHTS_FILE = "model.weights.h5"


@dataclass(frozen=True)
class ModelDirectory(Description):
    """What a model directory describes; the network is built and its weights loaded on first use.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @property
    def starting_config(self) -> Config:
        """What a run that starts from these weights is configured by before the user says anything: the network, its radius, its
        padding and its decoding; the rest are the defaults."""
        return replace(
            Config(),
            data=replace(Config().data, pad_colour=self.config.data.pad_colour),
            targets=replace(Config().targets, radius=self.radius),
            model=self.config.model,
            decode=self.config.decode,
            predict=self.config.predict,
        )

    @cached_property
    def network(self) -> keras.Model:
        """The network as it trains: logits.

        Raises:
            InputError: the weights file is missing, damaged or of another network.
        """
        path = self.folder / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path}: missing; a model directory holds {DESCRIPTION_FILE} and {WEIGHTS_FILE}")
        network = build_model(replace(self.config.model, weights=None), self.skeleton)
        try:
            network.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: damaged, or of another network: {' '.join(str(error).split())[:200]}") from None
        return network

    @cached_property
    def model(self) -> keras.Model:
        """The network as it predicts: probabilities."""
        return inference_model(self.network)


def export_model(
    network: keras.Model,
    config: Config,
    skeleton: Skeleton,
    out: str | Path,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model directory; it appears complete or not at all, in place of an older one.

    The signatures of the SavedModel are those of `in_graph.signatures.Served`.

    Raises:
        InputError: `out` exists and is no model directory, or Keras does not run on TensorFlow.
    """
    from personlab_keras.in_graph.signatures import save
    from personlab_keras.in_graph.tf_serving import write_extras

    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / DESCRIPTION_FILE).is_file():
        raise InputError(f"{target}: exists and is no model directory; not overwritten")
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        config = with_possible_masks(config)
        save(inference_model(network), config, skeleton, str(beside))
        write_extras(beside, config.predict.longer_side)
        network.save_weights(beside / WEIGHTS_FILE)
        write_atomically(beside / DESCRIPTION_FILE, describe(config, skeleton, provenance))
        if target.exists():
            shutil.rmtree(target)
        os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def describe(config: Config, skeleton: Skeleton, provenance: Mapping[str, Any]) -> bytes:
    """The text of `personlab.json`; `description.parse_description` reads it."""
    values = config_to_dict(with_possible_masks(config))
    described = {
        "format_version": FORMAT_VERSION,
        "architecture": values["model"],
        "skeleton": skeleton.to_dict(),
        "stride": config.model.target_stride or config.model.output_stride,
        "radius": config.targets.radius,
        "preprocessing": {
            "input": "RGB 0..255; the network scales it itself",
            "scaling": BACKBONES[config.model.backbone].preprocessing,
            "pad_colour": values["data"]["pad_colour"],
            "trained_at": values["data"]["view_size"],
        },
        "predict": values["predict"],
        "decode": values["decode"],
        "provenance": {**provenance, "keras": version("keras"), "tensorflow": version("tensorflow")},
    }
    return (json.dumps(described, indent=1) + "\n").encode()


def read_model_directory(folder: str | Path) -> ModelDirectory:
    """Reads `personlab.json`.

    Args:
        folder: a model directory, or one that holds nothing but model directories named by numbers, as TensorFlow Serving has them: the
            one of the highest number is meant.

    Raises:
        InputError: there is none, it is damaged, or of another format version.
    """
    path = description_file(folder)
    description = parse_description(path.read_bytes(), str(path))
    return ModelDirectory(description.skeleton, description.config, description.provenance, path.parent)


@dataclass(frozen=True)
class Source:
    """A network to export and what belongs to it, as the arguments of `export_model`."""

    network: keras.Model
    config: Config
    skeleton: Skeleton
    provenance: Mapping[str, Any]


def read_source(source: str | Path, overrides: Iterable[str] = (), best: bool = False) -> Source:
    """A checkpoint of a training run, the latest or that of the best validation, or a model directory, with settings changed by
    `--set` texts.

    Weights serve any `model.output_stride`: `model.output_stride=8` makes finer maps of a network trained at 16.

    Raises:
        InputError: the source is neither, or a changed setting asks for other weights or for masks that the network does not give.
    """
    folder = latest_version(source)
    if (folder / DESCRIPTION_FILE).is_file():
        if best:
            raise InputError(f"{folder}: a model directory has one set of weights; the best checkpoint is that of a workdir")
        directory = read_model_directory(folder)
        network, config, skeleton, provenance = directory.network, directory.config, directory.skeleton, directory.provenance
    elif (folder / CONFIG_FILE).is_file():
        network, config, step = load_workdir(folder, best=best)
        skeleton, provenance = workdir_skeleton(folder), {"trained_steps": step, "records_view_size": config.data.view_size}
    else:
        raise InputError(
            f"{folder}: neither a workdir of `personlab train` ({CONFIG_FILE}) nor a model directory ({DESCRIPTION_FILE})"
        )
    return _changed(Source(network, config, skeleton, provenance), overrides)


def export_source(source: str | Path, out: str | Path, overrides: Iterable[str] = (), best: bool = False) -> Path:
    """Exports a run or a model directory, as `read_source` reads it, to a model directory.

    Raises:
        InputError: as `read_source` and `export_model`.
    """
    read = read_source(source, overrides, best)
    return export_model(read.network, read.config, read.skeleton, out, read.provenance)


def import_weights(
    source: str | Path,
    out: str | Path,
    overrides: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ModelDirectory:
    """Makes a model directory of one of Google's released networks, as `pretrained.network.read_network` reads them.

    Args:
        source: name, address, file or folder.
        out: the model directory; as for `export_model`.
        overrides: texts `section.key=value`; weights serve any `model.output_stride`.
        progress: called with (bytes received, bytes in all) while something is downloaded.

    Raises:
        InputError: as `read_network`, `export_model` and `export_source`.
    """
    imported = read_network(source, progress)
    # What the networks were trained at is not published. The paper's 801 pixels suit every stride.
    data = replace(Config().data, view_size=801)
    targets = TargetsConfig(radius=RELEASED_RADIUS, stride=imported.config.output_stride)
    predict = replace(Config().predict, longer_side=RELEASED_LONGER_SIDE)
    config = replace(Config(), data=data, targets=targets, model=imported.config, predict=predict)
    provenance = {**imported.provenance, "trained_at": "not published; preprocessing.trained_at is the paper's"}
    changed = _changed(Source(imported.network, config, COCO_PERSON, provenance), overrides)
    return read_model_directory(export_model(changed.network, changed.config, COCO_PERSON, out, provenance))


def _changed(source: Source, overrides: Iterable[str]) -> Source:
    """The source with settings changed by `--set` texts and the network rebuilt where they ask for another."""
    changed = apply_overrides(with_possible_masks(source.config), overrides)
    check_masks(changed)
    if (changed.model.target_stride or 0) > changed.model.output_stride:
        # Asked for finer features alone: the maps follow.
        changed = replace(changed, model=replace(changed.model, target_stride=changed.model.output_stride))
    network = source.network
    if changed.model != source.config.model:
        network = build_model(replace(changed.model, weights=None), source.skeleton)
        copy_weights(source.network, network)
    return replace(source, network=network, config=changed)
