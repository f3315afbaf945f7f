"""Kept analyses: found, refused or replaced, and what is known of an earlier run before anything is done."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emerdiff import Options
from ovseg.analysis import Analysis, AnalysisMismatch, Origin
from ovseg.masks import DiffusionSource, PlainSource
from ovseg.run.folder import FORMAT, recorded_facts
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept

FACTS = {
    "command": "label",
    "by": "emerdiff",
    "models": {"clip": "c@1", "diffusion": "d@1"},
    "options": {"masks": 3, "upsampling": "modulated"},
    "view": {"short_side": 8},
    "dtype": "float32",
}


def analysis(seed: int = 0) -> Analysis:
    masks = {"by": "emerdiff", "options": {"seed": seed}, "diffusion": "d@1"}
    origin = Origin("0" * 64, 4, 6, "c@1", "float32", {"short_side": 8}, masks)
    rng = np.random.default_rng(seed)
    return Analysis(
        segments=rng.integers(0, 300, (4, 6)).astype(np.int32),
        features=np.zeros((7, 2, 3), np.float16),
        origin=origin,
        evidence={"low_resolution_masks": np.zeros((2, 3), np.int32), "queries": np.zeros((6, 5), np.float16)},
        facts={"network_size": [4, 6], "layer_rms": None},
    )


def run_folder(folder: Path, facts: dict[str, Any] = FACTS) -> Path:
    folder.mkdir()
    record = {"format": FORMAT, **facts, "versions": {}, "timings": {}, "ids": {}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def source(masks: int = 3) -> DiffusionSource:
    """EmerDiff's masks by the model of `FACTS`, which is not loaded."""
    return DiffusionSource("d@1", Options(masks=masks), lambda: pytest.fail("the model was loaded"))


def facts(of: DiffusionSource, **more: Any) -> dict[str, Any]:
    """What a run with this source records."""
    return {**FACTS, "options": asdict(of.options), **more}


def refuse(found: Analysis) -> None:
    raise AnalysisMismatch("options.seed 0 instead of 1")


def accept(found: Analysis) -> None:
    pass


def test_masks_come_back_whatever_bytes_they_took(tmp_path: Path) -> None:
    for highest in (3, 300, 70_000):
        made = analysis()
        assert made.segments is not None
        made.segments[0, 0] = highest
        made.save(tmp_path / "a.safetensors")
        back = Analysis.load(tmp_path / "a.safetensors")
        assert (
            back.segments is not None
            and back.segments.dtype == np.int32
            and np.array_equal(back.segments, made.segments)
        )


def test_what_does_not_fit_gives_way_at_home_and_is_an_error_elsewhere(tmp_path: Path) -> None:
    item = Item("sub/a", Path("/photos/sub/a.jpg"))
    home, elsewhere = Kept(tmp_path, own=True), Kept(tmp_path, own=False)
    assert home.load(item, accept) is None
    analysis().save(home.file(item))
    for kept in (home, elsewhere):
        found = kept.load(item, accept)
        assert found is not None and np.array_equal(found.segments, analysis().segments)
    assert home.load(item, refuse) is None and home.file(item).exists()
    with pytest.raises(AnalysisMismatch, match=r"sub/a.safetensors: options.seed 0 instead of 1"):
        elsewhere.load(item, refuse)
    home.file(item).write_bytes(b"half")
    assert home.load(item, accept) is None
    with pytest.raises(ValueError, match=r"sub/a.safetensors: not a saved analysis"):
        elsewhere.load(item, accept)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^analyses: .*empty: no run folder, it holds no run.json"):
        recorded_facts(tmp_path / "empty")
    assert recorded_facts(run_folder(tmp_path / "run")) == FACTS


def test_an_earlier_run_is_looked_at_before_anything_is_done(tmp_path: Path) -> None:
    three, four = source(3), source(4)
    kept = Kept(run_folder(tmp_path / "run", facts(three)), own=False)
    items = [Item(name, Path(f"/photos/{name}.jpg")) for name in "abc"]
    told: list[str] = []
    assert not kept.has_all(items) and not kept.has(items[1])
    with pytest.raises(ValueError, match="holds none of these images; was it made with --keep-analysis"):
        kept.expect(items, facts(three), three, tell=told.append)
    analysis().save(kept.file(items[1]))
    kept.expect(items, facts(three), three, tell=told.append)
    assert told == [f"2 of 3 images have no analysis in {kept.folder}: it is made anew"]
    with pytest.raises(ValueError, match=r"^analyses: .*: made with other settings \(options.masks 3 instead of 4\)"):
        kept.expect(items, facts(four), four, tell=told.append)
    for changed, named in (
        ({"models": {"clip": "c@2"}}, 'clip "c@1" instead of "c@2"'),
        ({"view": {"short_side": 9}}, "view.short_side 8 instead of 9"),
        ({"dtype": "bfloat16"}, 'dtype "float32" instead of "bfloat16"'),
    ):
        with pytest.raises(ValueError, match=re.escape(f"made with other settings ({named})")):
            kept.expect(items, facts(three, **changed), three, tell=told.append)
    Kept(tmp_path, own=True).expect(items, facts(four), four, tell=told.append)  # its own: nothing to expect
    kept.expect([], facts(four), four, tell=told.append)  # nothing is left to do
    assert len(told) == 1


def test_naive_masks_come_from_what_modulated_ones_left_and_others_need_the_features_alone(tmp_path: Path) -> None:
    kept = Kept(run_folder(tmp_path / "run", facts(source(3))), own=False)
    items = [Item("a", Path("/photos/a.jpg"))]
    analysis().save(kept.file(items[0]))
    naive = replace(source(3), options=Options(masks=3, upsampling="naive"))
    plain = PlainSource("none", lambda *_: None)
    for other in (naive, plain):
        kept.expect(items, facts(source(3), by=other.by), other, tell=pytest.fail)
    with pytest.raises(ValueError, match="options.masks 3 instead of 5"):
        kept.expect(items, FACTS, replace(naive, options=Options(masks=5, upsampling="naive")), tell=pytest.fail)
