"""Tiles: where they lie, how their maps are mixed, and images of any size and aspect through the whole chain."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emerdiff import EmerDiff, Options
from emerdiff import image as images
from emerdiff.edges import follow_edges, sharpen
from emerdiff.image import coloured, largest
from emerdiff.tiles import OVERLAP, Tiling, shares, starts, stitch
from ovseg.cli import main
from ovseg.files import read_index_png
from ovseg.presets import PRESETS, Preset

OPTIONS = Options(masks=4, steps=10, base_size=32)


@pytest.fixture(scope="module")
def emerdiff(tiny_diffusion: Path) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), side=st.integers(32, 200))
def test_tiles_cover_the_image_and_overlap(height: int, width: int, side: int) -> None:
    tiling = Tiling.of((height, width), side)
    assert max(tiling.tile) <= side and max(tiling.tile) <= 4 * min(tiling.tile)
    for begin, one, length in zip((tiling.tops, tiling.lefts), tiling.tile, (height, width), strict=True):
        assert begin[0] == 0 and begin[-1] + one == length
        overlaps = one - np.diff(begin)
        assert (overlaps >= OVERLAP * one - 1).all() and (np.diff(begin) > 0).all()
        weights = shares(begin, one, length)
        torch.testing.assert_close(weights.sum(dim=0), torch.ones(length))
        for index, start in enumerate(begin):
            assert not weights[index, :start].any() and not weights[index, start + one :].any()
    assert len(list(tiling)) == len(tiling)


def test_starts_are_even() -> None:
    assert starts(100, 40) == (0, 30, 60) and starts(40, 40) == (0,) and starts(41, 40) == (0, 1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), band=st.sampled_from([50, 3000, 10**6]), guided=st.booleans())
def test_stitched_labels_are_the_largest_mixed_map(seed: int, band: int, guided: bool) -> None:
    """Against whole maps of the whole image, all masks and all tiles at once."""
    rng = np.random.default_rng(seed)
    size, masks = tuple(rng.integers(20, 90, 2).tolist()), 7
    tiling = Tiling.of(size, int(rng.integers(32, 60)))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8) if guided else None
    found = {}
    for place in tiling:
        present = np.sort(rng.choice(masks, int(rng.integers(1, masks)), replace=False))
        shape = (4, len(present), 3, 4) if guided else (len(present), 3, 4)
        found[place] = present, torch.from_numpy(rng.random(shape, np.float32))
    whole = torch.full((masks, *size), -torch.inf, dtype=torch.float64)
    down = shares(tiling.tops, tiling.tile[0], size[0]).double()
    across = shares(tiling.lefts, tiling.tile[1], size[1]).double()
    for place, (present, maps) in found.items():
        flat = maps.reshape(1, -1, 3, 4)
        large = torch.nn.functional.interpolate(flat, tiling.tile, mode="bilinear")[0].unflatten(0, maps.shape[:-2])
        window = tiling.window(*place)
        if image is not None:
            colours = torch.from_numpy(image[window]).permute(2, 0, 1) / 255
            large = (large[:3] * colours[:, None]).sum(dim=0) + large[3]
        share = down[place[0], window[0], None] * across[place[1], window[1]]
        for mask, one in zip(present, large, strict=True):
            part = whole[(mask, *window)]
            part[:] = part.clamp(min=0) + one * share
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "BAND_VALUES", band)
        labels = stitch(tiling, lambda *place: calls.append(place) or found[place], image)
    assert calls == list(tiling) and labels.dtype == np.int32
    best = whole.amax(dim=0) - whole.gather(0, torch.from_numpy(labels).long()[None])[0]
    assert float(best.max()) < 1e-4


def test_a_wall_through_all_tiles_is_one_mask() -> None:
    """Two colours, one above the other, over twelve tiles in a row: the networks' masks by hand."""
    tiling = Tiling.of((40, 400), 40)
    halves = torch.tensor([[1.0, 0], [0, 1]])[:, :, None].expand(2, 2, 2)
    labels = stitch(tiling, lambda row, column: (np.array([0, 1]), halves))
    assert len(tiling) == 13 and np.array_equal(labels, np.repeat([[0], [1]], 20, axis=0).repeat(400, axis=1))


