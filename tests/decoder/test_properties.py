"""What holds of the people in any maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decode_oracles import mirrored, random_maps, standing, unsure
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import Frame, FramedMaps, decode
from personlab_keras.method.coordinates import flip_points
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person
from personlab_keras.method.skeleton import COCO_PERSON

SIDE, STRIDE = 361, 8
MANY = DecodeConfig(score_threshold=0.05, max_people=40)

places = st.tuples(st.floats(140, 220), st.floats(130, 220), st.floats(0.5, 0.9))
crowds = st.lists(places, min_size=1, max_size=3)
seeds = st.integers(0, 10_000)
quick = settings(max_examples=25, deadline=None)


def seen(crowd: list[tuple[float, float, float]], seed: int) -> Maps:
    return unsure([standing(*place) for place in crowd], SIDE, seed, radius=24.0)


def people_in(maps: Maps) -> list[Person]:
    return decode(maps, COCO_PERSON, MANY, radius=24.0)


def by_place(people: list[Person]) -> list[Person]:
    """In an order that rounding of equal scores cannot change."""
    return sorted(people, key=lambda p: (round(p.score, 3), *np.nan_to_num(p.keypoints).ravel()))


def check_same(people: list[Person], others: list[Person], shift: tuple[int, int]) -> None:
    """The people are the others, moved by (x, y) pixels."""
    assert len(people) == len(others)
    across, down = shift
    for one, other in zip(by_place(people), by_place(others), strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints + shift, atol=0.01)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        height, width = other.mask.shape
        moved = one.mask[down : down + height, across : across + width]
        assert (moved != other.mask).sum() <= 20
        assert abs(int(one.mask.sum()) - int(other.mask.sum())) <= 20


@quick
@given(crowds, seeds, st.integers(0, 9), st.integers(0, 9))
def test_people_move_with_the_cells(crowd, seed, across, down):
    maps = seen(crowd, seed)

    def moved(values: np.ndarray) -> np.ndarray:
        around = [(down, 9 - down), (across, 9 - across), *[(0, 0)] * (values.ndim - 2)]
        return np.pad(values, around)

    arrays = (
        maps.heatmaps,
        maps.short_offsets,
        maps.mid_offsets,
        maps.long_offsets,
        maps.segmentation,
    )
    larger = Maps(*map(moved, arrays), stride=STRIDE)
    check_same(people_in(larger), people_in(maps), (across * STRIDE, down * STRIDE))


@quick
@given(crowds, seeds)
def test_mirrored_maps_show_mirrored_people(crowd, seed):
    maps = seen(crowd, seed)
    back = [
        replace(
            person,
            keypoints=flip_points(person.keypoints, SIDE)[COCO_PERSON.flip_order],
            keypoint_scores=person.keypoint_scores[COCO_PERSON.flip_order],
            rle=None,
        )
        for person in people_in(mirrored(maps))
    ]
    people = people_in(maps)
    scores = sorted(person.score for person in people)
    assert sorted(person.score for person in back) == pytest.approx(scores, abs=0.02)
    best = by_place(people)[-1]
    assert any(
        np.nanmax(np.abs(person.keypoints - best.keypoints), initial=0) < 1 for person in back
    )


@quick
@given(crowds, crowds, seeds)
def test_people_far_away_change_nobody(crowd, others, seed):
    maps, more = seen(crowd, seed), seen(others, seed + 1)
    beside = Maps(
        *(
            np.concatenate([getattr(maps, name), getattr(more, name)], axis=1)
            for name in (
                "heatmaps",
                "short_offsets",
                "mid_offsets",
                "long_offsets",
                "segmentation",
            )
        ),
        stride=STRIDE,
    )
    together = people_in(beside)
    border = maps.shape[1] * STRIDE
    left = [person for person in together if np.nanmean(person.keypoints[:, 0]) < border]
    right = [person for person in together if np.nanmean(person.keypoints[:, 0]) >= border]
    check_same(left, people_in(maps), (0, 0))
    check_same(right, people_in(more), (border, 0))


@quick
@given(seeds, st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_scores_are_never_out_of_order(seed, merge, copy_score, two_sizes):
    rng = np.random.default_rng(seed)
    passes = [FramedMaps(random_maps(rng, 9, 12, skeleton=COCO_PERSON), Frame(65, 89))]
    if two_sizes:
        small = random_maps(rng, 5, 7, skeleton=COCO_PERSON)
        passes.append(FramedMaps(small, Frame(65, 89, (0.5, 0.5))))
    options = DecodeConfig(merge=merge, copy_score=copy_score, score_threshold=0.01, masks=False)
    scores = [person.score for person in decode(passes, COCO_PERSON, options)]
    assert scores == sorted(scores, reverse=True)
    assert all(0.01 <= score <= 1 for score in scores)
