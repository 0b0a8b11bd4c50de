"""`personlab predict`: images, videos, cameras and streams, or many images with Beam."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from personlab_keras import __version__
from personlab_keras.cli.console import counted, progress_bars, say
from personlab_keras.cli.given import named_model, overrides_of, pipeline_arguments
from personlab_keras.config import Config
from personlab_keras.errors import InputError, one_line
from personlab_keras.inference.beam import is_address
from personlab_keras.io.files import check_apart
from personlab_keras.io.interrupts import interrupts_raise
from personlab_keras.io.journal import Journal, fingerprint, task

if TYPE_CHECKING:
    from personlab_keras.inference.predict import Predictor
    from personlab_keras.inference.video import VideoSummary
    from personlab_keras.io.media import Media
    from personlab_keras.results.writers import Writer

JSON = "json"
"""The format that is always written."""


def run_explain(options: argparse.Namespace, config: Config) -> int:
    say(f"loading {options.model}")
    from personlab_keras.inference.explain import explain
    from personlab_keras.inference.predict import load
    from personlab_keras.io.files import write_atomically
    from personlab_keras.io.images import read_image

    image = read_image(options.image)
    predictor = load(named_model(options.model), overrides_of(options))
    options.out.mkdir(parents=True, exist_ok=True)
    page = options.out / "index.html"
    write_atomically(page, explain(predictor, image, options.image.name).encode())
    print(f"{page}: what the decoder saw, step by step")
    return 0


def run_predict(options: argparse.Namespace, config: Config) -> int:
    pipeline = pipeline_arguments(options)
    if options.beam and options.data_only:
        raise InputError("--data-only: --beam runs the SavedModel, which is a program")
    if options.beam:
        return _predict_with_beam(options, pipeline)
    say(f"loading {options.model}")
    from personlab_keras.hub.names import is_name
    from personlab_keras.inference.predict import load
    from personlab_keras.io.media import is_stream, list_media
    from personlab_keras.results.writers import check_formats, make_writers

    for place in (*options.sources, options.model, options.out):
        named = is_name(place) if place == options.model else is_stream(place)
        if is_address(place) and not named:
            raise InputError(f"{place}: addresses require --beam")
    if options.shards is not None:
        raise InputError(f"--shards requires --beam. Received: {options.shards}")
    formats = [name for name in options.format.split(",") if name != JSON]
    check_formats(formats)
    check_apart(options.out, options.sources)
    media = list_media(options.sources)
    if media.images and (options.track or options.smooth):
        raise InputError(
            f"--track and --smooth follow people in videos. Received: {media.images[0]}"
        )
    model, settings = named_model(options.model), overrides_of(options)
    predictor = load(model, settings)
    with Journal.open(options.out, _task(options, media, model, settings)) as journal:
        if len(journal):
            say(f"{options.out}: resuming an interrupted run; what it has predicted is kept")
        elif journal.replaced:
            say(
                f"{options.out}: starting over, as the unfinished results there are of another "
                "model, other settings or other sources"
            )
        writers = make_writers(
            formats, options.out, predictor.skeleton, resuming=bool(len(journal))
        )
        try:
            failed = _predict_media(predictor, media, writers, journal, options)
        except BaseException as error:
            # After Ctrl-C they hold the people found so far.
            for writer in writers:
                writer.finish() if isinstance(error, KeyboardInterrupt) else writer.discard()
            raise
        for writer in writers:
            writer.finish()
        journal.finish()
    for reason in failed:
        print(f"personlab predict: {one_line(reason)}", file=sys.stderr)
    return 2 if failed else 0


def _task(options: argparse.Namespace, media: Media, model: Path, settings: list[str]) -> str:
    """The name of a run: all that its files depend on."""
    import cv2
    import numpy as np

    names = ("format", "overlays", "masks", "track", "smooth")
    plan = {
        **{name: getattr(options, name) for name in names},
        "model": fingerprint(model),
        "settings": settings,
        "versions": [__version__, cv2.__version__, np.__version__],
    }
    return task(plan, [os.path.abspath(str(source)) for source in (*media.images, *media.videos)])


def _predict_media(
    predictor: Predictor,
    media: Media,
    writers: Sequence[Writer],
    journal: Journal,
    options: argparse.Namespace,
) -> list[str]:
    """Predicts images, then videos; returns a line for each thing that failed."""
    from personlab_keras.inference.predict_files import predict_files
    from personlab_keras.io.images import describe_unread

    failed: list[str] = []
    if media.images:
        with interrupts_raise(), progress_bars() as progress:
            summary = predict_files(
                predictor,
                media.images,
                options.out,
                overlays=options.overlays,
                progress=progress("images"),
                masks=options.masks == "png",
                writers=writers,
                journal=journal,
            )
        print(f"{options.out}: {_found(summary.done, 'image', summary.people)}")
        if summary.done and not summary.people:
            least = predictor.decode_options.score_threshold
            print(
                f"  nobody scored {least:g} or more; --set decode.score_threshold=0.1 shows "
                "doubtful people, too"
            )
        failed += summary.failed
    if media.unread:
        skipped = one_line(describe_unread(media.unread))
        print(f"personlab predict: skipped {skipped}", file=sys.stderr)
    if media.videos:
        failed += _predict_videos(predictor, media.videos, writers, journal, options)
    return failed


def _found(number: int, noun: str, people: int) -> str:
    return f"{counted(number, noun)}, {counted(people, 'person', 'people')}"


def _predict_videos(
    predictor: Predictor,
    videos: Sequence[str],
    writers: Sequence[Writer],
    journal: Journal,
    options: argparse.Namespace,
) -> list[str]:
    """Predicts videos, cameras and streams; returns a line for each thing that failed."""
    from personlab_keras.inference.video import predict_video, video_names

    failed = []
    several = len(videos) > 1
    for video, name in zip(videos, video_names(videos), strict=True):
        try:
            with interrupts_raise(), progress_bars() as progress:
                summary = predict_video(
                    predictor,
                    video,
                    options.out / name,
                    overlay=options.overlays,
                    progress=progress("frames"),
                    reconnects=options.reconnects,
                    masks=options.masks == "png",
                    writers=writers,
                    track=options.track or options.smooth,
                    smooth=options.smooth,
                    journal=journal,
                )
        except InputError as error:
            if not several:
                raise
            failed.append(str(error))
            continue
        rate = f"{(summary.frames - summary.kept) / summary.seconds:.1f} frames/s"
        again = f", reconnected {summary.reconnected} times" if summary.reconnected else ""
        print(
            f"{options.out}: {video}: {summary.frames} frames, {summary.people} people, {rate}{again}"
        )
        if summary.interrupted:
            raise KeyboardInterrupt(_how_to_resume(video, summary))
        failed += [f"{video}: frame {i} is damaged" for i in summary.damaged]
        if summary.overlay_error:
            failed.append(summary.overlay_error)
        if summary.frames + len(summary.damaged) < summary.announced:
            failed.append(
                f"{video}: only {summary.frames} of its {summary.announced} frames could be read"
            )
    return failed


def _how_to_resume(video: str, summary: VideoSummary) -> str:
    if not os.path.isfile(video):  # a camera or stream
        return "interrupted"
    done = f"{summary.frames} of {summary.announced or '?'} frames"
    return f"interrupted after {done} of {video}; run the same command to resume"


def _predict_with_beam(options: argparse.Namespace, pipeline: list[str]) -> int:
    from personlab_keras.beam_options import beam_options
    from personlab_keras.io.media import is_video

    parsed = beam_options(pipeline)
    from personlab_keras.inference.beam.job import predict_with_beam

    changed = overrides_of(options)
    if changed:
        raise InputError(
            "--beam uses the settings of the exported SavedModel; change them by exporting it again. "
            f"Received: {' '.join(changed)}"
        )
    for source in filter(is_video, options.sources):
        raise InputError(f"{source}: --beam accepts images only")
    with interrupts_raise():
        summary = predict_with_beam(
            options.sources, options.model, options.out, parsed, options.shards, say=say
        )
    failed = sum(summary.failed.values())
    print(f"{options.out}: {_found(summary.images, 'image', summary.people)}, {failed} failed")
    for reason, count in summary.failed.items():
        print(
            f"personlab predict: {reason}: {count}, see {options.out}/failed-*.jsonl",
            file=sys.stderr,
        )
    return 2 if failed else 0


def run_benchmark(options: argparse.Namespace, config: Config) -> int:
    from personlab_keras.inference.benchmark import benchmark, table
    from personlab_keras.io.images import list_images

    list_images([options.images])
    timings = benchmark(
        named_model(options.model),
        [options.images],
        options.sizes or (),
        overrides_of(options),
        options.count,
        options.rounds,
        say=say,
    )
    print(table(timings))
    return 0
