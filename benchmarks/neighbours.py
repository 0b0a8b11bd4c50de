"""How many of two people who stand close together does the decoder find on perfect maps?

    python benchmarks/neighbours.py --pairs 150 --stride 16 8

Each pair is a synthetic person, all keypoints labelled, and the same person again 12 to 40 pixels
away in a random direction. A person counts as found whose keypoints lie within 6 pixels on average;
everybody else in the output was added by the decoder."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from oracle import perfect_maps
from scipy.optimize import linear_sum_assignment

from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.dataset import AnnotatedImage, Annotation
from personlab_keras.annotations.masks import compress_segmentation
from personlab_keras.config import DecodeConfig, TargetsConfig
from personlab_keras.decoder import decode
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, write_dataset

SIDE, RADIUS = 801, 32.0
ALONE = SceneOptions(people=(1, 1), height=(0.2, 0.6), fully_labelled=True)
APART = 12.0, 40.0
FOUND = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--stride", type=int, nargs="+", default=[16, 8], help="pixels per cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images = pairs(options.pairs, options.seed)
    print("| stride | people | missed | added |\n| --- | --- | --- | --- |")
    for stride in options.stride:
        counts = np.sum([missed_and_added(image, stride) for image in images], axis=0)
        print(f"| {stride} | {2 * len(images)} | {counts[0]} | {counts[1]} |", flush=True)


def pairs(count: int, seed: int) -> list[AnnotatedImage]:
    """Images of two people each; no pixels are drawn for the second."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        written = write_dataset(Path(folder), count, SIDE, seed, options=ALONE)
        images = read_coco(written.annotations, COCO_PERSON).images
    return [doubled(image, rng) for image in images]


def doubled(image: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
    (one,) = image.annotations
    angle = rng.uniform(0.0, 2 * np.pi)
    away = rng.uniform(*APART) * np.array([np.cos(angle), np.sin(angle), 0.0])
    return replace(
        image, annotations=(boxed(one, one.keypoints), boxed(one, one.keypoints + away, id=-1))
    )


def boxed(person: Annotation, keypoints: np.ndarray, **changes: int) -> Annotation:
    """A person with other keypoints; its mask is the box around them."""
    low, high = keypoints[:, :2].min(axis=0) - 5, keypoints[:, :2].max(axis=0) + 5
    outline = [low[0], low[1], high[0], low[1], high[0], high[1], low[0], high[1]]
    return replace(
        person,
        keypoints=keypoints,
        box=np.concatenate([low, high - low]),
        area=float((high - low).prod()),
        segmentation=compress_segmentation([outline]),
        **changes,
    )


def missed_and_added(image: AnnotatedImage, stride: int) -> tuple[int, int]:
    maps, frame = perfect_maps(image, SIDE, TargetsConfig(radius=RADIUS, stride=stride))
    people = decode(maps, COCO_PERSON, DecodeConfig(masks=False), frame, RADIUS)
    distances = np.full((2, len(people)), np.inf)
    for i, annotation in enumerate(image.annotations):
        for j, person in enumerate(people):
            away = person.keypoints - annotation.keypoints[:, :2]
            distances[i, j] = np.nanmean(np.hypot(away[:, 0], away[:, 1]))
    found = 0
    if people:
        rows, columns = linear_sum_assignment(np.minimum(distances, 1e6))
        found = int((distances[rows, columns] < FOUND).sum())
    return 2 - found, len(people) - found


if __name__ == "__main__":
    main()
