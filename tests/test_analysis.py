"""Analyses that are kept: bit for bit, in the former format as well, and refused where they are damaged."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from emerdiff import Options
from ovseg.analysis import FORMAT, Analysis, AnalysisMismatch, Origin, image_sha256, small_maps

MASKS = {"by": "emerdiff", "options": asdict(Options(masks=3)), "diffusion": "sd@1"}


def make(seed: int = 0, **changes: Any) -> Analysis:
    """An analysis of an image of 4 x 6 pixels."""
    rng = np.random.default_rng(seed)
    whole = {
        "segments": rng.integers(0, 3, (4, 6)).astype(np.int32),
        "features": rng.normal(size=(7, 2, 3)).astype(np.float16),
        "origin": Origin("0" * 64, 4, 6, "clip@1", "float32", {"short_side": 8, "variant": "maskclip"}, MASKS),
        "evidence": {
            "low_resolution_masks": rng.integers(0, 3, (2, 3)).astype(np.int32),
            "queries": rng.normal(size=(6, 5)).astype(np.float16),
            "difference_maps": rng.integers(0, 256, (3, 4, 6)).astype(np.uint8),
        },
        "facts": {"network_size": [4, 6], "layer_rms": 0.25},
    }
    return Analysis(**whole | changes)


def same(one: Analysis, other: Analysis) -> bool:
    """Whether all arrays have the same type, shape and bytes, and all else is equal."""
    pairs = [(one.segments, other.segments), (one.features, other.features)]
    pairs += [(one.evidence[name], other.evidence[name]) for name in one.evidence]
    bits = all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)  # type: ignore
    return bits and (one.evidence.keys(), one.origin, one.facts) == (other.evidence.keys(), other.origin, other.facts)


def test_a_kept_analysis_comes_back_bit_for_bit(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert same(Analysis.load(tmp_path / "one"), make())
    assert not same(Analysis.load(tmp_path / "one"), make(seed=1))


def test_an_analysis_without_masks_and_evidence_comes_back(tmp_path: Path) -> None:
    origin = replace(make().origin, masks={"by": "none", "options": None})
    made = Analysis(None, make().features, origin)
    made.save(tmp_path / "a")
    back = Analysis.load(tmp_path / "a")
    assert back.segments is None and (back.evidence, back.facts) == ({}, {})
    assert back.features.tobytes() == made.features.tobytes() and back.origin == origin
    assert repr(back) == "Analysis(4x6, no masks by none)"


def test_evidence_of_a_new_source_needs_no_change_here(tmp_path: Path) -> None:
    evidence = {"attention": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)}
    make(evidence=evidence, facts={"heads": [1, 2]}).save(tmp_path / "a")
    back = Analysis.load(tmp_path / "a")
    assert np.array_equal(back.evidence["attention"], evidence["attention"]) and back.facts == {"heads": [1, 2]}


def write_former(path: Path, upsampling: str) -> Analysis:
    """Today's analysis, and a file as ovseg wrote it before there were mask sources."""
    options, made = asdict(Options(masks=3, upsampling=upsampling)), make()
    naive = upsampling == "naive"
    arrays = {"segments": made.segments.astype(np.uint8), "features": made.features, **made.evidence}
    origin = {
        "image_sha256": "0" * 64,
        "height": 4,
        "width": 6,
        "diffusion": "sd@1",
        "clip": "clip@1",
        "dtype": "float32",
        "options": options,
        "view": {"short_side": 8, "variant": "maskclip"},
    }
    if naive:
        arrays["difference_maps"] = np.zeros((0, 1, 1), np.uint8)
    content = {"format": "ovseg analysis 1", "origin": origin, "network_size": [4, 6]}
    content["layer_rms"] = None if naive else 0.25
    save_file(arrays, path, metadata={"ovseg": json.dumps(content)})
    masks = {"by": "naive" if naive else "emerdiff", "options": options, "diffusion": "sd@1"}
    evidence = {name: array for name, array in made.evidence.items() if not naive or name != "difference_maps"}
    facts = {"network_size": [4, 6], "layer_rms": content["layer_rms"]}
    return make(origin=replace(made.origin, masks=masks), evidence=evidence, facts=facts)


