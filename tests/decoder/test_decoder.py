from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from decode_oracles import (
    PAIR,
    RADIUS,
    bridge_loop,
    child_before_adult,
    distance_loop,
    embedding_loop,
    expected_oks_loop,
    hough_loop,
    inside_body,
    mirrored,
    paint,
    random_maps,
    standing,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import Frame, FramedMaps, decode
from personlab_keras.decoder.bridging import bridge_gaps
from personlab_keras.decoder.embedding import embed, embedding_distances, near_cells
from personlab_keras.decoder.grouping import follow_tree
from personlab_keras.decoder.instances import (
    expected_oks,
    mean_shift,
    person_scales,
    person_scores,
    suppressed_by_better,
)
from personlab_keras.decoder.masks import find_masks
from personlab_keras.decoder.peaks import find_peaks
from personlab_keras.decoder.reading import Readings
from personlab_keras.decoder.sampling import follow, sample, step_along, step_among_votes, upsample
from personlab_keras.decoder.voting import (
    BinnedVotes,
    bin_votes,
    cast_votes,
    hough_scores,
    vote_spread,
)
from personlab_keras.method.coordinates import flip_points
from personlab_keras.method.maps import Maps
from personlab_keras.method.person import Person, decode_mask, encode_mask
from personlab_keras.method.skeleton import COCO_PERSON, Skeleton

NOSE, LEFT_EYE = COCO_PERSON.index("nose"), COCO_PERSON.index("left_eye")
LEFT_ELBOW, LEFT_WRIST = COCO_PERSON.index("left_elbow"), COCO_PERSON.index("left_wrist")
LEFT_SHOULDER, LEFT_HIP = COCO_PERSON.index("left_shoulder"), COCO_PERSON.index("left_hip")

EVERYBODY = DecodeConfig(score_threshold=0.0)
"""People of a single keypoint, too: their score is one of seventeen."""


def blank_maps(height: int, width: int, stride: int = 8, skeleton: Skeleton = COCO_PERSON) -> Maps:
    count = skeleton.keypoint_count
    return Maps(
        heatmaps=np.zeros((height, width, count), np.float32),
        short_offsets=np.zeros((height, width, count, 2), np.float32),
        mid_offsets=np.zeros((height, width, 2 * count - 2, 2), np.float32),
        long_offsets=np.zeros((height, width, count, 2), np.float32),
        segmentation=np.zeros((height, width), np.float32),
        stride=stride,
    )


def hough(maps: Maps, radius: float = RADIUS) -> np.ndarray:
    return hough_scores(cast_votes(maps), maps.heatmaps.shape, maps.stride, radius)


def binned(maps: Maps, radius: float = RADIUS) -> BinnedVotes:
    return bin_votes(cast_votes(maps), maps.heatmaps.shape, maps.stride, radius)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def body_pixels(person: np.ndarray, height: int, width: int) -> np.ndarray:
    return inside_body(person, np.moveaxis(np.mgrid[0:height, 0:width][::-1], 0, -1))


def same_people(one: list[Person], other: list[Person], places: float = 1e-6) -> bool:
    return len(one) == len(other) and all(
        np.allclose(a.keypoints, b.keypoints, atol=places, equal_nan=True)
        and np.allclose(a.keypoint_scores, b.keypoint_scores, atol=1e-6)
        and math.isclose(a.score, b.score, abs_tol=1e-6)
        for a, b in zip(one, other, strict=True)
    )


# Reading maps between cells


def test_sample_between_four_cells_and_beyond_the_frame():
    field = np.array([[0.0, 1.0], [2.0, 3.0]])[..., None]
    points = np.array([(4, 4), (2, 0), (8, 8), (-50, 4), (99, 99)])
    assert sample(field, np.zeros(5, int), points, stride=8).tolist() == [1.5, 0.25, 3.0, 1.0, 3.0]


@pytest.mark.parametrize("side", [2, 51, 4097])
def test_last_cell_is_read_and_nothing_beyond_it(side):
    # METHOD 13: in float32 side - 1 - 1e-7 is side - 1, and the cell after it is out of range.
    field = np.zeros((side, 2, 1), np.float32)
    field[-1] = 7
    points = np.array(
        [(0, side - 1), (0, np.nextafter(np.float32(side - 1), np.float32(0)))], np.float32
    )
    np.testing.assert_allclose(sample(field, np.zeros(2, int), points, stride=1), 7, rtol=1e-3)


def test_unknown_neighbour_that_carries_no_weight_is_not_read():
    field = np.array([[1.0, np.nan], [1.0, np.nan]])[..., None]
    on_cell, between, nowhere = sample(
        field, np.zeros(3, int), np.array([(0, 4), (4, 4), (np.nan, 0)]), stride=8
    )
    assert on_cell == 1
    assert np.isnan([between, nowhere]).all()


def test_offset_counts_from_where_it_was_read():
    # METHOD 18: every offset points at (12, 9); wherever it is read, that is where it leads, from
    # outside the frame too.
    y, x = np.mgrid[0:4, 0:6] * 8
    field = np.stack([12 - x, 9 - y], axis=-1)[:, :, None].astype(float)
    points = np.array([(0, 0), (13.3, 7.7), (-20, 300), (39.9, 0.1)])
    np.testing.assert_allclose(
        follow(field, np.zeros(4, int), points, stride=8), [(12, 9)] * 4, atol=1e-9
    )


# Hough voting


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 4)])
def test_hough_scores_equal_the_sum_over_voters(shape):
    maps = random_maps(np.random.default_rng(0), *shape)
    np.testing.assert_allclose(hough(maps), hough_loop(maps, RADIUS), atol=1e-6)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_votes_inside_the_frame_are_conserved(stride):
    maps = random_maps(np.random.default_rng(1), 20, 30, stride)
    y, x = np.mgrid[0:20, 0:30] * float(stride)
    landed = np.stack([x, y], axis=-1)[:, :, None] + maps.short_offsets
    inside = ((landed >= 0) & (landed <= (29 * stride, 19 * stride))).all(axis=-1)
    maps = replace(maps, heatmaps=maps.heatmaps * inside)
    total = hough(maps).sum(axis=(0, 1)) * np.pi * RADIUS**2 / stride**2
    np.testing.assert_allclose(total, maps.heatmaps.sum(axis=(0, 1)), rtol=1e-5)


