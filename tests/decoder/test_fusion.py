"""Several passes of one image: what is pooled, on which grid, and that the people stay where they
are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decode_oracles import RADIUS, inside_body, paint, standing
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.config import DecodeConfig
from personlab_keras.decoder import Frame, FramedMaps, decode
from personlab_keras.decoder.fusion import finest_first, fuse, pool_votes
from personlab_keras.decoder.voting import cast_votes, hough_scores
from personlab_keras.method.coordinates import flip_points, grid
from personlab_keras.method.maps import PARTS, Maps
from personlab_keras.method.skeleton import COCO_PERSON

HEIGHT, WIDTH = 305, 401
"""Of the image in all tests."""

LEFT_WRIST = COCO_PERSON.index("left_wrist")


def waving(x: float, y: float, size: float = 1.0) -> np.ndarray:
    """(17, 2) a person who is no mirror image of itself."""
    person = standing(x, y, size)
    person[LEFT_WRIST] = np.array([x, y]) + size * np.array([60, -80])
    return person


def frame_at(scale: float) -> Frame:
    """The image resized by the half-pixel rule."""
    return Frame(HEIGHT, WIDTH, (scale, scale), (0.5 * scale - 0.5, 0.5 * scale - 0.5))


def seen(
    people: list[np.ndarray], scale: float = 1.0, stride: int = 8, padding: int = 0
) -> FramedMaps:
    """Perfect maps of the image at a scale, so many cells of padding on the right and below."""
    frame = frame_at(scale)
    height, width = (
        stride * (-(-round(side * scale) // stride) + padding) + 1 for side in (HEIGHT, WIDTH)
    )
    moved = [person * frame.scale + frame.offset for person in people]
    return FramedMaps(paint(moved, height, width, stride), frame)


def blank(framed: FramedMaps) -> FramedMaps:
    """The pass in which nobody is seen, with offsets that lead astray."""
    maps = framed.maps
    return replace(
        framed,
        maps=replace(
            maps,
            heatmaps=np.zeros_like(maps.heatmaps),
            short_offsets=np.full_like(maps.short_offsets, 77),
            mid_offsets=np.full_like(maps.mid_offsets, 77),
            long_offsets=np.full_like(maps.long_offsets, 77),
            segmentation=np.zeros_like(maps.segmentation),
        ),
    )


def noisy_passes(count: int, seed: int = 0) -> list[FramedMaps]:
    rng = np.random.default_rng(seed)
    passes = []
    for scale in (1.0, 0.6, 1.4, 0.8)[:count]:
        framed = seen([waving(120, 150), waving(290, 160, 0.8)], scale)
        noise = rng.normal(0, 3, framed.maps.short_offsets.shape).astype(np.float32)
        maps = replace(
            framed.maps,
            heatmaps=framed.maps.heatmaps * rng.random(framed.maps.heatmaps.shape, np.float32),
            short_offsets=framed.maps.short_offsets + noise,
        )
        passes.append(replace(framed, maps=maps))
    return passes


def assert_finds(passes: list[FramedMaps], people: list[np.ndarray], pixels: float = 0.05) -> None:
    found = decode(passes)
    assert len(found) == len(people)
    for person in people:
        nearest = min(found, key=lambda other: np.abs(other.keypoints - person).max())
        np.testing.assert_allclose(nearest.keypoints, person, atol=pixels)
        body = inside_body(person, np.moveaxis(np.mgrid[0:HEIGHT, 0:WIDTH][::-1], 0, -1))
        assert (nearest.mask & body).sum() / (nearest.mask | body).sum() > 0.85


# Mirroring


def test_mirrored_maps_are_those_of_the_mirrored_people():
    people = [waving(110.5, 150), waving(290, 160, 0.8)]
    turned = [flip_points(person, WIDTH)[COCO_PERSON.flip_order] for person in people]
    maps, expected = paint(people, HEIGHT, WIDTH, 8).mirrored(), paint(turned, HEIGHT, WIDTH, 8)
    for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation"):
        np.testing.assert_allclose(
            getattr(maps, name), getattr(expected, name), atol=1e-4, err_msg=name
        )


def test_mirroring_swaps_parts_and_is_its_own_inverse():
    maps = paint([waving(110.5, 150)], HEIGHT, WIDTH, 8)
    parts = np.zeros((*maps.shape, len(PARTS)), np.float32)
    parts[3, 5, PARTS.index("left_hand")] = parts[4, 6, PARTS.index("torso_back")] = 1
    turned = replace(maps, part_heatmaps=parts).mirrored()
    assert np.argwhere(turned.part_heatmaps).tolist() == [
        [3, maps.shape[1] - 6, PARTS.index("right_hand")],
        [4, maps.shape[1] - 7, PARTS.index("torso_back")],
    ]
    for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation"):
        np.testing.assert_array_equal(getattr(turned.mirrored(), name), getattr(maps, name))
    assert replace(maps, long_offsets=None, segmentation=None).mirrored().long_offsets is None


# Where the people are


def test_a_pass_fused_with_itself_changes_nothing():
    (framed,) = noisy_passes(1)
    alone, thrice = decode([framed]), decode([framed, framed, framed])
    assert len(alone) == len(thrice) == 2
    for one, other in zip(alone, thrice, strict=True):
        np.testing.assert_allclose(other.keypoints, one.keypoints, atol=1e-5)
        assert other.score == pytest.approx(one.score, abs=1e-6)
        np.testing.assert_array_equal(other.mask, one.mask)


def test_one_pass_is_what_its_maps_are():
    (framed,) = noisy_passes(1)
    for one, other in zip(decode([framed]), decode(framed.maps, frame=framed.frame), strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.5, 1.0), (0.7, 1.3, 1.0)])
def test_perfect_passes_at_several_scales_give_the_people_exactly(scales):
    people = [waving(110.5, 150), waving(290, 160, 0.8)]
    assert_finds([seen(people, scale, padding=i) for i, scale in enumerate(scales)], people)


def test_passes_of_several_strides():
    people = [waving(110.5, 150), waving(290, 160, 0.8)]
    passes = [seen(people, 1.0, 16), seen(people, 1.0, 8)]
    assert_finds(passes, people)
    assert decode(passes)[0].score > 0.97


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_mirrored_pass_of_a_padded_input_gives_the_people_exactly(scale):
    people = [waving(110.5, 150), waving(290, 160, 0.8)]
    straight = seen(people, scale, padding=2)
    width = straight.maps.image_shape[1]
    inside = [person * straight.frame.scale + straight.frame.offset for person in people]
    turned = paint(
        [flip_points(person, width)[COCO_PERSON.flip_order] for person in inside],
        *straight.maps.image_shape,
        8,
    )
    assert_finds([straight, replace(straight, maps=turned.mirrored())], people)
    assert_finds([replace(straight, maps=turned.mirrored())], people)


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_somebody_seen_in_one_pass_only_is_found_by_its_offsets(scale):
    # METHOD 11: were they not divided by the scale, the walk would end elsewhere, as the other
    # pass's offsets lead nowhere.
    person = waving(180.3, 150.9)
    other = seen([person], scale, padding=1)
    nowhere = blank(seen([], 1.5 if scale < 1 else 1.0))
    (found,) = decode([nowhere, other], options=DecodeConfig(scale_range=(0.0, 350.0)))
    np.testing.assert_allclose(found.keypoints, person, atol=0.1)
    # Of one size only half of the votes are there; of another size nobody has a say in this one.
    assert found.score == pytest.approx(0.5 if scale == 1 else 1.0, abs=0.02)


def test_offsets_are_brought_to_the_grid_of_the_finest_pass():
    person = waving(180.3, 150.9)
    nowhere, half = blank(seen([], 1.0)), seen([person], 0.5)
    maps = fuse([nowhere, half], COCO_PERSON)
    assert maps.shape == nowhere.maps.shape
    toward = person - grid(*maps.shape, 8)[:, :, None]
    sure = maps.heatmaps > 0.4999  # of two passes, and not at the border of a disc
    np.testing.assert_allclose(maps.short_offsets[sure], toward[sure], atol=1e-3)
    source, target = COCO_PERSON.edge_indices.T
    sure = sure[..., source]
    np.testing.assert_allclose(maps.mid_offsets[sure], toward[:, :, target][sure], atol=1e-3)
    body = maps.segmentation > 0.4999
    np.testing.assert_allclose(maps.long_offsets[body], toward[body], atol=1e-3)


def test_offsets_beyond_a_pass_count_from_its_border():
    # A pass that ends 24 px before the grid does: the last cells read its border and still point
    # at the same keypoint.
    person = waving(360, 150)
    wide, narrow = seen([person], 1.0), seen([person], 1.0)
    cut = {
        name: getattr(narrow.maps, name)[:, :-3]
        for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation")
    }
    narrow = FramedMaps(Maps(**cut, stride=8), wide.frame)
    maps = fuse([blank(wide), narrow], COCO_PERSON)
    shown = maps.heatmaps[:, -1] > 0.49
    assert shown.any()
    toward = (person - grid(*maps.shape, 8)[:, :, None])[:, -1]
    np.testing.assert_allclose(maps.short_offsets[:, -1][shown], toward[shown], atol=1e-3)


def test_what_one_pass_does_not_know_is_read_from_the_other():
    person = waving(180.3, 150.9)
    framed = seen([person])
    ignorant = replace(
        framed, maps=replace(framed.maps, mid_offsets=np.full_like(framed.maps.mid_offsets, np.nan))
    )
    assert_finds([framed, ignorant], [person])
    assert np.isnan(fuse([ignorant, ignorant], COCO_PERSON).mid_offsets).all()


def test_order_of_passes_does_not_matter():
    passes = noisy_passes(3)
    straight, reversed_ = decode(passes), decode(passes[::-1])
    assert len(straight) == len(reversed_)
    for one, other in zip(straight, reversed_, strict=True):
        np.testing.assert_allclose(other.keypoints, one.keypoints, atol=1e-3)
        assert other.score == pytest.approx(one.score, abs=1e-5)


def test_the_finest_cells_come_first():
    coarse, fine, finest = seen([], 1.0, 16), seen([], 1.0, 8), seen([], 2.0, 8)
    assert finest_first([coarse, fine, finest]) == [finest, coarse, fine]
    assert finest_first([fine, coarse]) == [fine, coarse]


# Votes


def test_votes_are_conserved():
    passes = finest_first(noisy_passes(4))
    votes = pool_votes(passes)
    alone = [cast_votes(framed.maps) for framed in passes]
    for keypoint in range(COCO_PERSON.keypoint_count):
        mass = [each.mass[each.keypoints == keypoint].sum() for each in alone]
        assert votes.mass[votes.keypoints == keypoint].sum() == pytest.approx(
            np.mean(mass), rel=1e-5
        )
    # Nobody stands at the border, so that every vote lands in the frame.
    scores = hough_scores(votes, passes[0].maps.heatmaps.shape, 8, RADIUS)
    assert scores.sum() * np.pi * RADIUS**2 / 64 == pytest.approx(votes.mass.sum(), rel=1e-5)


@pytest.mark.parametrize(
    "passes", [[(1.0, 8), (0.5, 8)], [(1.0, 8), (1.0, 16)], [(1.5, 16), (1.0, 8), (0.5, 4)]]
)
def test_a_keypoint_on_which_all_passes_agree_scores_one(passes):
    # On a cell of every grid, so that no vote is shared between cells.
    nose = np.full((17, 2), np.nan)
    nose[0] = (159.5, 127.5)
    found = finest_first([seen([nose], scale, stride) for scale, stride in passes])
    scores = hough_scores(
        pool_votes(found), found[0].maps.heatmaps.shape, found[0].maps.stride, RADIUS
    )
    assert scores.sum() == pytest.approx(1, abs=0.12)


def test_votes_land_where_they_point_to_at_every_scale():
    passes = [seen([waving(180.3, 150.9)], scale) for scale in (1.0, 0.45)]
    votes = pool_votes(passes)
    np.testing.assert_allclose(votes.points, waving(180.3, 150.9)[votes.keypoints], atol=1e-3)


# Inputs of all kinds


def test_no_masks_where_one_pass_has_no_heads_for_them():
    framed = seen([waving(180, 150)])
    poses_only = replace(framed, maps=replace(framed.maps, long_offsets=None, segmentation=None))
    (found,) = decode([framed, poses_only])
    assert found.mask is None
    assert decode([framed, framed])[0].mask is not None


def test_passes_are_not_modified():
    passes = noisy_passes(2)
    for framed in passes:
        for name in ("heatmaps", "short_offsets", "mid_offsets", "long_offsets", "segmentation"):
            getattr(framed.maps, name).flags.writeable = False
    assert len(decode(passes)) == 2


def test_wrong_passes_are_refused():
    framed = seen([])
    with pytest.raises(ValueError, match="at least one pass"):
        decode([])
    with pytest.raises(ValueError, match="`frame` must be None"):
        decode([framed], frame=framed.frame)
    short = {
        "heatmaps": framed.maps.heatmaps[..., :2],
        "short_offsets": framed.maps.short_offsets[..., :2, :],
        "mid_offsets": framed.maps.mid_offsets[..., :2, :],
    }
    with pytest.raises(ValueError, match="17 keypoints of coco_person"):
        decode(
            [
                framed,
                FramedMaps(
                    Maps(**short, long_offsets=None, segmentation=None, stride=8), framed.frame
                ),
            ]
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 20)), min_size=2, max_size=4
    ),
    bad=st.sampled_from([0.0, 0.05, 1.0]),
    magnitude=st.sampled_from([1.0, 100.0, 1e30]),
)
@pytest.mark.filterwarnings("error", "ignore:__array__ implementation")  # pycocotools with NumPy 2
def test_any_passes_decode(seed, sizes, bad, magnitude):
    rng = np.random.default_rng(seed)

    def spoilt(shape: tuple[int, ...], scale: float) -> np.ndarray:
        values = rng.normal(0, 1, shape) * scale
        values[rng.random(shape) < bad] = rng.choice([np.nan, np.inf, -np.inf])
        return values.astype(np.float32)

    passes = [
        FramedMaps(
            Maps(
                heatmaps=spoilt((height, width, 17), 1.0),
                short_offsets=spoilt((height, width, 17, 2), magnitude),
                mid_offsets=spoilt((height, width, 32, 2), magnitude),
                long_offsets=spoilt((height, width, 17, 2), magnitude),
                segmentation=spoilt((height, width), 1.0),
                stride=8,
            ),
            Frame(40, 50, (scale, scale)),
        )
        for height, width, scale in sizes
    ]
    people = decode(
        passes, options=DecodeConfig(peak_threshold=1e-4, max_people=10, score_threshold=0.0)
    )
    for person in people:
        assert 0 < person.score <= 1
        assert person.mask.shape == (40, 50)
