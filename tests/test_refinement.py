"""Refining a prediction: against torch's upsampling and averaging, by hand, and what must not change it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ovseg
from emerdiff import EmerDiff, Options
from ovseg.files import read_index_png
from ovseg.refinement import Refined, refine, refine_image

SIDE = st.integers(1, 12)


def upsampled_means(segments: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """(K, L) the slow way: the whole prediction upsampled by torch, then averaged mask by mask."""
    wide = torch.from_numpy(dense.astype(np.float64))[None]
    whole = torch.nn.functional.interpolate(wide, segments.shape, mode="bilinear", align_corners=False)[0].numpy()
    means = np.zeros((int(segments.max()) + 1, len(dense)))
    for mask in np.unique(segments):
        means[mask] = whole[:, segments == mask].mean(axis=1)
    return means


@given(
    height=SIDE,
    width=SIDE,
    grid=st.one_of(st.none(), st.tuples(SIDE, SIDE)),
    masks=st.integers(1, 5),
    classes=st.integers(1, 4),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    ids=st.sampled_from([np.uint8, np.int32, np.uint64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_scores_are_the_means_of_the_upsampled_prediction(
    height: int, width: int, grid: tuple[int, int] | None, masks: int, classes: int, dtype: type, ids: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, masks, (height, width)).astype(ids)
    dense = rng.normal(size=(classes, *(grid or (height, width)))).astype(dtype)
    refined = refine(segments, dense)
    expected = upsampled_means(segments, dense)
    assert refined.scores.dtype == np.float32 and refined.labels.dtype == np.int32
    np.testing.assert_allclose(refined.scores, expected, atol=1e-6)
    np.testing.assert_array_equal(refined.labels, expected.argmax(axis=1)[segments])


def test_a_prediction_by_hand() -> None:
    # Two cells over four pixels: class 0 falls 8, 6, 2, 0 from left to right, class 1 is 3 everywhere.
    dense = np.array([[[8.0, 0.0]], [[3.0, 3.0]]])
    refined = refine(np.array([[0, 0, 2, 2]]), dense)
    np.testing.assert_allclose(refined.scores, [[7, 3], [0, 0], [1, 3]])  # nobody has id 1
    np.testing.assert_array_equal(refined.labels, [[0, 0, 1, 1]])
    # The mask, not the pixel, decides: the second pixel's own 6 is above 3, its mask's mean of 6, 2 and 0 is not.
    np.testing.assert_array_equal(refine(np.array([[0, 1, 1, 1]]), dense).labels, [[0, 1, 1, 1]])


@given(h=SIDE, w=SIDE, value=st.floats(-50, 50), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_a_constant_prediction_stays(h: int, w: int, value: float, seed: int) -> None:
    segments = np.random.default_rng(seed).integers(0, 4, (9, 7))
    scores = refine(segments, np.full((2, h, w), value)).scores[np.unique(segments)]
    np.testing.assert_allclose(scores, value, rtol=1e-6, atol=1e-12)


@given(order=st.permutations(range(4)), ids=st.permutations(range(5)), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_the_order_of_classes_and_of_masks_is_only_a_name(order: list[int], ids: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments, dense = rng.integers(0, 5, (10, 8)), rng.normal(size=(4, 3, 5))
    plain = refine(segments, dense)
    permuted = refine(segments, dense[order])
    np.testing.assert_array_equal(np.array(order)[permuted.labels], plain.labels)
    np.testing.assert_array_equal(refine(np.array(ids)[segments], dense).labels, plain.labels)


def test_a_pixel_a_mask_is_bilinear_upsampling_itself() -> None:
    dense = np.random.default_rng(0).normal(size=(3, 4, 4))
    refined = refine(np.arange(48).reshape(6, 8), dense)
    upsampled = torch.nn.functional.interpolate(torch.from_numpy(dense)[None], (6, 8), mode="bilinear")[0]
    np.testing.assert_array_equal(refined.labels, upsampled.argmax(dim=0).numpy())


@pytest.mark.parametrize("grid", [(16, 16), (500, 600)])
def test_no_upsampled_prediction_is_held_in_memory(grid: tuple[int, int]) -> None:
    segments = np.random.default_rng(0).integers(0, 8, (500, 600)).astype(np.int32)
    dense = np.zeros((100, *grid), np.float32)
    tracemalloc.start()
    refine(segments, dense)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 * 600 * 100 * 4 / 4  # bytes: a quarter of (L, H, W) float32


def test_with_names_it_is_a_segmentation_that_saves_itself(tmp_path: Path) -> None:
    refined = refine(np.array([[0, 0, 1, 1]]), np.array([[[0.75, 0.25]], [[0.25, 0.75]]]))
    result = refined.named(["cat", "dog"])
    np.testing.assert_array_equal(result.labels, [[0, 0, 1, 1]])
    np.testing.assert_allclose(result.confidence, 0.6875)  # 7/8 of one cell, 1/8 of the other
    assert result.masks is not None and result.masks.tolist() == [[0, 0, 1, 1]]
    assert result["dog"].tolist() == [[False, False, True, True]]
    assert repr(result) == "Segmentation(1x4, 2 names: cat 50%, dog 50%)"
    assert repr(refined) == "Refined(1x4, 2 masks, 2 classes, scores from 0.3125 to 0.6875)"
    result.save(tmp_path, "scene")
    np.testing.assert_array_equal(read_index_png(tmp_path / "scene.png"), refined.labels)


def test_names_need_probabilities_and_one_a_class() -> None:
    refined = refine(np.zeros((2, 2), np.int32), np.array([[[-3.0]], [[8.0]]]))
    with pytest.raises(ValueError, match="from -3 to 8: refine the softmax"):
        refined.named(["cat", "dog"])
    with pytest.raises(ValueError, match="names: expected 2, one a class of the prediction, got 1"):
        refined.named(["cat"])


@pytest.mark.parametrize(
    ("segments", "dense", "reason"),
    [
        (np.zeros((2, 2), np.int32), np.zeros((2, 2)), r"dense: .* got float64 of shape \(2, 2\)"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 1, 1), np.int64), "dense: .* got int64"),
        (np.zeros((2, 2), np.int32), np.zeros((0, 4, 4)), r"dense: .* shape \(0, 4, 4\)"),
        (np.zeros((2, 2), np.int32), torch.zeros(2, 1, 1), "dense: .* NumPy array .* got Tensor"),
        (np.zeros((2, 2), np.int32), np.array([[[np.nan]]]), "dense: expected finite"),
        (np.zeros((2, 2), np.int32), np.array([[[-np.inf]]]), "dense: expected finite"),
        (np.zeros((2, 2, 1), np.int32), np.zeros((2, 1, 1)), r"segments: .* shape \(2, 2, 1\)"),
        (np.zeros((2, 2)), np.zeros((2, 1, 1)), "segments: .* got float64"),
        (np.array([[0, -1]]), np.zeros((2, 1, 1)), "segments: .* integers from 0, got -1"),
        ([[0, 1]], np.zeros((2, 1, 1)), "segments: .* got list"),
        (np.zeros((0, 2), np.int32), np.zeros((2, 1, 1)), r"segments: .* shape \(0, 2\)"),
    ],
)
def test_other_arrays_are_refused_in_one_line(segments: np.ndarray, dense: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        refine(segments, dense)
    assert "\n" not in str(raised.value)


def test_an_image_is_segmented_and_its_prediction_refined(tiny_diffusion: Path) -> None:
    model, options = EmerDiff.from_pretrained(tiny_diffusion), Options(masks=3, steps=5, base_size=32)
    rng = np.random.default_rng(0)
    image, dense = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), rng.normal(size=(4, 5, 7))
    calls: list[int] = []
    refined = refine_image(image, dense, model, options, progress=lambda done, total: calls.append(done))
    kept = model.segment(image, options).labels
    np.testing.assert_array_equal(refined.segments, kept)
    np.testing.assert_array_equal(refined.scores, refine(kept, dense).scores)
    calls.clear()
    with pytest.raises(ValueError, match="dense: "):
        refine_image(image, dense[0], model, options, progress=lambda done, total: calls.append(done))
    assert not calls  # told before the diffusion model ran


def test_refine_is_a_function_of_the_package_however_it_is_reached() -> None:
    from ovseg import refine as by_name

    assert ovseg.refine is by_name is refine
    assert ovseg.refine_image is refine_image and ovseg.Refined is Refined
