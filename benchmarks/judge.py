"""Does judging results take longer than pycocotools alone, and are the figures the same?

    python benchmarks/judge.py --images 5000 --people 20 --rounds 1

Makes up an annotation file and the results for it: people with keypoints and masks, found roughly,
some missed, some false. Then both sides take turns, from the annotation file to the figures for
keypoints and masks: COCO, loadRes and COCOeval on the one side; on the other reading, checking and
repairing every annotation, and `judge`. Prints seconds, their ratio and the largest difference
between two figures. Peak memory is measured in a process of its own for each side."""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.reasons import Tally
from personlab_keras.evaluation import KEYPOINT_DETECTIONS, MASK_DETECTIONS, judge, truth_of
from personlab_keras.method.person import encode_mask
from personlab_keras.method.skeleton import COCO_PERSON

WIDTH, HEIGHT = 640, 480
FIGURES = {
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR", "ARs", "ARm", "ARl"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--people", type=int, default=20, help="in each image")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        SIDES[options.side](options.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_up(folder, options.images, options.people)
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        figures: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for side, run in SIDES.items():
                start = time.perf_counter()
                figures[side] = run(folder)
                seconds[side].append(time.perf_counter() - start)
                print(f"{side}: {seconds[side][-1]:.1f} s", flush=True)
        plain, ours = (min(seconds[side]) for side in SIDES)
        first, second = (figures[side] for side in SIDES)
        print(f"ratio of the fastest turns: {ours / plain:.3f}")
        difference = max(abs(first[figure] - second[figure]) for figure in first)
        print(f"largest difference of {len(first)} figures: {difference:.3g}")
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", name]
            peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"peak memory, {side}: {int(peak.split()[-1])} MB")


def make_up(folder: Path, images: int, people: int) -> None:
    """annotations.json, keypoints_results.json and segm_results.json."""
    rng = np.random.default_rng(0)
    shapes = [ellipse(rng) for _ in range(200)]
    content: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(images)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}],
    }
    keypoints, masks = [], []
    for image in range(images):
        for _ in range(people):
            shape = rng.integers(len(shapes))
            mask, box, area = shapes[shape]
            points = np.round(np.array(box[:2]) + rng.random((17, 2)) * box[2:], 1)
            labels = np.where(rng.random(17) < 0.7, 2.0, 0.0)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": int(rng.random() < 0.02),
                    "area": area,
                    "bbox": box,
                    "keypoints": np.c_[points * (labels > 0)[:, None], labels].reshape(-1).tolist(),
                    "num_keypoints": int((labels > 0).sum()),
                    "segmentation": mask,
                }
            )
            if rng.random() < 0.85:
                common = {"image_id": image, "category_id": 1, "score": float(rng.random())}
                moved = points + rng.normal(0, rng.uniform(0, 0.1) * np.sqrt(area), points.shape)
                found = np.c_[np.round(moved, 3), np.ones(17)].reshape(-1).tolist()
                keypoints.append({**common, "keypoints": found})
                near = (shape + rng.integers(0, 2)) % len(shapes)
                masks.append({**common, "segmentation": shapes[near][0]})
    for name, value in (
        ("annotations", content),
        ("keypoints_results", keypoints),
        ("segm_results", masks),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))


def ellipse(rng: np.random.Generator) -> tuple[dict[str, Any], list[float], float]:
    """Run lengths, box and area of a standing ellipse."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    height = rng.uniform(30, 300)
    width = height * rng.uniform(0.3, 0.6)
    x, y = rng.uniform(width, WIDTH - width), rng.uniform(height / 2, HEIGHT - height / 2)
    mask = ((columns - x) / width * 2) ** 2 + ((rows - y) / height * 2) ** 2 < 1
    found_rows, found_columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [found_columns[0], found_rows[0], len(found_columns), len(found_rows)]
    return encode_mask(mask), [float(value) for value in box], float(mask.sum())


def results(folder: Path, kind: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{kind}_results.json").read_text())


def by_pycocotools(folder: Path) -> dict[str, float]:
    """As its documentation says, but for the number of detections of `evaluate`."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "annotations.json"))
        for kind, names in FIGURES.items():
            evaluation = COCOeval(coco, coco.loadRes(results(folder, kind)), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, value in zip(names, evaluation.stats, strict=True):
                if name is not None:
                    found[f"{kind} {name}"] = float(value)
    return found


def by_this_project(folder: Path) -> dict[str, float]:
    """From the file to the figures, as `evaluate` does after the last image."""
    dataset = read_coco(folder / "annotations.json", COCO_PERSON)
    truth = truth_of(dataset.images, COCO_PERSON, Tally(), dataset.category)
    metrics = judge(truth, results(folder, "keypoints"), results(folder, "segm"))
    return {
        f"{kind} {name}": metrics["segmentation" if kind == "segm" else kind][name]
        for kind, names in FIGURES.items()
        for name in names
        if name is not None
    }


SIDES = {"pycocotools": by_pycocotools, "this project": by_this_project}
assert (KEYPOINT_DETECTIONS, MASK_DETECTIONS) == (20, 100)  # COCOeval's own


if __name__ == "__main__":
    main()
