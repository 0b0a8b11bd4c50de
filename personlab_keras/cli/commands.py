"""What each command does: it checks its options, calls one function, prints the result.

Every function takes the parsed options and the configuration and returns the exit status. Imports
are local, so that a command loads no more than it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personlab_keras.cli.console import counted, progress_bars, say, waiting
from personlab_keras.cli.given import named_model, overrides_of, pipeline_arguments
from personlab_keras.config import Config, config_to_described_yaml, load_config
from personlab_keras.errors import InputError
from personlab_keras.io.buckets import BucketPath, is_bucket
from personlab_keras.io.files import check_apart, check_there
from personlab_keras.io.interrupts import interrupts_raise
from personlab_keras.io.processes import import_tensorflow_quietly

if TYPE_CHECKING:
    from personlab_keras.model_directory import ModelDirectory


def run_demo(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.demo import demo

    # Without --config, the shipped demo.yaml replaces the defaults.
    if options.config is None:
        config = load_config("demo", options.set)
    with interrupts_raise(), progress_bars() as progress:
        metrics = demo(options.out, config, progress=progress, say=say)
    _print_metrics(metrics)
    print(
        f"{options.out / 'index.html'}: targets, loss curve, overlays; "
        f"{options.out / 'metrics.json'}: all metrics"
    )
    return 0


def run_prepare(options: argparse.Namespace, config: Config) -> int:
    from data_prep.build import prepare
    from data_prep.engines import beam, processes
    from personlab_keras.method.skeleton import load_skeleton

    pipeline = pipeline_arguments(options)
    _check_apart(options)
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers must be at least 0. Received: {options.workers}")
    if options.format is not None:
        config = replace(config, data=replace(config.data, record_format=options.format))
    workers = config.data.workers or os.cpu_count() or 1
    engine = (
        beam(pipeline)
        if options.beam
        else processes(workers if options.workers is None else options.workers)
    )
    skeleton = load_skeleton(options.skeleton or config.data.skeleton)
    with interrupts_raise(), progress_bars() as progress:
        meta = prepare(
            options.annotations,
            options.images,
            options.out,
            config,
            skeleton,
            progress("images"),
            engine=engine,
            categories=options.category,
            split=options.split,
            strict=options.strict,
            overwrite=options.overwrite,
            say=say,
        )
    shards = counted(len(meta.shards), "shard")
    print(f"{options.out}: {counted(meta.records, 'view')} in {shards}")
    for name, count in meta.counts.items():
        print(f"  {name}: {count}")
    print(f"  skipped or repaired: {sum(meta.skipped.values())}")
    for reason, count in meta.skipped.items():
        say(f"    {reason}: {count}, for example {meta.examples[reason][0]}")
    return 0


def run_convert(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.annotations.convert import convert
    from personlab_keras.method.skeleton import load_skeleton

    _check_apart(options)
    done = convert(
        options.annotations,
        options.out,
        load_skeleton(options.skeleton or config.data.skeleton),
        images=options.images,
        split=options.split,
        categories=options.category,
        strict=options.strict,
        frame=config.data.annotation_frame,
    )
    people = counted(done.people, "person", "people")
    print(f"{options.out}: {counted(done.images, 'image')}, {people}")
    if done.place_of_images is not None:
        print(f"  images: {done.place_of_images}")
    if done.without_place:
        print(
            "  crowd regions and people without box and keypoints, not in YOLO-pose: "
            f"{done.without_place}"
        )
    print(f"  skipped or repaired: {sum(done.skipped.values())}")
    for reason, count in done.skipped.items():
        say(f"    {reason}: {count}, for example {done.examples[reason][0]}")
    return 0


def run_inspect(options: argparse.Namespace, config: Config) -> int:
    if options.out is None:
        from data_prep.statistics import summary

        counts = summary(options.records, options.skip_corrupt)
    else:
        import_tensorflow_quietly()  # needed to draw targets, but not to count
        from data_prep.inspection import inspect

        counts = inspect(
            options.records,
            options.out,
            options.count,
            options.sheet,
            config.data.seed,
            options.skip_corrupt,
        )
    if options.out is None:
        print(json.dumps(counts, indent=1))
    else:  # the page has the counts
        print(
            f"{options.out / 'index.html'}: counts, histograms, contact sheet, drawings of targets"
        )
    return 0


def run_train(options: argparse.Namespace, config: Config) -> int:
    if options.compile_for is not None:
        return _compile_step(options, config)
    for name in ("largest_batch", "json"):
        if getattr(options, name):
            raise InputError(f"--{name.replace('_', '-')} requires --compile-for")
    for name in ("records", "workdir"):
        if getattr(options, name) is None:
            raise InputError(f"--{name} is required, except with --compile-for")
    from personlab_keras.data.records import check_meta, read_meta
    from personlab_keras.training.devices import join
    from personlab_keras.training.run_log import read_log, verdict
    from personlab_keras.training.train import starting_config, train
    from personlab_keras.training.validation import other_size

    join(config.train.strategy)
    meta = read_meta(options.records)
    val_meta = None if options.val_records is None else read_meta(options.val_records)
    directory = None if options.init is None else _initial(options.init)
    skip = [] if options.skip_corrupt is None else [f"data.skip_corrupt={options.skip_corrupt}"]
    config = load_config(
        options.config, [*skip, *options.set], base=starting_config(meta, directory)
    )
    if directory is not None:
        check_meta(meta, options.records, skeleton=directory.skeleton)
    if val_meta is not None:
        remark = other_size(val_meta, config)
        if remark is not None:
            say(f"{options.val_records}: {remark}")
    init = None if directory is None else directory.network
    if is_bucket(options.workdir):
        say(f"{options.workdir}: no tensorboard/ in a bucket; log.jsonl has the same figures")
    with progress_bars() as progress:
        advance = progress("steps")
        total = config.train.steps

        def started(step: int, steps: int) -> None:
            nonlocal total
            total = steps
            if step:
                say(f"{options.workdir}: resuming from step {step} of {steps}")
            advance(step, steps)

        def report(log: dict[str, float]) -> None:
            say(
                "  ".join(
                    f"{name} {value:.4g}" if name != "step" else f"step {int(value)}"
                    for name, value in log.items()
                )
            )
            advance(int(log["step"]), total)

        train(
            options.records,
            options.workdir,
            config,
            val_records=options.val_records,
            init=init,
            report=report,
            started=started,
            stopping=_end_at_second_interrupt,
        )
    judged = verdict(read_log(options.workdir))
    if judged is not None:
        print(f"{options.workdir}: {judged}")
    print(f"{options.workdir}: trained; next: personlab export {options.workdir} --out exported")
    return 0


def _initial(model: str | Path) -> ModelDirectory:
    from personlab_keras.model_directory import fetch_model_directory, read_model_directory

    if is_bucket(model):
        return fetch_model_directory(BucketPath(model))
    return read_model_directory(named_model(model))


def _end_at_second_interrupt() -> None:
    """Runs in the handler of a signal, where a buffered stream may be busy."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(2, b"personlab train: saving after this step; Ctrl-C again ends at once\n")


