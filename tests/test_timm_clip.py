"""open_clip folders whose image tower timm makes: loading them, scoring, and what their config may not say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from fuzzing import check_one_line, refusing_network
from safetensors.torch import load_file, save_file
from test_configs import edit
from timm_trunks import NAMES, save_timm_clip

from ovseg.towers.clip import Clip
from ovseg.towers.dense import dense_features
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
SIGLIP = "vit_base_patch16_siglip_001"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_timm_clip(tmp_path_factory.mktemp("timm") / name, name) for name in NAMES}


def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_loaded_whole_without_a_connection(folders: dict[str, Path], name: str) -> None:
    with refusing_network() as asked:
        clip = Clip.from_pretrained(folders[name])
    assert not asked
    weights = load_file(folders[name] / WEIGHTS)
    assert weights.keys() == clip.model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in clip.model.state_dict().items())
    if name == SIGLIP:
        scale, bias = (float(weights[key].float()) for key in ("logit_scale", "logit_bias"))
        assert clip.scoring == Scoring(float(torch.tensor(scale).exp()), bias, "sigmoid") and bias < -9
    else:
        assert clip.scoring.rule == "softmax"
    features = clip.dense_features(scene(), View(short_side=48))
    pixels = torch.from_numpy(scene()).permute(2, 0, 1)[None] / 255 * 2 - 1
    expected = dense_features(clip.model.visual, pixels)[0].numpy()
    np.testing.assert_allclose(features, expected / np.linalg.norm(expected, axis=0), atol=1e-5)
    assert np.array_equal(features, clip.dense_features(scene(), View(short_side=48)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(folders: dict[str, Path], name: str, dtype: torch.dtype) -> None:
    full, half = Clip.from_pretrained(folders[name]), Clip.from_pretrained(folders[name], dtype=dtype)
    a, b = (clip.dense_features(scene(), View(short_side=48)) for clip in (full, half))
    assert (a * b).sum(axis=0).min() > 0.98
    assert (full.encode_text(["cat"], ["{}"]) * half.encode_text(["cat"], ["{}"])).sum() > 0.99
    assert half.scoring == full.scoring


def test_a_projection_that_is_null_is_none(folders: dict[str, Path]) -> None:
    """open_clip's own reading of the config, with the key and without: "timm_proj" left out would be "linear"."""
    name = "eva02_base_patch16_clip_001"
    config = json.loads((folders[name] / CONFIG).read_text())["model_cfg"]
    assert config["vision_cfg"]["timm_proj"] is None
    text = {key: value for key, value in config["text_cfg"].items() if not key.startswith(("hf_", "tokenizer_"))}
    own = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text)
    assert Clip.from_pretrained(folders[name]).model.state_dict().keys() == own.state_dict().keys()


# What it says, what is said of it.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vision_cfg__timm_model_name": "hf-hub:owner/code"}, "timm_model_name: expected timm's name for a SigLIP"),
    ({"vision_cfg__timm_model_name": "local-dir:/tmp"}, "timm_model_name: expected timm's name for a SigLIP"),
    ({"vision_cfg__timm_model_name": "resnet50"}, "timm_model_name: expected timm's name for a SigLIP"),
    ({"vision_cfg__timm_model_name": [SIGLIP]}, "timm_model_name: expected timm's name for a SigLIP"),
    ({"vision_cfg__timm_model_name": "vit_base_patch16_siglip_999"}, "open_clip cannot build this model .Unknown mo"),
    (
        {"vision_cfg__timm_model_name": "vit_so400m_patch14_siglip_384"},
        "not the weights .*it asks for 428237682 numbers",
    ),
    ({"vision_cfg__timm_model_pretrained": True}, "timm_model_pretrained: expected false or null, got true"),
    ({"vision_cfg__timm_pool": "abs_attn"}, "timm_pool: expected , avg, token or map"),
    ({"vision_cfg__timm_pool": None}, "timm_pool: expected .* got null"),
    ({"vision_cfg__timm_proj": "evil"}, "timm_proj: expected"),
    ({"vision_cfg__timm_kwargs": {"checkpoint_path": "/etc/passwd"}}, "timm_kwargs: not a setting that is read here"),
    ({"vision_cfg__pretrained_cfg": {"hf_hub_id": "owner/code"}}, "pretrained_cfg: not a setting that is read here"),
    ({"vision_cfg__width": 64}, "vision_cfg.width: not a setting that is read here"),
    ({"vision_cfg__image_size": 10**6}, "vision_cfg.image_size: expected a whole number from 1"),
    ({"text_cfg__hf_model_name": "owner/text"}, "text_cfg.hf_model_name: this CLIP's text tower would be fetched from"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_what_a_config_may_not_say_is_named(folders, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = Path(shutil.copytree(folders[SIGLIP], tmp_path / "clip"))
    edit(folder / CONFIG, **changes)
    with refusing_network() as asked, pytest.raises((ValueError, OSError), match=said) as caught:
        Clip.from_pretrained(folder)
    check_one_line(caught.value, str(folder))
    assert not asked


def test_a_tokenizer_that_is_not_there_is_named_and_not_fetched(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[SIGLIP], tmp_path / "clip"))
    edit(folder / CONFIG, text_cfg__hf_tokenizer_name="owner/siglip")
    for path in folder.glob("*token*"):
        path.unlink()
    with refusing_network() as asked, pytest.raises(FileNotFoundError, match=r"clip/tokenizer\.json: not there"):
        Clip.from_pretrained(folder)
    assert not asked


def test_weights_without_a_bias_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """open_clip would take 0 for it, and every sigmoid would be wrong."""
    folder = Path(shutil.copytree(folders[SIGLIP], tmp_path / "clip"))
    weights = load_file(folder / WEIGHTS)
    del weights["logit_bias"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(OSError, match="not the weights .*logit_bias is not in the file"):
        Clip.from_pretrained(folder)
