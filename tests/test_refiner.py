"""Masks that follow the image's edges: whose default that is, and that analyses keep them for other names."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_trees import build_tree
from safetensors.numpy import load_file, save_file

import ovseg.pamr
from ovseg.analysis import Analysis
from ovseg.cli.app import _setup
from ovseg.cli.grammar import parser
from ovseg.eval.prediction import PredictJob
from ovseg.pamr import refine_masks
from ovseg.presets import PRESETS, Preset
from ovseg.run.folder import FORMAT
from ovseg.run.work import decision
from ovseg.segmenter import Segmenter
from ovseg.setup import Setup
from ovseg.sources import SOURCES

DIFFUSION = {"base_size": 32, "masks": 4, "steps": 5}


def test_a_presets_refiner_is_for_masks_that_are_made_here() -> None:
    assert {name: preset.refine for name, preset in PRESETS.items() if preset.refine != "none"} == {"pocket": "pamr"}
    for by, source in SOURCES.items():
        setup = Setup(preset=PRESETS["pocket"], by=by, masks_from="theirs" if by == "files" else None)
        assert setup.refiner == ("pamr" if source.own else "none")
        assert replace(setup, refine="none").refiner == "none" and replace(setup, refine="pamr").refiner == "pamr"
    assert decision(Setup.of("pocket", {})) == {"vote": None, "refine": "pamr"}
    assert decision(Setup.of("pocket", {"refine": "none"})) == {"vote": None, "refine": None}
    with pytest.raises(ValueError, match="refine: expected one of none, pamr, got 'crf'"):
        Setup.of("pocket", {"refine": "crf"})


def test_published_protocols_and_true_masks_have_no_preset_refiner(tmp_path: Path) -> None:
    root, pocket = str(build_tree("voc20", tmp_path)), Setup.of("pocket", {})
    asked: dict[str, Any] = {"name": "voc20", "root": root, "out": tmp_path / "out", "partial": True}
    assert PredictJob(pocket, **asked, protocol="sclip").reading.refiner == "none"
    assert PredictJob(replace(pocket, refine="pamr"), **asked, protocol="sclip").reading.refiner == "pamr"
    assert PredictJob(pocket, **asked, protocol="native").reading.refiner == "pamr"
    true = PredictJob(replace(pocket, by="none"), **asked, protocol="native", truth=True)
    assert true.reading.refiner == "none"


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def refining(tiny_diffusion: Path, tiny_clip: Path) -> Segmenter:
    own = Preset("own", str(tiny_diffusion), str(tiny_clip), DIFFUSION, 32, 0, 0, "plain", refine="pamr")
    return Segmenter.from_preset(own, device="cpu")


def test_other_names_need_neither_the_image_nor_the_refiner_again(
    refining: Segmenter, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis, plain = refining.analyze(image), replace(refining, refiner="none")
    assert analysis.segments is not None and np.array_equal(analysis.refined, refine_masks(image, analysis.segments))
    whole = refining.label(image, "cat,dog", "none")
    bare = plain.analyze(image)
    assert bare.refined is None and np.array_equal(bare.segments, analysis.segments)
    assert np.array_equal(plain.label(analysis, "cat,dog", "none").masks, bare.segments)
    with pytest.raises(ValueError, match="refine: follows the image's edges, and here is no image: analyze it with"):
        refining.label(replace(bare, image=None), "cat,dog", "none")
    assert np.array_equal(refining.label(bare, "cat,dog", "none").labels, whole.labels)
    completed = refining.analyze(image, kept=bare)
    assert np.array_equal(completed.refined, analysis.refined)
    analysis.save(tmp_path / "a")
    monkeypatch.setattr(ovseg.pamr, "refine_masks", lambda *_: pytest.fail("refined again"))
    back = Analysis.load(tmp_path / "a")
    result = refining.label(back, "cat,dog", "none")
    assert np.array_equal(result.labels, whole.labels) and np.array_equal(result.masks, analysis.refined)
    assert refining.analyze(image, kept=back).refined is back.refined
    voted = replace(refining, vote=True).label(back, "cat,dog", "none")
    assert np.array_equal(voted.masks, analysis.refined)


def test_damaged_refined_masks_are_named(refining: Segmenter, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a"
    refining.analyze(image).save(path)
    metadata = {"ovseg": metadata_of(path)}
    arrays = load_file(path)
    for changes, words in (
        ({"refined": arrays["refined"][1:]}, r"refined: expected 40x60, got shape \(39, 60\)"),
        ({"refined": arrays["refined"] + 100}, "refined: expected ids from 0 to 3, got 10"),
        ({"refined": arrays["refined"].astype(np.float32)}, "refined: expected 2 axes, got float32"),
    ):
        save_file(arrays | changes, path, metadata)
        with pytest.raises(ValueError, match=words):
            Analysis.load(path)
    save_file({name: one for name, one in arrays.items() if name not in ("segments", "regions")}, path, metadata)
    with pytest.raises(ValueError, match="refined: expected beside segments"):
        Analysis.load(path)


def metadata_of(path: Path) -> str:
    header = int.from_bytes(path.read_bytes()[:8], "little")
    found: str = json.loads(path.read_bytes()[8 : 8 + header])["__metadata__"]["ovseg"]
    return found


@pytest.mark.parametrize(("recorded", "expected"), [(None, "none"), ("pamr", "pamr")])
def test_the_page_asks_a_run_again_with_the_runs_own_refiner(
    recorded: str | None, expected: str, tmp_path: Path
) -> None:
    preset = PRESETS["pocket"]
    facts = {
        "format": FORMAT,
        "command": "label",
        "vocabulary_sha256": "0" * 64,
        "by": "emerdiff",
        "models": {"clip": "c@1", "diffusion": "d@1"},
        "sources": preset.sources,
        "preset": "pocket",
        "options": asdict(preset.options),
        "view": asdict(preset.view),
        "dtype": "float32",
        "refine": recorded,
    }
    (tmp_path / "run.json").write_text(json.dumps(facts | {"versions": {}, "timings": {}, "ids": {}}), encoding="utf-8")
    setup, note = _setup(parser().parse_args(["app", str(tmp_path)]))
    assert (setup.refiner, note) == (expected, "")
