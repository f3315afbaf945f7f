"""Weights: what is at hand is found without a network, what is missing is said at once, what is fetched is judged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import Hub, loopback_hub

from emerdiff import layout
from ovseg.presets import PRESETS
from ovseg.towers.clip_config import CLIP_WEIGHTS
from ovseg.weights import KINDS, WeightsMissing, fetch, find, folder, identity, missing, require

SD = ("unet", "vae", "text_encoder")  # the parts of Stable Diffusion 1.x that have weights


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


WEIGHTS = {
    "diffusion": tuple(layout.FORMS[0].format(f"{part}/{layout.NAMES.get(part, 'model')}") for part in SD),
    "clip": (CLIP_WEIGHTS[0],),
}


def test_what_is_fetched_is_json_text_and_safetensors(tiny_diffusion: Path) -> None:
    patterns = [name for kind in KINDS.values() for name in (*kind.configs, *kind.settings)]
    assert {Path(name).suffix for name in patterns} == {".json", ".txt"}
    present = {path.relative_to(tiny_diffusion).as_posix() for path in tiny_diffusion.rglob("*")}
    assert KINDS["diffusion"].weights(tiny_diffusion, present | {"unet/x.bin"}) == list(WEIGHTS["diffusion"])


def test_folders_are_at_hand_when_whole(tiny_diffusion: Path, tiny_clip: Path, tmp_path: Path) -> None:
    assert find("diffusion", str(tiny_diffusion)) == tiny_diffusion
    assert find("clip", str(tiny_clip)) == tiny_clip == folder("clip", str(tiny_clip))
    assert find("clip", str(tiny_diffusion)) is None
    assert find("diffusion", str(tmp_path / "absent")) is None
    copy = tmp_path / "copy"
    for kind, model in (("diffusion", tiny_diffusion), ("clip", tiny_clip)):
        for name in (*KINDS[kind].configs, *WEIGHTS[kind]):
            shutil.copytree(model, copy)
            (copy / name).unlink()
            assert missing(kind, copy)[0].split(" or ")[0] == name and find(kind, str(copy)) is None
            shutil.rmtree(copy)
    shutil.copytree(tiny_diffusion, copy)
    shutil.rmtree(copy / "tokenizer")
    assert missing("diffusion", copy) == ["tokenizer/tokenizer.json or tokenizer/vocab.json + tokenizer/merges.txt"]


def test_a_fetched_model_is_found_without_a_network(empty_cache: Path, tiny_clip: Path, tiny_diffusion: Path) -> None:
    sources = {"diffusion": "owner/diffusion", "clip": "owner/clip"}
    assert find("clip", "owner/clip") is None
    copies = hub_copy(empty_cache, "owner/diffusion", tiny_diffusion), hub_copy(empty_cache, "owner/clip", tiny_clip)
    assert require(sources) == []
    assert fetch(sources) == list(copies)
    assert identity("clip", "owner/clip") == "owner/clip@0123456789ab"


def test_without_weights_and_network_the_message_comes_soon(empty_cache: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(WeightsMissing) as caught:
        fetch(PRESETS["sd14-vitb16"].sources, "sd14-vitb16")
    assert time.perf_counter() - start < 60  # the hub client alone would try for minutes
    message = str(caught.value)
    for part in (
        "CompVis/stable-diffusion-v1-4",
        str(empty_cache),
        "ovseg models fetch sd14-vitb16",
        "--preset photo",
    ):
        assert part in message
    assert "\n" not in message


def test_a_network_that_hangs_is_given_up(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: time.sleep(600))
    monkeypatch.setenv("OVSEG_HUB_SECONDS", "0.5")
    start = time.perf_counter()
    with pytest.raises(WeightsMissing, match=r"give them \(no answer within 0.5 seconds; OVSEG_HUB_SECONDS=60 wa"):
        require(PRESETS["sd14-vitb16"].sources)
    assert 0.5 <= time.perf_counter() - start < 30


def test_a_hub_that_answers_is_believed(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda _, repository: asked.append(repository))
    preset = PRESETS["sd14-vitb16"]
    assert require(preset.sources) == [preset.diffusion, preset.clip] == asked


def test_a_folder_that_is_not_there_or_not_whole_is_named(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="/no/such/folder: no such folder"):
        require({"diffusion": "/no/such/folder", "clip": str(tiny_clip)})
    with pytest.raises(WeightsMissing, match="not a whole diffusion model; it lacks unet/"):
        require({"diffusion": str(tmp_path), "clip": str(tiny_clip)})
    assert require({"clip": str(tiny_clip)}) == []


def test_identity_changes_with_the_weights(tiny_clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_clip.name
    shutil.copytree(tiny_clip, copy)
    before = identity("clip", str(copy))
    assert before == identity("clip", str(tiny_clip))
    weights = bytearray((copy / "open_clip_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "open_clip_model.safetensors").write_bytes(weights)
    assert identity("clip", str(copy)) != before
    with pytest.raises(WeightsMissing):
        identity("diffusion", str(copy))


FETCH = """
import json, sys
from ovseg import weights
sources = json.loads(sys.argv[1])
try:
    found = weights.fetch(sources)
