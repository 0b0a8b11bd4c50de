"""What would a perfect network reach? COCO annotations -> perfect maps -> decoder -> AP. No image
is read.

    python benchmarks/oracle.py --annotations person_keypoints_train2017.json --stride 8 4 --noise
    python benchmarks/oracle.py --annotations person_keypoints_val2017.json --fully-labelled
    python benchmarks/oracle.py --scenes 100 --fully-labelled

Prints Markdown tables: keypoint and mask AP of the decoder and, beside it, of the plain tree; with
`--noise`, also against noise on all offsets and against missing cells of the heatmaps. Nothing but
the decoder, the stride and what annotators left out stands between these figures and 1. Mask AP is
given over all people and over those with keypoints: the others have masks, but a method that starts
from keypoints cannot find them on perfect maps.

With `--fully-labelled` only people with all keypoints labelled are judged: the tree, the bridges
and the scores then miss nothing that a network would have seen. The maps still hold everybody, and
people who are not judged are ignored like crowds, so neither finding nor missing them counts. Few
of COCO's people are fully labelled, so that a small file says little; `--scenes` draws scenes of
one to six synthetic people instead, near and far, all of them fully labelled."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.baking import gather_people, view_targets
from data_prep.inspection import dense_maps
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.dataset import AnnotatedImage
from personlab_keras.annotations.reasons import Tally
from personlab_keras.config import DecodeConfig, TargetsConfig
from personlab_keras.data.geometry import whole_image
from personlab_keras.data.records import Meta
from personlab_keras.decoder import Frame, decode
from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate_results
from personlab_keras.io.files import read_json
from personlab_keras.method.coordinates import map_side
from personlab_keras.method.maps import Maps
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, write_dataset

SCENES = SceneOptions(people=(1, 6), height=(0.1, 0.84), fully_labelled=True)
OFFSET_NOISE = 1.0, 2.0, 4.0, 8.0
DROPOUT = 0.1, 0.25, 0.5, 0.75
KEYPOINT_COLUMNS = "AP", "AP50", "AP75", "APm", "APl"
HEADER = (
    "maps",
    "stride",
    *(f"keypoint {name}" for name in KEYPOINT_COLUMNS),
    "mask AP",
    "of people with keypoints",
)


@dataclass(frozen=True)
class Trial:
    """One row: how the maps are spoilt, and who decodes them.

    Attributes:
        name: of the row.
        decoding: options of the decoder.
        offset_noise: standard deviation in view pixels of what is added to dx and dy of every
            offset.
        dropout: share of the cells of each heatmap that are set to zero.
    """

    name: str
    decoding: DecodeConfig
    offset_noise: float = 0.0
    dropout: float = 0.0

    def spoilt(self, maps: Maps, rng: np.random.Generator) -> Maps:
        """The maps with this trial's noise; the same objects where there is none."""
        if self.offset_noise:
            noisy = {
                name: getattr(maps, name)
                + rng.normal(0.0, self.offset_noise, getattr(maps, name).shape)
                for name in ("short_offsets", "mid_offsets", "long_offsets")
            }
            maps = replace(maps, **noisy)
        if self.dropout:
            maps = replace(
                maps,
                heatmaps=np.where(
                    rng.random(maps.heatmaps.shape) < self.dropout, 0.0, maps.heatmaps
                ),
            )
        return maps


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", type=Path, help="COCO person keypoints JSON")
    source.add_argument(
        "--scenes", type=int, help="draw so many synthetic scenes instead, everybody fully labelled"
    )
    parser.add_argument(
        "--long-side", type=int, default=801, help="pixels of the view's sides; stride * n + 1"
    )
    parser.add_argument(
        "--stride", type=int, nargs="+", default=[8], help="view pixels per cell; may be several"
    )
    parser.add_argument("--radius", type=float, default=32.0, help="R in view pixels")
    parser.add_argument(
        "--fully-labelled",
        action="store_true",
        help="judge only people with all keypoints labelled",
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument(
        "--noise",
        action="store_true",
        help="also against noise and missing cells, at the first stride",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of the scenes")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.scenes is not None:
                written = write_dataset(
                    folder, options.scenes, options.long_side, options.seed, options=SCENES
                )
                options.annotations = written.annotations
            run(options)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise InputError(f"`--limit` must be at least 1 image. Received: {options.limit}")
    if not options.radius > 0:
        raise InputError(
            f"`--radius` must be a positive number of pixels. Received: {options.radius}"
        )
    if min(options.stride) < 1:
        raise InputError(f"`--stride` must be at least 1 pixel. Received: {min(options.stride)}")
    for stride in options.stride:
        map_side(options.long_side, stride)
    images = read_coco(options.annotations, COCO_PERSON).images[: options.limit]
    truth = judged(read_json(options.annotations), options.fully_labelled)
    category = next(
        (entry["id"] for entry in truth["categories"] if entry.get("name") == "person"), 1
    )
    chosen = {image.id for image in images}
    people = [
        entry
        for entry in truth["annotations"]
        if entry["image_id"] in chosen
        and entry["category_id"] == category
        and not entry.get("iscrowd")
    ]
    print(
        f"{len(images)} images, {len(people)} people judged, {sum(labelled(entry) > 0 for entry in people)} of them with keypoints; "
        f"views of {options.long_side} px, R = {options.radius:g} px\n"
    )
    print(f"| {' | '.join(HEADER)} |")
    print("| --- " * len(HEADER) + "|", flush=True)
    for number, stride in enumerate(options.stride):
        settings = TargetsConfig(radius=options.radius, stride=stride)
        rows = list(trials(options.noise and not number))
        for trial, results in zip(
            rows, decoded(images, rows, settings, options, category), strict=True
        ):
            print(table_row(trial.name, stride, truth, *results, sorted(chosen)), flush=True)


def trials(noise: bool) -> Iterator[Trial]:
    decoding = DecodeConfig(score_threshold=0.0)  # average precision is taken over all thresholds
    yield Trial("perfect", decoding)
    yield Trial("perfect, tree alone", replace(decoding, bridge=False))
    if noise:
        for spread in OFFSET_NOISE:
            yield Trial(f"offsets ± {spread:g} px", decoding, offset_noise=spread)
        for share in DROPOUT:
            yield Trial(f"{share:.0%} of heatmap cells missing", decoding, dropout=share)


def judged(annotations: dict[str, Any], fully_labelled: bool) -> dict[str, Any]:
    """The annotations, with everybody who does not count as a crowd, which COCO's evaluator
    ignores.
    """
    if not fully_labelled:
        return annotations
    people = [
        entry if labelled(entry) == COCO_PERSON.keypoint_count else {**entry, "iscrowd": 1}
        for entry in annotations["annotations"]
    ]
    if all(entry.get("iscrowd") for entry in people):
        raise InputError(
            "`--fully-labelled`: nobody in these annotations has all keypoints labelled"
        )
    return {**annotations, "annotations": people}


def labelled(entry: dict[str, Any]) -> int:
    """How many keypoints of an annotation are labelled; crowds and other categories may come
    without the field.
    """
    return sum(visibility > 0 for visibility in entry.get("keypoints", ())[2::3])


def decoded(
    images: Sequence[AnnotatedImage],
    rows: Sequence[Trial],
    settings: TargetsConfig,
    options: argparse.Namespace,
    category: int,
) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """For each trial what the decoder finds in all images, as COCO's keypoint results and mask
    results.
    """
    results: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [([], []) for _ in rows]
    for image in images:
        maps, frame = perfect_maps(image, options.long_side, settings)
        for trial, (keypoints, masks) in zip(rows, results, strict=True):
            rng = np.random.default_rng(
                (options.seed, image.id)
            )  # the same noise, weaker and stronger
            for person in decode(
                trial.spoilt(maps, rng), COCO_PERSON, trial.decoding, frame, settings.radius
            ):
                pose, *mask = person.to_coco(image.id, category)
                keypoints.append(pose)
                masks += mask
    return results


def perfect_maps(image: AnnotatedImage, side: int, settings: TargetsConfig) -> tuple[Maps, Frame]:
    """The targets of the whole image, fitted to a square view as records have it, and how the image
    lies in that view.
    """
    view = whole_image(image.width, image.height, side)
    targets = asdict(
        view_targets(gather_people(image, COCO_PERSON, Tally()), view, settings, COCO_PERSON)
    )
    meta = Meta(side, settings.stride, settings.radius, COCO_PERSON, 1, (), 1, {}, {}, {})
    shift = float(view.affine[0, 2])
    return dense_maps(targets, meta), Frame(
        image.height, image.width, (view.scale, view.scale), (shift, shift)
    )


def table_row(
    name: str,
    stride: int,
    truth: dict[str, Any],
    keypoints: list[dict[str, Any]],
    masks: list[dict[str, Any]],
    image_ids: list[int],
) -> str:
    metrics = evaluate_results(truth, keypoints, masks, image_ids)
    annotated = [
        entry if labelled(entry) else {**entry, "iscrowd": 1} for entry in truth["annotations"]
    ]
    among_annotated = evaluate_results(
        {**truth, "annotations": annotated}, keypoints, masks, image_ids
    )
    figures = [metrics["keypoints"][column] for column in KEYPOINT_COLUMNS]
    figures += [
        found["segmentation"]["AP"] if found["segmentation"] else None
        for found in (metrics, among_annotated)
    ]
    cells = (name, str(stride), *("" if figure is None else f"{figure:.3f}" for figure in figures))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
