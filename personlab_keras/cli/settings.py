"""The settings that each command uses, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Iterable

from personlab_keras.config import Config, file_overrides, load_config
from personlab_keras.errors import InputError

_NETWORK = ("decode", "predict", "data.pad_colour")
"""Settings that replace those of a network where it predicts."""

_USED = {
    "demo": ("data", "targets", "model", "train", "decode", "predict", "demo"),
    "prepare": ("data", "targets"),
    "convert": ("data.skeleton", "data.annotation_frame"),
    "inspect": ("data.seed",),
    "train": ("data", "targets", "model", "train", "decode", "predict"),
    "export": ("data", "targets", "model", "decode", "predict"),
    "import-weights": ("data", "targets", "model", "decode", "predict"),
    "predict": _NETWORK,
    "benchmark": _NETWORK,
    "evaluate": (*_NETWORK, "data.annotation_frame", "data.follow_links"),
    "serve": (*_NETWORK, "serve"),
    "push": (),
}
"""Sections and settings that a command uses. A command without an entry uses all of them."""

_OF_A_NETWORK = ("export", "import-weights", "predict", "benchmark", "evaluate", "serve")
"""Commands whose network brings its settings. Other commands share one file of settings, of which
each reads its own sections.
"""


def command_config(command: str, file: str | None, overrides: Iterable[str]) -> Config:
    """The configuration of a command: the defaults, then its file, then its overrides.

    Raises:
        InputError: as `load_config`; or the command does not use one of the overrides, or, if its
            network brings the settings, one of those in the file.
    """
    overrides = list(overrides)
    config = load_config(file, overrides)
    _refuse_unused(command, overrides, "--set")
    if file is not None and command in _OF_A_NETWORK:
        _refuse_unused(command, file_overrides(file), f"--config {file}")
    return config


def network_overrides(command: str, file: str | None, overrides: Iterable[str]) -> list[str]:
    """What replaces the settings of a network: those of the file, then the overrides. Settings that
    the network does not have, such as `serve.port`, are left out.
    """
    every = [*(file_overrides(file) if file is not None else ()), *overrides]
    own = _USED[command] if command in ("export", "import-weights") else _NETWORK
    return [override for override in every if _is_one_of(override, own)]


def _refuse_unused(command: str, overrides: Iterable[str], source: str) -> None:
    used = _USED.get(command)
    unused = [] if used is None else [each for each in overrides if not _is_one_of(each, used)]
    if used is not None and unused:
        names = ", ".join(each.partition("=")[0].strip() for each in unused)
        raise InputError(
            f"{source}: this command has no use for {names}. Its settings: {', '.join(used) or 'none'}"
        )


def _is_one_of(override: str, used: tuple[str, ...]) -> bool:
    """Whether an override sets a named setting, or one of a named section.

    >>> _is_one_of("data.seed=3", ("data",)), _is_one_of("data.seed=3", ("data.skeleton",))
    (True, False)
    """
    name = override.partition("=")[0].strip()
    return name in used or name.partition(".")[0] in used
