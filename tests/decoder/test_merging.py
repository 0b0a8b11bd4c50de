"""Readings of one body become one person; people close to each other stay apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decode_oracles import paint, standing

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import FramedMaps, decode
from personlab_keras.decoder.merging import merge_readings, pool_readings
from personlab_keras.decoder.reading import Readings
from personlab_keras.method.frame import Frame
from personlab_keras.method.skeleton import COCO_PERSON

KAPPAS = COCO_PERSON.kappas


def readings(*people: np.ndarray, scores: float | np.ndarray = 1.0) -> Readings:
    keypoints = np.stack(people)
    found = np.isfinite(keypoints[..., 0])
    return Readings(
        keypoints,
        keypoints,
        found * 1.0,
        found * scores,
        np.full(len(people), 100.0),
        np.zeros(len(people), int),
    )


def test_readings_apart_by_less_than_the_tolerance_are_one_person():
    person = standing(150, 150)
    merged, shared = merge_readings(readings(person, person + (4, 0)), KAPPAS)
    # By hand for the hip, kappa 0.214 * 100 = 21.4 px: agreement a = exp(-16 / (2 * 21.4^2)), and
    # of two readings of equal weight the first has the most support: 4 a / (1 + a) px away.
    hip = COCO_PERSON.index("left_hip")
    agreement = np.exp(-16 / (2 * 21.4**2))
    assert merged.keypoints[0, hip, 0] - person[hip, 0] == pytest.approx(
        4 * agreement / (1 + agreement)
    )
    assert not shared[0].any()
    # An eye, kappa * lambda = 5 px, agrees by exp(-16 / 50) = .73.
    assert shared[1].all()


def test_people_beside_each_other_stay_apart():
    people = readings(standing(100, 150), standing(160, 150))
    merged, shared = merge_readings(people, KAPPAS)
    np.testing.assert_array_equal(merged.keypoints, people.keypoints)
    assert not shared.any()


def test_an_outlier_hardly_moves_a_keypoint_and_stays_a_keypoint_of_its_own():
    person = standing(150, 150)
    wrist = COCO_PERSON.index("left_wrist")
    strayed = person.copy()
    strayed[wrist] += (200, 0)
    merged, shared = merge_readings(readings(person, person, strayed), KAPPAS)
    np.testing.assert_allclose(merged.keypoints[0], person, atol=1e-6)
    assert shared[1].all()
    np.testing.assert_array_equal(np.flatnonzero(~shared[2]), [wrist])


def test_a_wrist_on_the_hip_of_somebody_is_not_that_person():
    person = standing(150, 150)
    hip, wrist = COCO_PERSON.index("left_hip"), COCO_PERSON.index("left_wrist")
    hand = np.full_like(person, np.nan)
    hand[wrist] = person[hip]
    person[wrist] = np.nan
    merged, shared = merge_readings(readings(person, hand), KAPPAS)
    assert np.isnan(merged.keypoints[0, wrist]).all()
    assert not shared.any()


def test_each_size_leaves_people_that_suit_another_better():
    sizes = [
        [FramedMaps(paint([], 65, 65, 8), Frame(65, 65))],
        [FramedMaps(paint([], 33, 33, 8), Frame(65, 65, (0.5, 0.5)))],
    ]
    both = [
        replace(
            readings(standing(100, 100), standing(100, 100)),
            scales=np.array(scales),
            sizes=np.full(2, i),
        )
        for i, scales in enumerate([[100.0, 400.0], [50.0, 200.0]])
    ]
    pooled = pool_readings(both, sizes, (60.0, 350.0))
    # lambda in pixels of the first input: 400 suits the second size better, 2 * 50 does not.
    assert pooled.scales.tolist() == [100.0, 400.0]
    assert pooled.sizes.tolist() == [0, 1]


def test_a_person_seen_at_two_sizes_is_one_person():
    person = standing(200, 200, 1.5)
    sizes = [
        FramedMaps(paint([person * scale], side, side, 8), Frame(401, 401, (scale, scale)))
        for scale, side in ((1.0, 401), (0.5, 201))
    ]
    (found,) = decode(sizes, options=DecodeConfig(scale_range=(0.0, 1000.0)))
    np.testing.assert_allclose(found.keypoints, person, atol=0.1)
    assert found.mask.shape == (401, 401)


def test_merging_in_one_size_is_a_setting():
    people = [standing(144, 150), standing(156, 150)]
    maps = paint(people, 305, 305, 4)
    assert len(decode(maps)) == 2
    (found,) = decode(maps, options=DecodeConfig(merge=True))
    assert found.score == pytest.approx(decode(maps)[0].score)
