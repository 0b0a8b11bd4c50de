"""Validation of a network on a folder of records: its losses, and keypoint AP of the decoded people
against the annotated ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.special import expit

from personlab_keras.config import Config, remaining_decoding
from personlab_keras.data.pipeline import expand, stored_examples
from personlab_keras.data.records import Meta, read_judging, read_meta
from personlab_keras.decoder import decode
from personlab_keras.drawing import draw
from personlab_keras.evaluation import Truth, judge
from personlab_keras.io.files import Place
from personlab_keras.method.maps import OUTPUTS, PROBABILITIES, unpack
from personlab_keras.model.losses import personlab_losses, total_loss


class Validation(NamedTuple):
    """The result of a validation."""

    figures: dict[str, float]
    """Mean losses by name, 'loss' for their total, and 'keypoint_AP' by COCO's definition."""
    overlays: list[np.ndarray]
    """(side, side, 3) uint8 each: views with the people found in them."""


def validate(
    network: keras.Model, records: str | Place, config: Config, shown: int = 0
) -> Validation:
    """Measures a network on all views of the records and draws its people over the first `shown`.

    Keypoint AP is what `evaluate` gives for the same people in the same images: crowds and people
    without labelled keypoints are ignored. Masks are not judged: records hold them at map
    resolution only.
    """
    meta = read_meta(records)
    judging = read_judging(records, meta)
    examples = stored_examples(records, meta).map(
        lambda example: (example, expand(example, meta)), tf.data.AUTOTUNE
    )
    decoding = remaining_decoding(config)
    options = replace(decoding, masks=False, score_threshold=0.0)
    sums: dict[str, float] = {}
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    overlays: list[np.ndarray] = []
    seen = 0
    for example, targets in (
        examples.batch(config.train.batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    ):
        image = example["image"].astype(np.float32)
        outputs = network.predict(
            image, batch_size=len(image), verbose=0
        )  # which devices share, unlike `predict_on_batch`
        losses = personlab_losses(targets, outputs, meta.radius)
        losses = {**losses, "loss": total_loss(losses, config.train)}
        count = len(example["image"])
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + count * float(keras.ops.convert_to_numpy(value))
        for i in range(count):
            maps = unpack(_probabilities(outputs, i), meta.stride, meta.skeleton)
            for person in decode(maps, meta.skeleton, options, radius=meta.radius):
                results += person.to_coco(image_id=seen + i)
            if len(overlays) < shown:
                people = decode(maps, meta.skeleton, decoding, radius=meta.radius)
                overlays.append(draw(example["image"][i], people, meta.skeleton))
            truth += _annotations(
                {name: value[i] for name, value in example.items()},
                *judging[int(example["image_id"][i]), int(example["view"][i])],
                seen + i,
                first_id=len(truth) + 1,
            )
        seen += count
    size = {"width": meta.view_size, "height": meta.view_size}
    views = [{"id": i, "file_name": str(i), **size} for i in range(seen)]
    metrics = judge(Truth(views, truth, [], meta.skeleton), results)
    figures = {
        **{name: value / seen for name, value in sums.items()},
        "keypoint_AP": metrics["keypoints"]["AP"] or 0.0,
    }
    return Validation(figures, overlays)


def other_size(meta: Meta, config: Config) -> str | None:
    """One line where the views that are validated differ in size from the images that are
    predicted: people of another size are found better or worse.
    """
    side, predicted = meta.view_size, config.predict.longer_side
    if abs(side - predicted) < meta.stride:
        return None
    fitting = meta.stride * round((predicted - 1) / meta.stride) + 1
    return (
        f"these views of {side} px are validated, but images are predicted at {predicted} px "
        f"(predict.longer_side). Prepare them with --set data.view_size={fitting} "
        "--set data.views_per_image=1 to judge the network as it is used"
    )


def _probabilities(outputs: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    """The flat outputs of image i of a batch, logits turned into probabilities; those of a middle
    layer left out.
    """
    return {
        name: expit(outputs[name][i]) if name in PROBABILITIES else outputs[name][i]
        for name in OUTPUTS
        if name in outputs
    }


def _annotations(
    example: Mapping[str, np.ndarray],
    regions: np.ndarray,
    scale: float,
    order: np.ndarray,
    image_id: int,
    first_id: int,
) -> list[dict[str, Any]]:
    """COCO annotations of the persons of a view and of its regions (C, 5), which are ignored.

    COCO compares edges of boxes with centres of keypoints as if both were of one frame: half
    a pixel of the image, which is half a `scale` in the view.
    """
    persons = int(example["persons"])
    nothing = np.zeros((len(regions), *example["keypoints"].shape[1:]))
    keypoints = np.concatenate([example["keypoints"][:persons] * (1, 1, 2), nothing])
    boxes = np.concatenate([example["person_boxes"][:persons], regions[:, :4]]).astype(float)
    boxes[:, :2] += 0.5 * scale
    areas = np.concatenate([example["person_areas"][:persons], regions[:, 4]])
    return [
        {
            "id": first_id + place,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": int(number >= persons),
            "area": float(areas[number]),
            "bbox": boxes[number].tolist(),
            "keypoints": keypoints[number].reshape(-1).tolist(),
            "num_keypoints": int((keypoints[number, :, 2] > 0).sum()),
        }
        for place, number in enumerate(np.argsort(order).tolist())
    ]
