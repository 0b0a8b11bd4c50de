"""The maps are read in TensorFlow as outside, where values are unknown and at the border, too."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from personlab_keras.decoder import sampling as reference
from personlab_keras.decoder_graph.sampling import (
    Grid,
    follow,
    follow_all,
    offsets_at,
    value_at,
)

STRIDE, ROWS, COLUMNS, CHANNELS = 8, 7, 9, 3


@pytest.fixture
def field() -> np.ndarray:
    """(h, w, C, 2) offsets, of which some cells say nothing."""
    rng = np.random.default_rng(4)
    offsets = rng.normal(0, 12, (ROWS, COLUMNS, CHANNELS, 2)).astype(np.float32)
    offsets[2, 3, 0, 1], offsets[4, 4, 1], offsets[5, 7, 2, 0] = np.nan, np.nan, np.inf
    return offsets


@pytest.fixture
def points() -> np.ndarray:
    """(N, C, 2) inside, outside, on cells, unknown."""
    rng = np.random.default_rng(5)
    anywhere = rng.uniform(-20, 90, (60, CHANNELS, 2))
    on_cells = rng.integers(0, 7, (40, CHANNELS, 2)) * STRIDE
    unknown = [[(np.nan, 5.0)] * CHANNELS, [(3.0, np.nan)] * CHANNELS]
    return np.concatenate([anywhere, on_cells, unknown]).astype(np.float32)


def expected(field: np.ndarray, points: np.ndarray, steps: int) -> np.ndarray:
    known = np.where(np.isfinite(field), field, np.nan)
    channels = np.tile(np.arange(CHANNELS), len(points))
    reached = points.reshape(-1, 2)
    for _ in range(steps):
        reached = reference.follow(known, channels, reached, STRIDE)
    lost = ~np.isfinite(reached).all(axis=1)
    return np.where(lost[:, None], np.nan, reached).reshape(points.shape)


@pytest.mark.parametrize("steps", [1, 3])
def test_points_follow_their_channels(field, points, steps):
    grid = Grid.of(tf.constant(ROWS), tf.constant(COLUMNS), STRIDE)
    channels = np.tile(np.arange(CHANNELS, dtype=np.int32), (len(points), 1))
    right = expected(field, points, steps)
    assert 6 < np.isnan(right[..., 0]).sum() < 0.5 * right[..., 0].size
    one = follow(tf.constant(field), channels, tf.constant(points), grid, steps)
    np.testing.assert_allclose(one, right, atol=1e-3)
    every = follow_all(tf.constant(field), tf.constant(points), grid, steps)
    np.testing.assert_allclose(every, right, atol=1e-3)


def test_all_channels_are_read_at_a_point(field, points):
    grid = Grid.of(tf.constant(ROWS), tf.constant(COLUMNS), STRIDE)
    at = points[:100, 0]
    reached = grid.inside(at)[:, None] + offsets_at(tf.constant(field), tf.constant(at), grid)
    right = expected(field, np.repeat(at[:, None], CHANNELS, axis=1), 1)
    known = np.isfinite(right).all(axis=-1)
    np.testing.assert_allclose(reached.numpy()[known], right[known], atol=1e-3)
    assert not np.isfinite(reached.numpy()[~known]).all(axis=-1).any()


def test_values_are_read_between_cells(points):
    heat = np.random.default_rng(6).random((ROWS, COLUMNS, CHANNELS)).astype(np.float32)
    grid = Grid.of(tf.constant(ROWS), tf.constant(COLUMNS), STRIDE)
    channels = np.tile(np.arange(CHANNELS, dtype=np.int32), (len(points), 1))
    right = reference.sample(heat, channels.reshape(-1), points.reshape(-1, 2), STRIDE)
    found = value_at(tf.constant(heat), channels, tf.constant(points), grid)
    np.testing.assert_allclose(np.reshape(found, -1), right, atol=1e-5)
    assert np.isnan(right).sum() == 2 * CHANNELS