except (ValueError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
if "load" not in sys.argv:
    sys.exit()
from emerdiff import LatentDiffusion
from ovseg.towers.clip import Clip
for kind, folder in zip(sources, found, strict=True):
    {"clip": Clip, "diffusion": LatentDiffusion}[kind].from_pretrained(folder)
    print(kind, weights.identity(kind, sources[kind]))
"""


def fetch_elsewhere(hub: Hub, home: Path, sources: dict[str, str], *load: str) -> subprocess.CompletedProcess[str]:
    """`weights.fetch`, and loading with "load", in a process for which this is the hub, `home` its cache."""
    return subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(sources), *load],
        env=os.environ | hub.environment(home),
        capture_output=True,
        text=True,
    )


def asked_for(hub: Hub, ending: str) -> list[str]:
    return [path for path in hub.asked if path.endswith(ending)]


def test_a_good_repository_is_fetched_whole_json_first_and_then_found_without_the_hub(
    tiny_clip: Path, tiny_diffusion: Path, tmp_path: Path
) -> None:
    sources = {"clip": "good/clip", "diffusion": "good/diffusion"}
    (tmp_path / "clip").mkdir()
    clip = Path(shutil.copytree(tiny_clip, tmp_path / "clip", dirs_exist_ok=True))
    for name in ("setup.py", "open_clip_pytorch_model.bin", "README.md"):
        (clip / name).write_bytes(b"not to be fetched")
    with loopback_hub({"good/clip": clip, "good/diffusion": tiny_diffusion}) as hub:
        run = fetch_elsewhere(hub, tmp_path / "home", sources)
        assert run.returncode == 0, run.stderr
        assert len(set(asked_for(hub, ".safetensors"))) == 4
        of_clip = [path for path in hub.asked if path.startswith("good/clip/resolve/")]
        first = next(n for n, path in enumerate(of_clip) if path.endswith(".safetensors"))
        assert all(path.endswith(".safetensors") for path in of_clip[first:]) and first > 1
        assert not [path for path in hub.asked if path.endswith((".py", ".bin", ".md"))]
        hub.asked.clear()
        run = fetch_elsewhere(hub, tmp_path / "home", sources, "load")
        assert run.returncode == 0, run.stderr
        assert run.stdout.split() == ["clip", "good/clip@0123456789ab", "diffusion", "good/diffusion@0123456789ab"]
        assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "file", "change", "said"),
    [
        ("clip", "open_clip_config.json", {"model_cfg": {"vision_cfg": {}}}, "ValueError: .*expected open_clip's JSON"),
        (
            "clip",
            "open_clip_config.json",
            None,
            "WeightsMissing: bad/clip: not a clip model; it lacks open_clip_config",
        ),
        ("diffusion", "unet/config.json", {"_class_name": "MMDiT"}, "ValueError: .*unet/config.json: .*MMDiT"),
        ("diffusion", "text_encoder/config.json", {"use_kernels": True}, "ValueError: .*use_kernels"),
        ("diffusion", "vae/config.json", None, "WeightsMissing: bad/diffusion: not a diffusion model; it lacks vae/"),
    ],
)
def test_a_repository_whose_json_does_not_do_costs_no_weights(
    kind: str,
    file: str,
    change: dict[str, Any] | None,
    said: str,
    tiny_clip: Path,
    tiny_diffusion: Path,
    tmp_path: Path,
) -> None:
    bad = Path(shutil.copytree({"clip": tiny_clip, "diffusion": tiny_diffusion}[kind], tmp_path / "bad"))
    if change is None:
        (bad / file).unlink()
    else:
        (bad / file).write_text(json.dumps(json.loads((bad / file).read_text()) | change))
    with loopback_hub({f"bad/{kind}": bad}) as hub:
        run = fetch_elsewhere(hub, tmp_path / "home", {kind: f"bad/{kind}"})
    assert run.returncode == 1
    assert re.match(said, run.stderr.strip().splitlines()[-1]), run.stderr
    assert hub.asked and not asked_for(hub, ".safetensors")


@pytest.mark.slow
def test_a_file_that_is_not_what_the_hub_states_is_deleted_and_fetched_again(tiny_clip: Path, tmp_path: Path) -> None:
    """As from a mirror that is damaged: the right length, one byte wrong."""
    name = "open_clip_model.safetensors"
    with loopback_hub({"good/clip": tiny_clip}) as hub:
        hub.spoiled.add(name)
        run = fetch_elsewhere(hub, tmp_path / "home", {"clip": "good/clip"})
        assert run.returncode == 1
        said = run.stderr.strip().splitlines()[-1]
        assert re.match(
            rf"WeightsMissing: .*{name}: expected SHA-256 .* as the hub states, got .*; the file is del", said
        )
        assert not list((tmp_path / "home").rglob(name))
        hub.spoiled.clear()
        run = fetch_elsewhere(hub, tmp_path / "home", {"clip": "good/clip"}, "load")
        assert run.returncode == 0, run.stderr
