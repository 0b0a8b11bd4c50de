"""Google's decoder beside ours, on the same maps: how well. (How fast: `decoder.py`.)

    python benchmarks/against_bodypix.py --model MODEL --annotations JSON --images DIR --longer-side
    513 801 1001

Theirs is `decodeMultiplePoses` and `decodeMultipleMasksCPU` of @tensorflow-models/body-pix 2.2.1,
called in Node (which has to be there, with npm) on the maps of our network in their layout.
Accuracy is that of their best case: more people than their default of 10, the best of several score
thresholds, and the better of two ways to find masks, in the frame of the image as their API does,
or in that of the network's input, where the long offsets, which they do not scale, are right. Ours
is also given for all sizes at which the model sees an image by default (`predict.scales`)."""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import Frame, FramedMaps, decode
from personlab_keras.decoder.sampling import upsample
from personlab_keras.evaluation import Metrics, evaluate_results
from personlab_keras.inference.input_fit import InputFit
from personlab_keras.inference.predict import Predictor, load
from personlab_keras.io.files import read_json
from personlab_keras.io.images import read_image
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person, encode_mask

OURS, GOOGLE = "ours", "Google's"
PACKAGE, VERSION = "@tensorflow-models/body-pix", "2.2.1"
SCORE_THRESHOLD = 0.4
"""This and the next three as in the package's MULTI_PERSON_INSTANCE_INFERENCE_CONFIG."""
NMS_RADIUS, REFINE_STEPS, SEGMENTATION_THRESHOLD = 20.0, 10, 0.7
MAX_DETECTIONS = 30
IMAGE_FRAME = "frame of the image"
THRESHOLDS = (0.1, 0.2, 0.3, SCORE_THRESHOLD, 0.5)

Results = dict[str, list[dict[str, Any]]]
"""COCO's result entries by what they were found with."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="model directory with segmentation and long offsets"
    )
    add_arguments(parser)
    options = parser.parse_args()
    annotations = read_json(options.annotations)
    entries = annotations["images"][: options.limit]
    with tempfile.TemporaryDirectory() as name:
        package = install(options.npm or Path(name) / "npm")
        for longer_side in options.longer_side:
            predictor = load(options.model, [f"predict.longer_side={longer_side}"])
            with google(package) as ask:
                compare(predictor, annotations, entries, options.images, ask, Path(name))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images are looked at, and where Google's package is."""
    parser.add_argument("--annotations", required=True, help="COCO person keypoints JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--longer-side", type=int, nargs="+", default=[801])
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument(
        "--npm",
        type=Path,
        help="folder to install the package to or to find it in; by default one for this run",
    )


def compare(
    predictor: Predictor,
    annotations: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    images: Path,
    ask: Callable[[dict[str, Any]], dict[str, Any]],
    folder: Path,
) -> None:
    """Decodes the maps of all images on both sides and prints how well."""
    keypoints: dict[str, Results] = {OURS: defaultdict(list), GOOGLE: defaultdict(list)}
    masks: dict[str, Results] = {OURS: defaultdict(list), GOOGLE: defaultdict(list)}
    for entry in entries:
        image = read_image(images / entry["file_name"], apply_orientation=False)
        fit, maps = predictor.fit(image), predictor.maps(image)
        for name, people in our_people(predictor, image, maps, fit).items():
            for person in people:
                pose, *mask = person.to_coco(entry["id"])
                keypoints[OURS][name].append(pose)
                masks[OURS][name] += mask
        answer = ask(request(maps, fit, folder))
        for name, people in google_poses(answer, fit).items():
            keypoints[GOOGLE][name] += [person.to_coco(entry["id"])[0] for person in people]
        for name, people in google_masks(answer, fit).items():
            masks[GOOGLE][name] += [
                mask for person in people for mask in person.to_coco(entry["id"])[1:]
            ]
    ids = [entry["id"] for entry in entries]
    print(
        f"{len(ids)} images, longer side {predictor.options.longer_side} px, stride {predictor.stride}, {PACKAGE} {VERSION}"
    )
    report(
        "keypoint",
        keypoints,
        lambda found: evaluate_results(annotations, found, None, ids)["keypoints"],
    )
    report(
        "mask", masks, lambda found: evaluate_results(annotations, [], found, ids)["segmentation"]
    )


def report(
    kind: str, results: dict[str, Results], measure: Callable[[list[dict[str, Any]]], Metrics]
) -> None:
    """Prints the results of each side, the best first, and how often ours are Google's best."""
    measured = {
        side: {name: measure(entries) for name, entries in found.items()}
        for side, found in results.items()
    }
    for side, of_side in measured.items():
        for name, figures in sorted(of_side.items(), key=lambda each: -each[1]["AP"]):
            ap, ap50, ap75 = (figures[figure] for figure in ("AP", "AP50", "AP75"))
            print(f"  {kind} AP, {side}: {ap:.3f} (AP50 {ap50:.3f}, AP75 {ap75:.3f}), {name}")
    best = max(figures["AP"] for figures in measured[GOOGLE].values())
    for name, figures in measured[OURS].items():
        print(f"  {kind} AP: {figures['AP'] / best:.2f} times Google's, {name}")


def our_people(
    predictor: Predictor, image: np.ndarray, maps: Maps, fit: InputFit
) -> dict[str, list[Person]]:
    """Everybody, as COCO's metrics want it, at one size and at those of `predict.scales`."""
    options = DecodeConfig(score_threshold=0.0)
    passes = {"one size": [FramedMaps(maps, fit.frame)]}
    if len(predictor.options.scales) > 1:
        passes[f"sizes {predictor.options.scales}"] = predictor.framed_maps(image)
    return {
        name: decode(each, predictor.skeleton, options, radius=predictor.radius)
        for name, each in passes.items()
    }