@pytest.mark.parametrize("upsampling", ["modulated", "naive"])
def test_the_former_format_is_read(tmp_path: Path, upsampling: str) -> None:
    expected = write_former(tmp_path / "former", upsampling)
    back = Analysis.load(tmp_path / "former")
    assert same(back, expected)
    back.save(tmp_path / "again")
    assert same(Analysis.load(tmp_path / "again"), expected)
    with safe_open(tmp_path / "again", framework="numpy") as file:
        assert json.loads(file.metadata()["ovseg"])["format"] == FORMAT


def test_what_does_not_fit_is_named() -> None:
    expected = make().origin
    make().check(expected)
    for change, said in (
        ({"clip": "clip@2"}, 'clip "clip@1" instead of "clip@2"'),
        ({"masks": {**MASKS, "by": "naive"}}, 'masks.by "emerdiff" instead of "naive"'),
        ({"width": 7, "dtype": "float16"}, 'dtype "float32" instead of "float16"; width 6 instead of 7'),
    ):
        with pytest.raises(AnalysisMismatch) as caught:
            make().check(replace(expected, **change))
        assert str(caught.value) == f"the kept analysis does not fit: {said}"


def write(path: Path, content: object, **arrays: np.ndarray | None) -> None:
    """An analysis whose metadata or arrays are of someone's making; None leaves an array out."""
    made = make()
    whole = {"segments": made.segments, "features": made.features, **made.evidence, **arrays}
    kept = {name: array for name, array in whole.items() if array is not None}
    save_file(kept, path, metadata={"ovseg": json.dumps(content)})


CONTENT = {"format": FORMAT, "origin": asdict(make().origin), "facts": {}}
ORIGIN = CONTENT["origin"]