def test_vote_beyond_the_border_is_lost_by_its_share():
    maps = blank_maps(3, 3, skeleton=PAIR)
    maps.heatmaps[0, 0, 0] = maps.heatmaps[0, 0, 1] = 1
    maps.short_offsets[0, 0, 0] = (-2, 8)
    maps.short_offsets[0, 0, 1] = (-8, 0)
    scores = hough(maps) * np.pi * RADIUS**2 / 64
    expected = np.zeros((3, 3, 2))
    expected[1, 0, 0] = 0.75
    np.testing.assert_allclose(scores, expected)


def test_full_disc_on_a_cell_scores_about_one_at_every_stride():
    for stride in (4, 8, 16):
        maps = paint([standing(160, 160)], 321, 321, stride)
        maps.short_offsets[...] = np.round(maps.short_offsets / stride) * stride
        assert hough(maps).max() == pytest.approx(1, abs=0.15)


def test_cell_that_knows_no_offset_does_not_vote():
    maps = random_maps(np.random.default_rng(2), 5, 5)
    maps.short_offsets[1, 2, 0, 1] = np.nan
    maps.short_offsets[3, 3, 1] = np.inf
    silent = replace(
        maps,
        heatmaps=maps.heatmaps.copy(),
        short_offsets=np.where(np.isfinite(maps.short_offsets), maps.short_offsets, 0),
    )
    silent.heatmaps[1, 2, 0] = silent.heatmaps[3, 3, 1] = 0
    np.testing.assert_allclose(hough(maps), hough(silent))


# Peaks


@pytest.mark.parametrize(
    "point", [(40.0, 40.0), (43.1, 38.2), (44.0, 44.0), (36.0, 40.0), (0.0, 0.5), (79.9, 80.0)]
)
def test_equal_votes_are_located_exactly(point):
    # The bilinear kernel keeps the first moment, wherever between the cells the votes land.
    maps = blank_maps(11, 11)
    y, x = np.mgrid[0:11, 0:11] * 8
    maps.heatmaps[..., NOSE] = np.hypot(x - point[0], y - point[1]) <= RADIUS
    maps.short_offsets[..., NOSE, :] = np.stack([point[0] - x, point[1] - y], axis=-1)
    seeds = find_peaks(hough(maps), 8, 0.01)
    assert seeds.keypoints.tolist() == [NOSE]
    np.testing.assert_allclose(seeds.points[0], point, atol=1e-4)


def test_peaks_come_in_one_order_over_all_keypoints():
    scores = np.zeros((5, 5, 2))
    scores[1, 1, 0], scores[3, 3, 0], scores[1, 3, 1] = 0.5, 0.9, 0.7
    seeds = find_peaks(scores, stride=8, threshold=0.01)
    assert seeds.scores.tolist() == [0.9, 0.7, 0.5]
    assert seeds.keypoints.tolist() == [0, 1, 0]
    assert seeds.points.tolist() == [[24, 24], [24, 8], [8, 8]]


@pytest.mark.parametrize(
    "plateau",
    [[(2, 2), (2, 3)], [(2, 2), (2, 3), (3, 2), (3, 3)], [(1, 1), (2, 1), (2, 2), (2, 3), (1, 3)]],
)
def test_plateau_is_one_peak(plateau):
    scores = np.zeros((6, 6, 1))
    scores[tuple(np.transpose(plateau))] = 0.5
    assert len(find_peaks(scores, 8, 0.01).scores) == 1


def test_constant_scores_are_one_peak_per_keypoint():
    assert find_peaks(np.full((7, 9, 2), 0.4), 8, 0.01).keypoints.tolist() == [0, 1]
    assert len(find_peaks(np.full((7, 9, 2), 0.01), 8, 0.01).scores) == 0


def test_neighbouring_keypoint_types_do_not_suppress_each_other():
    scores = np.zeros((5, 5, 2))
    scores[2, 2, 0], scores[2, 3, 1] = 0.9, 0.3
    assert len(find_peaks(scores, 8, 0.01).scores) == 2


# Grouping


def test_walk_refines_with_the_short_field_of_the_keypoint_it_leads_to():
    # METHOD 12. The step lands 5 px beside the target; only the target's field corrects it, the
    # source's would lead astray.
    maps = blank_maps(11, 11, skeleton=PAIR)
    y, x = np.mgrid[0:11, 0:11] * 8
    maps.mid_offsets[:, :, 0] = np.stack([61 - x, 16 - y], axis=-1)
    maps.short_offsets[:, :, 1] = np.stack([56 - x, 16 - y], axis=-1)
    maps.short_offsets[:, :, 0] = (-100, -100)
    people = follow_tree(np.array([[16.0, 16.0]]), np.array([0]), maps, PAIR, refinements=2)
    np.testing.assert_allclose(people[0], [(16, 16), (56, 16)], atol=1e-4)


@pytest.mark.parametrize("apart", [(14, 0), (0, -24), (20, 12), (-28, 20)])
def test_neighbours_nearer_than_two_cells_are_told_apart(apart):
    people = [standing(160, 160), standing(160, 160) + apart]
    found = decode(paint(people, 321, 321, 16), options=DecodeConfig(masks=False))
    assert len(found) == 2
    for person in people:
        assert min(np.abs(each.keypoints - person).max() for each in found) < 3


def test_cells_whose_votes_land_elsewhere_do_not_count():
    # Votes of three cells for (10, 4), of the fourth for somebody at (30, 4); mid-range offsets to
    # (10, 40) and (90, 90).
    short, mid = np.zeros((2, 2, 1, 2), np.float32), np.zeros((2, 2, 1, 2), np.float32)
    for i, j in np.ndindex(2, 2):
        other = (i, j) == (1, 1)
        short[i, j, 0] = np.subtract((30, 4) if other else (10, 4), (16 * j, 16 * i))
        mid[i, j, 0] = np.subtract((90, 90) if other else (10, 40), (16 * j, 16 * i))
    point = 9.0, 5.0, 16, short, 0
    np.testing.assert_allclose(step_among_votes(mid, 0, *point, 4.0), (10, 40), atol=1e-3)
    mean = np.subtract((90, 90), (10, 40)) * (9 * 5 / 256) + (10, 40)
    np.testing.assert_allclose(step_along(mid, 0, *point[:3]), mean, rtol=1e-6)
    far = 9.0, 500.0, 16, short, 0  # no vote lands near
    assert step_among_votes(mid, 0, *far, 4.0) == step_along(mid, 0, 9.0, 500.0, 16)
    assert np.isnan(step_among_votes(mid, 0, np.nan, 5.0, 16, short, 0, 4.0)).all()


