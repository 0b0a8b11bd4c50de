"""The networks published by Google, by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from personlab_keras.errors import InputError

LICENCE = "Apache-2.0"
"""Licence of PoseNet and BodyPix, code and weights (github.com/tensorflow/tfjs-models)."""

DEFAULT_MODEL = "bodypix-mobilenet-v1-050"
"""The default network of `predict`: the smallest with masks and unquantised weights."""

_BASE = "https://storage.googleapis.com/tfjs-models/savedmodel"
_STRIDE = 16
"""Output stride of the downloaded files. A variant has the same weights at every stride."""

_SIZES = {
    "resnet50": (90, 45, 22),
    "mobilenet-v1-100": (13, 6, 3),
    "mobilenet-v1-075": (5, 2, 1),
    "mobilenet-v1-050": (2, 1, 0.6),
}
"""Backbone -> megabytes with 4, 2 and 1 bytes per weight, rounded as in BodyPix 2.0's
documentation.
"""


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        url: address of its model JSON; the shards lie beside it.
        megabytes: approximate size of the download.
        masks: whether it predicts instance masks.
    """

    url: str
    megabytes: float
    masks: bool


def _published() -> dict[str, Published]:
    found = {}
    for kind in ("bodypix", "posenet"):
        for backbone, sizes in _SIZES.items():
            family, _, width = backbone.partition("-v1-")
            folders = (("", "float"), ("-quant2", "quant2"), ("-quant1", "quant1"))
            for (suffix, folder), megabytes in zip(folders, sizes, strict=True):
                path = "/".join(part for part in (_BASE, kind, family, folder, width) if part)
                url = f"{path}/model-stride{_STRIDE}.json"
                found[f"{kind}-{backbone}{suffix}"] = Published(
                    url, megabytes, masks=kind == "bodypix"
                )
    return found


PUBLISHED = _published()
"""Name -> network. "-quant2" and "-quant1" are stored with two bytes and one byte per weight."""


def published(name: str) -> Published:
    """The published network of this name.

    Raises:
        InputError: if there is none.
    """
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=3) or list(PUBLISHED)[:3]
        raise InputError(
            f"{name}: neither a file, a folder or an address, nor a published network. Nearest: {', '.join(near)}; "
            "`personlab import-weights --list` prints all"
        )
    return PUBLISHED[name]


def listing() -> list[str]:
    """A line for each published network: name, size, outputs, licence.

    >>> listing()[9]
    'bodypix-mobilenet-v1-050            2 MB  keypoints, masks  Apache-2.0'
    """
    return [
        f"{name:32} {network.megabytes:>4g} MB  {'keypoints, masks' if network.masks else 'keypoints':16}  {LICENCE}"
        for name, network in PUBLISHED.items()
    ]
