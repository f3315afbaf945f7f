"""Model folders of strangers: no key of any config imports or downloads code, and the key is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import loopback_hub

from emerdiff import LatentDiffusion
from emerdiff.configs import check_configs, read_config
from ovseg.towers.clip import Clip

MARKER = "CODE-OF-A-STRANGER-RAN"
CODE = f"""
from transformers import PreTrainedTokenizerFast
open(__import__("os").environ["OVSEG_TEST_MARKER"], "w").write("{MARKER}")
class Stranger(PreTrainedTokenizerFast):
    pass
"""


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, in its model_cfg if it has one; text_cfg__width is a key within text_cfg."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for key, value in changes.items():
        target = content.get("model_cfg", content)
        *outer, last = key.split("__")
        for part in outer:
            target = target.setdefault(part, {})
        target[last] = value
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def clip(tiny_clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip, tmp_path / "clip"))


@pytest.fixture
def diffusion(tiny_diffusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion, tmp_path / "diffusion"))


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE, encoding="utf-8")
    return folder


def arm(clip: Path, *, trusting: bool) -> None:
    """Make a CLIP folder name a stranger's tokenizer class; `trusting`: and say that its code may be run."""
    edit(clip / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/code--evil.Stranger", None]})
    edit(clip / "tokenizer_config.json", tokenizer_class="Stranger")
    if trusting:
        edit(clip / "open_clip_config.json", text_cfg__tokenizer_kwargs={"trust_remote_code": True})


@pytest.mark.parametrize("trusting", [True, False])
@pytest.mark.parametrize("from_hub", [True, False])
def test_a_stranger_s_code_is_never_fetched(clip, stranger, tmp_path, trusting, from_hub):
    arm(clip, trusting=trusting)
    marker = tmp_path / "marker"
    with loopback_hub({"evil/code": stranger, "evil/clip": clip}) as hub:
        fetch = "from ovseg import weights; weights.fetch({'clip': 'evil/clip'})"
        script = fetch if from_hub else f"from ovseg.towers.clip import Clip; Clip.from_pretrained({str(clip)!r})"
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | hub.environment(tmp_path / "home") | {"OVSEG_TEST_MARKER": str(marker)},
            input="y\n" * 9,  # whatever a library may ask
            capture_output=True,
            text=True,
        )
    assert run.returncode == 1
    said = run.stderr.strip().splitlines()[-1]
    assert said.startswith("ValueError: ") and ("trust_remote_code" if trusting else "auto_map") in said
    assert not marker.exists()
    assert not [path for path in hub.asked if "evil/code" in path or path.endswith((".py", ".safetensors"))]
    assert from_hub == bool(hub.asked)  # the hub was reached where it was asked for, so that this test can fail


@pytest.mark.parametrize(
    "file, changes, key",
    [
        ("open_clip_config.json", {"text_cfg__tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
        ("open_clip_config.json", {"text_cfg__tokenizer_kwargs": {"use_auth_token": "x"}}, "use_auth_token"),
        ("open_clip_config.json", {"text_cfg__tokenizer_kwargs": ["clean"]}, "tokenizer_kwargs"),
        ("open_clip_config.json", {"text_cfg__hf_model_name": "evil/code"}, "hf_model_name"),
        ("open_clip_config.json", {"vision_cfg__timm_model_name": "hf-hub:evil/code"}, "timm_model_name"),
        ("open_clip_config.json", {"multimodal_cfg": {"hf_model_name": "evil/code"}}, "hf_model_name"),
        ("open_clip_config.json", {"text_cfg__something_new": 1}, "text_cfg.something_new"),
        ("open_clip_config.json", {"custom_code": "evil/code"}, "custom_code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil/code--evil.Stranger", None]}}, "auto_map"),
        ("tokenizer_config.json", {"Auto-Map": ["evil.Stranger", None]}, "Auto-Map"),
        ("tokenizer_config.json", {"\uff41uto_map": ["evil.Stranger", None]}, "\uff41uto_map"),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "auto_map"),
        ("config.json", {"nested": [{"trust_remote_code": True}]}, "nested.0.trust_remote_code"),
        ("adapter_config.json", {"base_model_name_or_path": "evil/code"}, "base_model_name_or_path"),
    ],
)
def test_a_clip_folder_is_refused_by_the_key(clip, file, changes, key):
    edit(clip / file, **changes)
    with pytest.raises(ValueError) as caught:
        Clip.from_pretrained(clip)
    assert key in str(caught.value) and file in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "file, changes, key",
    [
        ("text_encoder/config.json", {"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ("text_encoder/config.json", {"_attn_implementation": "flash_attention_2"}, "_attn_implementation"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ("text_encoder/config.json", {"use_kernels": True}, "use_kernels"),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ("text_encoder/adapter_config.json", {"base_model_name_or_path": "evil/code"}, "base_model_name_or_path"),
        ("tokenizer/tokenizer_config.json", {"auto_map": ["evil.Stranger", None]}, "auto_map"),
        ("unet/config.json", {"custom_pipeline": "evil/code"}, "custom_pipeline"),
        ("unet/config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ("vae/config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ("scheduler/scheduler_config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_a_diffusion_folder_is_refused_by_the_key(diffusion, file, changes, key):
    edit(diffusion / file, **changes)
    with pytest.raises(ValueError) as caught:
        LatentDiffusion.from_pretrained(diffusion)
    assert key in str(caught.value) and file in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["[]", "null", "5", "{", '"text"', "[" * 100_000, '{"a":' * 200 + "1" + "}" * 200])
def test_a_config_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        check_configs(tmp_path)


def test_plain_settings_pass(tmp_path):
    settings = {"conv_in_kernel": 3, "custom_text": True, "attn_implementation": "sdpa", "auto_map": None}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "vocab.json").write_text('{"auto_map": 1, "custom_made": 2}', encoding="utf-8")  # words
    check_configs(tmp_path)
    assert read_config(tmp_path / "config.json") == settings
