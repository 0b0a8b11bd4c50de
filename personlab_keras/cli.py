"""The command line. A handler parses, calls one function, prints."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from personlab_keras.config import Config, config_to_yaml, load_config
from personlab_keras.errors import InputError, Stopped
from personlab_keras.inference.beam import is_address
from personlab_keras.inference.runtimes import is_network_file
from personlab_keras.io.processes import import_tensorflow_quietly

_WITHOUT_TENSORFLOW = ("config", "inspect", "prepare", "serve")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 success or stopped as asked, 2 bad usage or input,
    130 interrupted, 141 nobody reads.
    """
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config, options.set)
        if _needs_tensorflow(options):
            import_tensorflow_quietly()
        status = options.handler(options, config)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # As behind `| head`. What is still buffered would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Stopped as stopped:
        print(f"personlab {options.command}: {stopped}")
        return 0
    except InputError as error:
        print(f"personlab {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(
            f"personlab {options.command}: {interrupt.args[0] if interrupt.args else 'interrupted'}",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", metavar="FILE", help="YAML file of settings, or the name of a shipped one"
    )
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting; see `personlab config` for all",
    )
    parser = argparse.ArgumentParser(
        prog="personlab",
        description="Finds every person in a photo: keypoints and instance masks (PersonLab, ECCV 2018).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, handler: Callable[[argparse.Namespace, Config], int], about: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=about, description=about)
        made.set_defaults(handler=handler)
        return made

    demo = command(
        "demo",
        _demo,
        "the whole path on embedded synthetic data: records, training, export, evaluation, a page",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        help="folder for everything that it makes (default: demo)",
    )

    prepare = command(
        "prepare", _prepare, "COCO keypoint annotations -> TFRecords with precomputed disc targets"
    )
    prepare.add_argument("--annotations", type=Path, required=True, help="COCO keypoints JSON")
    prepare.add_argument("--images", type=Path, required=True, help="folder of its images")
    prepare.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the records; the same command again goes on with them",
    )
    prepare.add_argument(
        "--skeleton",
        metavar="FILE",
        help="YAML of the keypoints, or the name of a shipped one (data.skeleton)",
    )
    prepare.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help="whose annotations count; may be given several times",
    )
    prepare.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first fault of the data set instead of counting it",
    )
    prepare.add_argument(
        "--overwrite", action="store_true", help="replace records of other input or settings"
    )
    prepare.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; 0 or 1 for this one alone (default: data.workers)",
    )
    prepare.add_argument(
        "--beam",
        action="store_true",
        help="by an Apache Beam pipeline; its options follow after --",
    )
    prepare.add_argument(
        "--beam-options",
        default="",
        metavar="TEXT",
        help="options of the Beam pipeline, as one text",
    )
    prepare.add_argument(
        "pipeline",
        nargs="*",
        metavar="-- OPTION",
        help="options of the Beam pipeline, as --runner=FlinkRunner",
    )

    inspect = command(
        "inspect",
        _inspect,
        "what a records folder holds: counts, histograms, a page to look through",
    )
    inspect.add_argument("records", type=Path)
    inspect.add_argument(
        "--out",
        type=Path,
        help="folder for a page to look through: index.html, and its drawings of targets",
    )
    inspect.add_argument(
        "--count", type=int, default=12, help="how many views to draw all targets of (default: 12)"
    )
    inspect.add_argument(
        "--sheet",
        type=int,
        default=48,
        help="how many views to show on the contact sheet (default: 48)",
    )
    inspect.add_argument(
        "--skip-corrupt",
        type=int,
        default=0,
        metavar="N",
        help="pass over at most so many damaged records",
    )

    train = command("train", _train, "train a network, or go on with a run")
    train.add_argument("--records", type=Path, required=True, help="records to learn from")
    train.add_argument(
        "--workdir",
        type=Path,
        required=True,
        help="checkpoints, logs and the resolved configuration",
    )
    train.add_argument("--val-records", type=Path, help="records to validate on")
    train.add_argument(
        "--skip-corrupt",
        type=int,
        metavar="N",
        help="pass over at most so many damaged records (data.skip_corrupt)",
    )
    train.add_argument("--init", type=Path, metavar="MODEL", help="model directory to start from")

    export = command(
        "export",
        _export,
        "a run or model directory -> SavedModel, Keras weights and personlab.json",
    )
    export.add_argument("source", type=Path, metavar="WORKDIR_OR_MODEL")
    export.add_argument("--out", type=Path, required=True, help="the model directory to write")
    export.add_argument(
        "--format",
        default="saved_model",
        metavar="NAME,...",
        help="of saved_model (default), litert and onnx",
    )
    export.add_argument(
        "--weights",
        metavar="KIND,...",
        help="of float32 (default), float16 and int8: a file of each for litert and onnx",
    )
    export.add_argument(
        "--input-size",
        metavar="WIDTHxHEIGHT",
        help="the only input of these files; any batch and size by default",
    )
    export.add_argument(
        "--calibration",
        nargs="+",
        metavar="IMAGES",
        help="images or folders from which int8 learns what to expect",
    )
    export.add_argument(
        "--best",
        action="store_true",
        help="of a run, the checkpoint with the best validation AP, not the latest",
    )

    imports = command(
        "import-weights",
        _import_weights,
        "Google's released PoseNet and BodyPix networks -> a model directory",
    )
    imports.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="published name, address, file or folder; see --list",
    )
    imports.add_argument("--out", type=Path, help="the model directory to write")
    imports.add_argument(
        "--list", action="store_true", help="print names, sizes and licence of what is published"
    )

    predict = command("predict", _predict, "images, videos, cameras -> people as JSON and overlays")
    predict.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="images, folders or globs; videos; the number of a camera",
    )
    predict.add_argument(
        "--model", type=_place, required=True, help="model directory, or a file .onnx or .tflite"
    )
    predict.add_argument("--out", type=_place, required=True, help="folder for the results")
    predict.add_argument(
        "--beam",
        action="store_true",
        help="many images, by an Apache Beam pipeline; sources, model and results may lie in a bucket",
    )
    predict.add_argument(
        "--beam-options",
        default="",
        metavar="TEXT",
        help="options of the Beam pipeline, as one text",
    )
    predict.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="files of results with --beam (default: one per 256 images)",
    )

    evaluate = command("evaluate", _evaluate, "COCO keypoint and mask metrics of a model")
    evaluate.add_argument(
        "--model", type=Path, required=True, help="model directory, or a file .onnx or .tflite"
    )
    evaluate.add_argument(
        "--annotations", type=Path, required=True, help="COCO person keypoints JSON"
    )
    evaluate.add_argument("--images", type=Path, required=True, help="folder of its images")
    evaluate.add_argument(
        "--out", type=Path, required=True, help="folder for results and metrics.json"
    )
    evaluate.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help="whose annotations count; may be given several times",
    )
    evaluate.add_argument("--limit", type=int, help="only the first so many images")

    for command_with_views in (predict, evaluate):
        command_with_views.add_argument(
            "--scales",
            type=float,
            nargs="+",
            metavar="FACTOR",
            help="see every image at these sizes and pool what is seen",
        )
        command_with_views.add_argument(
            "--flip", action="store_true", help="see every image mirrored as well"
        )

    serves = command("serve", _serve, "an HTTP server: images in, people out, and a page to try it")
    serves.add_argument("--model", type=Path, required=True, help="model directory")
    serves.add_argument(
        "--port", type=int, help="port to listen on (default: serve.port); 0 for a free one"
    )
    serves.add_argument(
        "--host", help="address to listen on (default: serve.host, this machine alone)"
    )

    command("config", _config, "print the resolved configuration")
    return parser