def install(folder: Path) -> Path:
    """The folder with the package in its node_modules."""
    if not (folder / "node_modules" / PACKAGE).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # npm installs its peers with it: the decoder of poses reads tensor buffers of tfjs-core.
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--prefix",
            ".",
            f"{PACKAGE}@{VERSION}",
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder.resolve()


@contextmanager
def google(package: Path) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A function that has Node answer a request."""
    script = Path(__file__).with_name("bodypix_decoder.mjs")
    with subprocess.Popen(
        ["node", script, package], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        requests, answers = node.stdin, node.stdout
        assert requests is not None
        assert answers is not None

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(request), file=requests, flush=True)
            return json.loads(answers.readline())

        yield ask


def request(maps: Maps, fit: InputFit, folder: Path) -> dict[str, Any]:
    """What Node is to decode; the maps themselves lie in files of the folder, replaced by those of
    the next image.
    """
    assert maps.long_offsets is not None
    edges = maps.mid_offsets.shape[2] // 2
    forward, backward = maps.mid_offsets[:, :, :edges], maps.mid_offsets[:, :, edges:]
    fields = [
        maps.heatmaps,
        *(planar(each) for each in (maps.short_offsets, forward, backward, maps.long_offsets)),
    ]
    path = folder / "maps"
    path.write_bytes(
        b"".join(np.ascontiguousarray(field, np.float32).tobytes() for field in fields)
    )
    return {
        "maps": str(path),
        "shape": maps.shape,
        "keypoints": maps.heatmaps.shape[2],
        "edges": edges,
        "stride": maps.stride,
        "inputShape": maps.image_shape,
        "rootThresholds": THRESHOLDS,
        "poseThresholds": THRESHOLDS,
        "maxDetections": MAX_DETECTIONS,
        "nmsRadius": NMS_RADIUS,
        "refineSteps": REFINE_STEPS,
        "repeats": 1,
        "frames": [
            mask_frame(name, frame, maps, folder) for name, frame in mask_frames(fit).items()
        ],
    }


def planar(offsets: np.ndarray) -> np.ndarray:
    """(h, w, F, 2) (dx, dy) as (h, w, 2F): dy of all fields, then dx of all."""
    return np.concatenate([offsets[..., 1], offsets[..., 0]], axis=-1)


def mask_frames(fit: InputFit) -> dict[str, Frame]:
    """The frames in which masks are found, by name: the image, and what the network saw of it."""
    return {
        IMAGE_FRAME: fit.frame,
        "frame of the network": Frame(fit.resized_height, fit.resized_width),
    }


def mask_frame(name: str, frame: Frame, maps: Maps, folder: Path) -> dict[str, Any]:
    """A frame as the decoder of masks wants it, with the pixels that show a person in a file."""
    assert maps.segmentation is not None
    # As `scaleAndCropToInputTensorShape` and `toMaskTensor` have it: logits are resized, then
    # compared.
    probability = np.clip(maps.segmentation, 1e-7, 1 - 1e-7)
    logits = upsample(
        np.log(probability / (1 - probability)), *frame.cells(maps.shape, maps.stride)
    )
    shown = logits > np.log(SEGMENTATION_THRESHOLD / (1 - SEGMENTATION_THRESHOLD))
    path = folder / name.replace(" ", "-")
    path.write_bytes(shown.astype(np.uint8).tobytes())
    height, width = maps.image_shape
    scale_x, scale_y = frame.scale
    padding = {
        "top": 0,
        "left": 0,
        "bottom": height / scale_y - frame.height,
        "right": width / scale_x - frame.width,
    }
    return {
        "name": name,
        "height": frame.height,
        "width": frame.width,
        "scale": frame.scale,
        "padding": padding,
        "segmentation": str(path),
    }


def google_poses(answer: dict[str, Any], fit: InputFit) -> dict[str, list[Person]]:
    """People in the image for each least score of a root."""
    return {
        f"roots from {each['threshold']}": [in_image(pose, fit) for pose in each["poses"]]
        for each in answer["poses"]
    }


def google_masks(answer: dict[str, Any], fit: InputFit) -> dict[str, list[Person]]:
    """People with masks in the image for each frame and least score of a pose."""
    people = [in_image(pose, fit) for pose in answer["poses"][0]["poses"]]
    found = {}
    for each in answer["masks"]:
        frame = mask_frames(fit)[each["frame"]]
        owners = np.fromfile(each["owners"], np.uint8).reshape(frame.height, frame.width)
        if frame != fit.frame:
            owners = owners[np.ix_(*nearest_pixels(fit))]
        found[f"{each['frame']}, poses from {each['threshold']}"] = [
            replace(people[i], rle=encode_mask(owners == i + 1)) for i in each["indices"]
        ]
    return found


def nearest_pixels(fit: InputFit) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, in what the network saw, of every row and column of the image."""
    rows, columns = fit.frame.cells((fit.resized_height, fit.resized_width), stride=1)
    return np.rint(rows).astype(int), np.rint(columns).astype(int)


def in_image(pose: dict[str, Any], fit: InputFit) -> Person:
    points = np.array(
        [(each["position"]["x"], each["position"]["y"]) for each in pose["keypoints"]]
    )
    return Person(
        fit.to_image(points), np.array([each["score"] for each in pose["keypoints"]]), pose["score"]
    )


if __name__ == "__main__":
    main()
