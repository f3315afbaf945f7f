"""Presets: usable as written, and one of one's own is an entry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import emerdiff
from ovseg.presets import DEFAULT, PRESETS, Preset, get_preset
from ovseg.segmenter import Segmenter
from ovseg.towers.clip import Clip


def test_every_preset_is_usable_as_written() -> None:
    assert DEFAULT in PRESETS and "pocket" in PRESETS
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.options.masks > 0
        assert preset.view.short_side > 0
        assert preset.megabytes > 0 and preset.note
    assert PRESETS["sd14-vitb16"].options == emerdiff.Options()


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no preset 'sd15'; there are sd14-vitb16, photo, pocket"):
        get_preset("sd15")


def test_the_pocket_preset_knows_its_size() -> None:
    folders = [Path(source) for source in PRESETS["pocket"].sources.values()]
    total = sum(path.stat().st_size for folder in folders for path in folder.rglob("*.safetensors"))
    assert total <= 1e6 * PRESETS["pocket"].megabytes < total + 1e6 <= 41e6


def test_presets_do_not_load_torch() -> None:
    code = "import sys, ovseg.presets, ovseg.cli.label; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_a_preset_reach_the_options() -> None:
    preset = replace(PRESETS["pocket"], method={"base_size": 64, "masks": 7}, short_side=96, window=32, stride=16)
    assert (preset.options.base_size, preset.options.masks, preset.options.steps) == (64, 7, 50)
    assert (preset.view.short_side, preset.view.window, preset.view.stride) == (96, 32, 16)


def test_a_preset_of_ones_own_is_an_entry(
    tiny_diffusion: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Preset("own", str(tiny_diffusion), str(tiny_clip), {"base_size": 32, "masks": 3}, 32, 0, 0, "plain")
    monkeypatch.setitem(PRESETS, "own", own)
    segmenter = Segmenter.from_preset("own", device="cpu")
    result = segmenter.label(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(48, 32, 3), "cat,dog", "none")
    assert result.mask_scores is not None and result.mask_scores.shape == (3, 2)
    text = Clip.from_pretrained(tiny_clip).encode_text(["cat", "dog"], ["{}"])
    assert np.array_equal(segmenter.encode("cat,dog", "none").embeddings, text)
    assert get_preset("own") is own and hash(own) == hash(replace(own))
