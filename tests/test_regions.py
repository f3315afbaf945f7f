"""Pooling against upsampling and averaging, and the weights by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.towers.regions import grid_weights, pool

SIDE = st.integers(1, 12)


@given(height=SIDE, width=SIDE, h=SIDE, w=SIDE, masks=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_pool_equals_upsampling_and_averaging(height: int, width: int, h: int, w: int, masks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, h, w)).astype(np.float32)
    segments = rng.integers(0, masks, (height, width)).astype(np.int32)
    unit = torch.tensor(features / np.linalg.norm(features, axis=0), dtype=torch.float64)
    upsampled = torch.nn.functional.interpolate(unit[None], (height, width), mode="bilinear", align_corners=False)[0]
    pooled = pool(features, segments)
    assert pooled.shape == (segments.max() + 1, 3)
    assert pooled.dtype == np.float32
    for mask, feature in enumerate(pooled):
        inside = upsampled.numpy()[:, segments == mask]
        np.testing.assert_allclose(feature, inside.mean(axis=1) if inside.size else np.zeros(3), atol=1e-6)


def test_weights_by_hand() -> None:
    # Four pixels over two cells: centres at -0.25, 0.25, 0.75, 1.25 cells, the outer ones held at the border.
    weights = grid_weights(np.array([[0, 0, 2, 2]]), (1, 2))
    np.testing.assert_allclose(weights, [[[0.875, 0.125]], [[0.0, 0.0]], [[0.125, 0.875]]])


def test_pool_weighs_directions_not_lengths() -> None:
    features = np.array([[[100.0, 0.0]], [[0.0, 1.0]]], dtype=np.float16)  # C = 2, two cells
    np.testing.assert_allclose(pool(features, np.zeros((1, 2), np.int32)), [[0.5, 0.5]])


def test_pool_refuses_other_shapes_and_negative_ids() -> None:
    with pytest.raises(ValueError, match="ids from 0"):
        pool(np.zeros((2, 1, 1)), np.array([[0, -1]]))
    with pytest.raises(ValueError, match=r"got shapes \(2, 1\) and \(1, 2\)"):
        pool(np.zeros((2, 1)), np.array([[0, 1]]))
