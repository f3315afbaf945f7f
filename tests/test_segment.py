"""The whole chain on a tiny random model, its sizes and its options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from emerdiff import Cost, EmerDiff, Options
from emerdiff import image as images
from emerdiff.image import largest, nearest, network_size

OPTIONS = Options(masks=4, steps=10, base_size=32, speed="exact")
UP_1, ATTN_2 = "up_blocks.1.attentions", "transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def emerdiff(tiny_diffusion: Path) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Four flat quarters of random colours, with some noise."""
    random = np.random.default_rng(seed)
    quarters = random.integers(0, 200, (2, 2, 3)).repeat(height // 2, axis=0).repeat(width // 2, axis=1)
    return (quarters + random.integers(0, 55, quarters.shape)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 60), (90, 30), (6, 10)])
def test_shapes_and_types(emerdiff: EmerDiff, height: int, width: int):
    found = emerdiff.segment(picture(height, width), replace(OPTIONS, keep_difference_maps=True))
    cost = emerdiff.cost((height, width), OPTIONS)
    assert found.labels.shape == (height, width) and found.labels.dtype == np.int32
    assert found.low_resolution_masks.shape == (cost.height // 4, cost.width // 4)
    assert found.low_resolution_masks.dtype == np.int32
    assert np.array_equal(np.unique(found.low_resolution_masks), np.arange(4))
    assert found.queries.shape == (found.low_resolution_masks.size, 16) and found.queries.dtype == np.float32
    assert found.difference_maps is not None
    assert found.difference_maps.shape == (4, cost.height, cost.width) and found.difference_maps.dtype == np.float32
    assert set(np.unique(found.labels)) <= set(range(4))


def test_labels_are_the_argmax_of_the_smoothed_maps(emerdiff: EmerDiff):
    raw = emerdiff.segment(picture(32, 48), replace(OPTIONS, sigma=0.0, keep_difference_maps=True))
    smooth = emerdiff.segment(picture(32, 48), replace(OPTIONS, sigma=2.0, keep_difference_maps=True))
    assert raw.difference_maps is not None and smooth.difference_maps is not None
    expected = np.stack([gaussian_filter(one, 2.0) for one in raw.difference_maps])
    np.testing.assert_allclose(smooth.difference_maps, expected, rtol=1e-4, atol=1e-6)
    assert np.array_equal(raw.labels, raw.difference_maps.argmax(axis=0))
    assert np.array_equal(smooth.labels, smooth.difference_maps.argmax(axis=0))
    assert emerdiff.segment(picture(32, 48), OPTIONS).difference_maps is None


def test_two_runs_are_equal_bit_for_bit_whatever_came_between(emerdiff: EmerDiff):
    options = replace(OPTIONS, keep_difference_maps=True)
    first = emerdiff.segment(picture(), options)
    emerdiff.segment(picture(seed=1), replace(options, masks=2, steps=7, seed=3))
    second = emerdiff.segment(picture(), options)
    for name in ("labels", "low_resolution_masks", "queries", "difference_maps"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_queries_are_those_of_the_noisy_image(emerdiff: EmerDiff):
    """Read by hand: the image's latent, the noise of t = 1, one UNet call, the input of to_q times its weights."""
    image = picture(32, 48)
    diffusion = emerdiff.diffusion
    layer = diffusion.attention(emerdiff.snap(OPTIONS).feature_layer)
    step = diffusion.grid(10)[-1]
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        x_0 = diffusion.encode(torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1)[None])
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
        diffusion.predict_noise(step.alpha**0.5 * x_0 + (1 - step.alpha) ** 0.5 * noise, step)
        handle.remove()
        expected = seen[0][0] @ layer.to_q.weight.T
    found = emerdiff.segment(image, replace(OPTIONS, upsampling="naive"))
    np.testing.assert_allclose(found.queries, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_timesteps_snap_to_the_grid(emerdiff: EmerDiff):
    found = emerdiff.segment(picture(), replace(OPTIONS, feature_timestep=40, modulation_timestep=281))
    assert (found.feature_timestep, found.modulation_timestep) == (1, 301)
    assert emerdiff.cost((40, 60), OPTIONS).unet_rows == 1 + 4 * (1 + 2 * 4)  # 301, 201, 101, 1; one call each


def test_options_snap_before_any_image_is_seen(emerdiff: EmerDiff):
    snapped = emerdiff.snap(replace(OPTIONS, feature_timestep=40))
    layers = {"feature_layer": f"{UP_1}.0.{ATTN_2}", "modulated_layer": f"{UP_1}.2.{ATTN_2}"}
    assert snapped == replace(OPTIONS, feature_timestep=1, modulation_timestep=301, **layers)
    assert emerdiff.snap(snapped) == snapped
    assert emerdiff.snap(replace(OPTIONS, modulated_layer="up1.1")).modulated_layer == f"{UP_1}.1.{ATTN_2}"
    with pytest.raises(ValueError, match="steps: expected 1 to 999, got 5000"):
        emerdiff.snap(replace(OPTIONS, steps=5000))
    with pytest.raises(ValueError, match="'nowhere' is no attention"):
        emerdiff.snap(replace(OPTIONS, modulated_layer="nowhere"))


@pytest.mark.parametrize(("width", "rows"), [(32, [5, 5]), (48, [3, 3, 3, 3]), (128, [3] * 4)])
def test_longer_images_go_in_smaller_batches(emerdiff: EmerDiff, width: int, rows: list[int]):
    done = [0]
    options = replace(OPTIONS, modulation_timestep=1, batch=5)
    emerdiff.segment(np.zeros((32, width, 3), np.uint8), options, progress=lambda count, total: done.append(count))
    assert np.diff(done).tolist() == [1, *rows]  # the queries' row; then the unmodulated one and two a mask


def test_features_may_be_read_above_the_modulated_timestep(emerdiff: EmerDiff):
    above = emerdiff.segment(picture(), replace(OPTIONS, feature_timestep=801))
    equal = emerdiff.segment(picture(), replace(OPTIONS, feature_timestep=301))
    below = emerdiff.segment(picture(), OPTIONS)
    assert [found.feature_timestep for found in (above, equal, below)] == [801, 301, 1]
    assert not np.array_equal(above.queries, below.queries)


def test_a_timesteps_noise_does_not_depend_on_where_the_path_begins(emerdiff: EmerDiff):
    low = emerdiff.segment(picture(), replace(OPTIONS, modulation_timestep=1))
    high = emerdiff.segment(picture(), replace(OPTIONS, modulation_timestep=501))
    assert np.array_equal(low.queries, high.queries)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_injection": False},
        {"modulation": "before-projection"},
        {"strength": 1.0},
        {"seed": 1},
        {"modulated_layer": "up_blocks.1.attentions.1.transformer_blocks.0.attn2"},
        {"feature_layer": "up_blocks.1.attentions.2.transformer_blocks.0.attn2"},
        {"modulation_timestep": 501},
        {"feature_timestep": 101},
        {"place": 1.0},
    ],
)
def test_every_setting_changes_the_result(emerdiff: EmerDiff, change: dict):
    plain = emerdiff.segment(picture(), replace(OPTIONS, keep_difference_maps=True)).difference_maps
    changed = emerdiff.segment(picture(), replace(OPTIONS, keep_difference_maps=True, **change)).difference_maps
    assert plain is not None and changed is not None
    assert np.abs(plain - changed).max() > 1e-4


