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
from personlab_keras.config import Config, TargetsConfig, apply_overrides, config_from_dict, config_to_dict
from personlab_keras.errors import InputError
from personlab_keras.files import write_atomically
from personlab_keras.maps import MASK_OUTPUTS
from personlab_keras.model import build_model, inference_model
from personlab_keras.pretrained.network import RELEASED_LONGER_SIDE, RELEASED_RADIUS, read_network
from personlab_keras.skeleton import COCO_PERSON, Skeleton
from personlab_keras.train import CONFIG_FILE, load_workdir, workdir_skeleton
from personlab_keras.trainee import copy_weights

DESCRIPTION_FILE = "personlab.json"
WEIGHTS_FILE = "model.weights.h5"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelDirectory:
    """What a model directory describes; the network is built and its weights loaded on first use.

    Attributes:
        folder: where it lies.
        skeleton: what the channels of the maps mean.
        config: the settings of model, targets, decode and predict that belong to it, and the pad colour in `data`.
        provenance: where the weights come from, and their licence.
    """

    folder: Path
    skeleton: Skeleton
    config: Config
    provenance: Mapping[str, Any]

    @property
    def stride(self) -> int:
        """Input pixels per cell of the maps."""
        return self.config.model.target_stride or self.config.model.output_stride

    @property
    def radius(self) -> float:
        """R in input pixels that the network was trained with."""
        return self.config.targets.radius

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

    The SavedModel's only signature, `serving_default`, takes `image` (batch, height, width, 3) float32 RGB in 0..255, sides
    stride * n + 1, and gives `config.model.outputs` by name, those of `maps.PROBABILITIES` as such.

    Raises:
        InputError: `out` exists and is no model directory, or Keras does not run on TensorFlow.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / DESCRIPTION_FILE).is_file():
        raise InputError(f"{target}: exists and is no model directory; not overwritten")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InputError(f"a SavedModel is made on Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: {backend}")
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        signature = [keras.InputSpec(shape=(None, None, None, 3), dtype="float32", name="image")]
        inference_model(network).export(beside, format="tf_saved_model", input_signature=signature, verbose=False)
        network.save_weights(beside / WEIGHTS_FILE)
        write_atomically(beside / DESCRIPTION_FILE, _description(config, skeleton, provenance))
        if target.exists():
            shutil.rmtree(target)
        os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _description(config: Config, skeleton: Skeleton, provenance: Mapping[str, Any]) -> bytes:
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

    Raises:
        InputError: there is none, it is damaged, or of another format version.
    """
    path = Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {DESCRIPTION_FILE} there; a model directory is what `personlab export --out` wrote")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format_version"] != FORMAT_VERSION:
            raise InputError(f"{path}: format_version must be {FORMAT_VERSION}. Received: {described['format_version']}")
        sections = {
            "model": {**described["architecture"], "target_stride": described["stride"]},
            "targets": {"radius": described["radius"], "stride": described["stride"]},
            "data": {
                "pad_colour": described["preprocessing"]["pad_colour"],
                "view_size": described["preprocessing"]["trained_at"],
            },
            "predict": described["predict"],
            "decode": described["decode"],
        }
        skeleton = Skeleton.from_dict(described["skeleton"])
        provenance = dict(described["provenance"])
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    return ModelDirectory(Path(folder), skeleton, config_from_dict(sections, source=str(path)), provenance)


def export_source(source: str | Path, out: str | Path, overrides: Iterable[str] = (), best: bool = False) -> Path:
    """Exports a checkpoint of a training run, the latest or that of the best validation, or a model directory again, with settings
    changed by `--set` texts.

    Weights serve any `model.output_stride`: `model.output_stride=8` makes finer maps of a network trained at 16.

    Raises:
        InputError: the source is neither, or a changed setting asks for other weights or for masks that the network does not give.
    """
    folder = Path(source)
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
    return _export_changed(network, config, skeleton, out, provenance, overrides)


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
    return read_model_directory(_export_changed(imported.network, config, COCO_PERSON, out, provenance, overrides))


def with_possible_masks(config: Config) -> Config:
    """The configuration with `decode.masks` off where the network has no heads for them."""
    possible = set(MASK_OUTPUTS) <= set(config.model.outputs)
    return replace(config, decode=replace(config.decode, masks=config.decode.masks and possible))


def check_masks(config: Config) -> None:
    """Refuses a configuration that asks for masks that the network cannot give.

    Raises:
        InputError: naming the heads that it lacks.
    """
    missing = [name for name in MASK_OUTPUTS if name not in config.model.outputs]
    if config.decode.masks and missing:
        raise InputError(f"decode.masks: this network gives poses only, it has no {' and no '.join(missing)}")


def _export_changed(
    network: keras.Model,
    config: Config,
    skeleton: Skeleton,
    out: str | Path,
    provenance: Mapping[str, Any],
    overrides: Iterable[str],
) -> Path:
    """As `export_model`, with settings changed by `--set` texts and the network rebuilt where they ask for another."""
    changed = apply_overrides(with_possible_masks(config), overrides)
    check_masks(changed)
    if (changed.model.target_stride or 0) > changed.model.output_stride:
        # Asked for finer features alone: the maps follow.
        changed = replace(changed, model=replace(changed.model, target_stride=changed.model.output_stride))
    if changed.model != config.model:
        rebuilt = build_model(replace(changed.model, weights=None), skeleton)
        copy_weights(network, rebuilt)
        network = rebuilt
    return export_model(network, changed, skeleton, out, provenance)
