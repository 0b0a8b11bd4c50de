"""How fast the decoder is on one core: beside Google's on the maps of a trained network, and for
one to fifty people.

    python benchmarks/decoder.py --model STRIDE16 STRIDE8 --annotations JSON --images DIR
    --longer-side 801 1401

Prints median and 95th percentile of the milliseconds of CPU time per image, default settings on
both sides: of poses, and of masks in the frame of the image. Theirs is @tensorflow-models/body-pix
in Node (see `against_bodypix.py`), and for poses also the same algorithm over plain arrays
(`bodypix_arrays.mjs`). Then the time of a scene of one size with 1 to 50 people, perfect maps,
everybody found."""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from against_bodypix import GOOGLE, OURS, SCORE_THRESHOLD, add_arguments, google, install, request

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.inference.predict import load
from personlab_keras.io.files import read_json
from personlab_keras.io.images import read_image
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import COCO_PERSON

REPEATS = 9
"""How often everything is timed; the median counts."""
CROWDS = (1, 2, 5, 10, 20, 50)
SCENE_SIDE, SCENE_STRIDE, SCENE_RADIUS = 1025, 8, 12.0
ARRAYS = "Google's over plain arrays"
BODY = np.array(
    [
        (0, -40), (3, -43), (-3, -43), (7, -41), (-7, -41), (14, -26), (-14, -26), (20, -8), (-20, -8), (22, 8), (-22, 8), (9, 10),
        (-9, 10), (11, 34), (-11, 34), (12, 56), (-12, 56),
    ],
    float,
)  # fmt: skip
"""Keypoints of somebody who stands, in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="model directories, one per stride"
    )
    add_arguments(parser)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Node inherits it
    with tempfile.TemporaryDirectory() as name:
        package = install(options.npm or Path(name) / "npm")
        for model in options.model:
            for longer_side in options.longer_side:
                beside_google(model, longer_side, options, package, Path(name))
    for masks in (False, True):
        crowds(masks)


def beside_google(
    model: Path, longer_side: int, options: argparse.Namespace, package: Path, folder: Path
) -> None:
    """Times both decoders on the maps of all images and prints what they took."""
    predictor = load(model, [f"predict.longer_side={longer_side}"])
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    with google(package) as ask:
        for entry in read_json(options.annotations)["images"][: options.limit]:
            image = read_image(options.images / entry["file_name"], apply_orientation=False)
            fit, maps = predictor.fit(image), predictor.maps(image)
            framed = [FramedMaps(maps, fit.frame)]
            ours = median(partial(decode, framed, options=DecodeConfig(masks=False)))
            seconds["poses", OURS].append(ours)
            seconds["masks", OURS].append(max(median(partial(decode, framed)) - ours, 0.0))
            answer = ask({**request(maps, fit, folder), "repeats": REPEATS + 1})
            (poses,) = (each for each in answer["poses"] if each["threshold"] == SCORE_THRESHOLD)
            for side, key in ((GOOGLE, "milliseconds"), (ARRAYS, "ofArrays")):
                seconds["poses", side].append(float(np.median(poses[key][1:])) / 1e3)
            (masks, *_) = (
                each["milliseconds"]
                for each in answer["masks"]
                if each["threshold"] == SCORE_THRESHOLD
            )
            seconds["masks", GOOGLE].append(masks / 1e3)
    print(
        f"{len(seconds['poses', OURS])} images, longer side {longer_side} px, stride {predictor.stride}"
    )
    for what in ("poses", "masks"):
        sides = [side for side in (OURS, GOOGLE, ARRAYS) if (what, side) in seconds]
        figures = {side: np.percentile(seconds[what, side], [50, 95]) * 1e3 for side in sides}
        means = {side: np.mean(seconds[what, side]) * 1e3 for side in sides}
        for side, (middle, high) in figures.items():
            print(
                f"  {what}, {side}: median {middle:.2f} ms, 95th percentile {high:.2f} ms, mean {means[side]:.2f} ms"
            )
        middle, high = figures[OURS] / figures[GOOGLE]
        print(
            f"  {what}: {middle:.2f}, {high:.2f} and {means[OURS] / means[GOOGLE]:.2f} of their time"
        )


def crowds(masks: bool) -> None:
    """Prints how the time grows with the number of people."""
    options = replace(DecodeConfig(), masks=masks)
    print(f"{SCENE_SIDE} px, stride {SCENE_STRIDE}, {'poses and masks' if masks else 'poses'}")
    first = 0.0
    for count in CROWDS:
        maps = scene(count)
        found = len(decode(maps, options=options, radius=SCENE_RADIUS))
        taken = median(partial(decode, maps, options=options, radius=SCENE_RADIUS))
        first = first or taken
        print(
            f"  {count:2d} people, {found} found: {taken * 1e3:.2f} ms, {taken / first:.2f} times that of one"
        )


def median(run: Callable[[], object]) -> float:
    """Median seconds of CPU time of a call; the first one does not count."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return float(np.median(taken[1:]))


def scene(count: int) -> Maps:
    """Perfect maps of people who stand side by side in rows, none in front of another."""
    side = (SCENE_SIDE - 1) // SCENE_STRIDE + 1
    y, x = np.mgrid[0:side, 0:side] * float(SCENE_STRIDE)
    cells = np.stack([x, y], axis=-1)
    edges = COCO_PERSON.edge_indices
    maps = Maps(
        heatmaps=np.zeros((side, side, len(BODY)), np.float32),
        short_offsets=np.zeros((side, side, len(BODY), 2), np.float32),
        mid_offsets=np.zeros((side, side, len(edges), 2), np.float32),
        long_offsets=np.zeros((side, side, len(BODY), 2), np.float32),
        segmentation=np.zeros((side, side), np.float32),
        stride=SCENE_STRIDE,
    )
    assert maps.long_offsets is not None
    assert maps.segmentation is not None
    for place in range(count):
        row, column = divmod(place, 10)
        person = BODY + (60 + 100 * column, 100 + 180 * row)
        low, high = person.min(axis=0) - 4, person.max(axis=0) + 4
        body = ((cells >= low) & (cells <= high)).all(axis=-1)
        maps.segmentation[body] = 1
        maps.long_offsets[body] = person - cells[body][:, None]
        for k, keypoint in enumerate(person):
            disc = np.hypot(*(cells - keypoint).transpose(2, 0, 1)) <= SCENE_RADIUS
            maps.heatmaps[disc, k] = 1
            maps.short_offsets[disc, k] = keypoint - cells[disc]
            for edge in np.flatnonzero(edges[:, 0] == k):
                maps.mid_offsets[disc, edge] = person[edges[edge, 1]] - cells[disc]
    return maps


if __name__ == "__main__":
    main()