def test_progress_reaches_the_cost(emerdiff: EmerDiff):
    seen: list[tuple[int, int]] = []
    options = replace(OPTIONS, batch=3)
    emerdiff.segment(picture(), options, progress=lambda done, total: seen.append((done, total)))
    cost = emerdiff.cost((40, 60), options)
    assert cost == Cost(unet_rows=1 + 4 * 4 * 3, decodes=8, height=32, width=48)
    assert seen[0] == (1, 49) and seen[-1] == (49, 49)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_fast_takes_four_coarse_steps_and_packs_masks(emerdiff: EmerDiff):
    options = replace(OPTIONS, steps=50, masks=12, batch=64, base_size=64, keep_difference_maps=True)
    done = [0]
    fast = emerdiff.segment(
        picture(96, 64), replace(options, speed="fast"), progress=lambda count, total: done.append(count)
    )
    exact = emerdiff.segment(picture(96, 64), options)
    assert np.array_equal(fast.low_resolution_masks, exact.low_resolution_masks)
    assert fast.layer_rms == exact.layer_rms and fast.modulation_timestep == exact.modulation_timestep == 281
    assert fast.difference_maps is not None and exact.difference_maps is not None
    assert fast.difference_maps.shape == exact.difference_maps.shape
    assert np.array_equal(fast.labels, largest(torch.from_numpy(fast.difference_maps), (96, 64)))
    # The queries' row; 12 masks, upwards, and the unmodulated row; then three steps of packed rows.
    rows = np.diff(done).tolist()
    assert rows[:2] == [1, 13] and len(rows) == 5 and max(rows[2:]) <= 13


