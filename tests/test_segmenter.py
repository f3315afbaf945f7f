"""The whole way from image and names to labels, whatever form the image has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import ovseg
from emerdiff import EmerDiff, Options
from ovseg.analysis import Analysis, AnalysisMismatch
from ovseg.images import ImageError
from ovseg.masks import DiffusionSource, Masks, PlainSource
from ovseg.presets import PRESETS, Preset
from ovseg.refinement import refine
from ovseg.segmenter import Segmenter
from ovseg.setup import Setup, find_device
from ovseg.towers.view import View

SETTINGS: dict[str, Any] = {"masks": 4, "steps": 10, "base_size": 32}
CLASSES = "cat;kitten,dog,tree"


@pytest.fixture(scope="module")
def segmenter(tiny_diffusion: Path, tiny_clip: Path) -> Segmenter:
    return Segmenter.from_pretrained(tiny_diffusion, tiny_clip, device="cpu", **SETTINGS)


def with_settings(segmenter: Segmenter, **changes: Any) -> Segmenter:
    """The same models with other settings of the method; the diffusion model is not loaded again."""
    options = replace(segmenter.source.options, **changes)
    return replace(segmenter, source=replace(segmenter.source, options=options))


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
    assert isinstance(segmenter.source, DiffusionSource)
    assert segmenter.source.options == segmenter.source.model.snap(Options(base_size=32))  # 16 latents of 2 pixels
    assert segmenter.view == View(short_side=48, window=32, stride=16)
    assert len(segmenter.templates) == 80


def test_a_preset_brings_its_settings(tiny_diffusion: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset("tiny", str(tiny_diffusion), str(tiny_clip), {"base_size": 32, "masks": 2}, 32, 0, 0, "plain")
    monkeypatch.setitem(PRESETS, "tiny", preset)
    segmenter = Segmenter.from_preset("tiny", device="cpu")
    assert isinstance(segmenter.source, DiffusionSource)
    assert segmenter.source.options == segmenter.source.model.snap(Options(base_size=32, masks=2))
    assert segmenter.view == View(short_side=32)
    assert segmenter.templates == ("{}",)


def test_the_packages_names_load_on_first_use() -> None:
    assert ovseg.Segmenter is Segmenter
    assert all(getattr(ovseg, name) is not None for name in ovseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = ovseg.Segmentor  # type: ignore[attr-defined]


def test_analysis_has_the_images_size(segmenter: Segmenter, analysis: Analysis) -> None:
    assert analysis.segments is not None
    assert analysis.segments.shape == (40, 60) and analysis.segments.dtype == np.int32
    evidence = analysis.evidence
    assert set(evidence) == {"low_resolution_masks", "queries", "difference_maps"}
    assert evidence["low_resolution_masks"].shape == (8, 12)
    assert evidence["queries"].shape == (8 * 12, 16) and evidence["queries"].dtype == np.float16
    assert evidence["difference_maps"].shape == (4, 32, 48) and evidence["difference_maps"].max() == 255
    assert analysis.facts["network_size"] == [32, 48] and analysis.facts["layer_rms"] > 0
    assert analysis.features.dtype == np.float16
    assert analysis.features.shape[1:] == (6, 9)  # 48 x 72 pixels, patches of 8
    assert (analysis.origin.height, analysis.origin.width) == (40, 60)
    options = analysis.origin.masks["options"]
    assert analysis.origin.masks["by"] == "emerdiff" and options["masks"] == 4
    assert options["modulation_timestep"] == 301  # 281, snapped to the grid of 10 steps


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
        probabilities = (segmenter.scoring.scale * text @ mean).softmax(dim=0).tolist()
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
    assert np.allclose(result.confidence, 0.999999)


def test_many_classes_take_16_bits(segmenter: Segmenter, analysis: Analysis) -> None:
    plain = replace(segmenter, templates=("{}",))
    few = plain.label(analysis, [f"c{i}" for i in range(254)], "none")
    assert few.labels.dtype == np.uint8
    assert plain.label(analysis, [f"c{i}" for i in range(255)], "none").labels.dtype == np.uint16


def test_progress_counts_up_to_the_cost(segmenter: Segmenter, image: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    two = with_settings(segmenter, masks=2)
    two.analyze(image, progress=lambda done, total: seen.append((done, total)))
    total = two.source.model.cost((40, 60), two.source.options).unet_rows
    assert seen[-1] == (total, total) and seen == sorted(seen)


def test_a_kept_analysis_is_refused_for_anything_else(
    segmenter: Segmenter, analysis: Analysis, image: np.ndarray
) -> None:
    analysis.check(segmenter.origin(image))
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    other = replace(segmenter.source, diffusion="other@1")
    others = {
        "image_sha256": segmenter.origin(changed),
        "masks.options.seed 0 instead of 1": with_settings(segmenter, seed=1).origin(image),
        "view.variant": replace(segmenter, view=replace(segmenter.view, variant="maskclip-plain")).origin(image),
        "masks.diffusion": replace(segmenter, source=other).origin(image),
        "clip": replace(segmenter, models=segmenter.models | {"clip": "other"}).origin(image),
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
    assert analysis.segments is not None
    assert np.array_equal(found.segments, analysis.segments)
    assert np.array_equal(found.labels, refine(analysis.segments, dense).labels)


def test_an_analysis_made_otherwise_is_not_labelled(
    segmenter: Segmenter, analysis: Analysis, image: np.ndarray
) -> None:
    with pytest.raises(AnalysisMismatch, match='clip .* instead of "other@1"'):
        replace(segmenter, models=segmenter.models | {"clip": "other@1"}).label(analysis, CLASSES)
    with pytest.raises(AnalysisMismatch, match=r"view\.short_side 48 instead of 32"):
        replace(segmenter, view=View(short_side=32)).label(analysis, CLASSES)
    with pytest.raises(AnalysisMismatch, match='dtype "float16" instead of "float32"'):
        segmenter.label(replace(analysis, origin=replace(analysis.origin, dtype="float16")), CLASSES)
    assert with_settings(segmenter, masks=2).label(analysis, CLASSES).names  # masks may be anyone's
    with pytest.raises(AnalysisMismatch, match="masks.diffusion"):  # but are not taken for this source's own
        replace(segmenter, source=replace(segmenter.source, diffusion="other@1")).check(analysis, image)


def test_a_bad_view_is_told_before_the_diffusion_model_runs(
    segmenter: Segmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmerDiff, "segment", lambda *_, **__: pytest.fail("the diffusion model ran"))
    with pytest.raises(ValueError, match="window"):
        replace(segmenter, view=View(short_side=32, window=12, stride=8)).analyze(image)


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [((2, 1000, 3), {}, "4:1"), ((40, 60, 3), {"masks": 5000}, "masks: at most")],
)
def test_what_the_diffusion_model_refuses_is_told_before_clip_runs(
    shape: tuple[int, ...], changes: dict[str, Any], said: str, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.towers.clip.view_features", lambda *_: pytest.fail("CLIP saw the image"))
    with pytest.raises(ValueError, match=said):
        with_settings(segmenter, **changes).analyze(np.zeros(shape, np.uint8))


def test_notes_reach_the_result(segmenter: Segmenter, analysis: Analysis) -> None:
    (note,) = segmenter.label(analysis, "cat,sky").notes
    assert "sky" in note
    assert segmenter.label(analysis, "cat", "none").notes == ()


def test_what_cannot_be_used_is_said(segmenter: Segmenter, tiny_clip: Path) -> None:
    with pytest.raises(ImageError, match="uint8"):
        segmenter.analyze(np.zeros((8, 8, 3), np.int64))
    with pytest.raises(ValueError, match="4:1"):
        segmenter.analyze(np.zeros((8, 80, 3), np.uint8))
    with pytest.raises(ValueError, match="device: 'tpu'"):
        find_device("tpu")
    with pytest.raises(OSError, match="/no/such"):
        Segmenter.from_pretrained("/no/such", tiny_clip, device="cpu")
    assert find_device("cpu") == torch.device("cpu")


def test_an_image_may_be_a_path_a_picture_or_an_array_one_or_many(
    segmenter: Segmenter, image: np.ndarray, tmp_path: Path
) -> None:
    picture = Image.fromarray(image)
    picture.save(tmp_path / "scene.png")
    forms = [tmp_path / "scene.png", str(tmp_path / "scene.png"), picture, image, image / 255, segmenter.analyze(image)]
    results = segmenter.label(forms, CLASSES)
    assert [type(one).__name__ for one in results] == ["Segmentation"] * 6
    for form, result in zip(forms, results, strict=True):
        assert np.array_equal(result.labels, results[0].labels)
        assert np.array_equal(segmenter.label(form, CLASSES).labels, result.labels)
    assert segmenter.label([], CLASSES) == []
    assert np.array_equal(segmenter.masks(picture).labels, segmenter.masks(image).labels)
    assert segmenter.origin(tmp_path / "scene.png") == segmenter.origin(image)


def test_one_call_labels_and_loads_once(
    tiny_diffusion: Path, tiny_clip: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset("tiny", str(tiny_diffusion), str(tiny_clip), SETTINGS, 32, 0, 0, "plain")
    first = ovseg.label(image, CLASSES, preset=preset, device="cpu")
    monkeypatch.setattr(Segmenter, "load", lambda *_: pytest.fail("loaded again"))
    again, both = (ovseg.label(what, CLASSES, preset=preset, device="cpu") for what in (image, [image, image]))
    assert np.array_equal(first.labels, again.labels) and len(both) == 2
    assert np.array_equal(first.labels, both[1].labels)
    with pytest.raises(ValueError, match="mask: no such setting, expected one of .*masks"):
        ovseg.label(image, CLASSES, preset=preset, mask=3)


def test_without_masks_there_is_nothing_to_refine_with(segmenter: Segmenter, image: np.ndarray) -> None:
    plain = replace(segmenter, source=PlainSource("none", lambda *_: None))
    with pytest.raises(ValueError, match="refine needs masks, but this segmenter labels every pixel by itself"):
        plain.refine(image, np.ones((2, 5, 7), np.float32))


def test_public_objects_show_themselves_in_one_short_line(segmenter: Segmenter, analysis: Analysis) -> None:
    shown = [
        *(segmenter, segmenter.clip, segmenter.source, analysis, segmenter.encode(CLASSES), segmenter.view),
        *(PRESETS["pocket"], Preset("", "a/b", "c/d"), Setup(settings={"masks": 3}), segmenter.scoring),
        *(PlainSource("none", lambda *_: None), Masks(None), Masks(np.zeros((4, 4), np.int32))),
    ]
    for one in shown:
        assert len(repr(one)) <= 120 and "\n" not in repr(one) and " at 0x" not in repr(one), repr(one)
    assert repr(analysis) == "Analysis(40x60, 4 masks by emerdiff)"
    assert repr(segmenter.encode("cat;kitten,dog", "none")) == "Text(2 names, 3 prompts)"
    assert repr(Setup(settings={"masks": 3})) == "Setup(Preset(sd14-vitb16), by emerdiff, auto, float32, masks=3)"


def test_names_that_are_cut_are_told_or_refused(segmenter: Segmenter, analysis: Analysis) -> None:
    """The tiny tokenizer has a token a letter, and two for start and end: 75 letters fit."""
    (note,) = segmenter.label(analysis, ["a" * 70, "cat"], "none").notes
    assert "cut off after 77 tokens" in note and "aaaa" in note
    with pytest.raises(ValueError, match=r"class name 'a{40}\.\.\.': expected at most 77 tokens in '.*\{\}.*', got"):
        segmenter.encode(["a" * 80 + "b", "a" * 80 + "c"], "none")
