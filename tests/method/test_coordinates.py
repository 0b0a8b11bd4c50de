import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personlab_keras.errors import InputError
from personlab_keras.method import coordinates


@given(st.integers(1, 200), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_sides_round_trip(cells, stride):
    side = coordinates.image_side(cells, stride)
    assert coordinates.map_side(side, stride) == cells
    assert coordinates.covering_side(side, stride) == max(side, stride + 1)


def test_other_sides_are_refused_with_the_nearest_one():
    with pytest.raises(
        InputError, match=r"stride\*n \+ 1 \(stride=8\). Received: 400. Nearest: 401"
    ):
        coordinates.map_side(400, 8)


@given(st.integers(1, 3000), st.sampled_from([8, 16, 32]))
def test_covering_side_is_the_smallest_that_holds(side, stride):
    covering = coordinates.covering_side(side, stride)
    assert covering >= side
    assert covering - stride < max(side, stride + 1)


def test_grid_holds_points_not_indices():
    points = coordinates.grid(3, 4, 8)
    assert points[2, 3].tolist() == [24.0, 16.0]  # row 2, column 3 is x = 24, y = 16


def test_flipping_a_map_of_an_odd_side_flips_its_points_exactly():
    side, stride = 401, 8
    points = coordinates.grid(51, 51, stride)
    np.testing.assert_array_equal(coordinates.flip_points(points, side), points[:, ::-1])


def test_resize_points_follows_cv2_resize():
    image = np.zeros((60, 80), np.float32)
    image[30, 50] = 1.0
    resized = cv2.resize(image, (160, 180), interpolation=cv2.INTER_LINEAR)
    weights = resized / resized.sum()
    y, x = np.mgrid[0:180, 0:160]
    centre = [(weights * x).sum(), (weights * y).sum()]
    np.testing.assert_allclose(
        centre, coordinates.resize_points(np.array([50.0, 30.0]), (80, 60), (160, 180)), atol=1e-4
    )


def test_coco_boxes_lose_and_regain_half_a_pixel():
    # Pixel column 3 alone spans 3..4 in COCO; its centre is 3, so it reaches from 2.5.
    assert coordinates.box_from_coco(np.array([3, 5, 1, 2])).tolist() == [2.5, 4.5, 1.0, 2.0]
    np.testing.assert_array_equal(
        coordinates.box_to_coco(coordinates.box_from_coco([1, 2, 3, 4])), [1, 2, 3, 4]
    )