def test_fast_is_repeatable_bit_for_bit(emerdiff: EmerDiff):
    options = replace(OPTIONS, speed="fast", masks=9)
    first = emerdiff.segment(picture(), options)
    emerdiff.segment(picture(seed=1), options)
    assert np.array_equal(first.labels, emerdiff.segment(picture(), options).labels)


def test_naive_upsampling_uses_the_same_clusters_and_one_evaluation(emerdiff: EmerDiff):
    modulated = emerdiff.segment(picture(), OPTIONS)
    naive = emerdiff.segment(picture(), replace(OPTIONS, upsampling="naive"))
    assert np.array_equal(modulated.low_resolution_masks, naive.low_resolution_masks)
    assert naive.layer_rms is None and modulated.layer_rms is not None and modulated.layer_rms > 0
    assert emerdiff.cost((40, 60), replace(OPTIONS, upsampling="naive")).unet_rows == 1


def test_a_flat_image_and_many_masks_run(emerdiff: EmerDiff):
    found = emerdiff.segment(np.full((32, 32, 3), 128, np.uint8), replace(OPTIONS, masks=64, steps=2))
    assert found.labels.shape == (32, 32)


def test_more_masks_than_positions_are_refused(emerdiff: EmerDiff):
    with pytest.raises(ValueError, match="masks: at most 64 .* got 65"):
        emerdiff.segment(picture(32, 32), replace(OPTIONS, masks=65))


def test_layers_of_different_levels_are_refused(emerdiff: EmerDiff):
    options = replace(OPTIONS, modulated_layer="up_blocks.2.attentions.2.transformer_blocks.0.attn2")
    with pytest.raises(ValueError, match="choose two layers of the same level"):
        emerdiff.segment(picture(), options)
    emerdiff.segment(picture(), replace(options, upsampling="naive"))  # which modulates no layer


@pytest.mark.parametrize("name", ["feature_layer", "modulated_layer"])
def test_unknown_layers_are_refused(emerdiff: EmerDiff, name: str):
    with pytest.raises(ValueError, match="'nowhere' is no attention of this UNet"):
        emerdiff.segment(picture(), replace(OPTIONS, **{name: "nowhere"}))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        ([[1]], "list"),
    ],
)
def test_other_images_are_refused(emerdiff: EmerDiff, image: np.ndarray, got: str):
    with pytest.raises(ValueError, match=f"expected a .* uint8 array, got {got}"):
        emerdiff.segment(image, OPTIONS)


@pytest.mark.parametrize(("height", "width"), [(10, 41), (41, 10), (0, 5)])
def test_long_and_empty_images_are_refused(emerdiff: EmerDiff, height: int, width: int):
    with pytest.raises(ValueError, match=f"aspect of at most 4:1, got {width}x{height}"):
        emerdiff.segment(np.zeros((height, width, 3), np.uint8), OPTIONS)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((480, 640), (512, 704)),  # 682.7 lies nearer to 11 * 64 than to 10 * 64
        ((1000, 500), (1024, 512)),
        ((100, 400), (512, 2048)),
        ((1, 1), (512, 512)),
    ],
)
def test_network_size_for_stable_diffusion(size: tuple[int, int], expected: tuple[int, int]):
    assert network_size(size, base_size=512, multiple=64) == expected


