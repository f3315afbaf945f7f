"""Pooling against upsampling and averaging, and the label rule with checkable numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.classes import Vocabulary, build_vocabulary
from ovseg.label import grid_weights, label_masks, pool

SIDE = st.integers(1, 12)


@given(height=SIDE, width=SIDE, h=SIDE, w=SIDE, masks=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
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


TEXT = np.eye(3, dtype=np.float32)  # three prompts, orthogonal


def test_aliases_share_one_softmax_and_the_best_one_counts() -> None:
    vocabulary = build_vocabulary("cat;kitten,dog", "none")
    masks = np.array([[0.0, 2.0, 0.0], [0.5, 0.5, 0.5]], dtype=np.float32)
    probabilities, best = label_masks(masks, TEXT, vocabulary, logit_scale=np.log(8.0))
    # Logits ln 8 for the prompt met and 0 for the others: 8/10 and 1/10, whatever the feature's length.
    np.testing.assert_allclose(probabilities, [[0.8, 0.1], [1 / 3, 1 / 3]], rtol=1e-6)
    assert probabilities.dtype == np.float32
    assert best.tolist() == [0, 0]


def test_background_words_win_as_background() -> None:
    vocabulary = build_vocabulary("cat", "sky,wall")
    probabilities, best = label_masks(TEXT, TEXT, vocabulary, logit_scale=np.log(8.0))
    np.testing.assert_allclose(probabilities, [[0.8, 0.1], [0.8, 0.1], [0.1, 0.8]], rtol=1e-6)
    assert best.tolist() == [0, 0, 1]


def test_threshold_background() -> None:
    vocabulary = build_vocabulary("cat,dog,cow", "threshold=0.5")
    masks = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=np.float32)
    probabilities, best = label_masks(masks, TEXT, vocabulary, logit_scale=np.log(8.0))
    assert best.tolist() == [1, 0]
    np.testing.assert_allclose(probabilities[0], [0.5, 0.8, 0.1, 0.1], rtol=1e-6)
    assert probabilities[1, 1] == probabilities[1, 2] < 0.5


def test_words_and_threshold_together() -> None:
    vocabulary = Vocabulary(("background", "cat", "dog"), ("sky", "cat", "dog"), (0, 1, 2), threshold=0.85)
    probabilities, best = label_masks(TEXT, TEXT, vocabulary, logit_scale=np.log(8.0))
    assert best.tolist() == [0, 0, 0]
    np.testing.assert_allclose(probabilities[0], [0.8, 0.1, 0.1], rtol=1e-6)


@given(st.integers(0, 99), st.floats(1, 100))
@settings(max_examples=20)
def test_one_alias_each_gives_a_distribution(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(4, 6))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    masks = rng.normal(size=(5, 6))
    probabilities, best = label_masks(masks, text, build_vocabulary("a,b,c,d", "none"), scale)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert best.tolist() == (masks @ text.T).argmax(axis=1).tolist()


def test_text_must_fit_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"text must be \(2 prompts, C\)"):
        label_masks(TEXT, TEXT, build_vocabulary("cat,dog", "none"), 100.0)
