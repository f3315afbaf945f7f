"""The whole way from image and names to labels, and analyses that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn import functional

import ovseg
from emerdiff import EmerDiff, Options
from emerdiff.segment import naive_segments
from ovseg.analysis import Analysis, AnalysisMismatch, image_sha256, small_maps
from ovseg.dense import View
from ovseg.images import ImageError
from ovseg.presets import PRESETS, Preset
from ovseg.refinement import refine
from ovseg.segmenter import Segmenter, expected_seconds, find_device, native_options

OPTIONS = Options(masks=4, steps=10, base_size=32)
CLASSES = "cat;kitten,dog,tree"


@pytest.fixture(scope="module")
def segmenter(tiny_diffusion: Path, tiny_clip: Path) -> Segmenter:
    return Segmenter.from_pretrained(tiny_diffusion, tiny_clip, options=OPTIONS, device="cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """40 x 60 pixels: two flat halves with some noise."""
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    noise[:, 30:] += np.array([180, 90, 0])
    return noise.astype(np.uint8)


@pytest.fixture(scope="module")
def analysis(segmenter: Segmenter, image: np.ndarray) -> Analysis:
    return segmenter.analyze(image)


def test_models_bring_their_own_sizes(tiny_diffusion: Path, tiny_clip: Path) -> None:
    segmenter = Segmenter.from_pretrained(tiny_diffusion, tiny_clip, device="cpu")
    assert segmenter.options == Options(base_size=32)  # 16 latents of 2 pixels
    assert segmenter.view == View(short_side=48, window=32, stride=16)
    assert len(segmenter.templates) == 80


def test_a_preset_brings_its_settings(tiny_diffusion: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset("tiny", str(tiny_diffusion), str(tiny_clip), {"base_size": 32, "masks": 2}, 32, 0, 0, "plain")
    monkeypatch.setitem(PRESETS, "tiny", preset)
    segmenter = Segmenter.from_preset("tiny", device="cpu")
    assert segmenter.options == Options(base_size=32, masks=2)
    assert segmenter.view == View(short_side=32)
    assert segmenter.templates == ("{}",)


def test_the_packages_names_load_on_first_use() -> None:
    assert ovseg.Segmenter is Segmenter
    assert all(getattr(ovseg, name) is not None for name in ovseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = ovseg.Segmentor  # type: ignore[attr-defined]


def test_analysis_has_the_images_size(segmenter: Segmenter, analysis: Analysis) -> None:
    assert analysis.segments.shape == (40, 60) and analysis.segments.dtype == np.int32
    assert analysis.low_resolution_masks.shape == (8, 12)
    assert analysis.queries.shape == (8 * 12, 16) and analysis.queries.dtype == np.float16
    assert analysis.network_size == (32, 48)
    assert analysis.difference_maps.shape == (4, 32, 48) and analysis.difference_maps.max() == 255
    assert analysis.features.dtype == np.float16
    assert analysis.features.shape[1:] == (6, 9)  # 48 x 72 pixels, patches of 8
    assert (analysis.origin.height, analysis.origin.width) == (40, 60)
    assert analysis.origin.options["masks"] == 4
    assert analysis.origin.options["modulation_timestep"] == 301  # 281, snapped to the grid of 10 steps
    assert analysis.layer_rms is not None and analysis.layer_rms > 0


def test_labels_equal_a_slow_independent_computation(segmenter: Segmenter, analysis: Analysis) -> None:
    result = segmenter.label(analysis, CLASSES, "sky,grass")
    assert result.names == ("background", "cat", "dog", "tree")
    text = torch.from_numpy(
        segmenter.clip.encode_text(["sky", "grass", "cat", "kitten", "dog", "tree"], segmenter.templates)
    )
    dense = functional.normalize(torch.from_numpy(analysis.features.astype(np.float32)), dim=0)
    pixels = functional.interpolate(dense[None], size=(40, 60), mode="bilinear", align_corners=False)[0]
    owners = [0, 0, 1, 1, 2, 3]
    for mask in np.unique(analysis.segments):
        inside = torch.from_numpy(analysis.segments == mask)
        mean = functional.normalize(pixels[:, inside].mean(dim=1), dim=0)
        probabilities = (segmenter.clip.logit_scale * text @ mean).softmax(dim=0).tolist()
        expected = [max(p for p, owner in zip(probabilities, owners, strict=True) if owner == n) for n in range(4)]
        assert np.allclose(result.mask_scores[mask], expected, atol=1e-4)
        assert (result.labels[inside.numpy()] == int(np.argmax(expected))).all()


def test_other_classes_run_no_diffusion_model(
    segmenter: Segmenter, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the image was analyzed again")

    monkeypatch.setattr(EmerDiff, "segment", fail)
    monkeypatch.setattr(type(segmenter.clip), "dense_features", fail)
    assert segmenter.label(analysis, "house,boat", "none").names == ("house", "boat")


def test_an_image_is_labelled_as_its_analysis_is(segmenter: Segmenter, analysis: Analysis, image: np.ndarray) -> None:
    before, state = image.copy(), torch.random.get_rng_state()
    direct, kept = segmenter.label(image, CLASSES), segmenter.label(analysis, CLASSES)
    assert (direct.labels == kept.labels).all()
    assert direct.mask_scores.tobytes() == kept.mask_scores.tobytes()
    assert (image == before).all() and torch.equal(state, torch.random.get_rng_state())


def test_a_threshold_nobody_reaches_makes_all_background(segmenter: Segmenter, analysis: Analysis) -> None:
    result = segmenter.label(analysis, ["cat", "dog"], "threshold=0.999999")
    assert result.names[0] == "background" and (result.labels == 0).all()
    assert np.allclose(result.scores, 0.999999)


def test_many_classes_take_16_bits(segmenter: Segmenter, analysis: Analysis) -> None:
    plain = replace(segmenter, templates=("{}",))
    few = plain.label(analysis, [f"c{i}" for i in range(254)], "none")
    assert few.labels.dtype == np.uint8
    assert plain.label(analysis, [f"c{i}" for i in range(255)], "none").labels.dtype == np.uint16


def test_progress_counts_up_to_the_cost(segmenter: Segmenter, image: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    segmenter.analyze(image, replace(OPTIONS, masks=2), progress=lambda done, total: seen.append((done, total)))
    total = segmenter.emerdiff.cost((40, 60), replace(OPTIONS, masks=2)).unet_rows
    assert seen[-1] == (total, total) and seen == sorted(seen)


def test_a_kept_analysis_comes_back_bit_for_bit(analysis: Analysis, segmenter: Segmenter, tmp_path: Path) -> None:
    for name in ("one", "two"):
        analysis.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = Analysis.load(tmp_path / "one")
    assert (back.origin, back.layer_rms) == (analysis.origin, analysis.layer_rms)
    assert back.network_size == analysis.network_size
    for name in ("segments", "low_resolution_masks", "queries", "features", "difference_maps"):
        one, other = getattr(back, name), getattr(analysis, name)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    assert (segmenter.label(back, CLASSES).labels == segmenter.label(analysis, CLASSES).labels).all()


def test_a_kept_analysis_is_refused_for_anything_else(
    segmenter: Segmenter, analysis: Analysis, image: np.ndarray
) -> None:
    analysis.check(segmenter.origin(image))
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    others = {
        "image_sha256": segmenter.origin(changed),
        "options.seed 0 instead of 1": segmenter.origin(image, replace(OPTIONS, seed=1)),
        "view.variant": replace(segmenter, view=replace(segmenter.view, variant="maskclip-plain")).origin(image),
        "diffusion": replace(segmenter, models=segmenter.models | {"diffusion": "other"}).origin(image),
        "dtype": replace(segmenter.origin(image), dtype="float16"),
        "width": segmenter.origin(image[:, :-1]),
    }
    for reason, origin in others.items():
        with pytest.raises(AnalysisMismatch, match=reason):
            analysis.check(origin)


def test_the_masks_of_an_image_refine_a_dense_prediction(
    segmenter: Segmenter, analysis: Analysis, image: np.ndarray
) -> None:
    dense = np.random.default_rng(0).random((5, 7, 9), dtype=np.float32)
    found = segmenter.refine(image, dense)
    assert np.array_equal(found.segments, analysis.segments)
    assert np.array_equal(found.labels, refine(analysis.segments, dense).labels)


def test_naive_masks_are_kept_without_difference_maps(segmenter: Segmenter, image: np.ndarray, tmp_path: Path) -> None:
    naive = segmenter.analyze(image, replace(OPTIONS, upsampling="naive"))
    naive.save(tmp_path / "naive")
    back = Analysis.load(tmp_path / "naive")
    assert back.difference_maps.shape == (0, 1, 1) and back.layer_rms is None
    assert (naive_segments(back.low_resolution_masks, back.network_size, (40, 60)) == naive.segments).all()


def test_small_maps_keep_the_scale_between_them() -> None:
    maps = np.zeros((2, 200, 300), np.float32)
    maps[0, :, 100:], maps[1] = 4.0, 1.0
    small = small_maps(maps)
    assert small.shape == (2, 67, 100) and small.dtype == np.uint8  # every third pixel: at most 128
    assert set(small[0].ravel().tolist()) == {0, 255} and set(small[1].ravel().tolist()) == {64}
    assert small_maps(np.zeros((2, 4, 4), np.float32)).max() == 0


def test_an_analysis_made_otherwise_is_not_labelled(segmenter: Segmenter, analysis: Analysis) -> None:
    for kind in ("diffusion", "clip"):
        with pytest.raises(AnalysisMismatch, match=f"{kind} .* instead of 'other@1'"):
            replace(segmenter, models=segmenter.models | {kind: "other@1"}).label(analysis, CLASSES)
    with pytest.raises(AnalysisMismatch, match=r"view\.short_side 48 instead of 32"):
        replace(segmenter, view=View(short_side=32)).label(analysis, CLASSES)
    with pytest.raises(AnalysisMismatch, match="dtype 'float16' instead of 'float32'"):
        segmenter.label(replace(analysis, origin=replace(analysis.origin, dtype="float16")), CLASSES)
    assert replace(segmenter, options=replace(OPTIONS, masks=2)).label(analysis, CLASSES).names


def test_a_bad_view_is_told_before_the_diffusion_model_runs(
    segmenter: Segmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmerDiff, "segment", lambda *_, **__: pytest.fail("the diffusion model ran"))
    with pytest.raises(ValueError, match="window"):
        replace(segmenter, view=View(short_side=32, window=12, stride=8)).analyze(image)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [((2, 1000, 3), OPTIONS, "4:1"), ((40, 60, 3), replace(OPTIONS, masks=5000), "masks: at most")],
)
def test_what_the_diffusion_model_refuses_is_told_before_clip_runs(
    shape: tuple[int, ...], options: Options, said: str, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.clip.view_features", lambda *_: pytest.fail("CLIP saw the image"))
    with pytest.raises(ValueError, match=said):
        segmenter.analyze(np.zeros(shape, np.uint8), options)


def test_a_unet_without_one_size_is_named(segmenter: Segmenter) -> None:
    unet = segmenter.emerdiff.diffusion.unet
    side = unet.config.sample_size
    unet.register_to_config(sample_size=[16, 24])
    try:
        with pytest.raises(ValueError, match=r"unet/config.json: sample_size: .* got \[16, 24\]"):
            native_options(segmenter.emerdiff)
    finally:
        unet.register_to_config(sample_size=side)


def test_notes_reach_the_result(segmenter: Segmenter, analysis: Analysis) -> None:
    (note,) = segmenter.label(analysis, "cat,sky").notes
    assert "sky" in note
    assert segmenter.label(analysis, "cat", "none").notes == ()


def test_files_that_are_no_analysis_are_refused(analysis: Analysis, tmp_path: Path) -> None:
    save_file({"segments": analysis.segments}, tmp_path / "other")
    (tmp_path / "text").write_text("no safetensors")
    analysis.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-10])
    for name in ("other", "text", "cut"):
        with pytest.raises(ValueError, match=f"{name}: not a saved analysis"):
            Analysis.load(tmp_path / name)
    with pytest.raises(OSError, match="no such file"):
        Analysis.load(tmp_path / "absent")


def test_the_images_digest_knows_its_shape() -> None:
    flat = np.zeros((2, 6, 3), np.uint8)
    assert image_sha256(flat) != image_sha256(flat.reshape(6, 2, 3))
    assert image_sha256(flat) == image_sha256(np.zeros((2, 12, 3), np.uint8)[:, ::2])


def test_what_cannot_be_used_is_said(segmenter: Segmenter, tiny_clip: Path) -> None:
    with pytest.raises(ImageError, match="uint8"):
        segmenter.analyze(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="4:1"):
        segmenter.analyze(np.zeros((8, 80, 3), np.uint8))
    with pytest.raises(ValueError, match="device 'tpu'"):
        find_device("tpu")
    with pytest.raises(OSError, match="/no/such"):
        Segmenter.from_pretrained("/no/such", tiny_clip, device="cpu")
    assert find_device("cpu") == torch.device("cpu")


def test_expected_time_grows_with_the_work(segmenter: Segmenter) -> None:
    one = expected_seconds(segmenter.emerdiff, (40, 60), OPTIONS)
    assert 0 < one < expected_seconds(segmenter.emerdiff, (40, 60), replace(OPTIONS, masks=90))
    naive = replace(OPTIONS, upsampling="naive")
    assert expected_seconds(segmenter.emerdiff, (40, 60), naive) < one
