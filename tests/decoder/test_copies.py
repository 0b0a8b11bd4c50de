"""A body read twice counts once, and two people who embrace stay two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decode_oracles import paint, standing

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import decode
from personlab_keras.decoder.copies import copy_shares
from personlab_keras.decoder.reading import Readings
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import decode_mask
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import SceneOptions, draw_scene

SIDE, STRIDE = 401, 4
ALONE = SceneOptions(people=(1, 1), height=(0.8, 0.84), occluders=0.0, fully_labelled=True)
ALL = DecodeConfig(score_threshold=0.0)


def readings(*people: np.ndarray) -> Readings:
    keypoints = np.stack(people)
    heat = np.isfinite(keypoints[..., 0]) * 1.0
    scales = np.array([np.sqrt(np.prod(np.nanmax(p, 0) - np.nanmin(p, 0))) for p in people])
    return Readings(keypoints, keypoints, heat, heat, scales, np.zeros(len(people), int))


def test_shares_by_hand():
    person = standing(200, 200)
    maps = paint([person], SIDE, SIDE, STRIDE)
    wrists = [COCO_PERSON.index(name) for name in ("left_wrist", "right_wrist")]
    strayed = person.copy()
    strayed[wrists] = (200, 150)  # on the chest: the embedding there points at the person
    elsewhere = person.copy()
    elsewhere[wrists] = (10, 10)  # nobody's
    shares = copy_shares([readings(person, strayed, elsewhere)], [maps], COCO_PERSON.kappas, ALL)
    # Fifteen of seventeen keypoints agree, an OKS well above one half. At (10, 10) the long-range
    # offsets are zero, and the point lies farther than 1.5 t from all keypoints but none.
    assert shares == pytest.approx([0, 1, 15 / 17], abs=1e-3)


def test_a_point_half_way_to_the_threshold_counts_in_part():
    person = standing(200, 200)
    maps = paint([person], SIDE, SIDE, STRIDE)
    both = readings(person, person)
    # All offsets off by the embedding threshold of a person of this size: D = t, r = 1/2.
    off = ALL.embedding_threshold * both.scales[0]
    maps.long_offsets[..., 0] += off
    plain = replace(ALL, long_refinements=0)
    shares = copy_shares([both], [maps], COCO_PERSON.kappas, plain)
    assert shares == pytest.approx([0, 0.5], abs=0.01)


def test_who_lies_elsewhere_is_no_copy_and_neither_is_anybody_without_long_offsets():
    people = readings(standing(100, 200), standing(300, 200))
    maps = paint([standing(100, 200), standing(300, 200)], SIDE, SIDE, STRIDE)
    assert not copy_shares([people], [maps], COCO_PERSON.kappas, ALL).any()
    twice = readings(standing(100, 200), standing(100, 200))
    poses_only = replace(maps, long_offsets=None)
    assert not copy_shares([twice], [poses_only], COCO_PERSON.kappas, ALL).any()


def test_a_second_reading_loses_half_its_score():
    person = standing(200, 200)
    maps = paint([person], SIDE, SIDE, STRIDE)
    # Weaker votes for wrists and ankles on the thighs and the chest: an arm and a leg of a second
    # reading.
    for k, place in ((9, (205, 150)), (10, (195, 150)), (15, (215, 230)), (16, (185, 230))):
        y, x = np.mgrid[: maps.shape[0], : maps.shape[1]] * STRIDE
        disc = np.hypot(x - place[0], y - place[1]) <= 10
        maps.heatmaps[disc, k] = 0.9
        maps.short_offsets[disc, k] = np.stack([place[0] - x, place[1] - y], -1)[disc]
    alone = decode(maps, options=replace(ALL, copy_score=1.0))
    assert len(alone) > 1
    halved = decode(maps, options=ALL)
    assert halved[0].score == alone[0].score
    assert [p.score for p in halved[1:]] == pytest.approx(
        [p.score / 2 for p in alone[1:]], rel=0.02
    )


def embracing(seed: int, apart: float) -> tuple[Maps, list[np.ndarray]]:
    """Perfect maps of two synthetic people, the middles of their bodies `apart` widths of their
    shoulders from each other, the second in front of the first.
    """
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(SIDE, rng, options=ALONE).annotations[0] for _ in range(2)]
    points = [np.reshape(each["keypoints"], (17, 3))[:, :2] for each in scenes]
    width = np.hypot(*(points[0][5] - points[0][6]))
    body = [5, 6, 11, 12]
    wish = points[0][body].mean(axis=0) + (apart * width, 0)
    # Whole cells, so that the mask moves with the keypoints.
    shift = np.rint((wish - points[1][body].mean(axis=0)) / STRIDE).astype(int) * STRIDE
    points[1] = points[1] + shift
    maps = paint(points, SIDE, SIDE, STRIDE, radius=16.0)
    maps.segmentation[:], maps.long_offsets[:] = 0, 0
    cells = np.stack(np.meshgrid(*2 * [np.arange(0, SIDE, STRIDE)]), axis=-1)
    for each, person, by in zip(scenes, points, ((0, 0), shift), strict=True):
        mask = np.zeros((3 * SIDE, 3 * SIDE), bool)
        mask[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = decode_mask(each["segmentation"])
        mask = np.roll(mask, by[::-1], axis=(0, 1))[
            SIDE : 2 * SIDE : STRIDE, SIDE : 2 * SIDE : STRIDE
        ]
        maps.segmentation[mask] = 1
        maps.long_offsets[mask] = person - cells[mask][:, None]
    return maps, points


@pytest.mark.parametrize("apart", [0.5, 1.0])
def test_two_who_embrace_stay_two(apart):
    for seed in range(20):
        maps, points = embracing(seed, apart)
        found = decode(maps, radius=16.0)
        for person in points:
            errors = [np.nanmedian(np.hypot(*(each.keypoints - person).T)) for each in found]
            assert min(errors, default=np.inf) < 4, (seed, len(found))