@pytest.mark.parametrize(
    ("content", "arrays", "said"),
    [
        ([], {}, "expected the format"),
        (None, {}, "expected the format"),
        (5, {}, "expected the format"),
        (CONTENT | {"format": "ovseg analysis 9"}, {}, "expected the format"),
        (CONTENT | {"origin": []}, {}, r"origin: expected an object, got \[\]"),
        (CONTENT | {"origin": {**ORIGIN, "masks": None}}, {}, "origin.masks: expected the identity of a mask source"),
        (CONTENT | {"origin": {**ORIGIN, "masks": {"by": 3}}}, {}, "origin.masks: expected the identity"),
        (CONTENT | {"origin": {**ORIGIN, "colour": 3}}, {}, "colour"),
        (CONTENT | {"facts": 5}, {}, "facts: expected an object, got 5"),
        (CONTENT | {"facts": {"layer_rms": float("nan")}}, {}, "NaN is no number"),
        (CONTENT | {"facts": {"layer_rms": "much"}}, {}, "facts.layer_rms: expected a number .* got 'much'"),
        (CONTENT | {"facts": {"network_size": [4]}}, {}, "facts.network_size: expected a list of length 2"),
        (CONTENT | {"origin": {**ORIGIN, "height": 10**9}}, {}, "origin.height: expected a whole number from 1"),
        (CONTENT | {"origin": {**ORIGIN, "height": 10**8}}, {"segments": None}, "origin.height: expected at most"),
        (CONTENT | {"origin": {**ORIGIN, "image_sha256": "x"}}, {}, "origin.image_sha256: expected a text"),
        (CONTENT | {"origin": {**ORIGIN, "view": [1]}}, {}, "origin.view: expected an object"),
        (CONTENT | {"origin": {"height": 4}}, {}, "origin.clip: missing"),
        (CONTENT | {"format": "ovseg analysis 1"}, {}, "options"),
        (CONTENT, {"features": None}, "features"),
        (CONTENT, {"features": np.full((7, 2, 3), np.nan, np.float16)}, "features: expected finite numbers, got NaN"),
        (CONTENT, {"features": np.full((7, 2, 3), np.inf, np.float32)}, "features: expected finite numbers, got NaN"),
        (CONTENT, {"queries": np.full((6, 5), -np.inf, np.float16)}, "queries: expected finite numbers"),
        (
            CONTENT,
            {"features": np.zeros((7, 6), np.float16)},
            r"features: expected 3 axes, got float16 of shape \(7, 6\)",
        ),
        (CONTENT, {"segments": np.zeros((4, 6), np.float32)}, "segments: expected 2 axes, got float32"),
        (CONTENT, {"segments": np.zeros((6, 4), np.int32)}, r"segments: expected 4x6, got shape \(6, 4\)"),
        (CONTENT, {"segments": np.full((4, 6), -1, np.int32)}, "segments: expected ids from 0"),
        (CONTENT, {"segments": np.full((4, 6), 2**31, np.uint32)}, "segments: expected ids from 0"),
        (
            CONTENT,
            {"segments": np.full((4, 6), 2**17, np.int32)},
            "segments: expected ids from 0 to 131071, got 131072",
        ),
        (CONTENT, {"features": np.zeros((7, 0, 3), np.float16)}, "features: expected numbers, got shape"),
        (CONTENT, {"queries": np.zeros((5, 5), np.float16)}, "queries: expected 6 rows"),
        (CONTENT, {"low_resolution_masks": np.full((2, 3), -1, np.int32)}, "low_resolution_masks: expected ids from 0"),
        (CONTENT, {"low_resolution_masks": np.full((2, 3), 2**30, np.int32)}, "low_resolution_masks: expected ids"),
        (CONTENT, {"notes": np.zeros(3, np.complex64)}, "notes: expected numbers, got complex64"),
    ],
)
def test_damaged_analyses_are_refused_in_one_line(
    tmp_path: Path, content: object, arrays: dict[str, np.ndarray | None], said: str
) -> None:
    write(tmp_path / "good", CONTENT)
    assert Analysis.load(tmp_path / "good").segments is not None
    write(tmp_path / "bad", content, **arrays)
    with pytest.raises(ValueError, match=f"bad: not a saved analysis \\(.*{said}") as caught:
        Analysis.load(tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_analysis_are_refused(tmp_path: Path) -> None:
    save_file({"segments": np.zeros((2, 2), np.int32)}, tmp_path / "other")
    (tmp_path / "text").write_text("no safetensors")
    make().save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-10])
    save_file(load_file(tmp_path / "other"), tmp_path / "deep", metadata={"ovseg": "[" * 100_000})
    for name in ("other", "text", "cut", "deep"):
        with pytest.raises(ValueError, match=f"{name}: not a saved analysis"):
            Analysis.load(tmp_path / name)
    with pytest.raises(OSError, match="no such file"):
        Analysis.load(tmp_path / "absent")


def test_small_maps_keep_the_scale_between_them() -> None:
    maps = np.zeros((2, 200, 300), np.float32)
    maps[0, :, 100:], maps[1] = 4.0, 1.0
    small = small_maps(maps)
    assert small.shape == (2, 67, 100) and small.dtype == np.uint8  # every third pixel: at most 128
    assert set(small[0].ravel().tolist()) == {0, 255} and set(small[1].ravel().tolist()) == {64}
    assert small_maps(np.zeros((2, 4, 4), np.float32)).max() == 0


def test_the_images_digest_knows_its_shape() -> None:
    flat = np.zeros((2, 6, 3), np.uint8)
    assert image_sha256(flat) != image_sha256(flat.reshape(6, 2, 3))
    assert image_sha256(flat) == image_sha256(np.zeros((2, 12, 3), np.uint8)[:, ::2])
