"""What `personlab.json` says of a network: beside the network in a model directory, inside the file of another runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from personlab_keras.config import Config, config_from_dict
from personlab_keras.errors import InputError
from personlab_keras.maps import MASK_OUTPUTS
from personlab_keras.skeleton import Skeleton

DESCRIPTION_FILE = "personlab.json"
"""What makes a folder a model directory."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """What is known of a trained network.

    Attributes:
        skeleton: what the channels of the maps mean.
        config: the settings of model, targets, decode and predict that belong to it, and the pad colour in `data`.
        provenance: where the weights come from, and their licence.
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
        """R in input pixels that the network was trained with."""
        return self.config.targets.radius

    def is_of(self, other: Description) -> bool:
        """Whether both are of one network, as far as a description tells: settings and the versions it was exported with aside."""
        return self._network() == other._network()

    def _network(self) -> tuple[Any, ...]:
        origin = {name: value for name, value in self.provenance.items() if name not in ("keras", "tensorflow")}
        return self.skeleton, self.config.model, self.stride, self.radius, origin


def latest_version(folder: str | Path) -> Path:
    """Of a folder of model directories named by numbers, as TensorFlow Serving has them, the one of the highest number; any other folder
    itself."""
    folder = Path(folder)
    if (folder / DESCRIPTION_FILE).is_file() or not folder.is_dir():
        return folder
    versions = [path for path in folder.iterdir() if path.name.isdecimal() and (path / DESCRIPTION_FILE).is_file()]
    return max(versions, key=lambda path: int(path.name), default=folder)


def description_file(folder: str | Path) -> Path:
    """The file that describes the model directory in a folder, or the latest of the versions that it holds (`latest_version`).

    Raises:
        InputError: there is none.
    """
    path = latest_version(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {DESCRIPTION_FILE} there; a model directory is what `personlab export --out` wrote")
    return path


def parse_description(text: str | bytes, source: str) -> Description:
    """Reads the text of a `personlab.json`; `source` names it in errors.

    Raises:
        InputError: it is damaged, or of another format version.
    """
    try:
        described = json.loads(text)
        if described["format_version"] != FORMAT_VERSION:
            raise InputError(f"{source}: format_version must be {FORMAT_VERSION}. Received: {described['format_version']}")
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
        raise InputError(f"{source}: damaged: {type(error).__name__}: {error}") from None
    return Description(skeleton, config_from_dict(sections, source=source), provenance)


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
