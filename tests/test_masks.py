"""Mask sources through their one dict, what is reused of kept analyses, and a source of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.segmentation import slic

from emerdiff import EmerDiff, Options, naive_segments
from ovseg.analysis import Analysis
from ovseg.cli import main
from ovseg.files import read_index_png
from ovseg.labels import label_pixels
from ovseg.masks import DiffusionSource, PlainSource
from ovseg.presets import PRESETS, Preset
from ovseg.segmenter import Segmenter
from ovseg.setup import Setup
from ovseg.sources import SOURCES, Source

SETTINGS: dict[str, Any] = {"masks": 4, "steps": 10, "base_size": 32}


@pytest.fixture(scope="module")
def preset(tiny_diffusion: Path, tiny_clip: Path) -> Preset:
    return Preset("tiny", str(tiny_diffusion), str(tiny_clip), SETTINGS, 32, 0, 0, "plain")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """40 x 60 pixels: two flat halves with some noise."""
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    noise[:, 30:] += np.array([180, 90, 0])
    return noise.astype(np.uint8)


@pytest.fixture(scope="module")
def segmenter(preset: Preset) -> Segmenter:
    return Segmenter.from_preset(preset, device="cpu")


@pytest.fixture(scope="module")
def analysis(segmenter: Segmenter, image: np.ndarray) -> Analysis:
    return segmenter.analyze(image)


def masks_from(folder: Path) -> Path:
    """A folder with masks for the image "scene": left and right."""
    folder.mkdir()
    Image.fromarray(np.repeat([[3] * 20 + [9] * 40], 40, axis=0).astype(np.uint8)).save(folder / "scene.png")
    return folder


def test_every_source_answers_the_same_questions(preset: Preset, image: np.ndarray, tmp_path: Path) -> None:
    folder = masks_from(tmp_path / "masks")
    for by, entry in SOURCES.items():
        source = entry.make(Setup(preset, by, str(folder) if by == "files" else None, device="cpu"))
        assert source.identity["by"] == by and "\n" not in repr(source) and len(repr(source)) < 100
        assert ("diffusion" in source.identity) == ("diffusion" in entry.needs)
        source.check((40, 60))
        seconds = source.seconds((40, 60))
        assert seconds is None or 0 < seconds < 3600
        masks = source.segment(image, "scene")
        assert (masks.labels is not None) == entry.masks
        if masks.labels is not None:
            assert masks.labels.shape == (40, 60) and masks.labels.dtype == np.int32
            if "diffusion" in entry.needs:  # numbers are the clusters', of which some may win no pixel
                assert 0 <= masks.labels.min() <= masks.labels.max() < SETTINGS["masks"]
            else:
                assert np.array_equal(np.unique(masks.labels), np.arange(masks.labels.max() + 1))
        assert source.differences(source.identity) == []


def test_emerdiff_and_naive_are_the_models_own(segmenter: Segmenter, preset: Preset, image: np.ndarray) -> None:
    source = segmenter.source
    assert isinstance(source, DiffusionSource)
    direct = source.model.segment(image, Options(**SETTINGS))
    assert np.array_equal(source.segment(image).labels, direct.labels)
    naive = SOURCES["naive"].make(Setup(preset, "naive", device="cpu")).segment(image)
    expected = source.model.segment(image, Options(**SETTINGS, upsampling="naive"))
    assert np.array_equal(naive.labels, expected.labels) and "difference_maps" not in naive.evidence


def test_naive_out_of_kept_masks_equals_naive_made_anew(
    segmenter: Segmenter, preset: Preset, analysis: Analysis, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive = Segmenter.from_preset(preset, by="naive", device="cpu")
    anew = naive.analyze(image)
    monkeypatch.setattr(EmerDiff, "from_pretrained", lambda *_, **__: pytest.fail("the diffusion model was loaded"))
    fresh = Segmenter.from_preset(preset, by="naive", device="cpu")
    fresh.check(analysis, image)
    reused = fresh.analyze(image, kept=analysis)
    assert reused.origin == anew.origin == naive.origin(image) and reused.facts == anew.facts
    for one, other in zip(
        (reused.segments, reused.features, *(reused.evidence[name] for name in sorted(anew.evidence))),
        (anew.segments, anew.features, *(anew.evidence[name] for name in sorted(anew.evidence))),
        strict=True,
    ):
        assert one is not None and other is not None
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    assert reused.evidence.keys() == anew.evidence.keys()
    assert np.array_equal(naive_segments(anew.evidence["low_resolution_masks"], (40, 60)), anew.segments)


def test_modulated_masks_are_not_taken_out_of_naive_ones(segmenter: Segmenter, analysis: Analysis) -> None:
    masks = dict(analysis.origin.masks)
    naive = masks | {"by": "naive", "options": masks["options"] | {"upsampling": "naive"}}
    assert segmenter.source.differences(masks) == []
    assert segmenter.source.differences(naive) == [
        'by "naive" instead of "emerdiff"',
        'options.upsampling "naive" instead of "modulated"',
    ]
    assert segmenter.source.differences({"by": "slic", "options": None})


def test_plain_sources_take_features_of_any_analysis_and_their_own_masks(
    preset: Preset, analysis: Analysis, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.towers.clip.Clip.dense_features", lambda *_: pytest.fail("CLIP saw the image again"))
    segmenter = Segmenter.from_preset(preset, by="slic", device="cpu")
    segmenter.check(analysis, image)
    found = segmenter.analyze(image, kept=analysis)
    assert np.array_equal(found.segments, segmenter.source.segment(image).labels)
    assert found.features is analysis.features and found.origin.masks["by"] == "slic"


def test_slic_equals_scikit_images_own_call(preset: Preset, image: np.ndarray) -> None:
    source = SOURCES["slic"].make(Setup(preset, "slic", settings={"masks": 6}))
    found = source.segment(image).labels
    tries = [slic(image, n, compactness=10.0, start_label=0, channel_axis=-1) for n in range(1, 30)]
    assert found is not None and any(np.array_equal(found, one) for one in tries)
    plain = slic(image, 6, compactness=10.0, start_label=0, channel_axis=-1)
    assert abs(int(found.max()) + 1 - 6) <= abs(int(plain.max()) + 1 - 6)  # asked again, it comes no further off
    assert source.identity == {"by": "slic", "options": {"masks": 6, "slic_compactness": 10.0}}


def test_none_labels_every_pixel_as_label_pixels_does(preset: Preset, image: np.ndarray) -> None:
    segmenter = Segmenter.from_preset(preset, by="none", device="cpu")
    found, text = segmenter.analyze(image), segmenter.encode("cat;kitten,dog", "sky")
    assert found.segments is None and segmenter.models.keys() == {"clip"}
    features = found.features.astype(np.float32)
    labels, scores = label_pixels(features, text.embeddings, text.vocabulary, segmenter.scoring, (40, 60))
    result = segmenter.label(image, "cat;kitten,dog", "sky")
    assert np.array_equal(result.labels, labels) and np.array_equal(result.pixel_scores, scores)
    assert result.masks is None and len(np.unique(labels)) > 1


def test_files_are_found_by_the_paths_name(preset: Preset, image: np.ndarray, tmp_path: Path) -> None:
    folder = masks_from(tmp_path / "masks")
    segmenter = Segmenter.from_preset(preset, by="files", masks_from=str(folder), device="cpu")
    Image.fromarray(image).save(tmp_path / "scene.png")
    result = segmenter.label(tmp_path / "scene.png", "cat,dog")
    expected = np.repeat([[0] * 20 + [1] * 40], 40, axis=0)
    assert result.masks is not None and np.array_equal(result.masks, expected)
    assert np.array_equal(segmenter.analyze(image, id="scene").segments, expected)
    with pytest.raises(ValueError, match="masks_from: this image has no name"):
        segmenter.analyze(image)


def test_masks_that_changed_are_kept_anew(preset: Preset, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "scene.png")
    call = ["label", str(tmp_path / "scene.png"), "--classes", "cat", "--by", "files", "--overwrite", "--keep-analysis"]
    call += ["--masks-from", str(masks_from(tmp_path / "masks")), "--out", str(tmp_path / "out")]
    call += ["--diffusion", preset.diffusion, "--clip", preset.clip]
    assert main(call) == 0
    Image.fromarray(np.repeat([[0] * 50 + [1] * 10], 40, axis=0).astype(np.uint8)).save(tmp_path / "masks/scene.png")
    assert main(call) == 0
    kept = Analysis.load(tmp_path / "out/scene.safetensors").segments
    assert kept is not None and np.array_equal(kept, read_index_png(tmp_path / "out/scene.masks.png"))
    assert int(kept.sum()) == 400


def test_the_model_is_loaded_when_an_image_asks_for_it_and_once(
    preset: Preset, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    load = EmerDiff.from_pretrained
    monkeypatch.setattr(EmerDiff, "from_pretrained", lambda *a, **k: loaded.append(a) or load(*a, **k))
    source = SOURCES["emerdiff"].make(Setup(preset, device="cpu"))
    assert source.identity["diffusion"].startswith(Path(preset.diffusion).name + "@") and not loaded
    source.load()
    other = replace(source, options=replace(source.options, masks=2))  # type: ignore[type-var]
    assert other.segment(image).labels is not None and len(loaded) == 1


def test_weights_that_changed_since_they_were_recorded_are_refused(preset: Preset, image: np.ndarray) -> None:
    source = SOURCES["emerdiff"].make(Setup(preset, device="cpu"))
    facts = {"models": {"diffusion": "sd@000000000000"}, "options": source.identity["options"]}
    recorded = SOURCES["emerdiff"].make(Setup(preset, device="cpu", recorded=facts))
    assert recorded.identity["options"] == source.identity["options"]
    with pytest.raises(ValueError, match=r"holds the weights .*@.*, expected sd@000000000000"):
        recorded.segment(image)


def test_a_source_of_ones_own_is_a_function_and_an_entry(
    preset: Preset, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quarters(image: np.ndarray, id: str) -> np.ndarray:
        rows, columns = (np.arange(side) * 2 // side for side in image.shape[:2])
        return (2 * rows[:, None] + columns).astype(np.int32)

    make = lambda _setup: PlainSource("quarters", quarters)  # noqa: E731
    monkeypatch.setitem(SOURCES, "quarters", Source(make, "four quarters"))

    monkeypatch.setitem(PRESETS, "tiny", preset)
    Image.fromarray(image).save(tmp_path / "scene.png")
    flags = ["--preset", "tiny", "--classes", "cat,dog", "--by", "quarters", "--device", "cpu", "--out"]
    assert main(["label", str(tmp_path / "scene.png"), *flags, str(tmp_path / "run")]) == 0
    assert np.array_equal(read_index_png(tmp_path / "run/scene.masks.png"), quarters(image, ""))
    labels = read_index_png(tmp_path / "run/scene.png")
    assert all(len(np.unique(labels[quarters(image, "") == n])) == 1 for n in range(4))
    assert np.array_equal(
        labels, Segmenter.from_preset(preset, by="quarters", device="cpu").label(image, "cat,dog").labels
    )
