"""Labels of pixels against whole maps, the label rule by hand, and how cosines become probabilities."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ovseg.labels
from ovseg.classes import Background, Vocabulary, biased, build_vocabulary
from ovseg.labels import check_threshold, label_logits, label_masks, label_pixels
from ovseg.towers.scoring import RULES, Scoring

SIDE = st.integers(1, 12)
LOG8 = Scoring(float(np.log(8.0)))  # a cosine of 1 weighs eight times as much as one of 0


TEXT = np.eye(3, dtype=np.float32)  # three prompts, orthogonal


def test_aliases_share_one_softmax_and_the_best_one_counts() -> None:
    vocabulary = build_vocabulary("cat;kitten,dog", "none")
    masks = np.array([[0.0, 2.0, 0.0], [0.5, 0.5, 0.5]], dtype=np.float32)
    probabilities, best = label_masks(masks, TEXT, vocabulary, LOG8)
    # Logits ln 8 for the prompt met and 0 for the others: 8/10 and 1/10, whatever the feature's length.
    np.testing.assert_allclose(probabilities, [[0.8, 0.1], [1 / 3, 1 / 3]], rtol=1e-6)
    assert probabilities.dtype == np.float32
    assert best.tolist() == [0, 0]


def test_background_words_win_as_background() -> None:
    vocabulary = build_vocabulary("cat", "sky,wall")
    probabilities, best = label_masks(TEXT, TEXT, vocabulary, LOG8)
    np.testing.assert_allclose(probabilities, [[0.8, 0.1], [0.8, 0.1], [0.1, 0.8]], rtol=1e-6)
    assert best.tolist() == [0, 0, 1]


def test_threshold_background() -> None:
    vocabulary = build_vocabulary("cat,dog,cow", "threshold=0.5")
    masks = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=np.float32)
    probabilities, best = label_masks(masks, TEXT, vocabulary, LOG8)
    assert best.tolist() == [1, 0]
    np.testing.assert_allclose(probabilities[0], [0.5, 0.8, 0.1, 0.1], rtol=1e-6)
    assert probabilities[1, 1] == probabilities[1, 2] < 0.5


def test_words_and_threshold_together() -> None:
    vocabulary = Vocabulary(("background", "cat", "dog"), ("sky", "cat", "dog"), (0, 1, 2), threshold=0.85)
    probabilities, best = label_masks(TEXT, TEXT, vocabulary, LOG8)
    assert best.tolist() == [0, 0, 0]
    np.testing.assert_allclose(probabilities[0], [0.8, 0.1, 0.1], rtol=1e-6)


@given(st.integers(0, 99), st.floats(1, 100))
@settings(max_examples=20)
def test_one_alias_each_gives_a_distribution(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(4, 6))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    masks = rng.normal(size=(5, 6))
    probabilities, best = label_masks(masks, text, build_vocabulary("a,b,c,d", "none"), Scoring(scale))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert best.tolist() == (masks @ text.T).argmax(axis=1).tolist()


def test_text_must_fit_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"text must be \(2 prompts, C\)"):
        label_masks(TEXT, TEXT, build_vocabulary("cat,dog", "none"), Scoring(100.0))


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
    labels, scores = label_pixels(features, text, vocabulary, Scoring(scale), (height, width))
    assert labels.shape == (height, width)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, one_go(features, text, vocabulary, scale, (height, width)))
    assert scores.shape == labels.shape and scores.dtype == np.float32 and 0 < scores.min() <= scores.max() <= 1


@pytest.mark.parametrize("values", [1, 4 * 30 * 7, 2**40])  # one row at a time, seven, all at once
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_number_of_bands_does_not_matter(
    vocabulary: Vocabulary, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, text = maps(values % 97, 6, 5)
    labels, scores = label_pixels(features, text, vocabulary, Scoring(40.0), (40, 30))
    assert len(np.unique(labels)) > 1
    monkeypatch.setattr(ovseg.labels, "BAND_VALUES", values)
    again = label_pixels(features, text, vocabulary, Scoring(40.0), (40, 30))
    assert np.array_equal(again[0], labels) and np.array_equal(again[1], scores)


def test_pixels_by_hand() -> None:
    # Cosines of the four pixels with three prompts; 1 is a logit of ln 8, so it beats two 0s with 0.8 against 0.1.
    cosines = np.array([[[1, 0], [0, 0.5]], [[0, 1], [0, 0.5]], [[0, 0], [1, 0.0]]])
    plain, alias = build_vocabulary("cat,dog,cow", "none"), build_vocabulary("cat;kitten,cow", "none")
    assert label_pixels(cosines, TEXT, plain, LOG8, (2, 2))[0].tolist() == [[0, 1], [2, 0]]
    assert label_pixels(cosines, TEXT, alias, LOG8, (2, 2))[0].tolist() == [[0, 0], [1, 0]]
    # The last pixel's best is sqrt 8 of 1 + 2 sqrt 8, so 0.42.
    for threshold, label in ((0.42, 1), (0.43, 0)):
        vocabulary = build_vocabulary("cat,dog,cow", f"threshold={threshold}")
        assert label_pixels(cosines, TEXT, vocabulary, LOG8, (2, 2))[0].tolist() == [[1, 2], [3, label]]
    both = build_vocabulary(["cow"], Background(words=("sky", "wall"), threshold=0.81))
    assert label_pixels(cosines, TEXT, both, LOG8, (2, 2))[0].tolist() == [[0, 0], [0, 0]]


def test_pixels_keep_the_lengths_of_averaged_windows() -> None:
    # Where windows disagree their mean is short and less sure: 8 / 10 at length 1, sqrt 8 / (2 + sqrt 8) = 0.59 at 1/2.
    vocabulary = build_vocabulary("cat,dog,cow", "threshold=0.6")
    features = np.zeros((3, 1, 2), np.float32)
    features[0] = (1, 0.5)
    labels, scores = label_pixels(features, TEXT, vocabulary, LOG8, (1, 2))
    assert labels.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[0.8, 0.6]], rtol=1e-6)  # of a background that is a threshold, the threshold


def test_pixels_need_little_memory() -> None:
    rng = np.random.default_rng(0)
    features, text = rng.normal(size=(64, 28, 37)), rng.normal(size=(171, 64))
    vocabulary = build_vocabulary([f"class {n}" for n in range(171)], "none")
    tracemalloc.start()
    labels, _ = label_pixels(features, text, vocabulary, Scoring(1.0), (480, 640))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (480, 640)
    assert peak < 40e6  # bytes; the whole maps are 171 * 480 * 640 * 8 = 420e6, several times over


def test_pixels_need_text_that_fits() -> None:
    vocabulary = build_vocabulary("cat,dog", "none")
    with pytest.raises(ValueError, match=r"text must be \(2 prompts, C\) and features \(C, h, w\), got \(3, 3\)"):
        label_pixels(np.zeros((3, 2, 2)), TEXT, vocabulary, LOG8, (4, 4))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        label_pixels(np.zeros((3, 2)), TEXT[:2], vocabulary, LOG8, (4, 4))


def test_a_sigmoid_gives_every_prompt_its_own_probability() -> None:
    scoring, vocabulary = Scoring(scale=10.0, bias=-4.0, rule="sigmoid"), build_vocabulary("cat;kitten,dog", "none")
    masks = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [-1.0, 0.0, 0.0]], dtype=np.float32)
    probabilities, best = label_masks(masks, TEXT, vocabulary, scoring)
    # Cosines (0.6, 0.8, 0), (0, 0, 1), (-1, 0, 0): a name has its best prompt's.
    np.testing.assert_allclose(probabilities, scipy.special.expit([[4, -4], [-4, 6], [-4, -4]]), rtol=1e-6)
    assert best.tolist() == [0, 1, 0]
    features = masks.T.reshape(3, 1, 3) / np.linalg.norm(masks, axis=1)
    labels, scores = label_pixels(features, TEXT, vocabulary, scoring, (1, 3))
    assert labels.tolist() == [[0, 1, 0]]
    np.testing.assert_allclose(scores, scipy.special.expit([[4, 6, -4]]), rtol=1e-6)


def test_a_threshold_holds_for_sigmoids_as_well() -> None:
    vocabulary = build_vocabulary("cat,dog,cow", "threshold=0.5")
    _, best = label_masks(TEXT * [[0.1], [1], [1]], TEXT, vocabulary, Scoring(10.0, -10.5, "sigmoid"))
    assert best.tolist() == [0, 0, 0]  # expit(-0.5), though each is the clear best
    assert label_masks(TEXT, TEXT, vocabulary, Scoring(10.0, -9.5, "sigmoid"))[1].tolist() == [1, 2, 3]


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=8))
def test_rules_equal_scipys_even_for_extreme_logits(logits: list[float]) -> None:
    column = np.array(logits)[:, None]
    np.testing.assert_allclose(RULES["sigmoid"](column), scipy.special.expit(column), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(RULES["softmax"](column), scipy.special.softmax(column, axis=0), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((float("nan"),), "logit scale: expected a finite number above 0, got nan"),
        ((float("inf"),), "logit scale: .* got inf"),
        ((0.0,), "logit scale: .* got 0"),
        ((10.0, float("nan")), "logit bias: expected a finite number, got nan"),
        ((10.0, 0.0, "argmax"), "no scoring rule 'argmax', expected one of softmax, sigmoid"),
    ],
)
def test_scorings_that_would_label_everything_alike_are_refused(values: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scoring(*values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    vocabulary, broken = build_vocabulary("a,b,c", "none"), TEXT.copy()
    broken[0, 0] = bad
    with pytest.raises(ValueError, match="text embeddings: expected finite numbers"):
        label_masks(TEXT, broken, vocabulary, LOG8)
    with pytest.raises(ValueError, match="features: expected finite numbers"):
        label_masks(broken, TEXT, vocabulary, LOG8)
    with pytest.raises(ValueError, match="text embeddings: expected finite numbers"):
        label_pixels(TEXT[:, None], broken, vocabulary, LOG8, (2, 2))
    with pytest.raises(ValueError, match="features: expected finite numbers"):
        label_pixels(broken[:, None], TEXT, vocabulary, LOG8, (2, 2))


def test_a_bias_on_the_background_by_hand() -> None:
    """ln 2 more on the logit of "sky" doubles its weight: 16 of 18 where it is met, 2 of 11 elsewhere."""
    vocabulary = build_vocabulary("cat,dog", biased("sky", float(np.log(2))))
    assert vocabulary.prompts == ("sky", "cat", "dog")
    probabilities, best = label_masks(TEXT, TEXT, vocabulary, LOG8)
    expected = [[16 / 18, 1 / 18, 1 / 18], [2 / 11, 8 / 11, 1 / 11], [2 / 11, 1 / 11, 8 / 11]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    assert best.tolist() == [0, 1, 2]
    labels, scores = label_pixels(TEXT[:, None], TEXT, vocabulary, LOG8, (1, 3))
    assert labels.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(scores, [[16 / 18, 8 / 11, 8 / 11]], rtol=1e-6)


def test_a_large_bias_makes_all_or_nothing_background() -> None:
    masks = np.random.default_rng(0).normal(size=(50, 3))
    for bias, background in ((900.0, True), (-900.0, False)):
        _, best = label_masks(masks, TEXT, build_vocabulary("cat,dog", biased("sky", bias)), Scoring(100.0))
        assert np.all((best == 0) == background)


def test_a_word_that_is_a_class_too_is_biased_as_background_alone() -> None:
    rule = Background(words=("dog", "sky"), repeats=True, bias=-1.0)
    vocabulary = build_vocabulary("cat,dog", rule)
    text = TEXT[[2, 0, 1, 2]]
    _, best = label_masks(TEXT, text, vocabulary, Scoring(5.0))
    assert best.tolist() == [0, 1, 2]  # without the bias the background wins the draw for "dog"


@given(st.integers(1, 6), st.integers(0, 4), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(max_examples=60)
def test_a_threshold_is_refused_exactly_where_it_cannot_act(names: int, words: int, threshold: float, seed: int):
    """Random scores: where it is said to have no effect, labels are those without it; else equal scores show one."""
    prompts = names + words
    owners = (*(0,) * words, *range(1, names + 1))
    texts = tuple(map(str, range(prompts)))
    vocabulary = Vocabulary(("background", *map(str, range(names))), texts, owners, threshold=threshold)
    logits = np.random.default_rng(seed).normal(size=(prompts, 40)) * 3
    with_it, without = (
        label_logits(logits, one, Scoring(1.0))[1] for one in (vocabulary, replace(vocabulary, threshold=None))
    )
    if threshold > 1 / prompts:
        assert check_threshold(vocabulary, Scoring(1.0)) == ()
        assert label_logits(np.zeros((prompts, 1)), vocabulary, Scoring(1.0))[1].tolist() == [0]
    elif words:
        (note,) = check_threshold(vocabulary, Scoring(1.0))
        assert f"over {prompts} prompt" in note and "has no effect" in note
        assert with_it.tolist() == without.tolist()
    else:
        with pytest.raises(ValueError, match="can never act .* name more of what is in the picture"):
            check_threshold(vocabulary, Scoring(1.0))
        assert 0 not in with_it


def test_thresholds_of_other_rules_always_act() -> None:
    one = build_vocabulary("zebra", "threshold=0.99")
    for rule in ("sigmoid", "softmax-or-none"):
        assert check_threshold(one, Scoring(1.0, rule=rule)) == ()
    assert check_threshold(replace(one, area=0.1), Scoring(1.0)) == ()


@pytest.mark.parametrize(
    ("rule", "bias", "message"),
    [
        ("none", 1.0, "background_bias: .* there are none: choose --background words"),
        ("threshold=0.4", 1.0, "background_bias: .* choose another threshold instead"),
        ("words", float("nan"), "background_bias: expected a number from -1000 to 1000, got nan"),
        ("words", 1e9, "background_bias: expected a number"),
    ],
)
def test_biases_that_mean_nothing_are_refused(rule: str, bias: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        biased(rule, bias)


def test_a_bias_is_part_of_what_a_vocabulary_is() -> None:
    plain, more = (build_vocabulary("cat", biased("sky", bias)) for bias in (0.0, 1.0))
    assert plain.sha256 == build_vocabulary("cat", "sky").sha256 != more.sha256
    with pytest.raises(ValueError, match="expected a threshold between 0 and 1, got 1.5"):
        Background(threshold=1.5)
