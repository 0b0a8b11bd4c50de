"""What weights in fewer bits cost: size, milliseconds and AP of a network's files for ONNX Runtime
and LiteRT, beside Keras.

    python benchmarks/quantisation.py --model MODEL --annotations JSON [JSON ...] --images DIR [DIR
    ...] --calibration DIR

The files are made by `personlab export`. Every image goes through all of them one after the other,
so that whatever else the machine does meets all alike. The network's time is the median over the
images, in `--threads` threads."""

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from personlab_keras.evaluation import evaluate_results
from personlab_keras.export.file_options import FLOAT16, FLOAT32, INT8, FileOptions
from personlab_keras.export.formats import export_formats
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.inference.runtimes import LITERT, ONNX, limit_keras
from personlab_keras.io.files import read_json
from personlab_keras.io.images import read_image

SETTINGS = ["decode.score_threshold=0"]
"""As `personlab evaluate` has it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        required=True,
        help="COCO person keypoints JSON, one or several",
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, help="folder of the images of each of them"
    )
    parser.add_argument(
        "--calibration",
        required=True,
        help="folder of other images, from which int8 learns what to expect",
    )
    parser.add_argument("--longer-side", type=int, default=801)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only the first so many images")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    limit_keras(options.threads)
    settings = [
        *SETTINGS,
        f"predict.longer_side={options.longer_side}",
        f"predict.threads={options.threads}",
    ]
    truth, images = merged(options.annotations, options.images)
    images = images[: options.limit]
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(options.model, Path(folder), options.calibration)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        predictors = {"Keras, float32": load(options.model, [*settings, "predict.runtime=keras"])}
        predictors |= {name: load(path, settings) for name, path in files.items()}
        report(predictors, sizes, truth, images)


def merged(
    annotations: list[Path], folders: list[Path]
) -> tuple[dict[str, Any], list[tuple[int, Path]]]:
    """The truth of several sets as one, and (id, path) of all of their images."""
    sets = [read_json(path) for path in annotations]
    truth = {
        **sets[0],
        **{
            key: [entry for each in sets for entry in each[key]]
            for key in ("images", "annotations")
        },
    }
    images = [
        (entry["id"], folder / entry["file_name"])
        for each, folder in zip(sets, folders, strict=True)
        for entry in each["images"]
    ]
    return truth, images


def make_files(model: Path, folder: Path, calibration: str) -> dict[str, Path]:
    """The files by what they are."""
    plain = export_formats(
        model, folder / "plain", [LITERT, ONNX], FileOptions((FLOAT32, FLOAT16, INT8))
    )
    calibrated = export_formats(
        model,
        folder / "calibrated",
        [LITERT, ONNX],
        FileOptions((INT8,), calibration=(calibration,)),
    )
    kinds = ("float32", "float16", "int8 weights")
    names = [f"{runtime}, {kind}" for runtime in ("LiteRT", "ONNX Runtime") for kind in kinds]
    names += [f"{runtime}, int8 calibrated" for runtime in ("LiteRT", "ONNX Runtime")]
    return dict(sorted(zip(names, [*plain, *calibrated], strict=True)))


def report(
    predictors: dict[str, Predictor],
    sizes: dict[str, int],
    truth: dict[str, Any],
    images: list[tuple[int, Path]],
) -> None:
    """Predicts and prints a row for each predictor."""
    keypoints, masks, network = defaultdict(list), defaultdict(list), defaultdict(list)
    for predictor in predictors.values():
        predictor(read_image(images[0][1]))  # compiles
    for number, path in track(images, "images"):
        image = read_image(path, apply_orientation=False)
        for name, predictor in predictors.items():
            people, seconds = predictor.timed(image)
            network[name].append(seconds["network"] * 1e3)
            for person in people:
                pose, *mask = person.to_coco(number)
                keypoints[name].append(pose)
                masks[name] += mask
    ids = [number for number, _ in images]
    print(f"{len(ids)} images")
    print("| network | file, MB | network, ms | keypoint AP | mask AP |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in predictors:
        metrics = evaluate_results(truth, keypoints[name], masks[name], ids)
        size = f"{sizes[name] / 1e6:.1f}" if name in sizes else ""
        poses, found = metrics["keypoints"]["AP"], metrics["segmentation"]["AP"]
        print(f"| {name} | {size} | {np.median(network[name]):.1f} | {poses:.3f} | {found:.3f} |")


if __name__ == "__main__":
    main()
