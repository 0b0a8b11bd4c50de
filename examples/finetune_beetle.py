"""Trains a network for another body: a beetle with head, two wings and a tail.

    python examples/finetune_beetle.py --out beetles

It draws pictures of beetles with their annotations, writes the skeleton as YAML, and runs the
commands that a user would: prepare, train, export, evaluate, predict. A quarter of an hour on two
CPU cores with the defaults.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import animal

RECIPE = {
    "data.view_size": 193,
    "targets.radius": 12,
    "targets.stride": 8,
    "model.backbone": "small",
    "model.output_stride": 8,
    "model.weights": "null",
    "train.freeze_batch_norm": "false",
    "train.optimizer": "adam",
    "train.learning_rate": "2e-3",
    "train.schedule": "cosine",
    "predict.longer_side": 193,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("beetles"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    settings = {**RECIPE, "train.steps": options.steps}
    metrics = animal.run(options.out, options.scenes, 50, 193, settings)
    print(
        f"keypoint AP {metrics['keypoints']['AP']:.3f}; pictures in {options.out / 'predictions'}"
    )


if __name__ == "__main__":
    main()
