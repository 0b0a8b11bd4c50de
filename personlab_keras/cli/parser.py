"""The commands and their options, one function for each command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from personlab_keras import __version__
from personlab_keras.cli import commands, predicting
from personlab_keras.config import Config
from personlab_keras.inference.beam import is_address
from personlab_keras.io.buckets import BucketPath, is_bucket
from personlab_keras.io.files import Place
from personlab_keras.model.pretrained.catalogue import DEFAULT_MODEL

_MODEL = (
    "model directory, .onnx or .tflite file, or a name: that of a released network, hf://USER/NAME "
    "or kaggle://OWNER/MODEL/FRAMEWORK/VARIATION. docs/runtimes.md says what a stranger's file may do"
)

Run = Callable[[argparse.Namespace, Config], int]


def build_parser() -> argparse.ArgumentParser:
    """The parser of `personlab`.

    The namespace that it returns has `command` (None if none was given), `run` (a function of
    `commands`), `config` and `set`, and the options of the command.
    """
    parser = argparse.ArgumentParser(
        prog="personlab",
        description="Find every person in a photo: keypoints and instance masks (PersonLab, ECCV 2018).",
    )
    parser.add_argument("--version", action="version", version=f"personlab {__version__}")
    group = parser.add_subparsers(dest="command", metavar="COMMAND")
    common = _settings()

    def add(name: str, run: Run, about: str) -> argparse.ArgumentParser:
        command = group.add_parser(name, parents=[common], help=about, description=about)
        command.set_defaults(run=run)
        return command

    for add_command in (
        _add_demo,
        _add_prepare,
        _add_convert,
        _add_inspect,
        _add_train,
        _add_export,
        _add_import_weights,
        _add_predict,
        _add_explain,
        _add_evaluate,
        _add_serve,
        _add_benchmark,
        _add_push,
        _add_config,
    ):
        add_command(add)
    return parser


Add = Callable[[str, Run, str], argparse.ArgumentParser]


def _settings() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of settings, or the name of one that comes with the package",
    )
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting; `personlab config` prints all of them",
    )
    return common


def _add_demo(add: Add) -> None:
    command = add(
        "demo",
        commands.run_demo,
        "run the whole pipeline on synthetic scenes: records, training, export, evaluation, a page",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="output folder (default: demo)",
    )


def _add_prepare(add: Add) -> None:
    command = add(
        "prepare",
        commands.run_prepare,
        "convert annotated images to records with targets",
    )
    _add_annotations(command)
    command.add_argument(
        "--out",
        type=_place,
        required=True,
        metavar="DIR",
        help="folder for the records; repeat the command to resume an interrupted run",
    )
    _add_skeleton(command)
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first fault in the data set instead of skipping and counting it",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace records made from other input or with other settings",
    )
    command.add_argument(
        "--format",
        choices=("tfrecord", "array_record"),
        help="format of the records (default: data.record_format)",
    )
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of processes; 0 or 1 runs in this process (default: the setting data.workers)",
    )
    command.add_argument(
        "--beam",
        action="store_true",
        help="run as an Apache Beam pipeline; put its options after --",
    )
    _add_beam_options(command)
    command.add_argument(
        "pipeline",
        nargs="*",
        metavar="-- OPTION",
        help="options of the Beam pipeline, such as --runner=FlinkRunner",
    )


def _add_convert(add: Add) -> None:
    command = add(
        "convert",
        commands.run_convert,
        "convert COCO keypoint annotations to a YOLO-pose folder, or back",
    )
    command.add_argument(
        "annotations",
        type=Path,
        metavar="IN",
        help="COCO keypoints JSON, or a YOLO-pose folder or its data.yaml",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT",
        help="COCO file (NAME.json) or YOLO-pose folder to write; to fill a folder, run the command "
        "once per split",
    )
    command.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of the images of a COCO file; they are copied into the YOLO-pose folder",
    )
    _add_split_and_category(command)
    _add_skeleton(command)
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first fault in the data set instead of skipping and counting it",
    )


def _add_inspect(add: Add) -> None:
    command = add(
        "inspect", commands.run_inspect, "show what records contain: counts, histograms, images"
    )
    command.add_argument(
        "records", type=_place, metavar="RECORDS", help="folder that `personlab prepare` wrote"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for a page, index.html, and drawings of the targets (default: print the counts)",
    )
    command.add_argument(
        "--count",
        type=int,
        default=12,
        metavar="N",
        help="number of views to draw targets for (default: 12)",
    )
    command.add_argument(
        "--sheet",
        type=int,
        default=48,
        metavar="N",
        help="number of views on the contact sheet (default: 48)",
    )
    _add_skip_corrupt(command, "0", default=0)


def _add_train(add: Add) -> None:
    command = add("train", commands.run_train, "train a network, or resume a run")
    command.add_argument("--records", type=_place, metavar="DIR", help="records to train on")
    command.add_argument(
        "--workdir",
        type=_place,
        metavar="DIR",
        help="folder for checkpoints, logs and all settings; repeat the command to resume the run",
    )
    command.add_argument("--val-records", type=_place, metavar="DIR", help="records to validate on")
    _add_skip_corrupt(command, "the setting data.skip_corrupt")
    command.add_argument(
        "--init",
        type=_path_or_address,
        metavar="MODEL",
        help="model directory with the initial weights, or the name of one",
    )
    command.add_argument(
        "--compile-for",
        metavar="TARGET",
        help="instead of training, compile the training step and print its memory and cost: for a "
        "TPU slice, such as v5e:4x4, or for the gpu of this machine. It needs neither a TPU nor "
        "records",
    )
    command.add_argument(
        "--largest-batch",
        action="store_true",
        help="with --compile-for: search for the largest batch that fits",
    )
    command.add_argument(
        "--json", action="store_true", help="with --compile-for: print the figures as JSON"
    )


def _add_export(add: Add) -> None:
    command = add(
        "export",
        commands.run_export,
        "export a training run as a SavedModel, or convert a model to LiteRT, ONNX or OpenVINO",
    )
    command.add_argument(
        "source",
        type=_path_or_address,
        metavar="WORKDIR_OR_MODEL",
        help="training run or model directory, or the name of a model",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model directory to write"
    )
    command.add_argument(
        "--format",
        default="saved_model",
        metavar="NAME,...",
        help="formats to write: saved_model (default), litert, onnx, openvino",
    )
    command.add_argument(
        "--weights",
        metavar="KIND,...",
        help="types of the weights, with a LiteRT or ONNX file for each: float32 (default), "
        "float16, int8",
    )
    command.add_argument(
        "--input-size",
        metavar="WIDTHxHEIGHT",
        help="fix the input of these files to one image of this size (default: any batch and size)",
    )
    command.add_argument(
        "--calibration",
        nargs="+",
        metavar="IMAGES",
        help="images, or folders of images, by which the ranges of int8 are calibrated",
    )
    command.add_argument(
        "--best",
        action="store_true",
        help="export the checkpoint with the best validation AP instead of the latest one",
    )


def _add_import_weights(add: Add) -> None:
    command = add(
        "import-weights",
        commands.run_import_weights,
        "convert one of Google's released PoseNet or BodyPix networks to a model directory",
    )
    command.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="name of a released network (see --list), URL, file or folder",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="model directory to write")
    command.add_argument(
        "--list", action="store_true", help="list the released networks with sizes and licence"
    )


def _add_explain(add: Add) -> None:
    command = add(
        "explain",
        predicting.run_explain,
        "write a page that shows what the decoder saw in an image, step by step",
    )
    command.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    command.add_argument(
        "--model",
        type=_path_or_address,
        default=DEFAULT_MODEL,
        help=f"{_MODEL} (default: {DEFAULT_MODEL}, downloaded once)",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the page, index.html"
    )


def _add_predict(add: Add) -> None:
    command = add(
        "predict",
        predicting.run_predict,
        "find people in images, videos or camera streams; write JSON and overlays",
    )
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="images, videos, folders or globs of them, numbers of cameras, or addresses of streams "
        "(rtsp://, http://)",
    )
    command.add_argument(
        "--model",
        type=_path_or_address,
        default=DEFAULT_MODEL,
        help=f"{_MODEL} (default: {DEFAULT_MODEL}, downloaded once)",
    )
    command.add_argument(
        "--out",
        type=_path_or_address,
        default=Path("people"),
        metavar="DIR",
        help="folder for the results (default: people); repeat the command to resume an interrupted "
        "run",
    )
    command.add_argument(
        "--data-only",
        action="store_true",
        help="refuse a model that is a program: a SavedModel, which --beam runs. Networks in .onnx, "
        ".tflite and .h5 files are data",
    )
    command.add_argument(
        "--beam",
        action="store_true",
        help="run as an Apache Beam pipeline; sources, model and results may be in a bucket",
    )
    command.add_argument(
        "--track",
        action="store_true",
        help="give each person in a video an id, the same in all frames",
    )
    command.add_argument(
        "--smooth",
        action="store_true",
        help="smooth the keypoints of tracked people over time; implies --track",
    )
    command.add_argument(
        "--format",
        default=predicting.JSON,
        metavar="NAME,...",
        help="formats to write besides the JSON files: coco, csv, yolo-pose, labelme",
    )
    command.add_argument(
        "--masks",
        choices=["png"],
        help="write the instance masks, too: an image with the number of the person at each pixel",
    )
    command.add_argument(
        "--no-overlays",
        dest="overlays",
        action="store_false",
        help="write no overlays, the images with the people drawn over them",
    )
    command.add_argument(
        "--reconnects",
        type=int,
        default=10,
        metavar="N",
        help="how often to try to reopen a stream that broke off (default: 10)",
    )
    _add_beam_options(command)
    command.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="number of result files with --beam (default: one per 256 images)",
    )
    _add_test_time_views(command)


def _add_evaluate(add: Add) -> None:
    command = add(
        "evaluate", commands.run_evaluate, "compute a model's COCO metrics for keypoints and masks"
    )
    command.add_argument(
        "--model",
        type=_path_or_address,
        required=True,
        help=_MODEL,
    )
    _add_annotations(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for results and metrics.json; repeat the command to resume an interrupted run",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first fault in annotations or images instead of counting it",
    )
    command.add_argument("--limit", type=int, metavar="N", help="evaluate the first N images only")
    _add_test_time_views(command)


def _add_serve(add: Add) -> None:
    command = add(
        "serve", commands.run_serve, "serve a model over HTTP, with a page to try it in a browser"
    )
    command.add_argument("--model", type=_path_or_address, required=True, help=_MODEL)
    command.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="port to listen on; 0 picks a free one (default: the setting serve.port)",
    )
    command.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address to listen on (default: the setting serve.host, which is this machine only)",
    )
    access = command.add_mutually_exclusive_group()
    access.add_argument(
        "--api-key",
        type=Path,
        metavar="FILE",
        help="file of API keys, one a line (or set PERSONLAB_API_KEY); needed to serve other "
        "machines",
    )
    access.add_argument(
        "--no-auth", action="store_true", help="serve other machines without an API key"
    )


def _add_benchmark(add: Add) -> None:
    command = add(
        "benchmark",
        predicting.run_benchmark,
        "time a model on this machine, in each runtime that can run it",
    )
    command.add_argument("--model", type=_path_or_address, default=DEFAULT_MODEL, help=_MODEL)
    command.add_argument(
        "--images", type=Path, required=True, metavar="IMAGES", help="image, folder or glob"
    )
    command.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="longer sides of the input (default: that of the model)",
    )
    command.add_argument(
        "--count", type=int, default=8, metavar="N", help="number of images (default: 8)"
    )
    command.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="how often each image is predicted (default: 3)",
    )


def _add_push(add: Add) -> None:
    command = add(
        "push", commands.run_push, "upload a model with a model card to the Hugging Face Hub"
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="model directory")
    command.add_argument("name", metavar="NAME", help="where to: hf://USER/NAME")
    command.add_argument("--private", action="store_true", help="make a new repository private")


def _add_config(add: Add) -> None:
    add("config", commands.run_config, "print all settings, with a description of each, as YAML")


def _add_annotations(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="COCO keypoints JSON, or a YOLO-pose folder or its data.yaml",
    )
    command.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of the images of a COCO file (a YOLO-pose folder has its own)",
    )
    _add_split_and_category(command)


def _add_skeleton(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skeleton",
        metavar="FILE",
        help="YAML file of the keypoints, or the name of one that comes with the package "
        "(default: the setting data.skeleton)",
    )


def _add_split_and_category(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--split", metavar="NAME", help="split of a YOLO-pose data set: train, val or test"
    )
    command.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help="use annotations of this category only; repeat the option for several",
    )


def _add_skip_corrupt(command: argparse.ArgumentParser, shown_default: str, **default: Any) -> None:
    command.add_argument(
        "--skip-corrupt",
        type=int,
        metavar="N",
        help=f"skip up to N corrupt records (default: {shown_default})",
        **default,
    )


def _add_beam_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--beam-options",
        default="",
        metavar="TEXT",
        help="options of the Beam pipeline in one quoted string",
    )


def _add_test_time_views(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="FACTOR",
        help="run the network at these scales of each image and pool the votes (default: 1)",
    )
    command.add_argument(
        "--flip", action="store_true", help="run the network on the mirror image of each image, too"
    )


def _place(text: str) -> Place:
    return BucketPath(text) if is_bucket(text) else Path(text)


def _path_or_address(text: str) -> str | Path:
    # `Path` would collapse the two slashes of an address.
    return text if is_address(text) else Path(text)