def test_votes_tell_neighbours_apart_where_most_cells_agree():
    maps = paint([standing(150, 150)], 305, 305, 8)
    rng = np.random.default_rng(0)
    spreads = [
        vote_spread(
            replace(
                maps,
                short_offsets=maps.short_offsets + rng.normal(0, noise, maps.short_offsets.shape),
            )
        )
        for noise in (0.0, 0.5, 3.0)
    ]
    assert spreads == [4.0, 4.0, 0.0]
    assert vote_spread(blank_maps(5, 5)) == 0.0


@pytest.mark.parametrize("root", range(COCO_PERSON.keypoint_count))
def test_walk_reaches_the_whole_person_from_any_seed(root):
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    walked = follow_tree(person[[root]], np.array([root]), maps, COCO_PERSON, refinements=2)
    np.testing.assert_allclose(walked[0], person, atol=1e-3)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_isolated_person_is_found_to_half_a_pixel(stride):
    person = standing(203.3, 161.8)
    (found,) = decode(paint([person], 321, 401, stride))
    np.testing.assert_allclose(found.keypoints, person, atol=0.01)
    assert found.score > 0.99


def test_keypoints_keep_their_fractions():
    # METHOD 7: nothing on the way is an integer array.
    person = standing(150.37, 150.81)
    (found,) = decode(paint([person], 305, 305, 8))
    assert abs((found.keypoints - person).mean()) < 0.001


@pytest.mark.parametrize("stride", [4, 8])
def test_overlapping_people_are_told_apart(stride):
    people = [standing(150, 170), standing(178, 175, 0.9)]
    found = decode(paint(people, 321, 321, stride))
    assert len(found) == 2
    for person in people:
        assert min(np.abs(other.keypoints - person).max() for other in found) < 0.5


def test_people_of_all_sizes():
    people = [standing(100, 150, 1.2), standing(240, 80, 0.35), standing(300, 220, 0.6)]
    found = decode(paint(people, 321, 401, 8))
    assert len(found) == 3
    for person in people:
        assert min(np.abs(other.keypoints - person).max() for other in found) < 0.5


def test_seed_near_another_keypoint_type_of_an_earlier_person_starts_a_person():
    # METHOD 15: somebody's wrist on somebody else's hip is still a wrist, and the only keypoint of
    # that person.
    person = standing(150, 150)
    hand = np.full_like(person, np.nan)
    hand[LEFT_WRIST] = person[LEFT_HIP]
    person = person.copy()
    person[LEFT_WRIST] = np.nan
    found = decode(
        paint([person, hand], 305, 305, 8), options=replace(EVERYBODY, masks=False, bridge=False)
    )
    assert len(found) == 2
    np.testing.assert_allclose(found[1].keypoints[LEFT_WRIST], hand[LEFT_WRIST], atol=0.01)


def test_two_seeds_of_one_keypoint_closer_than_the_radius_start_one_person():
    maps = blank_maps(11, 11, stride=4)
    maps.heatmaps[5, [4, 6], NOSE] = 1
    assert len(decode(maps, options=replace(EVERYBODY, peak_threshold=1e-4, nms_radius=10.0))) == 1
    assert len(decode(maps, options=replace(EVERYBODY, peak_threshold=1e-4, nms_radius=7.0))) == 2


def test_walk_goes_on_through_a_keypoint_that_is_not_found():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    maps.heatmaps[:, :, LEFT_ELBOW] = 0
    (found,) = decode(maps)
    assert np.isnan(found.keypoints[LEFT_ELBOW]).all()
    assert found.keypoint_scores[LEFT_ELBOW] == 0
    np.testing.assert_allclose(found.keypoints[LEFT_WRIST], person[LEFT_WRIST], atol=0.01)


def without(person: np.ndarray, *missing: str) -> np.ndarray:
    """The person with keypoints that nobody labelled."""
    partly = person.copy()
    partly[[COCO_PERSON.index(name) for name in missing]] = np.nan
    return partly


def test_keypoints_behind_unlabelled_ones_are_bridged():
    person = without(standing(150, 150), "left_elbow", "right_hip", "right_knee", "nose")
    maps = paint([person], 305, 305, 8)
    (found, *_) = decode(maps)
    np.testing.assert_allclose(found.keypoints, person, atol=0.5)
    tree_alone = decode(maps, options=replace(EVERYBODY, bridge=False))
    assert max(other.found.sum() for other in tree_alone) < found.found.sum()


def test_a_person_in_two_pieces_is_one_person():
    person = without(standing(150, 150), "left_shoulder", "right_shoulder")
    maps = paint([person], 305, 305, 8)
    assert len(decode(maps, options=EVERYBODY)) == 1
    assert len(decode(maps, options=replace(EVERYBODY, bridge=False))) > 1


@pytest.mark.parametrize("least_support", [0.0, 0.3, 0.6])
def test_bridges_equal_the_slow_ones(least_support):
    rng = np.random.default_rng(4)
    maps = random_maps(rng, 7, 9, skeleton=COCO_PERSON)
    people = rng.uniform(0, 48, (5, 17, 2))
    people[rng.random((5, 17)) < 0.6] = np.nan
    people[4] = np.nan
    options = DecodeConfig(
        mid_refinements=1, keypoint_threshold=0.3, nms_radius=12.0, bridge_support=least_support
    )
    bridged = bridge_gaps(people, maps, options)
    np.testing.assert_allclose(
        bridged,
        bridge_loop(
            people, maps, refinements=1, threshold=0.3, agreement=12.0, least_support=least_support
        ),
    )
    found = np.isfinite(bridged[:4]).sum() - np.isfinite(people[:4]).sum()
    assert found > 20 if least_support == 0 else found < 60


def test_no_bridges_without_long_offsets_or_where_they_are_unknown():
    person = without(standing(150, 150), "left_elbow")
    maps = paint([person], 305, 305, 8)
    for unknown in (None, np.full_like(maps.long_offsets, np.nan)):
        found = decode(
            replace(maps, long_offsets=unknown),
            options=replace(EVERYBODY, masks=False),
        )[0]
        assert (
            np.isnan(found.keypoints[LEFT_WRIST]).all()
            or np.isnan(found.keypoints[LEFT_SHOULDER]).all()
        )


@pytest.mark.parametrize("point", [(324, 150), (-20, 150), (150, -25), (150, 330)])
def test_keypoint_beyond_the_frame_is_found_within_the_radius(point):
    person = standing(150, 150)
    person[LEFT_WRIST] = point
    maps, options = paint([person], 305, 305, 8), DecodeConfig(masks=False)
    (found,) = decode(maps, options=options, frame=Frame(505, 505, offset=(-100.0, -100.0)))
    np.testing.assert_allclose(found.keypoints[LEFT_WRIST], np.add(point, 100), atol=0.01)
    # In an image that ends with the frame it is at the nearest of the pixels.
    (cut,) = decode(maps, options=options)
    np.testing.assert_allclose(cut.keypoints[LEFT_WRIST], np.clip(point, 0, 304), rtol=0, atol=0.01)
    assert ((cut.keypoints >= 0) & (cut.keypoints <= 304)).all()
    np.testing.assert_array_equal(cut.keypoint_scores, found.keypoint_scores)


