"""Presets: what is at hand is found without a network, what is missing is said at once."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import emerdiff.diffusion
from ovseg.presets import (
    DEFAULT,
    DIFFUSION_FILES,
    FETCHED,
    PRESETS,
    Preset,
    WeightsMissing,
    fetch,
    get_preset,
    identity,
    local_folder,
    require,
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache without anything, and no hub: port 9 of this machine refuses connections."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    return tmp_path / "cache"


def hub_copy(cache: Path, repository: str, source: Path) -> Path:
    """Lay a folder into a hub cache as if it had been fetched."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    (root / "snapshots").mkdir()
    (root / "snapshots" / commit).symlink_to(source, target_is_directory=True)
    return root / "snapshots" / commit


def test_every_preset_is_usable_as_written() -> None:
    assert DEFAULT in PRESETS and "pocket" in PRESETS
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.options.masks > 0
        assert preset.view.short_side > 0
        assert preset.megabytes > 0 and preset.note
    assert PRESETS["sd14-vitb16"].options == emerdiff.Options()


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no preset 'sd15'; there are sd14-vitb16, pocket"):
        get_preset("sd15")


def test_what_is_fetched_is_what_the_loaders_read() -> None:
    assert set(FETCHED["diffusion"]) == set(emerdiff.diffusion.FETCHED)
    assert not [name for names in FETCHED.values() for name in names if name.endswith((".bin", ".pt", ".ckpt"))]


def test_folders_are_at_hand_when_whole(tiny_diffusion: Path, tiny_clip: Path, tmp_path: Path) -> None:
    assert local_folder("diffusion", str(tiny_diffusion)) == tiny_diffusion
    assert local_folder("clip", str(tiny_clip)) == tiny_clip
    assert local_folder("clip", str(tiny_diffusion)) is None
    assert local_folder("diffusion", str(tmp_path / "absent")) is None
    for name in DIFFUSION_FILES[1:]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert local_folder("diffusion", str(tmp_path)) is None  # the first of the files is not there


def test_a_fetched_model_is_found_without_a_network(empty_cache: Path, tiny_clip: Path, tiny_diffusion: Path) -> None:
    preset = Preset(name="here", diffusion="owner/diffusion", clip="owner/clip")
    assert local_folder("clip", "owner/clip") is None
    copies = hub_copy(empty_cache, "owner/diffusion", tiny_diffusion), hub_copy(empty_cache, "owner/clip", tiny_clip)
    assert require(preset) == []
    assert fetch(preset) == list(copies)
    assert identity("clip", "owner/clip") == "owner/clip@0123456789ab"


def test_without_weights_and_network_the_message_comes_soon(empty_cache: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(WeightsMissing) as caught:
        fetch(PRESETS["sd14-vitb16"])
    assert time.perf_counter() - start < 8
    message = str(caught.value)
    for part in (
        "CompVis/stable-diffusion-v1-4",
        str(empty_cache),
        "ovseg models fetch sd14-vitb16",
        "--preset pocket",
    ):
        assert part in message
    assert "\n" not in message


def test_a_network_that_hangs_is_given_up(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: time.sleep(60))
    start = time.perf_counter()
    with pytest.raises(WeightsMissing, match=r"the hub does not give them \(no answer within 5 seconds\)\. With a"):
        require(PRESETS["sd14-vitb16"])
    assert 5 <= time.perf_counter() - start < 8


def test_a_hub_that_answers_is_believed(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda _, repository: asked.append(repository))
    preset = PRESETS["sd14-vitb16"]
    assert require(preset) == [preset.diffusion, preset.clip] == asked


def test_the_pocket_preset_knows_its_size() -> None:
    folders = [Path(source) for source in PRESETS["pocket"].sources.values()]
    total = sum(path.stat().st_size for folder in folders for path in folder.rglob("*.safetensors"))
    assert total <= 1e6 * PRESETS["pocket"].megabytes < total + 1e6 <= 41e6


def test_a_folder_that_is_not_there_or_not_whole_is_named(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="/no/such/folder: no such folder"):
        require(Preset(name="", diffusion="/no/such/folder", clip=str(tiny_clip)))
    with pytest.raises(WeightsMissing, match="not a whole diffusion model; it needs unet/"):
        require(Preset(name="", diffusion=str(tmp_path), clip=str(tiny_clip)))
    assert require(Preset(name="", diffusion=str(tmp_path), clip=str(tiny_clip)), ("clip",)) == []


def test_identity_changes_with_the_weights(tiny_clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_clip.name
    copy.mkdir()
    for path in tiny_clip.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before = identity("clip", str(copy))
    assert before == identity("clip", str(tiny_clip))
    weights = bytearray((copy / "open_clip_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "open_clip_model.safetensors").write_bytes(weights)
    assert identity("clip", str(copy)) != before
    with pytest.raises(WeightsMissing):
        identity("diffusion", str(copy))


def test_presets_do_not_load_torch() -> None:
    code = "import sys, ovseg.presets, ovseg.cli.label; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_a_preset_reach_the_options() -> None:
    preset = replace(PRESETS["pocket"], method={"base_size": 64, "masks": 7}, short_side=96, window=32, stride=16)
    assert (preset.options.base_size, preset.options.masks, preset.options.steps) == (64, 7, 50)
    assert (preset.view.short_side, preset.view.window, preset.view.stride) == (96, 32, 16)
