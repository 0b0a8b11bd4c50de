"""Writes model directories from runs, other model directories and released networks: a SavedModel,
Keras weights for further training, and `personlab.json`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from personlab_keras.config import Config, TargetsConfig, apply_overrides
from personlab_keras.errors import InputError
from personlab_keras.export.file_options import FileOptions
from personlab_keras.export.litert import litert_files
from personlab_keras.inference.runtimes import FILES, LITERT
from personlab_keras.io.buckets import BucketPath
from personlab_keras.io.failures import failure
from personlab_keras.io.files import Place, as_place, make_folder, write_atomically
from personlab_keras.io.interrupts import unfinished
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton
from personlab_keras.model.network import build_model, copy_weights, inference_model
from personlab_keras.model.pretrained.network import (
    RELEASED_LONGER_SIDE,
    RELEASED_RADIUS,
    RELEASED_SCALES,
    read_network,
)
from personlab_keras.model_directory import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDirectory,
    check_masks,
    describe,
    latest_version,
    read_model_directory,
    with_possible_masks,
)
from personlab_keras.training.workdir import CONFIG_FILE, load_workdir, workdir_skeleton


def export_model(
    network: keras.Model,
    config: Config,
    skeleton: Skeleton,
    out: str | Path,
    provenance: Mapping[str, Any],
    litert: bool = False,
) -> Path:
    """Writes a model directory atomically, in place of an older one.

    Args:
        network: the network as it trains, with logits.
        config: its settings.
        skeleton: its skeleton.
        out: the model directory; the signatures of its SavedModel are those of
            `saved_model.signatures.Served`.
        provenance: origin and licence of the weights, for `personlab.json`.
        litert: whether to write a LiteRT file, too.

    Returns:
        The path of the model directory.

    Raises:
        InputError: `out` exists and is not a model directory, or cannot be written; Keras does not
            run on TensorFlow.
    """
    from personlab_keras.export.saved_model.signatures import save
    from personlab_keras.export.saved_model.tf_serving import write_extras

    target = Path(out)
    if (
        target.exists()
        and (not target.is_dir() or any(target.iterdir()))
        and not (target / DESCRIPTION_FILE).is_file()
    ):
        raise InputError(f"{target}: exists and is not a model directory; not overwritten")
    if target.is_symlink() and not target.exists():
        raise InputError(f"{target}: is a link that leads nowhere")
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with unfinished(temporary):
            config = with_possible_masks(config)
            predicting = inference_model(network)
            save(predicting, config, skeleton, str(temporary))
            write_extras(temporary, config.predict.longer_side)
            network.save_weights(temporary / WEIGHTS_FILE)
            description = describe(config, skeleton, provenance)
            if litert:
                contents = litert_files(predicting, FileOptions(), [], description)
                write_atomically(temporary / FILES[LITERT], next(contents))
            write_atomically(temporary / DESCRIPTION_FILE, description)
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
    except Exception as error:
        # The libraries that write there name files that the user does not know.
        line = failure(error, target)
        if line is None:
            raise
        raise InputError(line) from None
    return target


@dataclass(frozen=True)
class Source:
    """A network to export with its settings; the fields are arguments of `export_model`."""

    network: keras.Model
    config: Config
    skeleton: Skeleton
    provenance: Mapping[str, Any]


def read_source(source: str | Place, overrides: Iterable[str] = (), best: bool = False) -> Source:
    """Reads a network to export from a training run or a model directory.

    Args:
        source: the workdir of a run, of which the latest checkpoint is read, or a model directory
            on a disk.
        overrides: settings `section.key=value` to change. The same weights serve any
            `model.output_stride`: 8 gives finer maps from a network trained at 16.
        best: whether to read the checkpoint of the best validation instead of the latest.

    Raises:
        InputError: the source is neither, or a changed setting needs other weights, or masks that
            the network cannot give.
    """
    place = as_place(source)
    folder = place if isinstance(place, BucketPath) else latest_version(place)
    if isinstance(folder, Path) and (folder / DESCRIPTION_FILE).is_file():
        if best:
            raise InputError(
                f"{folder}: a model directory has one set of weights; only a workdir has a best checkpoint"
            )
        directory = read_model_directory(folder)
        network, config, skeleton, provenance = (
            directory.network,
            directory.config,
            directory.skeleton,
            directory.provenance,
        )
    elif (folder / CONFIG_FILE).is_file():
        network, config, step = load_workdir(folder, best=best)
        skeleton, provenance = (
            workdir_skeleton(folder),
            {"trained_steps": step, "records_view_size": config.data.view_size},
        )
    else:
        raise InputError(
            f"{folder}: neither a workdir of `personlab train` ({CONFIG_FILE}) nor a model directory ({DESCRIPTION_FILE})"
        )
    return _changed(Source(network, config, skeleton, provenance), overrides)


def export_source(
    source: str | Place, out: str | Path, overrides: Iterable[str] = (), best: bool = False
) -> Path:
    """Exports a run or a model directory to a model directory.

    Args:
        source, overrides, best: as for `read_source`.
        out: the model directory to write.

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
    """Writes a model directory from one of Google's released networks, with a LiteRT file, by which
    `predict` is fast and needs no TensorFlow.

    Args:
        source: name, URL, file or folder, as for `pretrained.network.read_network`.
        out: the model directory to write; as for `export_model`.
        overrides: settings `section.key=value`; the weights serve any `model.output_stride`.
        progress: called with (bytes received, size in bytes) during a download.

    Raises:
        InputError: as `read_network`, `export_model` and `export_source`.
    """
    imported = read_network(source, progress)
    # The training size is not published. The paper's 801 pixels suit every stride.
    data = replace(Config().data, view_size=801)
    targets = TargetsConfig(radius=RELEASED_RADIUS, stride=imported.config.output_stride)
    predict = replace(Config().predict, longer_side=RELEASED_LONGER_SIDE, scales=RELEASED_SCALES)
    config = replace(Config(), data=data, targets=targets, model=imported.config, predict=predict)
    provenance = {
        **imported.provenance,
        "trained_at": "not published; preprocessing.trained_at is the paper's",
    }
    changed = _changed(Source(imported.network, config, COCO_PERSON, provenance), overrides)
    folder = export_model(
        changed.network, changed.config, COCO_PERSON, out, provenance, litert=True
    )
    return read_model_directory(folder)


def _changed(source: Source, overrides: Iterable[str]) -> Source:
    """Changes settings of a source, and rebuilds its network if they require another one."""
    before = with_possible_masks(source.config)
    free = replace(before, model=replace(before.model, target_stride=None))
    changed = apply_overrides(free, overrides)
    check_masks(changed)
    if before.model.target_stride is not None and changed.model.target_stride is None:
        # Where only finer features were asked for, the maps get their stride.
        stride = min(before.model.target_stride, changed.model.output_stride)
        changed = replace(changed, model=replace(changed.model, target_stride=stride))
    network = source.network
    if changed.model != source.config.model:
        network = build_model(replace(changed.model, weights=None), source.skeleton)
        copy_weights(source.network, network)
    return replace(source, network=network, config=changed)