def _compile_step(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.compilation.chips import parse_target
    from personlab_keras.compilation.devices import prepare_environment

    target = parse_target(options.compile_for)
    prepare_environment(target)  # before TensorFlow, which imports Keras
    import_tensorflow_quietly()
    from personlab_keras.compilation.ahead import compile_for, largest_batch, meta_of
    from personlab_keras.data.records import read_meta
    from personlab_keras.training.train import starting_config

    meta = meta_of(config) if options.records is None else read_meta(options.records)
    directory = None if options.init is None else _initial(options.init)
    config = load_config(options.config, options.set, base=starting_config(meta, directory))
    report = (
        largest_batch(target, config, meta, say=lambda line: print(line, file=sys.stderr))
        if options.largest_batch
        else compile_for(target, config, meta)
    )
    print(json.dumps(report.to_dict(), indent=1) if options.json else report.table())
    return 0


def run_export(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.export.file_options import FileOptions
    from personlab_keras.export.formats import check_export, export_formats, parse_input_size

    options_of_files = {
        "weights": options.weights and tuple(options.weights.split(",")),
        "input_size": options.input_size and parse_input_size(options.input_size),
        "calibration": options.calibration and tuple(options.calibration),
    }
    given = {name: value for name, value in options_of_files.items() if value}
    files = FileOptions(**given) if given else None
    formats, settings = options.format.split(","), overrides_of(options)
    check_export(options.source, options.out, formats, files, settings)
    with waiting("exporting"):
        source = (
            BucketPath(options.source) if is_bucket(options.source) else named_model(options.source)
        )
        paths = export_formats(source, options.out, formats, files, settings, best=options.best)
    for path in paths:
        content = (
            "SavedModel, Keras weights, personlab.json"
            if path.is_dir()
            else f"{path.stat().st_size / 1e6:.1f} MB"
        )
        print(f"{path}: {content}")
    return 0


def run_import_weights(options: argparse.Namespace, config: Config) -> int:
    if options.list:
        from personlab_keras.model.pretrained.catalogue import listing

        print("\n".join(listing()))
        return 0
    from personlab_keras.model.pretrained.download import locate

    if options.source is None or options.out is None:
        raise InputError("requires SOURCE and --out DIR, or --list")
    with progress_bars() as progress:
        start = cache(progress)  # no bar unless something is downloaded
        # First: without a network there is nothing to load TensorFlow for.
        locate(options.source, lambda *counts: start("bytes")(*counts))
    with waiting("loading TensorFlow, importing"):
        import_tensorflow_quietly()
        from personlab_keras.export.export import import_weights

        directory = import_weights(options.source, options.out, overrides_of(options))
    model = directory.config.model
    print(
        f"{options.out}: {model.backbone} x{model.alpha:g}, maps at stride {directory.stride}: {', '.join(model.outputs)}"
    )
    if not directory.config.decode.masks:
        print("  predicts poses only: the network has no segmentation or long-range offsets")
    return 0


def run_evaluate(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.evaluation import NotWritten, evaluate
    from personlab_keras.inference.predict import load
    from personlab_keras.io.journal import fingerprint

    _check_apart(options)
    check_there(options.annotations, options.images)
    # Average precision covers all thresholds, so only a threshold that the user sets applies.
    settings = ["decode.score_threshold=0", *overrides_of(options)]
    model = named_model(options.model)
    predictor = load(model, settings)
    try:
        with interrupts_raise(), progress_bars() as progress:
            metrics = evaluate(
                predictor,
                options.annotations,
                options.images,
                options.out,
                skeleton=predictor.skeleton,
                limit=options.limit,
                progress=progress("images"),
                categories=options.category,
                split=options.split,
                strict=options.strict,
                frame=config.data.annotation_frame,
                follow_links=config.data.follow_links,
                identity=f"{fingerprint(model)} {settings}",
                say=say,
            )
    except NotWritten as error:  # hours of work are not lost for want of a few bytes
        _print_metrics(error.metrics)
        raise
    _print_metrics(metrics)
    return 0


def run_push(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.hub.hugging_face import SCHEME, push

    if not options.name.startswith(SCHEME):
        raise InputError(f"NAME must be {SCHEME}USER/NAME. Received: {options.name}")
    print(push(options.model, options.name, options.private))
    return 0


def run_serve(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.serving import check_access, serve

    given = {
        name: getattr(options, name)
        for name in ("port", "host")
        if getattr(options, name) is not None
    }
    served = replace(config.serve, **given)
    check_access(served, options.api_key, options.no_auth)
    serve(
        named_model(options.model),
        served,
        overrides_of(options),
        say=lambda line: print(line, flush=True),
        api_key=options.api_key,
        no_auth=options.no_auth,
        warn=lambda line: print(f"personlab serve: warning: {line}", file=sys.stderr),
    )
    return 0


def _check_apart(options: argparse.Namespace) -> None:
    if options.images is not None:
        check_apart(options.out, [options.images])


def run_config(options: argparse.Namespace, config: Config) -> int:
    print(config_to_described_yaml(config), end="")
    return 0


def _print_metrics(metrics: dict[str, Any]) -> None:
    for kind in ("keypoints", "segmentation"):
        figures = {
            name: "null" if value is None else f"{value:.3f}"
            for name, value in (metrics[kind] or {}).items()
            if name != "max_detections"
        }
        if set(figures.values()) - {"null"}:
            print(f"{kind}: {'  '.join(f'{name} {text}' for name, text in figures.items())}")
    if metrics["copies"]:
        found = metrics["copies"]
        print(
            f"copies: {found['copies']} of {found['people']} people with a score of at least "
            f"{found['score_threshold']:g} have the mask of a better one"
        )
    for names, reason in metrics["unavailable"].items():
        print(f"{names}: null, because {reason}")
