"""Times a model in each runtime that can run it, on images of the user and this machine."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from personlab_keras.errors import InputError
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.inference.runtimes import (
    FILES,
    KERAS,
    PACKAGES,
    is_network_file,
    read_network_file,
)
from personlab_keras.io.images import list_images, read_image
from personlab_keras.model_directory import WEIGHTS_FILE, latest_version

STAGES = ("fit", "network", "decode")


@dataclass(frozen=True)
class Timing:
    """Median milliseconds per image of a runtime at a size.

    Attributes:
        runtime: its name.
        longer_side: of the input in pixels.
        stages: stage -> milliseconds: "fit", "network", "decode".
        people: number of people found in all images.
    """

    runtime: str
    longer_side: int
    stages: dict[str, float]
    people: int

    @property
    def total(self) -> float:
        """Milliseconds from pixels to people."""
        return sum(self.stages.values())


def benchmark(
    model: Path,
    images: Sequence[str | Path],
    sizes: Sequence[int] = (),
    overrides: Sequence[str] = (),
    count: int = 8,
    rounds: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> list[Timing]:
    """Times a model directory or file.

    The runtimes take turns, image by image, in changing order, so that other work on the machine
    falls on all of them. Each is warmed up first.

    Args:
        model: the model directory, or an .onnx or .tflite file.
        images: as for `images.list_images`.
        sizes: longer sides of the input in pixels; none for that of the model.
        overrides: settings `section.key=value`.
        count: how many images, evenly spaced ones of all.
        rounds: how often each image is predicted.
        say: takes a line on each runtime that is left out.

    Raises:
        InputError: a number is below 1, or as `load` and `list_images`.
    """
    for name, value in (("--count", count), ("--rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} must be at least 1. Received: {value}")
    paths = list_images(images)
    step = max(1, len(paths) // count)
    pixels = [read_image(path) for path in paths[::step][:count]]
    predictors: dict[tuple[str, int], Predictor] = {}
    for runtime in runtimes_of(model, say):
        for side in sizes or (None,):
            size = [] if side is None else [f"predict.longer_side={side}"]
            predictor = load(model, [f"predict.runtime={runtime}", *overrides, *size])
            predictors[runtime, predictor.options.longer_side] = predictor
    times: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    people: dict[tuple[str, int], int] = defaultdict(int)
    order = random.Random(0)
    for number in range(rounds + 1):  # the first to warm up
        for image in pixels:
            for key in order.sample(list(predictors), len(predictors)):
                found, seconds = predictors[key].timed(image)
                if number:
                    for stage in STAGES:
                        times[key][stage].append(1000 * seconds[stage])
                else:
                    people[key] += len(found)
    return [
        Timing(
            *key,
            {stage: statistics.median(times[key][stage]) for stage in STAGES},
            people[key],
        )
        for key in predictors
    ]


def runtimes_of(model: Path, say: Callable[[str], None]) -> list[str]:
    """The runtimes that can run a model on this machine."""
    if is_network_file(model) and not model.is_dir():
        return [read_network_file(model).runtime]
    folder = latest_version(model)
    found = []
    for runtime, file in FILES.items():
        if not (folder / file).is_file():
            say(f"{runtime}: no {file}; `personlab export --format {runtime}` adds it")
        elif find_spec(PACKAGES[runtime]) is None:
            say(f"{runtime}: needs the package {PACKAGES[runtime]}")
        else:
            found.append(runtime)
    if not (folder / WEIGHTS_FILE).is_file() or find_spec("keras") is None:
        say(f"{KERAS}: needs {WEIGHTS_FILE} and the package keras")
    else:
        found.append(KERAS)
    return found


def table(timings: Sequence[Timing]) -> str:
    """A Markdown table of timings.

    >>> print(table([Timing("onnx", 801, {"fit": 2.0, "network": 30.0, "decode": 8.0}, 4)]))
    | runtime | longer side | fit ms | network ms | decode ms | all ms | images/s | people |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | onnx | 801 | 2.0 | 30.0 | 8.0 | 40.0 | 25.0 | 4 |
    """
    lines = [
        "| runtime | longer side | fit ms | network ms | decode ms | all ms | images/s | people |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in timings:
        figures = [*(each.stages[stage] for stage in STAGES), each.total, 1000 / each.total]
        shown = " | ".join(f"{figure:.1f}" for figure in figures)
        lines.append(f"| {each.runtime} | {each.longer_side} | {shown} | {each.people} |")
    return "\n".join(lines)
