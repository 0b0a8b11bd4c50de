"""How much do targets and decoder lose? Fully labelled synthetic people -> records -> tf.data ->
perfect maps -> decoder -> AP.

    python benchmarks/round_trip.py --scenes 100

Prints keypoint and mask AP at target strides 8, 4 and 2. A mask is read from maps at one point per
stride and brought back to the image by interpolation, so its AP says how coarse a stride may be.
"""

import argparse
import tempfile
from pathlib import Path

from data_prep.build import prepare
from data_prep.inspection import dense_maps
from personlab_keras.config import DecodeConfig, load_config
from personlab_keras.data.pipeline import stored_examples
from personlab_keras.data.records import read_meta
from personlab_keras.decoder import decode
from personlab_keras.evaluation import evaluate_results
from personlab_keras.io.files import read_json
from personlab_keras.synthetic import SceneOptions, write_dataset

SIDE = 257


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--radius", type=float, default=16.0)
    options = parser.parse_args()
    print(
        f"{options.scenes} scenes of {SIDE} px, one to three fully labelled people, R = {options.radius:g} px, perfect maps"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(
            folder,
            options.scenes,
            SIDE,
            seed=21,
            options=SceneOptions(fully_labelled=True, crowd=0.0, unannotated=0.0),
        )
        annotations = read_json(folder / "annotations.json")
        for stride in (8, 4, 2):
            metrics = round_trip(folder, annotations, stride, options.radius)
            keypoints, masks = metrics["keypoints"], metrics["segmentation"]
            print(
                f"stride {stride}: keypoint AP {keypoints['AP']:.3f} (AP75 {keypoints['AP75']:.3f})  "
                f"mask AP {masks['AP']:.3f} (AP50 {masks['AP50']:.3f}, AP75 {masks['AP75']:.3f})"
            )


def round_trip(folder: Path, annotations: dict, stride: int, radius: float) -> dict:
    """COCO metrics of the people decoded from the targets of the scenes in a folder."""
    records = folder / f"records-{stride}"
    config = load_config(
        None, [f"data.view_size={SIDE}", f"targets.stride={stride}", f"targets.radius={radius}"]
    )
    prepare(folder / "annotations.json", folder / "images", records, config)
    meta = read_meta(records)
    keypoints, masks = [], []
    for example in stored_examples(records, meta).as_numpy_iterator():
        for person in decode(
            dense_maps(example, meta), meta.skeleton, DecodeConfig(), radius=meta.radius
        ):
            pose, *mask = person.to_coco(int(example["image_id"]))
            keypoints.append(pose)
            masks += mask
    return evaluate_results(annotations, keypoints, masks)


if __name__ == "__main__":
    main()
