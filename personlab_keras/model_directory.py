"""Model directories: a trained network on disk with its description, `personlab.json`. The files of
other runtimes contain the same description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personlab_keras.config import Config, config_from_dict, config_to_dict
from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.files import local_copy, read_small
from personlab_keras.io.limits import check_hdf5
from personlab_keras.method.maps import MASK_OUTPUTS
from personlab_keras.method.skeleton import Skeleton

if TYPE_CHECKING:
    import keras

DESCRIPTION_FILE = "personlab.json"
"""A folder with this file is a model directory."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """A description of a trained network.

    Attributes:
        skeleton: defines the channels of the maps.
        config: its settings of the sections model, targets, decode and predict, and the padding
            colour in `data`.
        provenance: origin and licence of the weights.
    """

    skeleton: Skeleton
    config: Config
    provenance: Mapping[str, Any]

    @property
    def stride(self) -> int:
        """Input pixels per cell of the maps."""
        return self.config.model.target_stride or self.config.model.output_stride

    @property
    def radius(self) -> float:
        """Disc radius R in input pixels that the network was trained with."""
        return self.config.targets.radius

    def is_of(self, other: Description) -> bool:
        """Whether both describe the same network, regardless of settings and of the library
        versions at the export.
        """
        return self._network() == other._network()

    def _network(self) -> tuple[Any, ...]:
        origin = {
            name: value
            for name, value in self.provenance.items()
            if name not in ("keras", "tensorflow")
        }
        return self.skeleton, self.config.model, self.stride, self.radius, origin


def latest_version(folder: str | Path) -> Path:
    """The model directory with the highest number in a folder of numbered versions, as TensorFlow
    Serving uses them; any other folder is returned as it is.
    """
    folder = Path(folder)
    if (folder / DESCRIPTION_FILE).is_file() or not folder.is_dir():
        return folder
    versions = [
        path
        for path in folder.iterdir()
        if path.name.isdecimal() and (path / DESCRIPTION_FILE).is_file()
    ]
    return max(versions, key=lambda path: int(path.name), default=folder)


def description_file(folder: str | Path) -> Path:
    """The `personlab.json` of a model directory, or of the latest version in a folder of numbered
    ones.

    Raises:
        InputError: there is no such file.
    """
    path = latest_version(folder) / DESCRIPTION_FILE
    if not path.is_file():
        if (Path(folder) / "checkpoints").is_dir():
            raise InputError(
                f"{folder}: is a training run. Export it first: personlab export {folder} --out DIR"
            )
        raise InputError(
            f"{folder}: no {DESCRIPTION_FILE} there; use a model directory written by "
            "`personlab export --out`"
        )
    return path


def parse_description(text: str | bytes, source: str) -> Description:
    """Reads the text of a `personlab.json`; `source` names it in errors.

    Raises:
        InputError: it is damaged, or has another format version.
    """
    try:
        described = json.loads(text)
        if described["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{source}: format_version must be {FORMAT_VERSION}. Received: {described['format_version']}"
            )
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: damaged: {type(error).__name__}: {error}") from None
    return Description(skeleton, config_from_dict(sections, source=source), provenance)


def with_possible_masks(config: Config) -> Config:
    """The configuration with `decode.masks` off if the network has no heads for masks."""
    possible = set(MASK_OUTPUTS) <= set(config.model.outputs)
    return replace(config, decode=replace(config.decode, masks=config.decode.masks and possible))


def check_masks(config: Config) -> None:
    """Checks that the network has the heads for masks if `decode.masks` is on.

    Raises:
        InputError: it does not.
    """
    missing = [name for name in MASK_OUTPUTS if name not in config.model.outputs]
    if config.decode.masks and missing:
        raise InputError(
            f"decode.masks: this network predicts poses only, it has no {' and no '.join(missing)}"
        )


WEIGHTS_FILE = "model.weights.h5"


@dataclass(frozen=True)
class ModelDirectory(Description):
    """A model directory. The network is built, and its weights are loaded, on first use.

    Attributes:
        folder: its path.
    """

    folder: Path

    @cached_property
    def network(self) -> keras.Model:
        """The network for training, which outputs logits.

        Raises:
            InputError: the weights file is missing, damaged or belongs to another network.
        """
        from personlab_keras.model.network import build_model

        path = self.folder / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(
                f"{path}: missing; a model directory contains {DESCRIPTION_FILE} and {WEIGHTS_FILE}"
            )
        network = build_model(replace(self.config.model, weights=None), self.skeleton)
        try:
            check_hdf5(path, 2 * sum(weight.nbytes for weight in network.get_weights()) + (1 << 20))
            network.load_weights(path)
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: damaged, or belongs to another network: {' '.join(str(error).split())[:200]}"
            ) from None
        return network

    @cached_property
    def model(self) -> keras.Model:
        """The network for prediction, which outputs probabilities."""
        from personlab_keras.model.network import inference_model

        return inference_model(self.network)


def describe(config: Config, skeleton: Skeleton, provenance: Mapping[str, Any]) -> bytes:
    """The text of `personlab.json`, which `parse_description` reads."""
    from personlab_keras.model.backbones import BACKBONES

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
        "provenance": {
            **provenance,
            "keras": version("keras"),
            "tensorflow": version("tensorflow"),
        },
    }
    return (json.dumps(described, indent=1) + "\n").encode()


def read_model_directory(folder: str | Path) -> ModelDirectory:
    """Reads `personlab.json`.

    Args:
        folder: a model directory, or a folder of numbered versions, which stands for the latest.

    Raises:
        InputError: the file does not exist, is damaged or has another format version.
    """
    path = description_file(folder)
    description = parse_description(read_small(path), str(path))
    return ModelDirectory(
        description.skeleton, description.config, description.provenance, path.parent
    )


def fetch_model_directory(folder: BucketPath) -> ModelDirectory:
    """A model directory in a bucket, with its weights loaded.

    Raises:
        InputError: as `read_model_directory` and `ModelDirectory.network`; the bucket cannot be
            read.
    """
    try:
        with local_copy(folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE) as copy:
            directory = read_model_directory(copy.parent)
            _ = directory.network
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: missing; a model directory contains {DESCRIPTION_FILE} and "
            f"{WEIGHTS_FILE}"
        ) from None
    return directory
