"""Point mode: the pixels that answer to one nudged cell, against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emerdiff import EmerDiff, Options
from emerdiff.point import answer_to_point

OPTIONS = Options(base_size=32, steps=6, sigma=0.0, speed="exact")


@pytest.fixture(scope="module")
def model(tiny_diffusion) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def test_it_is_the_difference_map_of_a_mask_that_is_one_cell(model, image, monkeypatch):
    """Independent of `answer_to_point`: `segment` itself, whose clusters are made to be one cell and the rest."""
    answer = answer_to_point(model, image, (63, 0), OPTIONS)
    assert answer.cell == (0, answer.grid[1] - 1)
    here = answer.cell[0] * answer.grid[1] + answer.cell[1]

    def one_cell(queries: np.ndarray, *_: object) -> tuple[np.ndarray, bool]:
        ids = np.zeros(len(queries), np.int32)
        ids[here] = 1
        return ids, False

    monkeypatch.setattr("emerdiff.segment.group", one_cell)
    maps = model.segment(image, replace(OPTIONS, masks=2, keep_difference_maps=True)).difference_maps
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps[1])[None, None], (40, 64), mode="bilinear")
    np.testing.assert_allclose(answer.strength * answer.largest, expected[0, 0].numpy(), rtol=1e-3, atol=1e-5)


def test_same_input_same_bytes_and_every_corner_has_its_cell(model, image):
    first, again = (answer_to_point(model, image, (5, 30), OPTIONS) for _ in range(2))
    assert first.strength.tobytes() == again.strength.tobytes()
    assert first.strength.shape == (40, 64) and first.strength.dtype == np.float32
    assert first.strength.max() == 1 and first.strength.min() >= 0
    rows, columns = first.grid
    for point, cell in {(0, 0): (0, 0), (63, 39): (rows - 1, columns - 1), (0, 39): (rows - 1, 0)}.items():
        assert answer_to_point(model, image, point, OPTIONS).cell == cell


def test_progress_ends_at_its_total_and_a_cut_of_nothing_is_everything(model, image):
    steps = []
    answer = answer_to_point(model, image, (1, 1), OPTIONS, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] and [done for done, _ in steps] == sorted({done for done, _ in steps})
    sizes = [int(answer.mask(cut).sum()) for cut in (0, 0.25, 0.5, 1)]
    assert sizes[0] == 40 * 64 and sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1


@pytest.mark.parametrize("point", [(64, 0), (0, 40), (-1, 0)])
def test_a_point_outside_the_image_is_refused(model, image, point):
    with pytest.raises(ValueError, match=r"point: expected x in 0\.\.63 and y in 0\.\.39"):
        answer_to_point(model, image, point, OPTIONS)


def test_a_cut_outside_its_range_is_refused(model, image):
    answer = answer_to_point(model, image, (1, 1), OPTIONS)
    with pytest.raises(ValueError, match=r"cut: expected a number from 0 to 1, got 2"):
        answer.mask(2)
