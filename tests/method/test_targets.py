import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personlab_keras.method.targets import (
    IGNORE_CROWD,
    IGNORE_MASKLESS,
    IGNORE_UNANNOTATED,
    OVERLAP,
    CompactTargets,
    disc_owners,
    encode,
    instance_ids,
)

SIDE, STRIDE, RADIUS = 65, 8, 20.0


def encode_points(points, masks=None, annotated=None, crowd=None):
    """Targets of people with one keypoint type each at [x, y, v], in a 65 pixel view at stride
    8.
    """
    keypoints = np.array(points, np.float64).reshape(-1, 1, 3)
    people = len(keypoints)
    return encode(
        keypoints,
        np.zeros((people, 9, 9), bool) if masks is None else masks,
        np.ones(people, bool) if annotated is None else np.array(annotated),
        np.zeros((9, 9), bool) if crowd is None else crowd,
        (SIDE, SIDE),
        RADIUS,
        STRIDE,
    )


def slow_owners(keypoints, height, width, radius, stride):
    """The definition, cell by cell: the nearest labelled keypoint within the radius, the first of
    equals.
    """
    owner = np.zeros((height, width, keypoints.shape[1]), np.uint8)
    for i in range(height):
        for j in range(width):
            for k in range(keypoints.shape[1]):
                best = np.inf
                for person, (x, y, labelled) in enumerate(keypoints[:, k]):
                    distance = np.hypot(np.float32(stride * j - x), np.float32(stride * i - y))
                    if labelled and distance <= radius and distance < best:
                        best, owner[i, j, k] = distance, person + 1
    return owner


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8, 16]), st.floats(3, 40))
def test_disc_owners_equal_the_definition(seed, stride, radius):
    rng = np.random.default_rng(seed)
    keypoints = np.concatenate(
        [rng.uniform(-10, 90, (4, 3, 2)), rng.integers(0, 2, (4, 3, 1))], axis=-1
    ).astype(np.float32)
    height, width = 80 // stride, 64 // stride
    np.testing.assert_array_equal(
        disc_owners(keypoints, height, width, radius, stride),
        slow_owners(keypoints, height, width, radius, stride),
    )


def test_a_disc_by_hand():
    owner = encode_points([[32, 32, 2]]).disc_owner[..., 0]
    # Radius 20 at stride 8 around cell (4, 4): two cells along the axes (16 px), and (2, 1) away
    # (17.9 px), not (2, 2) (22.6 px).
    assert owner[4, 4] == owner[4, 6] == owner[2, 4] == owner[6, 5] == 1
    assert owner[6, 6] == owner[4, 7] == 0
    assert owner.sum() == 21


def test_keypoints_keep_their_fractions():
    # METHOD, mistake 7: assignment into an integer array truncates.
    targets = encode_points([[20.7, 33.4, 2]])
    np.testing.assert_allclose(targets.keypoints[0, 0], [20.7, 33.4, 1.0], rtol=1e-6)


def test_occluded_keypoints_are_labelled_and_missing_ones_are_not():
    targets = encode_points([[10, 10, 1], [40, 40, 0]])
    assert targets.keypoints[:, 0, 2].tolist() == [1.0, 0.0]
    assert set(np.unique(targets.disc_owner)) == {0, 1}
    assert targets.keypoints[1].tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("x", "kept"), [(-0.5, True), (-0.6, False), (64.4, True), (64.5, False)])
def test_keypoints_outside_the_view_are_dropped(x, kept):
    assert encode_points([[x, 32, 2]]).keypoints[0, 0, 2] == kept


def test_overlapping_masks_lose_nobody():
    # METHOD, mistake 4: one id per pixel by argmax; a wholly covered person vanished or crashed the
    # builder.
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :3], masks[1, 2:], masks[2, 2, 1:3] = True, True, True
    ids = instance_ids(masks)
    assert ids[0].tolist() == [1] * 4
    assert ids[3].tolist() == [2] * 4
    assert ids[2].tolist() == [OVERLAP] * 4


def test_instances_do_not_depend_on_the_order_of_people():
    rng = np.random.default_rng(3)
    masks = rng.random((5, 8, 8)) > 0.7
    order = rng.permutation(5)
    renamed = np.select(
        [instance_ids(masks[order]) == i + 1 for i in range(5)],
        list(order + 1),
        instance_ids(masks[order]),
    )
    np.testing.assert_array_equal(renamed, instance_ids(masks))


def test_ignored_areas_carry_their_reason():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, :3], masks[1, 2:5] = True, True
    crowd = np.zeros((9, 9), bool)
    crowd[4:7] = True
    targets = encode_points([[8, 8, 2], [0, 0, 0]], masks, [True, False], crowd)
    assert targets.ignore[:, 0].tolist() == [0, 0] + [IGNORE_UNANNOTATED] * 2 + [
        IGNORE_UNANNOTATED | IGNORE_CROWD
    ] + [IGNORE_CROWD] * 2 + [0, 0]
    # The person without keypoints is a person all the same.
    assert targets.instance[3, 0] == 2


def test_a_person_seen_without_its_keypoints_is_not_unannotated():
    # Annotated, but all of its keypoints lie outside this view: its body is a true negative for the
    # heatmaps.
    masks = np.ones((1, 9, 9), bool)
    targets = encode_points([[500, 500, 2]], masks, [True])
    assert not targets.ignore.any()
    assert not targets.disc_owner.any()


def test_an_empty_view():
    targets = encode_points(np.zeros((0, 3)))
    assert targets.keypoints.shape == (0, 1, 3)
    assert not targets.instance.any()


def test_too_many_persons_are_refused():
    with pytest.raises(ValueError, match="at most 254"):
        CompactTargets(
            np.zeros((255, 1, 3)), np.zeros((2, 2, 1)), np.zeros((2, 2)), np.zeros((2, 2))
        )


def test_cells_around_a_person_without_keypoints_are_left_out_but_not_those_that_somebody_claims():
    masks = np.zeros((2, 9, 9), bool)
    masks[1, 4, 4] = True
    near = np.zeros((9, 9), bool)
    near[3:6, 3:6] = True
    targets = encode(
        np.array([[[48, 32, 2]], [[0, 0, 0]]], np.float64),  # a disc of radius 8 around (4, 6)
        masks,
        np.array([True, False]),
        np.zeros((9, 9), bool),
        (SIDE, SIDE),
        8.0,
        STRIDE,
        near_unannotated=near,
    )
    expected = np.where(near, IGNORE_UNANNOTATED, 0)
    expected[4, 5] = 0
    np.testing.assert_array_equal(targets.ignore, expected)
    assert targets.disc_owner[4, 5, 0] == 1


def test_where_nobody_is_annotated_an_incomplete_image_is_unknown():
    masks = np.zeros((1, 9, 9), bool)
    masks[0, 4, 4:6] = True
    targets = encode(
        np.array([[[32, 32, 2]]], np.float64),
        masks,
        np.array([True]),
        np.zeros((9, 9), bool),
        (SIDE, SIDE),
        8.0,
        STRIDE,
        complete=False,
    )
    expected = np.full((9, 9), IGNORE_CROWD | IGNORE_MASKLESS)
    expected[[3, 4, 5, 4], [4, 3, 4, 5]] = IGNORE_MASKLESS  # the disc: heatmaps count
    expected[4, 4:6] = 0  # the mask: everything counts
    np.testing.assert_array_equal(targets.ignore, expected)