def two_walls(height: int, width: int) -> np.ndarray:
    """Blue above and yellow below, with some noise."""
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    noise[: height // 2] += np.array([20, 40, 200])
    noise[height // 2 :] += np.array([200, 180, 20])
    return noise.astype(np.uint8)


@pytest.mark.slow
def test_long_images_go_in_tiles_and_are_refused_without(emerdiff: EmerDiff) -> None:
    image = two_walls(32, 300)
    with pytest.raises(ValueError, match=r"aspect of at most 4:1, got 300x32 .*tiles \(--tile\) take longer ones"):
        emerdiff.segment(image, OPTIONS)
    done: list[tuple[int, int]] = []
    options = replace(OPTIONS, tile=64, masks=2, speed="exact")
    found = emerdiff.segment(image, options, progress=lambda *rows: done.append(rows))
    cost = emerdiff.cost((32, 300), options)
    assert cost.images == 6 and (cost.height, cost.width) == (32, 64) and done[-1] == (cost.unet_rows, cost.unet_rows)
    assert found.labels.shape == (32, 300) and found.labels.dtype == np.int32
    assert found.low_resolution_masks.shape == (8, 75) and found.queries.shape == (600, 16)
    assert found.low_resolution_masks.max() < 9 >= found.labels.max()  # two masks for each of 4.7 tiles' areas
    assert found.difference_maps is None and found.network_size == (32, 64)
    assert np.array_equal(found.labels, emerdiff.segment(image, options).labels)


def test_masks_go_through_seams(emerdiff: EmerDiff) -> None:
    """The walls are as long as six tiles: few masks, most of which are in several tiles."""
    options = replace(OPTIONS, tile=64, masks=1, upsampling="naive")
    labels = emerdiff.segment(two_walls(32, 300), options).labels
    reach = [np.ptp(np.flatnonzero((labels == one).any(axis=0))) for one in np.unique(labels)]
    assert len(reach) == 5 and np.mean(np.array(reach) > 64) > 0.5


def test_a_single_tile_is_the_whole_image(emerdiff: EmerDiff) -> None:
    image = two_walls(40, 60)
    for upsampling in ("modulated", "naive", "attention"):
        plain = replace(OPTIONS, upsampling=upsampling)
        whole, tiled = emerdiff.segment(image, plain), emerdiff.segment(image, replace(plain, tile=100))
        assert np.array_equal(whole.labels, tiled.labels), upsampling
        assert np.array_equal(whole.low_resolution_masks, tiled.low_resolution_masks)
        assert np.array_equal(whole.queries, tiled.queries)


def test_place_counts_in_tiles_as_it_does_in_an_image(emerdiff: EmerDiff) -> None:
    options = replace(OPTIONS, tile=64, masks=3, upsampling="naive")
    flat = np.full((32, 300, 3), 128, np.uint8)
    near = emerdiff.segment(flat, replace(options, place=100.0)).labels
    widths = [np.ptp(np.flatnonzero((near == one).any(axis=0))) for one in np.unique(near)]
    assert max(widths) < 64


def test_labels_do_not_need_the_memory_of_all_maps() -> None:
    """40 masks on a megapixel are 160 MB of float32; what NumPy holds is a small part of that."""
    tiling = Tiling.of((1000, 1000), 500)
    maps = torch.rand(40, 8, 8)
    tracemalloc.start()
    labels = stitch(tiling, lambda row, column: (np.arange(40), maps))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (1000, 1000) and peak < 60e6  # the labels are 4 MB


def test_cuts_refuse_tiles() -> None:
    with pytest.raises(ValueError, match="tile: not by diffcut"):
        Options(tile=64, upsampling="diffcut")
    with pytest.raises(ValueError, match="tile: expected at least 32, got 31"):
        Options(tile=31)


def slow_guided(one: np.ndarray, guide: np.ndarray, radius: int, penalty: float) -> np.ndarray:
    """A guided filter pixel by pixel: a ridge regression in every window, and the mean of all windows' answers."""
    height, width = one.shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            part = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            colours, values = guide[part].reshape(-1, 3), one[part].ravel()
            centred = colours - colours.mean(axis=0)
            system = centred.T @ centred / len(values) + penalty * np.eye(3)
            slope = np.linalg.solve(system, centred.T @ (values - values.mean()) / len(values))
            offset = values.mean() - slope @ colours.mean(axis=0)
            total[part] += guide[part] @ slope + offset
            count[part] += 1
    return total / count


def test_maps_along_edges_are_a_guided_filters() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
    maps = rng.random((2, 12, 15), np.float32)
    found = sharpen(torch.from_numpy(maps), image, radius=2)
    expected = [slow_guided(one / maps.max(), image / 255, 2, 1e-3) for one in maps]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)
    fits = follow_edges(torch.from_numpy(maps), image)  # of a window of 3 at this size
    expected = [slow_guided(one / maps.max(), image / 255, 1, 1e-3) for one in maps]
    np.testing.assert_allclose(coloured(fits, image).numpy(), expected, atol=2e-4)


def test_a_contour_moves_to_the_photos_edge() -> None:
    """Maps that cross at a third of the image, a photo whose edge is at half of it: 8 cells, 512 pixels."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 33:] = 255
    ramp = torch.linspace(1, 0, 16).expand(16, 16)
    maps = torch.stack([ramp, 1 - ramp + 0.1])
    plain, edges = largest(maps, (64, 64)), largest(follow_edges(maps, image), (64, 64), image)
    assert abs(int((plain[32] == 0).sum()) - 33) > 1 and int((edges[32] == 0).sum()) == 33


def test_edges_and_detail_change_the_result(emerdiff: EmerDiff) -> None:
    image = two_walls(40, 60)
    image[10:14, 10:14] = 255
    plain = emerdiff.segment(image, OPTIONS)
    assert emerdiff.segment(image, replace(OPTIONS, edges=True)).labels.shape == (40, 60)
    twice = emerdiff.segment(image, replace(OPTIONS, detail=True))
    assert twice.network_size == (64, 96) and twice.low_resolution_masks.shape == (16, 24)
    larger = emerdiff.segment(image, replace(OPTIONS, base_size=64))
    assert np.array_equal(twice.labels, larger.labels) and plain.network_size == (32, 48)
    assert emerdiff.snap(replace(OPTIONS, detail=True)).side == 64  # snapping twice doubles once
    tiled = replace(OPTIONS, tile=40, edges=True)
    assert np.array_equal(emerdiff.segment(image, tiled).labels, emerdiff.segment(image, tiled).labels)


def test_the_command_takes_tiles_with_and_without_a_side(
    tiny_diffusion: Path,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    method = {"masks": 4, "steps": 10, "base_size": 32}
    monkeypatch.setitem(PRESETS, "tiny", Preset("tiny", str(tiny_diffusion), str(tiny_clip), method, 32, 0, 0, "plain"))
    Image.fromarray(two_walls(32, 300)).save(tmp_path / "long.png")
    call = ["masks", str(tmp_path / "long.png"), "--preset", "tiny", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(call) == 1 and "--tile" in capsys.readouterr().err
    assert main([*call, "--tile", "64", "--edges", "--overwrite"]) == 0
    assert read_index_png(tmp_path / "run/long.png").shape == (32, 300)
    assert main([*call, "--overwrite", "--tile"]) == 0
    with pytest.raises(SystemExit) as caught:
        main([*call, "--tile", "wide"])
    assert caught.value.code == 2
    assert "--tile: expected a whole number or none, got 'wide'" in capsys.readouterr().err
