"""Kept analyses: found, refused or replaced, and what is known of an earlier run before anything is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.analysis import Analysis, AnalysisMismatch, Origin
from ovseg.run.folder import FORMAT
from ovseg.run.inputs import Item
from ovseg.run.kept import Kept

FACTS = {"models": {"clip": "c@1", "diffusion": "d@1"}, "options": {"masks": 3, "upsampling": "modulated"}}


def analysis(seed: int = 0) -> Analysis:
    origin = Origin("0" * 64, 4, 6, "d@1", "c@1", "float32", {"seed": seed}, {"short_side": 8})
    rng = np.random.default_rng(seed)
    return Analysis(
        segments=rng.integers(0, 300, (4, 6)).astype(np.int32),
        low_resolution_masks=np.zeros((2, 3), np.int32),
        queries=np.zeros((6, 5), np.float16),
        features=np.zeros((7, 2, 3), np.float16),
        difference_maps=np.zeros((0, 1, 1), np.uint8),
        network_size=(4, 6),
        layer_rms=None,
        origin=origin,
    )


def run_folder(folder: Path, facts: dict[str, Any] = FACTS) -> Path:
    folder.mkdir()
    record = {"format": FORMAT, **facts, "versions": {}, "timings": {}, "ids": {}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def refuse(found: Analysis) -> None:
    raise AnalysisMismatch("options.seed 0 instead of 1")


def accept(found: Analysis) -> None:
    pass


def test_masks_come_back_whatever_bytes_they_took(tmp_path: Path) -> None:
    for highest in (3, 300, 70_000):
        made = analysis()
        made.segments[0, 0] = highest
        made.save(tmp_path / "a.safetensors")
        back = Analysis.load(tmp_path / "a.safetensors")
        assert back.segments.dtype == np.int32 and np.array_equal(back.segments, made.segments)


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
    assert Kept.choose(None, tmp_path) == Kept(tmp_path, own=True)
    with pytest.raises(ValueError, match=r"--analyses .*empty: no run folder"):
        Kept.choose(str(tmp_path / "empty"), tmp_path)
    run = run_folder(tmp_path / "run")
    assert Kept.choose(str(run), tmp_path) == Kept(run, own=False)


def test_an_earlier_run_is_looked_at_before_anything_is_done(tmp_path: Path) -> None:
    kept = Kept(run_folder(tmp_path / "run"), own=False)
    items = [Item(name, Path(f"/photos/{name}.jpg")) for name in "abc"]
    told: list[str] = []
    with pytest.raises(ValueError, match="holds none of these images; was it made with --keep-analysis"):
        kept.expect(items, FACTS, tell=told.append)
    analysis().save(kept.file(items[1]))
    kept.expect(items, FACTS, tell=told.append)
    assert told == [f"2 of 3 images have no analysis in {kept.folder}: it is made anew"]
    kept.expect(items, {"models": {"clip": "c@1"}}, tell=told.append)  # only what is asked for must be the same
    with pytest.raises(ValueError, match="made with other settings \\(options.masks 3 and 4\\)"):
        kept.expect(items, {"options": {"masks": 4}}, tell=told.append)
    Kept(tmp_path, own=True).expect(items, {"options": {"masks": 4}}, tell=told.append)  # its own: nothing to expect
    assert len(told) == 2