def test_keypoint_farther_beyond_the_frame_is_not_found():
    person = standing(150, 150)
    person[LEFT_WRIST] = (340, 150)
    maps = paint([person], 305, 305, 8)
    # The cells at the border claim a wrist 36 px outside.
    maps.heatmaps[:, -1, LEFT_WRIST] = 1
    maps.short_offsets[:, -1, LEFT_WRIST] = (36, 0)
    (found,) = decode(maps, options=DecodeConfig(masks=False))
    assert np.isnan(found.keypoints[LEFT_WRIST]).all()


def test_max_people_keeps_the_best():
    people = [standing(x, y, 0.4) for x in (60, 180, 300) for y in (60, 180)]
    maps = paint(people, 241, 361, 8)
    maps.heatmaps[:, :, :] *= np.linspace(0.5, 1, 46)[None, :, None].astype(np.float32)
    everybody = decode(maps)
    assert len(everybody) == 6
    assert same_people(decode(maps, options=DecodeConfig(max_people=2)), everybody[:2])
    assert decode(maps, options=DecodeConfig(max_people=0)) == []


def test_best_person_is_kept_though_another_has_the_best_seed():
    maps = paint([standing(80, 120, 0.5), standing(240, 120, 0.5)], 241, 321, 8)
    maps.heatmaps[:, :20] *= 0.3
    maps.heatmaps[:, 20:] *= 0.8
    maps.heatmaps[:, :20, NOSE] /= 0.3
    (best,) = decode(maps, options=DecodeConfig(max_people=1))
    np.testing.assert_allclose(best.keypoints, standing(240, 120, 0.5), atol=0.01)


def test_score_threshold_drops_the_rest():
    maps = paint([standing(80, 120, 0.5), standing(240, 120, 0.5)], 241, 321, 8)
    maps.heatmaps[:, :20] *= 0.3
    assert len(decode(maps)) == 2
    assert len(decode(maps, options=DecodeConfig(score_threshold=0.5))) == 1


# Scores


def test_scale_is_the_square_root_of_the_box_of_what_was_found():
    # METHOD 9: a keypoint that was not found is no point at (0, 0).
    people = np.full((3, 17, 2), np.nan)
    people[0, [0, 5]] = [(100, 100), (140, 190)]
    people[1, 3] = (300, 20)
    people[2, [1, 2]] = [(10, 50), (90, 50)]
    np.testing.assert_allclose(person_scales(people, smallest_side=10), [60, 10, math.sqrt(800)])


def test_expected_oks_equals_the_sum_over_votes():
    rng = np.random.default_rng(3)
    maps = random_maps(rng, 12, 14)
    people = rng.uniform(-30, 120, (9, 2, 2))
    people[4, 1] = np.nan
    scales = rng.uniform(20, 200, 9)
    scores = expected_oks(people, scales, binned(maps), PAIR.kappas, RADIUS)
    for j, k in np.ndindex(9, 2):
        expected = 0.0
        if np.isfinite(people[j, k]).all():
            expected = expected_oks_loop(maps, people[j, k], k, scales[j], PAIR.kappas[k], RADIUS)
        assert scores[j, k] == pytest.approx(expected, abs=1e-5)


def test_votes_are_binned_by_where_they_land():
    rng = np.random.default_rng(4)
    maps = random_maps(rng, 12, 14)
    maps.short_offsets[0, 0, 0] = (-500, 0)  # nobody asks for votes there
    votes, in_bins = cast_votes(maps), binned(maps)
    assert len(in_bins.points) == len(votes.points) - 1
    for k in range(2):
        cast = np.column_stack([votes.points, votes.mass])[votes.keypoints == k]
        first, last = in_bins.starts[k, 0, 0], in_bins.starts[k, -1, -1]
        there = np.column_stack([in_bins.points, in_bins.mass])[first:last]
        assert set(map(tuple, there)) == set(map(tuple, cast[cast[:, 0] > -400]))
        for row, column in np.ndindex(in_bins.starts.shape[1], in_bins.starts.shape[2] - 1):
            inside = in_bins.points[
                in_bins.starts[k, row, column] : in_bins.starts[k, row, column + 1]
            ]
            assert (np.floor((inside - in_bins.origin) / in_bins.side) == (column, row)).all()


def test_keypoint_score_worked_by_hand():
    # Half of the votes hit the keypoint, half land kappa * lambda beside it; its cell is sure by
    # 0.8.
    maps = blank_maps(9, 9, skeleton=PAIR)
    maps.heatmaps[4, 4, 0] = maps.heatmaps[4, 5, 0] = 0.8
    scale, kappa = 50.0, PAIR.kappas[0]
    maps.short_offsets[4, 5, 0] = (-8 + scale * kappa, 0)
    people = np.array([[(32.0, 32.0), (np.nan, np.nan)]])
    scores = expected_oks(people, np.array([scale]), binned(maps), PAIR.kappas, RADIUS)
    np.testing.assert_allclose(scores, [[(1 + math.exp(-0.5)) / 2, 0]], atol=1e-6)


