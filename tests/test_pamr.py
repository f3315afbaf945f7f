"""PAMR against the whole image at once, in plain loops, and in tiles; memory at 12 megapixels."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ovseg.pamr
from ovseg.classes import build_vocabulary
from ovseg.labels import label_pixels
from ovseg.pamr import Pamr, affinities, refine_masks, refined_maps, spread
from ovseg.towers.scoring import Scoring

FEW = Pamr(iterations=3, dilations=(1, 2))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two flat halves with noise, (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    noise[:, width // 2 :] += 150
    return noise.astype(np.uint8)


def at(array: np.ndarray, row: int, column: int) -> np.ndarray:
    """The value at a place, the outermost one beyond the border."""
    return array[min(max(row, 0), len(array) - 1), min(max(column, 0), array.shape[1] - 1)]


def slow(image: np.ndarray, values: np.ndarray, how: Pamr) -> np.ndarray:
    """A map (H, W) refined, pixel by pixel in float64."""
    image, values = image / 255, values.astype(np.float64)
    height, width = values.shape
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    weights = np.zeros((height, width, 8 * len(how.dilations)))
    places = [(d * y, d * x) for d in how.dilations for y, x in around if y or x]
    for row in range(height):
        for column in range(width):
            copies = [at(image, row + d * y, column + d * x) for d in how.dilations for y, x in around]
            deviation = np.std(copies, axis=0, ddof=1)
            logits = [
                np.mean(-np.abs(image[row, column] - at(image, row + y, column + x)) / (1e-8 + 0.1 * deviation))
                for y, x in places
            ]
            weights[row, column] = np.exp(logits) / np.exp(logits).sum()
    for _ in range(how.iterations):
        values = np.array(
            [
                [
                    sum(
                        w * at(values, row + y, column + x)
                        for w, (y, x) in zip(weights[row, column], places, strict=True)
                    )
                    for column in range(width)
                ]
                for row in range(height)
            ]
        )
    return values


@pytest.mark.parametrize("how", [FEW, Pamr(2, (1, 3, 7))])
def test_equal_to_the_plain_loops(how: Pamr) -> None:
    image, values = photo(9, 12), np.random.default_rng(1).random((9, 12)).astype(np.float32)
    weights = affinities(torch.from_numpy(image).permute(2, 0, 1).float() / 255, how)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(9, 12))
    found = spread(torch.from_numpy(values), weights, how).numpy()
    np.testing.assert_allclose(found, slow(image, values, how), atol=1e-5)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(0, 50))
@settings(max_examples=15)
def test_tiles_are_the_whole(height: int, width: int, tile: int, seed: int) -> None:
    """Maps and masks in tiles of any size, margins beyond the image or not, as in a single one."""
    image = photo(height, width, seed)
    maps = np.random.default_rng(seed).random((2, 3, 3))
    masks = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.int32)
    found = []
    for side in (tile, 64):
        whole = np.full((2, height, width), np.nan, np.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ovseg.pamr, "TILE", side)
            for (rows, columns), part in refined_maps(image, maps, FEW):
                whole[:, rows, columns] = part
            found.append((whole, refine_masks(image, masks, settings=FEW)))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    assert np.mean(found[0][1] == found[1][1]) > 0.99  # near draws are decided by rounding


def test_masks_take_the_pixels_edge() -> None:
    """Masks whose border is three pixels off the image's go back to it."""
    image = photo(40, 40)
    wrong = np.zeros((40, 40), np.int32)
    wrong[:, 23:] = 4
    right = np.where(np.arange(40) < 20, 0, 4) * np.ones((40, 1), int)
    refined = refine_masks(image, wrong, settings=Pamr(10, (1, 2, 4)))
    assert refined.dtype == np.int32 and set(np.unique(refined)) == {0, 4}
    assert np.mean(refined == right) > 0.99 > np.mean(wrong == right)


def test_hard_masks_equal_the_argmax_of_plain_loops() -> None:
    image, masks = photo(8, 11), np.random.default_rng(3).integers(0, 3, (8, 11)).astype(np.int32)
    maps = np.stack([slow(image, masks == one, FEW) for one in range(3)])
    order = np.sort(maps, axis=0)
    clear = order[-1] - order[-2] > 1e-5
    assert clear.mean() > 0.9
    assert (refine_masks(image, masks, settings=FEW) == maps.argmax(axis=0))[clear].all()


def test_soft_masks_start_as_shares_of_their_maps() -> None:
    image, masks = photo(8, 12), np.zeros((8, 12), np.int32)
    masks[:, 6:] = 1
    maps = np.zeros((2, 4, 6), np.uint8)
    maps[0, :, :3] = maps[1, :, 3:] = 200
    assert np.array_equal(refine_masks(image, masks, maps, FEW), masks)
    with pytest.raises(ValueError, match="maps: expected one for each of 2 masks, got 1"):
        refine_masks(image, masks, maps[:1], FEW)


def test_pixels_scores_are_refined_before_the_softmax() -> None:
    """Labels of pixels by plain loops over each prompt's logits, upsampled by torch."""
    image, rng = photo(8, 10), np.random.default_rng(5)
    features, text = rng.normal(size=(3, 2, 2)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    vocabulary, how = build_vocabulary("a,b;c", "none"), Pamr()
    labels, scores = label_pixels(features, text, vocabulary, Scoring(2.0), (8, 10), refine_by=image)
    logits = 2 * np.einsum("pc,chw->phw", text, features)
    wide = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (8, 10), mode="bilinear")[0].numpy()
    refined = np.stack([slow(image, one, how) for one in wide])
    shares = np.exp(refined) / np.exp(refined).sum(axis=0)
    by_name = np.stack([shares[0], shares[1:].max(axis=0)])
    np.testing.assert_allclose(scores, by_name.max(axis=0), atol=1e-5)
    clear = np.abs(by_name[0] - by_name[1]) > 1e-4
    assert (labels == by_name.argmax(axis=0))[clear].all() and clear.mean() > 0.9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux says it")
def test_memory_is_bounded_at_twelve_megapixels() -> None:
    image = np.kron(np.random.default_rng(0).integers(0, 255, (300, 400, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    masks = np.kron(np.random.default_rng(0).integers(0, 20, (6, 8)), np.ones((500, 500))).astype(np.int32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refined = refine_masks(image, masks)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert np.mean(refined == masks) > 0.8
    assert grown < 700, f"{grown:.0f} MB"