def _place(text: str) -> str | Path:
    """A path would make one slash of the two in an address."""
    return text if is_address(text) else Path(text)


def _needs_tensorflow(options: argparse.Namespace) -> bool:
    if options.command in ("predict", "evaluate"):
        return not is_network_file(options.model)
    return options.command not in _WITHOUT_TENSORFLOW and not getattr(options, "list", False)


def _demo(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.demo import demo

    # The demo's own settings lie between the defaults and what the user says.
    if options.config is None:
        config = load_config("demo", options.set)
    with _progress() as progress:
        metrics = demo(options.out, config, progress=progress, say=_say)
    _print_metrics(metrics)
    print(
        f"{options.out / 'index.html'}: targets, loss curve, overlays; {options.out / 'metrics.json'}: every figure"
    )
    return 0


def _prepare(options: argparse.Namespace, config: Config) -> int:
    from data_prep.build import prepare
    from data_prep.engines import beam, processes
    from personlab_keras.method.skeleton import load_skeleton

    pipeline = _pipeline_arguments(options)
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers must be at least 0. Received: {options.workers}")
    workers = config.data.workers or os.cpu_count() or 1
    engine = (
        beam(pipeline)
        if options.beam
        else processes(workers if options.workers is None else options.workers)
    )
    skeleton = load_skeleton(options.skeleton or config.data.skeleton)
    with _progress() as progress:
        meta = prepare(
            options.annotations,
            options.images,
            options.out,
            config,
            skeleton,
            progress("images"),
            engine=engine,
            categories=options.category,
            strict=options.strict,
            overwrite=options.overwrite,
            say=_say,
        )
    print(f"{options.out}: {meta.records} views in {len(meta.shards)} shards")
    for name, count in meta.counts.items():
        print(f"  {name}: {count}")
    print(f"  left out or mended: {sum(meta.skipped.values())}")
    for reason, count in meta.skipped.items():
        print(f"    {reason}: {count}, such as {meta.examples[reason][0]}")
    return 0


def _pipeline_arguments(options: argparse.Namespace) -> list[str]:
    try:
        arguments = [*shlex.split(options.beam_options), *getattr(options, "pipeline", [])]
    except ValueError as error:
        raise InputError(f"--beam-options: {error}. Received: {options.beam_options}") from None
    if arguments and not options.beam:
        raise InputError(
            f"options of a Beam pipeline come with --beam. Received: {' '.join(arguments)}"
        )
    return arguments


def _inspect(options: argparse.Namespace, config: Config) -> int:
    if options.out is None:
        from data_prep.statistics import summary

        counts = summary(options.records, options.skip_corrupt)
    else:
        import_tensorflow_quietly()  # which draws targets, and which counts do not need
        from data_prep.inspection import inspect

        chosen = (options.count, options.sheet, config.data.seed, options.skip_corrupt)
        counts = inspect(options.records, options.out, *chosen)
    print(json.dumps(counts, indent=1))
    if options.out is not None:
        print(
            f"{options.out / 'index.html'}: counts, histograms, contact sheet, drawings of targets"
        )
    return 0


def _train(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.data.records import check_meta, read_meta
    from personlab_keras.model_directory import read_model_directory
    from personlab_keras.training.devices import join
    from personlab_keras.training.train import starting_config, train

    join(config.train.strategy)
    directory = None if options.init is None else read_model_directory(options.init)
    meta = read_meta(options.records)
    skip = [] if options.skip_corrupt is None else [f"data.skip_corrupt={options.skip_corrupt}"]
    config = load_config(
        options.config, [*skip, *options.set], base=starting_config(meta, directory)
    )
    if directory is not None:
        check_meta(meta, options.records, skeleton=directory.skeleton)
    init = None if directory is None else directory.network
    with _progress() as progress:
        advance = progress("steps")

        def report(log: dict[str, float]) -> None:
            _say(
                "  ".join(
                    f"{name} {value:.4g}" if name != "step" else f"step {int(value)}"
                    for name, value in log.items()
                )
            )
            advance(int(log["step"]), config.train.steps)

        train(
            options.records,
            options.workdir,
            config,
            val_records=options.val_records,
            init=init,
            report=report,
        )
    print(f"{options.workdir}: trained; next: personlab export {options.workdir} --out exported")
    return 0


def _export(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.export.file_options import FileOptions
    from personlab_keras.export.formats import export_formats, parse_input_size

    said = {
        "weights": options.weights and tuple(options.weights.split(",")),
        "input_size": options.input_size and parse_input_size(options.input_size),
        "calibration": options.calibration and tuple(options.calibration),
    }
    given = {name: value for name, value in said.items() if value}
    files = FileOptions(**given) if given else None
    for path in export_formats(
        options.source,
        options.out,
        options.format.split(","),
        files,
        options.set,
        best=options.best,
    ):
        what = (
            "SavedModel, Keras weights, personlab.json"
            if path.is_dir()
            else f"{path.stat().st_size / 1e6:.1f} MB"
        )
        print(f"{path}: {what}")
    return 0


def _import_weights(options: argparse.Namespace, config: Config) -> int:
    if options.list:
        from personlab_keras.model.pretrained.catalogue import listing

        print("\n".join(listing()))
        return 0
    from personlab_keras.export.export import import_weights

    if options.source is None or options.out is None:
        raise InputError("takes SOURCE and --out DIR, or --list")
    with _progress() as progress:
        start = cache(progress)  # no bar where nothing is downloaded
        directory = import_weights(
            options.source,
            options.out,
            options.set,
            progress=lambda *counts: start("bytes")(*counts),
        )
    model = directory.config.model
    print(
        f"{options.out}: {model.backbone} x{model.alpha:g}, maps at stride {directory.stride}: {', '.join(model.outputs)}"
    )
    if not directory.config.decode.masks:
        print("  poses without masks: this network has no segmentation and no long-range offsets")
    return 0


def _predict(options: argparse.Namespace, config: Config) -> int:
    pipeline = _pipeline_arguments(options)
    if options.beam:
        return _predict_with_beam(options, pipeline)
    from personlab_keras.inference.predict import load
    from personlab_keras.inference.predict_files import predict_files
    from personlab_keras.inference.video import is_video, predict_video, video_names
    from personlab_keras.io.images import describe_unread

    for place in (*options.sources, options.model, options.out):
        if is_address(place):
            raise InputError(f"{place}: an address takes --beam")
    if options.shards is not None:
        raise InputError(f"--shards comes with --beam. Received: {options.shards}")
    predictor = load(options.model, [*_view_settings(options), *options.set])
    videos = [source for source in options.sources if is_video(source)]
    images = [source for source in options.sources if not is_video(source)]
    failed: tuple[str, ...] = ()
    if images:
        with _progress() as progress:
            summary = predict_files(predictor, images, options.out, progress=progress("images"))
        print(f"{options.out}: {summary.done} images, {summary.people} people")
        failed = summary.failed
        if summary.unread:
            print(f"personlab predict: skipped {describe_unread(summary.unread)}", file=sys.stderr)
    for video, name in zip(videos, video_names(videos), strict=True):
        with _progress() as progress:
            film = predict_video(predictor, video, options.out / name, progress=progress("frames"))
        rate = f"{film.frames / film.seconds:.1f} frames/s"
        print(f"{options.out}: {video}: {film.frames} frames, {film.people} people, {rate}")
        failed += tuple(f"{video}: frame {i} is damaged" for i in film.damaged)
        if film.overlay_error:
            failed += (film.overlay_error,)
        if film.interrupted:
            raise KeyboardInterrupt
        if film.frames + len(film.damaged) < film.announced:
            failed += (
                f"{video}: could be read for {film.frames} of the {film.announced} frames that it announces",
            )
    for reason in failed:
        print(f"personlab predict: {reason}", file=sys.stderr)
    return 2 if failed else 0


def _predict_with_beam(options: argparse.Namespace, pipeline: list[str]) -> int:
    from personlab_keras.beam_options import beam_options
    from personlab_keras.inference.video import is_video

    parsed = beam_options(pipeline)
    from personlab_keras.inference.beam.job import predict_with_beam

    changed = [*_view_settings(options), *options.set]
    if changed:
        raise InputError(
            f"--beam predicts as the SavedModel was exported: set it there. Received: {' '.join(changed)}"
        )
    for source in filter(is_video, options.sources):
        raise InputError(f"{source}: --beam takes images")
    summary = predict_with_beam(
        options.sources, options.model, options.out, parsed, options.shards, say=_say
    )
    failed = sum(summary.failed.values())
    print(f"{options.out}: {summary.images} images, {summary.people} people, {failed} failed")
    for reason, count in summary.failed.items():
        print(
            f"personlab predict: {reason}: {count}, see {options.out}/failed-*.jsonl",
            file=sys.stderr,
        )
    return 2 if failed else 0


def _evaluate(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.evaluation import evaluate
    from personlab_keras.inference.predict import load

    # Average precision is taken over all thresholds, so none is set but the user's own.
    predictor = load(
        options.model, ["decode.score_threshold=0", *_view_settings(options), *options.set]
    )
    with _progress() as progress:
        metrics = evaluate(
            predictor,
            options.annotations,
            options.images,
            options.out,
            skeleton=predictor.skeleton,
            limit=options.limit,
            progress=progress("images"),
            categories=options.category,
        )
    _print_metrics(metrics)
    return 0


def _serve(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.serving import serve

    given = {
        name: getattr(options, name)
        for name in ("port", "host")
        if getattr(options, name) is not None
    }
    serve(
        options.model,
        replace(config.serve, **given),
        options.set,
        say=lambda line: print(line, flush=True),
    )
    return 0


def _view_settings(options: argparse.Namespace) -> list[str]:
    """What --scales and --flip stand for."""
    scales = [f"predict.scales={options.scales}"] if options.scales else []
    return [*scales, "predict.flip=true"] if options.flip else scales


def _config(options: argparse.Namespace, config: Config) -> int:
    print(config_to_yaml(config), end="")
    return 0


def _say(line: str) -> None:
    """A line that is seen at once, above a progress bar where there is one."""
    _console().print(line, highlight=False, soft_wrap=True)


def _console() -> Any:
    from rich import get_console

    return get_console()


def _print_metrics(metrics: dict[str, Any]) -> None:
    for kind in ("keypoints", "segmentation"):
        if metrics[kind] is None:  # the model gives no masks, or was asked for none
            continue
        values = "  ".join(
            f"{name} {value:.3f}"
            for name, value in metrics[kind].items()
            if isinstance(value, float)
        )
        print(f"{kind}: {values}")


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Gives a function: what is counted -> a function (done, in all) that shows it; a line now and
    then without a terminal.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = _console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def start(what: str) -> Callable[[int, int], None]:
            task = bars.add_task(what, total=None)
            told = 0

            def advance(done: int, total: int) -> None:
                nonlocal told
                bars.update(task, completed=done, total=total)
                if (
                    not console.is_terminal
                    and total
                    and (done == total or done * 10 // total > told)
                ):
                    told = done * 10 // total
                    _say(f"{what}: {done} of {total}")

            return advance

        yield start


if __name__ == "__main__":
    sys.exit(main())