def left_of(people: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores that soft-NMS leaves."""
    return np.where(suppressed_by_better(people, 10.0), 0.0, scores)


def test_soft_nms_counts_what_no_better_person_shows():
    people = np.array([[(0, 0), (100, 0)], [(6, 8), (0, 0)], [(6, 9), (3, 4)]], float)
    scores = np.array([[0.9, 0.7], [0.8, 0.6], [0.4, 0.2]])
    # The second person's first keypoint is exactly r away from the first's; the third's are both
    # near the second's.
    np.testing.assert_allclose(left_of(people, scores), [[0.9, 0.7], [0, 0.6], [0, 0]])
    people[0, 0] = np.nan
    np.testing.assert_allclose(left_of(people, scores)[1:], [[0.8, 0.6], [0, 0]])


def test_person_score_is_a_power_mean():
    scores = np.array([[0.9, 0.7], [0, 0.6], [0, 0]])
    np.testing.assert_allclose(person_scores(scores, power=1), [0.8, 0.3, 0.0])
    np.testing.assert_allclose(
        person_scores(scores, power=2), [math.sqrt(0.65), math.sqrt(0.18), 0.0]
    )


def test_scores_without_expected_oks_and_soft_nms_are_the_heat():
    maps = paint([standing(150, 150), standing(153, 150)], 305, 305, 8)
    plain = DecodeConfig(expected_oks=False, soft_nms=False, score_power=1, score_threshold=0)
    for person in decode(maps, options=plain):
        assert person.score == pytest.approx(person.keypoint_scores.mean())
        assert (person.keypoint_scores[person.found] == 1).all()
    assert max(person.score for person in decode(maps)) < 1


def test_people_may_start_at_the_heatmaps():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    # A disc is a plateau: its seed is one of its cells. It settles among the votes in as many steps
    # as a walk refines.
    for steps, exact in ((0, 16), (4, 17)):
        options = DecodeConfig(hough=False, mid_refinements=steps)
        (found, *_) = decode(maps, options=options)
        assert (np.abs(found.keypoints - person).max(axis=1) < 0.5).sum() == exact


def test_keypoints_settle_among_the_votes_around_them():
    # Two votes of mass 1 and 3 at 2 px and 6 px, weighted by a Gaussian of 5 px; one beyond the
    # reach; one for another keypoint.
    maps = blank_maps(9, 9, skeleton=PAIR)
    maps.heatmaps[4, [4, 5, 7], 0] = 0.3, 0.9, 0.9
    maps.short_offsets[4, [4, 5, 7], 0] = (2, 0), (-8, 6), (-13, 0)
    maps.heatmaps[3, 3, 1] = 0.9
    maps.short_offsets[3, 3, 1] = (6, 6)
    people = np.array([[(32.0, 32.0), (np.nan, np.nan)], [(32.0, 32.0), (60.0, 60.0)]])
    settled = mean_shift(people, binned(maps), steps=1, reach=10.0)
    near, far = 0.3 * math.exp(-4 / 50), 0.9 * math.exp(-36 / 50)
    expected = np.array([32 + 2 * near / (near + far), 32 + 6 * far / (near + far)])
    np.testing.assert_allclose(settled[0], [expected, (np.nan, np.nan)], atol=1e-5)
    np.testing.assert_allclose(settled[1], [expected, (60, 60)], atol=1e-5)
    np.testing.assert_array_equal(mean_shift(people, binned(maps), steps=0, reach=10.0), people)


def test_many_votes_know_better_than_the_place_where_the_walk_ends():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    noise = np.random.default_rng(12).normal(0, 4, maps.short_offsets.shape).astype(np.float32)
    maps = replace(maps, short_offsets=maps.short_offsets + noise)
    errors = [
        np.abs(
            decode(maps, options=DecodeConfig(vote_refinements=steps))[0].keypoints - person
        ).mean()
        for steps in (0, 1, 3)
    ]
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]


def test_scores_grow_with_agreement():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    noise = np.random.default_rng(5).normal(0, 1, maps.short_offsets.shape).astype(np.float32)
    scores = [
        decode(replace(maps, short_offsets=maps.short_offsets + amount * noise))[0].score
        for amount in (0, 2, 6)
    ]
    assert scores[0] > scores[1] > scores[2]


# Masks


def test_embedding_equals_the_slow_walk():
    maps = random_maps(np.random.default_rng(6), 5, 7)
    cells = np.array([(0, 0), (2, 3), (4, 6)])
    for refinements in (0, 1, 2):
        embedding = embed(maps, cells[:, ::-1] * maps.stride, refinements)
        for a, (row, column) in enumerate(cells):
            for k in range(2):
                expected = embedding_loop(maps, row, column, k, refinements)
                np.testing.assert_allclose(embedding[a, k], expected, atol=1e-4)


def test_embedding_distance_equals_the_sum_over_keypoints():
    rng = np.random.default_rng(7)
    embedding = rng.uniform(0, 200, (40, 17, 2, 2))
    keypoints, weights = rng.uniform(50, 150, (17, 2)), rng.random(17)
    keypoints[[2, 9]], weights[[2, 9]] = np.nan, 0
    expected = np.array([distance_loop(guess, keypoints, weights, 80.0) for guess in embedding])
    largest = float(np.median(expected))
    distances = embedding_distances(embedding, keypoints, weights, 80.0, largest)
    np.testing.assert_allclose(distances, np.minimum(expected, largest), rtol=1e-5)


def test_in_a_crowd_a_cell_is_near_whom_the_sum_over_keypoints_says():
    rng = np.random.default_rng(17)
    maps = random_maps(rng, 12, 15)
    maps.long_offsets[2, 3] = np.nan
    cells = np.argwhere(rng.random((12, 15)) < 0.8)
    people, weights = rng.uniform(-20, 140, (60, 2, 2)), rng.random((60, 2))
    people[::7, 1], weights[5] = np.nan, 0
    scales = rng.uniform(10, 60, 60)
    near = near_cells(maps, cells, people, weights, scales, 2, 0.8)
    guesses = np.array([[embedding_loop(maps, *cell, k, 2) for k in range(2)] for cell in cells])
    for j in range(60):
        expected = (
            [distance_loop(guess, people[j], weights[j], scales[j]) for guess in guesses]
            if j != 5
            else np.full(len(cells), np.inf)
        )
        within = np.array(expected) < 0.8  # NaN is not
        own = slice(near.starts[j], near.starts[j + 1])
        np.testing.assert_array_equal(near.cells[own], cells[within])
        np.testing.assert_allclose(near.distances[own], np.array(expected)[within], rtol=1e-4)
    assert 100 < len(near.cells) < 60 * len(cells) / 3


def test_embedding_distance_worked_by_hand():
    keypoints = np.array([(0.0, 0.0), (100.0, 0.0), (np.nan, np.nan)])
    unknown = (np.nan, np.nan)
    embedding = np.array(
        [[((3.0, 4.0), (50.0, 0.0)), (unknown, (100.0, 10.0)), (unknown, unknown)]]
    )
    weights = np.array([1.0, 0.5, 0.0])
    # (1 * 5 + 0.5 * 10) / 1.5 px, by a person of 50 px: the nearer guess counts, one that is
    # unknown does not.
    np.testing.assert_allclose(
        embedding_distances(embedding, keypoints, weights, 50.0, 9.0), [10 / 1.5 / 50], rtol=1e-6
    )


def masks_of(
    people: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    maps: Maps,
    frame: Frame,
    options: DecodeConfig,
) -> list[np.ndarray]:
    """The masks of people (P, K, 2) in one size."""
    sizes = np.zeros(len(people), np.int64)
    read = Readings(people, people, weights, weights, scales, sizes)
    found = find_masks(read, [FramedMaps(maps, frame)], [maps], options)
    return [decode_mask(mask) for mask in found]


def test_pixels_of_a_person_with_hidden_keypoints_stay_with_it():
    """The keypoints of one lie behind another: whoever follows the fields from there arrives at
    those of the other.
    """
    maps = blank_maps(10, 10, skeleton=PAIR)
    hidden, other = np.array([56.0, 40.0]), np.array([72.0, 8.0])
    y, x = np.mgrid[0:10, 0:10] * 8.0
    places, behind = np.stack([x, y], axis=-1)[:, :, None], (x < 40)[..., None, None]
    maps.long_offsets[...] = np.where(behind, hidden, other) - places
    maps.segmentation[...] = 1
    people, weights, scales = (
        np.stack([[hidden] * 2, [other] * 2]),
        np.ones((2, 2)),
        np.array([40.0, 40.0]),
    )
    for refinements in (0, 2):
        options = DecodeConfig(
            long_refinements=refinements, segmentation_threshold=0.5, embedding_threshold=0.25
        )
        first, second = masks_of(people, weights, scales, maps, Frame(73, 73), options)
        assert first[:, :33].all()
        assert second[:, 40:].all()
        assert not first[:, 40:].any()


@pytest.mark.parametrize("size", [(73, 73), (1, 1), (40, 73), (300, 20)])
def test_masks_are_written_as_pycocotools_writes_them(size):
    point = np.array([36.0, 36.0])
    maps = blank_maps(10, 10, skeleton=PAIR)
    y, x = np.mgrid[0:10, 0:10] * 8.0
    maps.long_offsets[...] = (point - np.stack([x, y], axis=-1))[:, :, None]
    people, weights, scales = np.full((2, 2, 2), point), np.ones((2, 2)), np.full(2, 40.0)
    people[1] += 1000  # nobody near
    for share in (0.0, 0.3, 0.7, 1.0):
        maps.segmentation[...] = np.random.default_rng(2).random((10, 10)) < share
        read = Readings(people, people, weights, weights, scales, np.zeros(2, np.int64))
        for exclusive in (False, True):
            options = DecodeConfig(exclusive_masks=exclusive)
            found = find_masks(read, [FramedMaps(maps, Frame(*size))], [maps], options)
            assert found == [encode_mask(decode_mask(mask)) for mask in found]
            assert not decode_mask(found[1]).any()
    assert decode_mask(found[0]).all()


def test_upsampling_is_bilinear_at_every_pixel():
    values = np.random.default_rng(8).random((4, 6)).astype(np.float32)
    y, x = np.mgrid[0:25, 0:41]
    points = np.stack([x.ravel(), y.ravel()], axis=-1)
    expected = sample(values[..., None], np.zeros(len(points), int), points, stride=8).reshape(
        25, 41
    )
    np.testing.assert_allclose(
        upsample(values, np.arange(25) / 8, np.arange(41) / 8), expected, atol=1e-6
    )


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("shape", [(257, 385), (385, 257)])
def test_mask_covers_the_body(stride, shape):
    # METHOD 16: on maps that are not square, rows and columns must not be mixed up.
    person = standing(shape[1] / 2, shape[0] / 2)
    (found,) = decode(paint([person], *shape, stride))
    assert found.mask.shape == shape
    assert overlap(found.mask, body_pixels(person, *shape)) > 0.9


def test_masks_equal_both_quantities_brought_to_every_pixel_and_compared():
    rng = np.random.default_rng(11)
    maps = random_maps(rng, 7, 9)
    people, scales, weights = (
        rng.uniform(10, 50, (3, 2, 2)),
        np.array([40.0, 60.0, 120.0]),
        rng.random((3, 2)),
    )
    frame = Frame(height=75, width=61, scale=(1.1, 0.7), offset=(-0.3, 0.4))
    options = DecodeConfig(long_refinements=1, segmentation_threshold=0.5, embedding_threshold=0.5)
    masks = masks_of(people, weights, scales, maps, frame, options)
    x, y = np.meshgrid(np.arange(61) * 1.1 - 0.3, np.arange(75) * 0.7 + 0.4)
    points, zeros = np.stack([x, y], axis=-1).reshape(-1, 2), np.zeros(61 * 75, int)
    logits = np.log(maps.segmentation / (1 - maps.segmentation))
    foreground = sample(logits[..., None], zeros, points, 8) >= 0.0
    cells = [(row, column) for row in range(7) for column in range(9)]
    guesses = np.array([[embedding_loop(maps, *cell, k, 1) for k in range(2)] for cell in cells])
    for mask, person, weight, scale in zip(masks, people, weights, scales, strict=True):
        distances = np.array(
            [distance_loop(guess, person, weight, scale) for guess in guesses]
        ).reshape(7, 9, 1)
        near = sample(np.minimum(distances, 1.0), zeros, points, 8) <= 0.5
        assert near.any()
        np.testing.assert_array_equal(mask, (foreground & near).reshape(75, 61))


def test_exclusive_masks_give_every_pixel_to_the_nearest():
    rng = np.random.default_rng(13)
    maps = random_maps(rng, 7, 9)
    people, scales, weights = (
        rng.uniform(10, 50, (4, 2, 2)),
        np.array([40.0, 60.0, 120.0, 90.0]),
        rng.random((4, 2)),
    )
    people[3], scales[3], weights[3] = (
        people[0],
        scales[0],
        weights[0],
    )  # of equals the first takes all
    frame = Frame(height=75, width=61, scale=(1.1, 0.7), offset=(-0.3, 0.4))
    options = DecodeConfig(long_refinements=1, segmentation_threshold=0.5, embedding_threshold=0.5)
    shared, alone = (
        np.array(masks_of(people, weights, scales, maps, frame, each))
        for each in (options, replace(options, exclusive_masks=True))
    )
    x, y = np.meshgrid(np.arange(61) * 1.1 - 0.3, np.arange(75) * 0.7 + 0.4)
    points, zeros = np.stack([x, y], axis=-1).reshape(-1, 2), np.zeros(61 * 75, int)
    guesses = np.array(
        [[embedding_loop(maps, *cell, k, 1) for k in range(2)] for cell in np.ndindex(7, 9)]
    )
    distances = [
        sample(
            np.minimum([distance_loop(guess, *which) for guess in guesses], 1.0).reshape(7, 9, 1),
            zeros,
            points,
            8,
        )
        for which in zip(people, weights, scales, strict=True)
    ]
    nearest = np.argmin(distances, axis=0).reshape(75, 61)
    np.testing.assert_array_equal(alone, shared & (nearest == np.arange(4)[:, None, None]))
    assert not alone[3].any()


def test_border_of_a_mask_by_hand():
    # Between cells of odds 9:1 for and 3:1 against, logits 2.197 and -1.099, even odds lie two
    # thirds of the way to the second: at 8 + 5.33 pixels. Probabilities, .9 and .25, would have put
    # it at 8 + 4.92.
    maps = blank_maps(1, 4, skeleton=PAIR)
    maps.segmentation[...] = [[0.9, 0.9, 0.25, 0.25]]
    options = DecodeConfig(long_refinements=0, segmentation_threshold=0.5, embedding_threshold=0.5)
    people = np.tile(np.array([[[12.0, 0.0]]]), (1, 2, 1))
    maps.long_offsets[...] = (
        people[0] - np.stack([np.arange(4) * 8.0, np.zeros(4)], axis=-1)[None, :, None]
    )
    (mask,) = masks_of(people, np.ones((1, 2)), np.array([50.0]), maps, Frame(1, 25), options)
    np.testing.assert_array_equal(mask[0], np.arange(25) <= 13)


def test_each_person_gets_its_own_pixels():
    people = [standing(90, 150), standing(250, 150, 0.8)]
    found = decode(paint(people, 305, 345, 8))
    for person in found:
        owner = min(people, key=lambda p: np.abs(p - person.keypoints).max())
        assert overlap(person.mask, body_pixels(owner, 305, 345)) > 0.9
    assert not (found[0].mask & found[1].mask).any()


def test_pixel_may_belong_to_several_people():
    # Two people 12 px apart, every pixel pointing half-way between them: within t of both.
    person = standing(150, 150)
    maps = paint([person + (6, 0), person - (6, 0)], 305, 305, 4)
    y, x = np.mgrid[0:77, 0:77] * 4
    maps.long_offsets[...] = person - np.stack([x, y], axis=-1)[:, :, None]
    apart = DecodeConfig(long_refinements=0)
    found = decode(maps, options=apart)
    assert len(found) == 2
    assert overlap(found[0].mask, found[1].mask) > 0.95
    alone = decode(maps, options=replace(apart, exclusive_masks=True))
    assert not (alone[0].mask & alone[1].mask).any()
    np.testing.assert_array_equal(alone[0].mask | alone[1].mask, found[0].mask | found[1].mask)


def test_exclusive_masks_share_no_pixel_across_sizes():
    passes = child_before_adult()
    options = DecodeConfig(scale_range=(60.0, 230.0))
    found = decode(passes, options=options, radius=RADIUS)
    alone = decode(passes, options=replace(options, exclusive_masks=True), radius=RADIUS)
    assert len(found) == len(alone) == 2
    assert (found[0].mask & found[1].mask).sum() > 500
    assert not (alone[0].mask & alone[1].mask).any()
    np.testing.assert_array_equal(alone[0].mask | alone[1].mask, found[0].mask | found[1].mask)


@pytest.mark.parametrize("bounded_by", ["segmentation", "embedding"])
def test_border_of_a_mask_lies_half_way_between_cells_inside_and_outside(bounded_by):
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    y, x = np.mgrid[0:39, 0:39] * 8
    maps.long_offsets[...] = person - np.stack([x, y], axis=-1)[:, :, None]
    outside = np.ones((39, 39), bool)
    outside[10:28, 13:25] = False
    maps.segmentation[...] = 1
    if bounded_by == "segmentation":
        maps.segmentation[outside] = 0
    else:
        maps.long_offsets[outside] += 1000
    (found,) = decode(maps, options=DecodeConfig(long_refinements=0))
    assert found.box.tolist() == [99.5, 75.5, 97, 145]
    assert found.mask[150, 100:197].all()
    assert found.mask[76:221, 150].all()


@pytest.mark.parametrize("missing", ["long_offsets", "segmentation"])
def test_no_masks_without_the_heads_for_them(missing):
    (found,) = decode(replace(paint([standing(150, 150)], 305, 305, 8), **{missing: None}))
    assert found.mask is None


def test_no_masks_where_they_are_switched_off():
    (found,) = decode(paint([standing(150, 150)], 305, 305, 8), options=DecodeConfig(masks=False))
    assert found.mask is None


# Frames


def test_frame_moves_keypoints_and_finds_masks_at_its_own_resolution():
    # The network saw the image at 1/2.5 by 1/2, moved by (16, 8).
    person = standing(160, 140)
    maps = paint([person], 281, 321, 8)
    frame = Frame(height=520, width=700, scale=(0.4, 0.5), offset=(16.0, 8.0))
    (found,) = decode(maps, frame=frame)
    np.testing.assert_allclose(found.keypoints, (person - (16, 8)) / (0.4, 0.5), atol=0.05)
    x, y = np.meshgrid(np.arange(700) * 0.4 + 16, np.arange(520) * 0.5 + 8)
    assert found.mask.shape == (520, 700)
    assert overlap(found.mask, inside_body(person, np.stack([x, y], axis=-1))) > 0.9
    (plain,) = decode(maps)
    assert found.score == plain.score


def test_masks_of_a_large_photo_take_little_memory():
    maps = paint([standing(150, 150), standing(190, 160), standing(90, 150)], 305, 401, 8)
    frame = Frame(height=3040, width=4000, scale=(0.1, 0.1))
    options = DecodeConfig(score_threshold=0.0)
    decode(maps, options=options, frame=frame)  # compiles
    tracemalloc.start()
    people = decode(maps, options=options, frame=frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(people) >= 3
    assert peak < 12_160_000  # one byte per pixel, for all masks together
    assert people[0].mask.sum() > 100_000


def test_frame_of_the_network_is_the_default():
    maps = paint([standing(150, 150), standing(90, 160, 0.7)], 305, 305, 8)
    for one, other in zip(decode(maps), decode(maps, frame=Frame(305, 305)), strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("wrong", [{"height": 0}, {"width": -3}, {"scale": (1.0, 0.0)}])
def test_frame_without_extent_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        Frame(**{"height": 5, "width": 5, **wrong})


# Symmetries


def test_mirrored_maps_give_mirrored_people():
    people = [standing(100.3, 150.2), standing(190.4, 160, 0.9)]
    maps = paint(people, 305, 321, 8)
    straight, turned = decode(maps), decode(mirrored(maps))
    assert len(straight) == len(turned) == 2
    for one, other in zip(straight, turned, strict=True):
        back = flip_points(other.keypoints, 321)[COCO_PERSON.flip_order]
        np.testing.assert_allclose(back, one.keypoints, atol=0.01)
        np.testing.assert_allclose(
            other.keypoint_scores[COCO_PERSON.flip_order], one.keypoint_scores, atol=1e-4
        )
        # Half-way between two cells a pixel may fall to either side.
        assert overlap(other.mask[:, ::-1], one.mask) > 0.98


def test_everything_scales_together():
    maps = paint([standing(100.3, 150.2), standing(190.4, 160, 0.9)], 305, 321, 8)
    doubled = Maps(
        heatmaps=maps.heatmaps,
        short_offsets=2 * maps.short_offsets,
        mid_offsets=2 * maps.mid_offsets,
        long_offsets=2 * maps.long_offsets,
        segmentation=maps.segmentation,
        stride=16,
    )
    large = decode(doubled, options=DecodeConfig(nms_radius=20), radius=64)
    for one, other in zip(decode(maps), large, strict=True):
        np.testing.assert_allclose(other.keypoints, 2 * one.keypoints, atol=1e-3)
        assert other.score == pytest.approx(one.score, abs=1e-6)
        assert overlap(other.mask[::2, ::2], one.mask) > 0.999


def test_order_in_which_people_were_annotated_does_not_matter():
    people = [standing(90, 150), standing(250, 150, 0.8), standing(170, 160, 0.6)]
    expected = decode(paint(people, 305, 345, 8))
    assert len(expected) == 3
    assert same_people(decode(paint(people[::-1], 305, 345, 8)), expected)


def test_refinement_stays_where_it_has_arrived():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    every = np.arange(17)
    np.testing.assert_allclose(follow(maps.short_offsets, every, person, 8), person, atol=1e-3)
    near = person + np.random.default_rng(14).uniform(-6, 6, (17, 2))
    arrived = follow(maps.short_offsets, every, near, 8)
    np.testing.assert_allclose(follow(maps.short_offsets, every, arrived, 8), arrived, atol=1e-3)


def test_same_people_every_time():
    maps = random_maps(np.random.default_rng(9), 30, 40, skeleton=COCO_PERSON)
    one, other = decode(maps), decode(maps)
    assert len(one) > 20
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.mask, b.mask)


# Inputs of all kinds


def test_nobody_on_empty_maps():
    assert decode(blank_maps(9, 13)) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_maps_of_one_cell_or_one_line(shape):
    maps = blank_maps(*shape)
    maps.heatmaps[...] = 1
    maps.segmentation[...] = 1
    people = decode(maps, options=EVERYBODY)
    assert people
    assert people[0].mask.shape == maps.image_shape


def test_constant_maps_show_one_person():
    maps = blank_maps(9, 9)
    maps.heatmaps[...] = 0.9
    assert len(decode(maps, options=EVERYBODY)) == 1


def test_maps_are_not_modified_and_may_be_read_only_views():
    maps = paint([standing(150, 150)], 305, 305, 8)
    expected = decode(maps)
    arrays = {}
    for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation"):
        array = getattr(maps, name)
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, np.float32)
        wide[..., ::2] = array
        arrays[name] = wide[..., ::2]
        arrays[name].flags.writeable = False
    people = decode(Maps(**arrays, stride=8))
    assert same_people(people, expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(maps, name))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_float_type(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    cast = {
        name: getattr(maps, name).astype(dtype)
        for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation")
    }
    (found,) = decode(Maps(**cast, stride=8))
    np.testing.assert_allclose(found.keypoints, person, atol=0.5)


def test_unknown_values_hide_what_they_touch_and_no_more():
    person = standing(150, 150)
    maps = paint([person], 305, 305, 8)
    maps.heatmaps[0, 0] = np.nan
    maps.segmentation[0, 0] = np.inf
    maps.long_offsets[:5] = -np.inf
    # No way leads to the left wrist or away from it.
    maps.mid_offsets[:, :, (COCO_PERSON.edge_indices == LEFT_WRIST).any(axis=1)] = np.nan
    found = decode(maps, options=replace(EVERYBODY, bridge=False))[0]
    others = [k for k in range(17) if k != LEFT_WRIST]
    np.testing.assert_allclose(found.keypoints[others], person[others], atol=0.01)
    assert np.isnan(found.keypoints[LEFT_WRIST]).all()
    assert found.mask[150, 150]


def test_maps_of_another_skeleton_are_refused():
    with pytest.raises(ValueError, match="17 keypoints of coco_person"):
        decode(blank_maps(5, 5, skeleton=PAIR))


def test_radius_must_be_positive():
    with pytest.raises(ValueError, match="radius"):
        decode(blank_maps(5, 5), radius=0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    stride=st.sampled_from([1, 4, 8, 16, 32]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    bad=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    magnitude=st.sampled_from([0.0, 1.0, 30.0, 1e4, 1e30, 1e300]),
    heads=st.booleans(),
)
@pytest.mark.filterwarnings("error", "ignore:__array__ implementation")  # pycocotools with NumPy 2
def test_any_maps_decode(seed, height, width, stride, dtype, bad, magnitude, heads):
    rng = np.random.default_rng(seed)

    def spoilt(shape: tuple[int, ...], scale: float) -> np.ndarray:
        values = rng.normal(0, 1, shape) * scale
        values[rng.random(shape) < bad] = rng.choice([np.nan, np.inf, -np.inf])
        with np.errstate(over="ignore"):
            return values.astype(dtype)

    maps = Maps(
        heatmaps=spoilt((height, width, 2), 1.0),
        short_offsets=spoilt((height, width, 2, 2), magnitude),
        mid_offsets=spoilt((height, width, 2, 2), magnitude),
        long_offsets=spoilt((height, width, 2, 2), magnitude) if heads else None,
        segmentation=spoilt((height, width), 1.0) if heads else None,
        stride=stride,
    )
    people = decode(maps, PAIR, DecodeConfig(peak_threshold=1e-4, max_people=30))
    scores = [person.score for person in people]
    assert scores == sorted(scores, reverse=True)
    assert len(people) <= 30
    for person in people:
        assert 0 < person.score <= 1
        assert person.found.any()
        assert (person.keypoint_scores[~person.found] == 0).all()
        assert np.isnan(person.keypoints[~person.found]).all()
        low, high = (
            person.keypoints[person.found].min(axis=0),
            person.keypoints[person.found].max(axis=0),
        )
        reach = RADIUS + DecodeConfig().nms_radius  # a keypoint may move so much farther out
        assert (low >= -reach).all()
        assert (high <= np.array(maps.image_shape[::-1]) - 1 + reach).all()
        assert (person.mask is None) == (not heads)
