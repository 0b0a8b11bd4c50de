"""The decoder in a SavedModel beside the NumPy one, and image bytes to people by either way: the
same people, as well, how fast: in CPU time, which other work on the machine changes least.

    python benchmarks/saved_model.py --model MODEL --annotations JSON --images DIR --longer-side 801

Images are turned as their EXIF tags say by neither side: COCO annotates pixels as stored, and the
sample's tags say nothing else."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from personlab_keras.decoder import decode
from personlab_keras.evaluation import evaluate_results
from personlab_keras.export.export import export_source
from personlab_keras.export.saved_model.signatures import BYTES, BYTES_SIGNATURE
from personlab_keras.inference.predict import load
from personlab_keras.io.files import read_json
from personlab_keras.io.images import read_image
from personlab_keras.method.maps import pack
from personlab_keras.method.person import Person


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--annotations", required=True, help="COCO person keypoints JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--longer-side", type=int, default=801)
    parser.add_argument("--poses", action="store_true", help="without masks")
    parser.add_argument(
        "--score-threshold", type=float, default=0.0, help="0 for AP, the default 0.3 for times"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    options = parser.parse_args()
    annotations = read_json(options.annotations)
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"predict.longer_side={options.longer_side}", "predict.scales=[1]"]
        settings.append(f"decode.score_threshold={options.score_threshold}")
        settings += ["decode.masks=false"] * options.poses
        exported = export_source(options.model, Path(folder) / "1", settings)
        compare(exported, annotations, annotations["images"][: options.limit], options.images)


def compare(
    exported: Path, annotations: dict[str, Any], entries: list[dict[str, Any]], images: Path
) -> None:
    """Prints how far apart both sides are, the AP of each, and milliseconds."""
    predictor, module = load(exported), tf.saved_model.load(str(exported))
    people: dict[str, dict[int, list[Person]]] = {
        name: {} for name in ("NumPy", "in the graph", "from bytes")
    }
    seconds: dict[str, list[float]] = {name: [] for name in people}
    differences = {"keypoints": 0.0, "scores": 0.0, "keypoint scores": 0.0, "mask pixels": 0.0}
    same = 0
    for entry in entries:
        path = images / entry["file_name"]
        image = read_image(path, apply_orientation=False)
        maps, frame = predictor.maps(image), predictor.fit(image).frame
        outputs = {name: tf.constant(array) for name, array in pack(maps).items()}

        def in_graph(outputs=outputs, frame=frame):
            size = tf.constant([frame.height, frame.width])
            return module.decode(
                outputs,
                size,
                tf.constant(frame.scale, tf.float64),
                tf.constant(frame.offset, tf.float64),
            )

        def from_bytes(path=path):
            found = module.signatures[BYTES_SIGNATURE](**{BYTES: tf.constant([path.read_bytes()])})
            return {name: value[0] for name, value in found.items()}

        ways = {
            "NumPy": lambda maps=maps, frame=frame: decode(
                maps, predictor.skeleton, predictor.decode_options, frame, predictor.radius
            ),
            "in the graph": lambda: people_of(in_graph()),
            "from bytes": lambda: people_of(from_bytes()),
        }
        for name, way in ways.items():
            way()
            start = time.process_time()
            people[name][entry["id"]] = way()
            seconds[name].append(time.process_time() - start)
        ours, theirs = people["in the graph"][entry["id"]], people["NumPy"][entry["id"]]
        same += len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=False):
            apart = {
                "keypoints": np.abs(
                    predictor.fit(image).to_input(one.keypoints)
                    - predictor.fit(image).to_input(other.keypoints)
                ),
                "scores": np.abs(one.score - other.score),
                "keypoint scores": np.abs(one.keypoint_scores - other.keypoint_scores),
                "mask pixels": 0.0 if one.mask is None else (one.mask != other.mask).mean(),
            }
            for name, values in apart.items():
                differences[name] = max(differences[name], float(np.nanmax(values)))
    print(
        f"{len(entries)} images, {sum(map(len, people['NumPy'].values()))} people; as many on {same} images"
    )
    print(
        "largest differences: "
        + ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    )
    for name, by_image in people.items():
        results = [each.to_coco(i) for i, found in by_image.items() for each in found]
        masks = [entries[1] for entries in results if len(entries) > 1] or None
        metrics = evaluate_results(
            annotations, [entries[0] for entries in results], masks, by_image
        )
        figures = [
            f"{kind} AP {metrics[kind]['AP']:.4f}"
            for kind in ("keypoints", "segmentation")
            if metrics[kind]
        ]
        middle, ratio = (
            np.median(seconds[name]),
            np.sum(seconds[name]) / np.sum(seconds["NumPy"]),
        )
        print(
            f"{name}: {', '.join(figures)}, median {1000 * middle:.1f} ms of CPU, in all "
            f"{ratio:.1f} times NumPy's"
        )


def people_of(found: dict[str, tf.Tensor]) -> list[Person]:
    """One image's people of a signature's outputs."""
    values = {name: value.numpy() for name, value in found.items()}
    people = []
    for j in range(int(values["count"])):
        points, scores = (
            values["keypoints"][j, :, :2].astype(np.float64),
            values["keypoints"][j, :, 2],
        )
        points[scores == 0] = np.nan
        rle = (
            {"size": values["size"].tolist(), "counts": values["masks"][j].decode()}
            if "masks" in values
            else None
        )
        people.append(Person(points, scores, float(values["scores"][j]), rle))
    return people


if __name__ == "__main__":
    main()
