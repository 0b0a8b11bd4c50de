"""Does another skeleton take the whole path, from a YAML file alone? Beetles of four keypoints,
drawn here, found by a small network.

    python benchmarks/animal.py --out FOLDER [--steps 1500]

Draws scenes with OpenCV, writes them as COCO files of a category "beetle", and then does as a user
would, by the command line: prepare, inspect, train, export, evaluate, predict. Prints the metrics.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

SKELETON = """\
name: beetle
keypoints: [head, left_wing, right_wing, tail]
edges: [[head, left_wing], [head, right_wing], [head, tail]]
sigmas: [0.05, 0.08, 0.08, 0.05]
flip_pairs: [[left_wing, right_wing]]
"""
NAMES = ["head", "left_wing", "right_wing", "tail"]
SETTINGS = {
    "data.view_size": 193, "targets.radius": 12, "model.backbone": "small", "model.output_stride": 8, "model.weights": "null",
    "train.freeze_batch_norm": "false", "train.optimizer": "adam", "train.learning_rate": 2e-3, "train.schedule": "cosine",
    "train.warmup_steps": 50, "train.ema": 0.99, "train.clip_norm": 1.0, "train.batch_size": 8, "train.log_every": 100,
    "predict.longer_side": 193, "decode.nms_radius": 6,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--scenes", type=int, default=1500, help="to learn from; a tenth as many to judge by"
    )
    options = parser.parse_args()
    began = time.perf_counter()
    metrics = run(
        options.out,
        options.scenes,
        max(2, options.scenes // 10),
        193,
        {**SETTINGS, "train.steps": options.steps},
    )
    print(
        json.dumps(
            {"keypoints": metrics["keypoints"], "segmentation": metrics["segmentation"]}, indent=1
        )
    )
    print(f"{time.perf_counter() - began:.0f} s")


def run(
    out: Path, train_scenes: int, val_scenes: int, side: int, settings: dict[str, object]
) -> dict:
    """The whole path; returns what `evaluate` wrote."""
    skeleton = out / "beetle.yaml"
    out.mkdir(parents=True, exist_ok=True)
    skeleton.write_text(SKELETON)
    chosen = _options(settings)
    baked = _options(
        {name: v for name, v in settings.items() if name.startswith(("data.", "targets."))}
    )
    for seed, (name, count) in enumerate((("train", train_scenes), ("val", val_scenes))):
        write_scenes(out / name, count, side, seed)
        files = (
            "--annotations",
            out / name / "annotations.json",
            "--images",
            out / name / "images",
        )
        personlab(
            "prepare",
            *files,
            "--out",
            out / "records" / name,
            "--skeleton",
            skeleton,
            "--category",
            "beetle",
            *baked,
        )
    personlab("inspect", out / "records" / "val", "--out", out / "inspected", "--count", 4)
    personlab("train", "--records", out / "records" / "train", "--workdir", out / "run", *chosen)
    personlab("export", out / "run", "--out", out / "model")
    personlab(
        "evaluate",
        "--model",
        out / "model",
        *files,
        "--out",
        out / "evaluation",
        "--category",
        "beetle",
    )
    personlab(
        "predict", out / "val" / "images", "--model", out / "model", "--out", out / "predictions"
    )
    return json.loads((out / "evaluation" / "metrics.json").read_text())


def _options(settings: dict[str, object]) -> list[str]:
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def personlab(*arguments: object) -> None:
    """A command as a user types it."""
    subprocess.run([sys.executable, "-m", "personlab_keras.cli", *map(str, arguments)], check=True)


def write_scenes(folder: Path, count: int, side: int, seed: int) -> None:
    """`images/` and `annotations.json` in COCO's format."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        scene, beetles = draw_scene(side, rng)
        cv2.imwrite(str(folder / "images" / f"{i}.jpg"), scene)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": side, "height": side})
        annotations += [
            {**beetle, "id": len(annotations) + j, "image_id": i}
            for j, beetle in enumerate(beetles, start=1)
        ]
    stone = {"id": 3, "name": "stone", "supercategory": "thing"}
    beetle = {"id": 7, "name": "beetle", "supercategory": "animal", "keypoints": NAMES}
    content = {"images": images, "annotations": annotations, "categories": [stone, beetle]}
    (folder / "annotations.json").write_text(json.dumps(content))


def draw_scene(side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """A picture (side, side, 3) BGR of a few beetles on a blotchy ground, among stones that are
    annotated, too.
    """
    scene = cv2.resize(
        rng.integers(60, 190, (6, 6, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
    )
    scene = np.clip(scene + rng.normal(0, 8, scene.shape), 0, 255).astype(np.uint8)
    taken, entries = np.zeros((side, side), np.uint8), []
    for _ in range(rng.integers(1, 4)):
        centre, radius = rng.uniform(0, side, 2), int(rng.uniform(4, 12))
        cv2.circle(
            scene,
            centre.astype(int).tolist(),
            radius,
            rng.integers(40, 220, 3).tolist(),
            -1,
            cv2.LINE_AA,
        )
        box = [*(centre - radius).tolist(), 2.0 * radius, 2.0 * radius]
        entries.append(
            {
                "category_id": 3,
                "bbox": box,
                "area": 3.1 * radius**2,
                "iscrowd": 0,
                "segmentation": [],
            }
        )
    for _ in range(rng.integers(1, 5)):
        length, angle = rng.uniform(26, 52), rng.uniform(0, 2 * np.pi)
        ahead = np.array([np.cos(angle), np.sin(angle)])
        leftward = np.array([ahead[1], -ahead[0]])
        centre = rng.uniform(0.1 * side, 0.9 * side, 2)
        wings = [centre + 0.34 * length * way for way in (leftward, -leftward)]
        points = np.array([centre + 0.5 * length * ahead, *wings, centre - 0.5 * length * ahead])
        shell = (
            cv2.ellipse2Poly((0, 0), (int(0.5 * length), int(0.34 * length)), 0, 0, 360, 10)
            @ np.array([ahead, leftward])
            + centre
        )
        outline = np.rint(shell).astype(np.int32)
        mask = cv2.fillPoly(np.zeros_like(taken), [outline], 1)
        inside = ((points >= 1) & (points <= side - 2)).all(axis=1)
        if (mask & taken).any() or inside.sum() < 2:
            continue
        taken |= mask
        colour = rng.integers(0, 90, 3).tolist()
        cv2.fillPoly(scene, [outline], colour, cv2.LINE_AA)
        dots = (
            (230, 230, 230),
            (60, 60, 230),
            (230, 90, 60),
            (60, 220, 60),
        )  # head, left and right wing, tail
        for point, dot in zip(points, dots, strict=True):
            cv2.circle(
                scene,
                np.rint(point).astype(int).tolist(),
                max(2, int(length * 0.09)),
                dot,
                -1,
                cv2.LINE_AA,
            )
        keypoints = [
            value
            for point, seen in zip(points, inside, strict=True)
            for value in ((*point.tolist(), 2) if seen else (0, 0, 0))
        ]
        low, high = np.clip(outline.min(axis=0), 0, side), np.clip(outline.max(axis=0) + 1, 0, side)
        entries.append(
            {
                "category_id": 7,
                "keypoints": keypoints,
                "num_keypoints": int(inside.sum()),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "area": float(mask.sum()),
                "iscrowd": 0,
                "segmentation": [np.clip(shell, 0, side).reshape(-1).tolist()],
            }
        )
    return scene, entries


if __name__ == "__main__":
    main()
