"""The hub's failures: each has one line of its own that names the remedy, and none is waited for without end."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from diffusion_folder import save_tiny_diffusion
from fuzzing import check_one_line
from loopback_hub import GATED, UNKNOWN, Fault, Hub, loopback_hub

from ovseg import hub as hub_module
from ovseg.hub import Unreachable, WeightsMissing, deadline, files_of
from ovseg.weights import require

LOOK = """
import json, sys
from ovseg import weights
for source in sys.argv[1:]:
    try:
        weights.fetch({"diffusion": source})
        print(json.dumps([source, "fetched"]))
    except (ValueError, OSError) as error:
        print(json.dumps([source, f"{type(error).__name__}: {error}"]))
"""


def fetch_all(hub: Hub, home: Path, *sources: str, **environment: str) -> dict[str, str]:
    """What `weights.fetch` says of each repository, in one process for which this is the hub."""
    run = subprocess.run(
        [sys.executable, "-c", LOOK, *sources],
        env=os.environ | hub.environment(home) | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(line) for line in run.stdout.splitlines() if line.startswith("["))


@pytest.fixture
def at_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A hub of this machine, asked by this process."""
    with loopback_hub({}) as hub:
        for name in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.ENDPOINT"):
            monkeypatch.setattr(name, hub.address, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (UNKNOWN, r"the hub has no such repository, or a private one; check how it is spelled.*hf auth login"),
        (GATED, r"a gated repository; accept its terms on its page, then log in: `hf auth login`, or HF_TOKEN"),
        (Fault(403), r"the hub refuses the token \(403\); log in anew"),
        (
            Fault(429, {"Retry-After": "3600"}),
            r"the hub asks to wait for 3600 seconds, too many requests",
        ),
        (Fault(429), r"the hub asks to wait for a while"),
        (Fault(503), r"the hub itself fails \(503\); try later, or set HF_ENDPOINT to a mirror"),
        (
            Fault(404, {"X-Error-Code": "RevisionNotFound"}),
            r"the hub cannot be asked \(RevisionNotFoundError: ",
        ),
    ],
)
def test_each_answer_has_its_line_and_comes_at_once(fault: Fault, said: str, at_hub: Hub):
    at_hub.faults["api/models/some/model"] = fault
    start = time.perf_counter()
    with pytest.raises(WeightsMissing, match=f"some/model: {said}") as caught:
        require({"diffusion": "some/model"})
    assert time.perf_counter() - start < 5
    check_one_line(caught.value)
    assert "With a network" not in str(caught.value)


def test_a_slow_mirror_is_waited_for_as_long_as_one_says(at_hub: Hub, tmp_path: Path, monkeypatch, caplog):
    at_hub.repositories["slow/model"] = tmp_path
    (tmp_path / "a.json").write_text("{}")
    at_hub.delay = 1.0
    monkeypatch.setenv("OVSEG_HUB_SECONDS", "0.3")
    with pytest.raises(Unreachable, match="no answer within 0.3 seconds; OVSEG_HUB_SECONDS=60 waits longer"):
        files_of("slow/model")
    monkeypatch.setenv("OVSEG_HUB_SECONDS", "60")
    monkeypatch.setattr(hub_module, "PATIENCE", 0.1)
    with caplog.at_level(logging.WARNING):
        assert "a.json" in files_of("slow/model")
    assert "slow/model: waiting for the hub, 60 seconds at most (OVSEG_HUB_SECONDS)" in caplog.messages


@pytest.mark.parametrize("said", ["soon", "0", "-3", "nan", "1e9"])
def test_a_deadline_that_is_none_is_refused(said: str, monkeypatch):
    monkeypatch.setenv("OVSEG_HUB_SECONDS", said)
    with pytest.raises(ValueError, match="OVSEG_HUB_SECONDS: expected a number of seconds above 0 in the environment"):
        deadline()


def test_what_cannot_be_used_costs_no_weights_and_what_can_comes_in_its_own_form(tmp_path: Path):
    """All in one process: half precision, zeros for the prompt, pickles, single files, transformers, gates, waits."""
    sound = save_tiny_diffusion(tmp_path / "sound", family="sdxl")
    folders = {name: Path(shutil.copytree(sound, tmp_path / name)) for name in ("half", "pickled", "gated", "long")}
    for weights in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"):
        (folders["half"] / f"{weights}.safetensors").rename(folders["half"] / f"{weights}.fp16.safetensors")
        (folders["pickled"] / f"{weights}.safetensors").rename(folders["pickled"] / f"{weights}.bin")
    (folders["half"] / "text_encoder").mkdir()
    (folders["half"] / "text_encoder/model.safetensors").write_bytes(b"not needed")
    for name in ("single", "flux"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    (folders["single"] / "model.safetensors").write_bytes(b"large")
    (folders["flux"] / "transformer").mkdir()
    (folders["flux"] / "transformer/config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    (folders["flux"] / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"large")
    with loopback_hub({f"some/{name}": folder for name, folder in folders.items()}) as hub:
        hub.faults["some/gated/resolve"] = GATED
        hub.faults["some/long/resolve"] = Fault(429, {"Retry-After": "3600"})
        said = fetch_all(hub, tmp_path / "home", *hub.repositories)
    expected = {
        "half": "fetched",
        "pickled": "WeightsMissing: .*lacks unet/.*pickled, may hold code and is never read",
        "gated": "WeightsMissing: some/gated: a gated repository; accept its terms",
        "long": "WeightsMissing: some/long: the hub asks to wait for 3600 seconds",
        "single": "WeightsMissing: .*it holds model.safetensors: if that is a whole checkpoint, give that file",
        "flux": "ValueError: .*FluxTransformer2DModel', a diffusion transformer",
    }
    for name, line in expected.items():
        assert re.match(line, said[f"some/{name}"]), said[f"some/{name}"]
        assert "\n" not in said[f"some/{name}"]
    weights = {path for path in hub.asked if path.endswith((".safetensors", ".bin"))}
    assert {path.split("/")[1] for path in weights} == {"half"}
    assert not [path for path in weights if "text_encoder" in path]


@pytest.mark.slow
def test_a_download_that_breaks_off_is_said_and_gone_on_with(tmp_path: Path):
    folder = save_tiny_diffusion(tmp_path / "model")
    with loopback_hub({"some/cut": folder}) as hub:
        hub.cut.add("unet/diffusion_pytorch_model.safetensors")
        said = fetch_all(hub, tmp_path / "home", "some/cut")["some/cut"]
        assert re.match(
            "WeightsMissing: some/cut: the download broke off .*; the same command goes on from there", said
        )
        hub.cut.clear()
        assert fetch_all(hub, tmp_path / "home", "some/cut") == {"some/cut": "fetched"}
