"""Values that several commands take from their options."""

from __future__ import annotations

import argparse
import shlex
from functools import cache
from pathlib import Path

from personlab_keras.cli.console import progress_bars
from personlab_keras.cli.settings import network_overrides
from personlab_keras.errors import InputError


def named_model(source: str | Path) -> Path:
    """The model directory or file that `--model` names, fetched with a progress bar if need be."""
    from personlab_keras.hub import model_path

    with progress_bars() as progress:
        start = cache(progress)  # no bar unless something is downloaded
        return model_path(source, lambda *counts: start("bytes")(*counts))


def pipeline_arguments(options: argparse.Namespace) -> list[str]:
    """The options of a Beam pipeline.

    Raises:
        InputError: they are given without --beam, or are no command line.
    """
    try:
        arguments = [*shlex.split(options.beam_options), *getattr(options, "pipeline", [])]
    except ValueError as error:
        raise InputError(f"--beam-options: {error}. Received: {options.beam_options}") from None
    if arguments and not options.beam:
        raise InputError(
            f"options of a Beam pipeline require --beam. Received: {' '.join(arguments)}"
        )
    return arguments


def overrides_of(options: argparse.Namespace) -> list[str]:
    """The settings that replace those of the network: of --config, then --scales and --flip, then
    --set.
    """
    views = []
    if getattr(options, "scales", None):
        views.append(f"predict.scales={options.scales}")
    if getattr(options, "flip", False):
        views.append("predict.flip=true")
    return network_overrides(options.command, options.config, [*views, *options.set])
