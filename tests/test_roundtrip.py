"""Annotations -> record -> tf.data -> perfect maps -> decoder -> COCO metrics: encoder and decoder
are mirror images.
"""

import numpy as np
import pytest

from data_prep.build import prepare
from data_prep.inspection import dense_maps
from personlab_keras.config import DecodeConfig, load_config
from personlab_keras.data.augmentation import flip
from personlab_keras.data.pipeline import stored_examples
from personlab_keras.data.records import read_meta
from personlab_keras.decoder import decode
from personlab_keras.evaluation import evaluate_results
from personlab_keras.io.files import read_json
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, write_dataset

SIDE = 257


def prepared(folder, scenes, stride, radius, options):
    write_dataset(folder / "scenes", scenes, SIDE, seed=21, options=options, workers=1)
    config = load_config(
        None,
        [
            f"data.view_size={SIDE}",
            f"targets.stride={stride}",
            f"targets.radius={radius}",
            "data.workers=1",
        ],
    )
    prepare(
        folder / "scenes" / "annotations.json",
        folder / "scenes" / "images",
        folder / "records",
        config,
    )
    return folder / "records"


def decoded(records, options):
    """(example, people) of every record, decoded from its own targets."""
    meta = read_meta(records)
    for example in stored_examples(records, meta).as_numpy_iterator():
        yield example, decode(dense_maps(example, meta), meta.skeleton, options, radius=meta.radius)


@pytest.mark.parametrize("radius", [16, 32])
def test_fully_labelled_people_come_back(tmp_path, radius):
    options = SceneOptions(fully_labelled=True, crowd=0.0, unannotated=0.0)
    records = prepared(tmp_path, 40, 8, radius, options)
    keypoints, masks = [], []
    for example, people in decoded(records, DecodeConfig()):
        for person in people:
            found = person.to_coco(int(example["image_id"]))
            keypoints.append(found[0])
            masks.append(found[1])
    metrics = evaluate_results(
        read_json(tmp_path / "scenes" / "annotations.json"), keypoints, masks
    )
    assert metrics["keypoints"]["AP"] >= 0.97
    # A mask read at every eighth pixel is a coarse one; `benchmarks/round_trip.py` measures finer
    # strides.
    assert metrics["segmentation"]["AP"] >= 0.4


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_keypoints_of_a_lone_person_come_back_within_half_a_pixel(tmp_path, stride):
    options = SceneOptions(
        people=(1, 1), fully_labelled=True, crowd=0.0, unannotated=0.0, empty=0.0, occluders=0.0
    )
    records = prepared(tmp_path, 12, stride, 32, options)
    seen = 0
    for example, people in decoded(records, DecodeConfig(masks=False)):
        error = np.abs(people[0].keypoints - example["keypoints"][0, :, :2])
        assert error.max() <= 0.5
        seen += 1
    assert seen == 12


def test_the_mirrored_record_decodes_to_the_mirrored_people(tmp_path):
    records = prepared(
        tmp_path, 6, 8, 16, SceneOptions(fully_labelled=True, crowd=0.0, unannotated=0.0, empty=0.0)
    )
    meta = read_meta(records)
    for example in stored_examples(records, meta):
        straight = decode(
            dense_maps({n: v.numpy() for n, v in example.items()}, meta), radius=meta.radius
        )
        mirrored = flip(example, COCO_PERSON, SIDE)
        flipped = decode(
            dense_maps({n: v.numpy() for n, v in mirrored.items()}, meta), radius=meta.radius
        )
        assert len(straight) == len(flipped)
        for person in straight:
            there = np.stack([SIDE - 1 - person.keypoints[:, 0], person.keypoints[:, 1]], axis=-1)[
                COCO_PERSON.flip_order
            ]
            nearest = min(
                flipped, key=lambda other, there=there: np.nanmean(np.abs(other.keypoints - there))
            )
            np.testing.assert_allclose(nearest.keypoints, there, atol=0.6)
