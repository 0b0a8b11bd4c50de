"""How fast a network is in each runtime on this CPU, alone and from a JPEG's bytes to people,
beside Google's PoseNet in Node.

    python benchmarks/runtimes.py --poses POSENET --masks BODYPIX --weights DIR --images DIR

POSENET and BODYPIX are model directories that `personlab import-weights` wrote, the first of the
weights in DIR, which holds Google's posenet.json and posenet.bin: their side is
@tensorflow-models/posenet on @tensorflow/tfjs-backend-wasm, with its defaults for several people,
in Node (which has to be there, with npm), at the size of input that ours has. Every number of
threads is a process of its own on as many cores, with Node on the same ones. The sides take turns,
image by image, in changing order. A figure is the mean over the images of the fastest of the
rounds."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.export.file_options import FileOptions
from personlab_keras.export.formats import export_formats
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.inference.runtimes import FILES, limit_keras
from personlab_keras.io.images import decode_image, list_images, read_image
from personlab_keras.model_directory import read_model_directory

PACKAGES = {
    "@tensorflow-models/posenet": "2.2.2",
    "@tensorflow/tfjs-core": "3.21.0",
    "@tensorflow/tfjs-converter": "3.21.0",
    "@tensorflow/tfjs-backend-wasm": "3.21.0",
    "jpeg-js": "0.4.4",
    "sharp": "0.35.5",
}
SLOW_ROUNDS = 1
"""XLA's code is so slow on a CPU that it takes part in so many rounds only, after one to warm
up.
"""
XLA = "TensorFlow with XLA"
GOOGLE = "Google's"
WARM_UP = 2

Times = dict[str, dict[Path, list[float]]]
"""Milliseconds by what took them, image and round."""


class CompiledByXla:
    """A Keras network compiled by XLA."""

    def __init__(self, network: Any) -> None:
        import tensorflow as tf

        self._call = tf.function(lambda image: network(image, training=False), jit_compile=True)

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {name: output.numpy() for name, output in self._call(inputs).items()}


class SavedModel:
    """A model directory as TensorFlow alone loads it."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(folder)
        self._call = self._loaded.signatures["serving_default"]

    def predict_on_batch(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {name: output.numpy() for name, output in self._call(image=inputs).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--poses", type=Path, required=True, help="model directory of PoseNet x0.75"
    )
    parser.add_argument(
        "--masks", type=Path, required=True, help="model directory of a network with masks"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="folder of Google's posenet.json and posenet.bin",
    )
    parser.add_argument(
        "--images",
        required=True,
        help="folder of JPEG files; the first few of the most common size are looked at",
    )
    parser.add_argument("--count", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--longer-side", type=int, nargs="+", default=[257, 401, 513, 801])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--npm",
        type=Path,
        help="folder to install the packages to or to find them in; by default one for this run",
    )
    options = parser.parse_args()
    if len(options.threads) > 1:
        with tempfile.TemporaryDirectory() as folder:
            npm = install(options.npm or Path(folder) / "npm")
            for threads in options.threads:
                # What is said last counts.
                command = [
                    sys.executable,
                    __file__,
                    *sys.argv[1:],
                    "--npm",
                    str(npm),
                    "--threads",
                    str(threads),
                ]
                subprocess.run(command, check=True)
        return
    measure(options, options.threads[0])


def measure(options: argparse.Namespace, threads: int) -> None:
    """Prints the tables of one number of threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    limit_keras(threads)
    images = chosen_images(options.images, options.count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with google(install(options.npm or folder / "npm"), options.weights) as (about, ask):
            print(f"\n{threads} threads; {len(images)} images; Google's: {about}")
            tables: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
            for longer_side in options.longer_side:
                settings = [f"predict.longer_side={longer_side}", f"predict.threads={threads}"]
                ours = {
                    title: predictors(source, settings, folder / title)
                    for title, source in (("poses", options.poses), ("masks", options.masks))
                }
                times, theirs = rounds(ours, ask, images, options.rounds)
                for title, named in ours.items():
                    tables[title][longer_side] = {
                        side: f"{mean(times[f'{title} {side} network']):.1f} / {mean(times[f'{title} {side} people']):.1f}"
                        for side in named
                    }
                pixels, sharp, jpeg_js = (
                    mean(theirs[part]) for part in ("poses", "sharp", "jpegJs")
                )
                tables["poses"][longer_side][
                    "Google's, from pixels / from bytes (sharp) / (jpeg-js)"
                ] = f"{pixels:.1f} / {pixels + sharp:.1f} / {pixels + jpeg_js:.1f}"
                best = min(mean(times[f"poses {side} people"]) for side in ours["poses"])
                tables["poses"][longer_side]["Google's (sharp) : our fastest"] = (
                    f"{(pixels + sharp) / best:.1f}"
                )
            for title, table in tables.items():
                report(
                    f"{title}, {threads} threads: ms of the network / from bytes to people", table
                )


def predictors(source: Path, settings: list[str], folder: Path) -> dict[str, Predictor]:
    """A predictor of the network for every runtime."""
    if not folder.is_dir():
        export_formats(source, folder, list(FILES), FileOptions())
    keras = load(source, [*settings, "predict.runtime=keras"])
    files = {name: load(folder / file, settings) for name, file in FILES.items()}
    around = {
        "Keras": keras.model,
        "TensorFlow, SavedModel": SavedModel(source),
        XLA: CompiledByXla(read_model_directory(source).model),
        "LiteRT": files["litert"].model,
        "ONNX Runtime": files["onnx"].model,
    }
    return {name: replace(keras, model=network) for name, network in around.items()}


def rounds(
    ours: dict[str, dict[str, Predictor]],
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    images: list[Path],
    count: int,
) -> tuple[Times, Times]:
    """Milliseconds of our side and of theirs."""
    times: Times = defaultdict(lambda: defaultdict(list))
    theirs: Times = defaultdict(lambda: defaultdict(list))
    turns = [(title, side) for title, named in ours.items() for side in named] + [(GOOGLE, GOOGLE)]
    # Whoever comes after Node finds its caches: the order changes.
    order = random.Random(0)
    for number in range(-WARM_UP, count):
        for path in images:
            data = path.read_bytes()
            fit = next(iter(ours["poses"].values())).fit(decode_image(data, str(path)))
            for title, side in order.sample(turns, len(turns)):
                if side == XLA and not -1 <= number < SLOW_ROUNDS:
                    continue
                if side == GOOGLE:
                    answer = ask(
                        {"image": str(path), "width": fit.input_width, "height": fit.input_height}
                    )
                    if number >= 0:
                        for part in ("poses", "sharp", "jpegJs"):
                            theirs[part][path].append(answer[part])
                    continue
                network, whole = once(ours[title][side], data)
                if number >= 0:
                    times[f"{title} {side} network"][path].append(network)
                    times[f"{title} {side} people"][path].append(whole)
    return times, theirs


def once(predictor: Predictor, data: bytes) -> tuple[float, float]:
    """Milliseconds of the network, and from bytes to people."""
    start = time.perf_counter()
    _, seconds = predictor.timed(decode_image(data, "the image"))
    return seconds["network"] * 1e3, (time.perf_counter() - start) * 1e3


def mean(times: dict[Path, list[float]]) -> float:
    return float(np.mean([min(each) for each in times.values()]))


def report(title: str, table: dict[int, dict[str, str]]) -> None:
    print(f"\n| {title} | " + " | ".join(f"{size} px" for size in table) + " |")
    print("| --- |" + " ---: |" * len(table))
    for row in next(iter(table.values())):
        print(f"| {row} | " + " | ".join(cells[row] for cells in table.values()) + " |")


def chosen_images(folder: str, count: int) -> list[Path]:
    """The first images of the size that most have."""
    shapes = {path.resolve(): read_image(path).shape for path in list_images(folder)}
    usual, _ = Counter(shapes.values()).most_common(1)[0]
    return [path for path, shape in shapes.items() if shape == usual][:count]


def install(folder: Path) -> Path:
    """The folder with the packages in its node_modules."""
    if not all((folder / "node_modules" / package).is_dir() for package in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{package}@{version}" for package, version in PACKAGES.items()]
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", *wanted]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder.resolve()


@contextmanager
def google(
    package: Path, weights: Path
) -> Iterator[tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """What runs there, and a function that has Node answer a request."""
    script = Path(__file__).with_name("posenet.mjs")
    with subprocess.Popen(
        ["node", script, package, weights], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        requests, answers = node.stdin, node.stdout
        assert requests is not None
        assert answers is not None
        about = json.loads(answers.readline())

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(request), file=requests, flush=True)
            return json.loads(answers.readline())

        yield f"tfjs {about['version']}, SIMD {about['simd']}, threads {about['threads']}", ask


if __name__ == "__main__":
    main()