@settings(max_examples=100)
@given(
    short=st.integers(1, 3000),
    aspect=st.floats(1, 4),
    base=st.integers(1, 800),
    multiple=st.sampled_from([8, 16, 64]),
    upright=st.booleans(),
)
def test_network_size_keeps_the_aspect(short: int, aspect: float, base: int, multiple: int, upright: bool):
    size = (int(short * aspect), short) if upright else (short, int(short * aspect))
    found = network_size(size, base, multiple)
    assert all(side % multiple == 0 and side >= multiple for side in found)
    for side, new in zip(size, found, strict=True):
        assert abs(new - side * base / short) <= multiple / 2 or new == multiple


def test_nearest_neighbour():
    labels = np.array([[0, 1], [2, 3]])
    assert nearest(labels, (4, 2)).tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert nearest(np.arange(6)[None], (1, 3)).tolist() == [[1, 3, 5]]
    assert nearest(np.arange(6)[None], (1, 2)).tolist() == [[1, 4]]


@settings(max_examples=30)
@given(
    count=st.integers(1, 6),
    maps=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    band=st.integers(1, 2000),
)
def test_the_largest_map_at_the_images_size(count: int, maps: tuple[int, int], size: tuple[int, int], band: int):
    """Against torch's own upsampling of whole maps, in bands of any height; near ties are left out."""
    values = torch.from_numpy(np.random.default_rng(0).random((count, *maps), np.float32))
    whole = torch.nn.functional.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "BAND_VALUES", band)
        found = largest(values, size)
    assert found.shape == size and found.dtype == np.int32
    best = whole.amax(dim=0) - whole.gather(0, torch.from_numpy(found).long()[None])[0]
    assert float(best.max()) < 1e-5


def test_a_contour_is_as_fine_as_the_image():
    """Two maps that cross in the middle of four cells: at twelve pixels the cells' staircase is gone."""
    slope = torch.arange(4.0).expand(4, 4)
    maps = torch.stack([slope, slope.T + 0.1])
    found = largest(maps, (12, 12))
    assert np.array_equal(nearest(largest(maps, (4, 4)), (12, 12)), maps.argmax(0).numpy().repeat(3, 0).repeat(3, 1))
    below = (np.arange(12)[:, None] >= np.arange(12)).astype(np.int32)
    assert np.array_equal(found[2:10, 2:10], below[2:10, 2:10])  # nearer to the rim there is nothing to go between


@settings(max_examples=30)
@given(height=st.integers(1, 9), width=st.integers(1, 9), factor=st.integers(1, 5))
def test_nearest_neighbour_undoes_an_enlargement(height: int, width: int, factor: int):
    labels = np.arange(height * width).reshape(height, width)
    large = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    assert np.array_equal(nearest(labels, large.shape), large)
    assert np.array_equal(nearest(large, labels.shape), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": 0}, "masks: expected at least 1, got 0"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"batch": 0}, "batch: expected at least 1"),
        ({"base_size": 0}, "base_size: expected at least 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"seed": 2**32}, "seed: expected less than"),
        ({"sigma": -0.1}, "sigma: expected a number from 0 up"),
        ({"sigma": float("nan")}, "sigma: expected a number from 0 up"),
        ({"modulation_timestep": -1}, "modulation_timestep: expected a number from 0 up"),
        ({"strength": float("inf")}, "strength: expected a finite number"),
        ({"strength": float("nan")}, "strength: expected a finite number"),
        ({"modulation": "sideways"}, "modulation: expected one of after-projection, before-projection, got 'sideways'"),
        ({"speed": "warp"}, "speed: expected one of fast, exact, got 'warp'"),
        ({"upsampling": "cubic"}, "upsampling: expected one of modulated, naive, attention, diffcut, got 'cubic'"),
        ({"upsampling": "naive", "keep_difference_maps": True}, "keep_difference_maps: naive has none"),
    ],
)
def test_impossible_options_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Options(**change)


def test_the_defaults_are_the_papers_but_for_the_speed():
    options = Options()
    assert options.speed == "fast"
    assert (options.masks, options.steps, options.strength) == (30, 50, 10.0)
    assert (options.feature_timestep, options.modulation_timestep) == (1, 281)
    assert options.feature_layer is options.modulated_layer is None  # the model's own
    assert options.attention_injection and options.modulation == "after-projection"
