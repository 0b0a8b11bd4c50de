"""What each step of the decoder is worth, on the maps of a trained network.

    python benchmarks/ablation.py --model MODEL --annotations JSON --images DIR --longer-side 801
    1201

Prints a Markdown table: keypoint and mask AP with the default settings, then with one of them
changed at a time."""

import argparse
from dataclasses import replace
from pathlib import Path

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.evaluation import evaluate_results
from personlab_keras.inference.predict import load
from personlab_keras.io.files import read_json
from personlab_keras.io.images import read_image

CHANGES: list[dict[str, object]] = [
    {},
    {"hough": False},
    *({"mid_refinements": steps} for steps in (0, 1, 2, 8)),
    *({"vote_refinements": steps} for steps in (0, 2, 4)),
    {"bridge": False},
    {"expected_oks": False},
    {"soft_nms": False},
    *({"score_power": power} for power in (1.0, 2.0, 5.0)),
    *({"nms_radius": radius} for radius in (5.0, 20.0)),
    *({"peak_threshold": threshold} for threshold in (0.003, 0.03, 0.1)),
    *({"keypoint_threshold": threshold} for threshold in (0.0, 0.05, 0.2)),
    {"exclusive_masks": True},
    *({"long_refinements": steps} for steps in (0, 1, 4)),
    *({"segmentation_threshold": threshold} for threshold in (0.4, 0.6)),
    *({"embedding_threshold": threshold} for threshold in (0.15, 0.2, 0.3)),
    {"mid_refinements": 2, "vote_refinements": 0, "score_power": 1.0, "bridge": False},
]
"""Settings that differ from the defaults; the last are the paper's."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="model directory with segmentation and long offsets"
    )
    parser.add_argument("--annotations", required=True, help="COCO person keypoints JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--longer-side", type=int, nargs="+", default=[801, 1201])
    options = parser.parse_args()
    truth = read_json(options.annotations)
    seen = {side: look(options.model, truth, options.images, side) for side in options.longer_side}
    sides = [f"{kind} AP, {side} px" for side in seen for kind in ("keypoint", "mask")]
    print(f"| changed | {' | '.join(sides)} |")
    print("| --- " * (len(sides) + 1) + "|")
    for change in CHANGES:
        values = [
            f"{value:.3f}" for views in seen.values() for value in precision(truth, views, change)
        ]
        name = ", ".join(f"{key} {value}" for key, value in change.items()) or "nothing"
        print(f"| {name} | {' | '.join(values)} |", flush=True)


def look(model: str, truth: dict, images: Path, longer_side: int) -> dict[int, list[FramedMaps]]:
    """What the network sees of every image, by its id."""
    predictor = load(model, [f"predict.longer_side={longer_side}"])
    return {
        entry["id"]: predictor.framed_maps(
            read_image(images / entry["file_name"], apply_orientation=False)
        )
        for entry in truth["images"]
    }


def precision(
    truth: dict, seen: dict[int, list[FramedMaps]], change: dict[str, object]
) -> tuple[float, float]:
    """Keypoint and mask AP with changed settings."""
    options = replace(DecodeConfig(score_threshold=0.0), **change)  # type: ignore[arg-type]
    entries = [
        entry
        for image, views in seen.items()
        for person in decode(views, options=options)
        for entry in person.to_coco(image)
    ]
    keypoints = [entry for entry in entries if "keypoints" in entry]
    masks = [entry for entry in entries if "segmentation" in entry]
    metrics = evaluate_results(truth, keypoints, masks, list(seen))
    return metrics["keypoints"]["AP"], metrics["segmentation"]["AP"]


if __name__ == "__main__":
    main()
