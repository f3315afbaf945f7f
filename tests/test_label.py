"""Pooling against upsampling and averaging, labels of pixels against whole maps, and the label rule by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ovseg.labels
from ovseg.classes import Background, Vocabulary, build_vocabulary
from ovseg.labels import grid_weights, label_masks, label_pixels, pool

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


def one_go(
    features: np.ndarray, text: np.ndarray, vocabulary: Vocabulary, scale: float, size: tuple[int, int]
) -> np.ndarray:
    """Labels of pixels with whole maps: torch's own upsampling and softmax, a name's best prompt, the threshold."""
    cosines = torch.einsum("pc,chw->phw", torch.tensor(text).double(), torch.tensor(features).double())
    upsampled = torch.nn.functional.interpolate(cosines[None], size, mode="bilinear", align_corners=False)[0]
    probabilities = (scale * upsampled).softmax(0)
    by_name = torch.zeros(len(vocabulary.names), *size, dtype=torch.float64)
    for prompt, owner in enumerate(vocabulary.owners):
        by_name[owner] = torch.maximum(by_name[owner], probabilities[prompt])
    best = by_name.argmax(0)
    if vocabulary.threshold is not None:
        best[by_name.amax(0) < vocabulary.threshold] = 0  # as published: over all names, the background among them
    return best.numpy()


# Four prompts each: plain, with aliases, background words, a threshold, both.
VOCABULARIES = (
    build_vocabulary("a,b,c,d", "none"),
    build_vocabulary("a;b,c;d", "none"),
    build_vocabulary("a,b", "c,d"),
    build_vocabulary("a;b,c,d", "threshold=0.4"),
    build_vocabulary(["a", "b"], Background(words=("c", "d"), threshold=0.4)),
    Vocabulary(("a", "b"), ("a", "b", "aa", "bb"), (0, 1, 0, 1)),  # a name's prompts need not stand together
)


def maps(seed: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features (5, h, w), of length 1 or less as windows' averages are, and four unit text embeddings."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(5, h, w))
    features *= rng.uniform(0.3, 1, (h, w)) / np.linalg.norm(features, axis=0)
    text = rng.normal(size=(4, 5))
    return features.astype(np.float32), (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)


@given(
    h=SIDE,
    w=SIDE,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 999),
    vocabulary=st.sampled_from(VOCABULARIES),
    scale=st.floats(1, 100),
)
@settings(max_examples=60)
def test_pixels_equal_whole_maps_to_the_last_label(
    h: int, w: int, height: int, width: int, seed: int, vocabulary: Vocabulary, scale: float
) -> None:
    features, text = maps(seed, h, w)
    labels = label_pixels(features, text, vocabulary, scale, (height, width))
    assert labels.shape == (height, width)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, one_go(features, text, vocabulary, scale, (height, width)))


@pytest.mark.parametrize("values", [1, 4 * 30 * 7, 2**40])  # one row at a time, seven, all at once
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_number_of_bands_does_not_matter(
    vocabulary: Vocabulary, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, text = maps(values % 97, 6, 5)
    labels = label_pixels(features, text, vocabulary, 40.0, (40, 30))
    assert len(np.unique(labels)) > 1
    monkeypatch.setattr(ovseg.labels, "BAND_VALUES", values)
    assert np.array_equal(label_pixels(features, text, vocabulary, 40.0, (40, 30)), labels)


def test_pixels_by_hand() -> None:
    # Cosines of the four pixels with three prompts; 1 is a logit of ln 8, so it beats two 0s with 0.8 against 0.1.
    cosines = np.array([[[1, 0], [0, 0.5]], [[0, 1], [0, 0.5]], [[0, 0], [1, 0.0]]])
    scale = float(np.log(8.0))
    plain, alias = build_vocabulary("cat,dog,cow", "none"), build_vocabulary("cat;kitten,cow", "none")
    assert label_pixels(cosines, TEXT, plain, scale, (2, 2)).tolist() == [[0, 1], [2, 0]]
    assert label_pixels(cosines, TEXT, alias, scale, (2, 2)).tolist() == [[0, 0], [1, 0]]
    # The last pixel's best is sqrt 8 of 1 + 2 sqrt 8, so 0.42.
    for threshold, label in ((0.42, 1), (0.43, 0)):
        vocabulary = build_vocabulary("cat,dog,cow", f"threshold={threshold}")
        assert label_pixels(cosines, TEXT, vocabulary, scale, (2, 2)).tolist() == [[1, 2], [3, label]]
    both = build_vocabulary(["cow"], Background(words=("sky", "wall"), threshold=0.81))
    assert label_pixels(cosines, TEXT, both, scale, (2, 2)).tolist() == [[0, 0], [0, 0]]


def test_pixels_keep_the_lengths_of_averaged_windows() -> None:
    # Where windows disagree their mean is short and less sure: 8 / 10 at length 1, sqrt 8 / (2 + sqrt 8) = 0.59 at 1/2.
    vocabulary = build_vocabulary("cat,dog,cow", "threshold=0.6")
    features = np.zeros((3, 1, 2), np.float32)
    features[0] = (1, 0.5)
    assert label_pixels(features, TEXT, vocabulary, float(np.log(8.0)), (1, 2)).tolist() == [[1, 0]]


def test_pixels_need_little_memory() -> None:
    rng = np.random.default_rng(0)
    features, text = rng.normal(size=(64, 28, 37)), rng.normal(size=(171, 64))
    vocabulary = build_vocabulary([f"class {n}" for n in range(171)], "none")
    tracemalloc.start()
    labels = label_pixels(features, text, vocabulary, 1.0, (480, 640))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (480, 640)
    assert peak < 40e6  # bytes; the whole maps are 171 * 480 * 640 * 8 = 420e6, several times over


def test_pixels_need_text_that_fits() -> None:
    vocabulary = build_vocabulary("cat,dog", "none")
    with pytest.raises(ValueError, match=r"text must be \(2 prompts, C\) and features \(C, h, w\), got \(3, 3\)"):
        label_pixels(np.zeros((3, 2, 2)), TEXT, vocabulary, 40.0, (4, 4))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        label_pixels(np.zeros((3, 2)), TEXT[:2], vocabulary, 40.0, (4, 4))
