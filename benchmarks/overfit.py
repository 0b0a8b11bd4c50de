"""Do data, targets, network, losses, export and decoder speak one language? Eight real images,
memorised.

    python benchmarks/overfit.py --annotations person_keypoints_train2017.json --images train2017
    --out overfit

Takes the first images (by id) that show people with keypoints, prepares them, trains a small
network on them alone from random weights, exports it, and evaluates the export on the same images:
keypoint AP should pass 0.80."""

import argparse
import json
from pathlib import Path

from data_prep.build import prepare
from personlab_keras.annotations.coco import read_coco
from personlab_keras.config import load_config
from personlab_keras.evaluation import evaluate
from personlab_keras.export.export import export_source
from personlab_keras.inference.predict import load
from personlab_keras.io.files import read_json
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.training.train import train

SETTINGS = [
    "data.view_size=401",
    "targets.radius=16",
    "model.backbone=small",
    "model.output_stride=8",
    "model.weights=null",
    # The same eight views in every step: what is tested is the path, not the generalisation.
    "data.flip=0",
    "data.brightness=0",
    "data.contrast=0",
    "data.saturation=0",
    "train.optimizer=adam",
    "train.learning_rate=2e-3",
    "train.schedule=cosine",
    "train.warmup_steps=100",
    "train.clip_norm=1",
    "train.freeze_batch_norm=false",
    "train.batch_size=8",
    "train.checkpoint_every=500",
    "predict.longer_side=401",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    annotations = options.out / "annotations.json"
    options.out.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(subset(options.annotations, options.count)))
    config = load_config(None, [*SETTINGS, f"train.steps={options.steps}"])
    if not (options.out / "records").exists():
        prepare(annotations, options.images, options.out / "records", config)
    train(
        options.out / "records",
        options.out / "run",
        config,
        report=lambda log: print(log, flush=True),
    )
    export_source(options.out / "run", options.out / "exported")
    metrics = evaluate(
        load(options.out / "exported", ["decode.score_threshold=0"]),
        annotations,
        options.images,
        options.out / "evaluation",
    )
    print(json.dumps(metrics, indent=1))


def subset(path: Path, count: int) -> dict:
    """The annotation file cut to its first images with annotated people."""
    chosen = [
        image.id
        for image in read_coco(path, COCO_PERSON).images
        if any(a.annotated for a in image.annotations)
    ][:count]
    content = read_json(path)
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in chosen],
        "annotations": [
            annotation for annotation in content["annotations"] if annotation["image_id"] in chosen
        ],
    }


if __name__ == "__main__":
    main()
