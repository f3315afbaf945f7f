"""Model folders of strangers: whatever a config says, nothing is imported, fetched or held for it; the key is named.

And the other way round: configs as they were published, in the forms of several years, are read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from fuzzing import bounded_memory, check_one_line, refusing_network
from loopback_hub import loopback_hub
from safetensors.torch import load_file, save_file
from test_configs import CODE, edit
from transformers_clip_folder import save_transformers_clip

from emerdiff import LatentDiffusion
from emerdiff.diffusers_config import read_text_encoder, read_unet, read_vae
from emerdiff.scheduler_config import read_scheduler
from ovseg.towers.clip import Clip
from ovseg.towers.clip_config import read_clip_config
from ovseg.towers.clip_files import _build
from ovseg.weights import KINDS

CLIP, TOKENS = "open_clip_config.json", "tokenizer_config.json"
UNET, VAE, TEXT, NOISE = (
    f"{part}/config.json" if part != "scheduler" else "scheduler/scheduler_config.json"
    for part in ("unet", "vae", "text_encoder", "scheduler")
)
SIGLIP = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
FOREIGN = {"AutoTokenizer": ["evil/code--evil.Stranger", None]}
# kind, file, what it says, the key that is named.
FETCHING: list[tuple[str, str, dict[str, Any], str]] = [
    ("clip", CLIP, {"text_cfg__tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
    ("clip", CLIP, {"text_cfg__tokenizer_kwargs": {"\uff54rust_remote_code": True}}, "\uff54rust_remote_code"),
    ("clip", CLIP, {"text_cfg__tokenizer_kwargs": {"gguf_file": "https://127.0.0.1:9/x"}}, "gguf_file"),
    ("clip", CLIP, {"text_cfg__tokenizer_kwargs": {"use_auth_token": "x"}}, "use_auth_token"),
    ("clip", CLIP, {"text_cfg__hf_model_name": "evil/code"}, "hf_model_name"),
    ("clip", CLIP, {"text_cfg__hf_model_name": ["evil/code"]}, "hf_model_name"),
    ("clip", CLIP, {"vision_cfg__timm_model_name": "hf-hub:evil/code"}, "timm_model_name"),
    ("clip", CLIP, {"vision_cfg__timm_model_pretrained": True}, "timm_model_pretrained"),
    ("clip", CLIP, {"vision_cfg": SIGLIP | {"timm_model_pretrained": True}}, "timm_model_pretrained"),
    ("clip", CLIP, {"vision_cfg": SIGLIP | {"timm_model_name": "local-dir:/etc"}}, "timm_model_name"),
    ("clip", CLIP, {"vision_cfg": SIGLIP | {"pretrained_cfg": {"hf_hub_id": "evil/code"}}}, "pretrained_cfg"),
    ("clip", CLIP, {"vision_cfg": SIGLIP, "text_cfg": {"hf_model_name": "evil/code"}}, "hf_model_name"),
    ("transformers-clip", "config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ("transformers-clip", "config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("transformers-clip", "config.json", {"vision_config__auto_map": {"AutoModel": "evil"}}, "vision_config.auto_map"),
    ("transformers-clip", "config.json", {"attn_implementation": "evil/kernel"}, "attn_implementation"),
    ("transformers-clip", "config.json", {"text_config__use_kernels": True}, "text_config.use_kernels"),
    ("transformers-clip", "config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
    ("transformers-clip", "config.json", {"model_type": "evil/code"}, "model_type"),
    ("transformers-clip", "preprocessor_config.json", {"auto_map": {"AutoProcessor": "evil.P"}}, "auto_map"),
    ("transformers-clip", TOKENS, {"auto_map": FOREIGN}, "auto_map"),
    ("transformers-clip", "special_tokens_map.json", {"auto_map": FOREIGN}, "auto_map"),
    ("clip", CLIP, {"multimodal_cfg": {"hf_model_name": "evil/code"}, "custom_text": True}, "hf_model_name"),
    ("clip", CLIP, {"vision_cfg__act_kwargs": {"custom_code": "evil.py"}}, "custom_code"),
    ("clip", CLIP, {"text_cfg__norm_kwargs": {"device": "cuda"}}, "norm_kwargs.device"),
    ("clip", CLIP, {"custom_code": "evil/code"}, "custom_code"),
    ("clip", CLIP, {"pretrained_image_path": "/etc/passwd"}, "pretrained_image_path"),
    ("clip", TOKENS, {"auto_map": FOREIGN}, "auto_map"),
    ("clip", TOKENS, {"auto_map": FOREIGN["AutoTokenizer"]}, "auto_map"),
    ("clip", TOKENS, {"AUTO_MAP": FOREIGN}, "AUTO_MAP"),
    ("clip", TOKENS, {"Auto-Map": FOREIGN}, "Auto-Map"),
    ("clip", TOKENS, {"\uff41uto_map": FOREIGN}, "\uff41uto_map"),
    ("clip", TOKENS, {"\u0430uto_map": FOREIGN}, "\\u0430uto_map"),
    ("clip", TOKENS, {"auto\u200b_map": FOREIGN}, "auto\\u200b_map"),
    ("clip", TOKENS, {"nested": [{"deep": {"trust_remote_code": 1}}]}, "nested.0.deep.trust_remote_code"),
    ("clip", "special_tokens_map.json", {"auto_map": FOREIGN}, "auto_map"),
    ("clip", "config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "auto_map"),
    ("clip", "adapter_config.json", {"base_model_name_or_path": "evil/code"}, "base_model_name_or_path"),
    ("diffusion", UNET, {"custom_pipeline": "evil/code"}, "custom_pipeline"),
    ("diffusion", UNET, {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
    ("diffusion", UNET, {"_class_name": "evil.Model"}, "_class_name"),
    ("diffusion", UNET, {"_class_name": ["evil", "Model"]}, "_class_name"),
    ("diffusion", UNET, {"encoder_hid_dim_type": "evil.Model"}, "encoder_hid_dim_type"),
    ("diffusion", VAE, {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ("diffusion", VAE, {"_class_name": "AutoencoderKLEvil"}, "_class_name"),
    ("diffusion", TEXT, {"attn_implementation": "evil/kernel"}, "attn_implementation"),
    ("diffusion", TEXT, {"_attn_implementation_internal": {"": "evil/kernel"}}, "_attn_implementation_internal"),
    ("diffusion", TEXT, {"use_kernels": True}, "use_kernels"),
    ("diffusion", TEXT, {"kernel_config": {"x": "evil/kernel"}}, "kernel_config"),
    ("diffusion", TEXT, {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ("diffusion", "text_encoder/adapter_config.json", {"base_model_name_or_path": "evil/code"}, "base_model_name_or"),
    ("diffusion", NOISE, {"trust_remote_code": True}, "trust_remote_code"),
    ("diffusion", NOISE, {"custom_scheduler": "evil/code"}, "custom_scheduler"),
    ("diffusion", "tokenizer/tokenizer_config.json", {"auto_map": FOREIGN}, "auto_map"),
    ("diffusion", "tokenizer/tokenizer_config.json", {"code_revision": "main"}, "code_revision"),
    ("diffusion", "model_index.json", {"custom_pipeline": "evil/code"}, "custom_pipeline"),
    ("diffusion", "text_encoder_2/config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ("diffusion", "tokenizer_2/tokenizer_config.json", {"auto_map": FOREIGN}, "auto_map"),
]
LOADERS = {
    "clip": (Clip.from_pretrained,),
    "transformers-clip": (Clip.from_pretrained,),
    "diffusion": (LatentDiffusion.from_pretrained, LatentDiffusion.sketch),
}


@pytest.fixture(scope="module")
def transformers_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers_clip(tmp_path_factory.mktemp("transformers"), "siglip")


@pytest.fixture
def folders(tiny_clip: Path, transformers_clip: Path, tiny_diffusion: Path, tmp_path: Path) -> dict[str, Path]:
    """Two clip folders and a diffusion folder, to be spoiled."""
    sound = {"clip": tiny_clip, "transformers-clip": transformers_clip, "diffusion": tiny_diffusion}
    return {kind: Path(shutil.copytree(folder, tmp_path / kind)) for kind, folder in sound.items()}


@pytest.mark.parametrize(("kind", "file", "changes", "key"), FETCHING)
def test_what_would_fetch_code_is_refused_by_its_key_and_no_connection_is_made(folders, kind, file, changes, key):
    edit(folders[kind] / file, **changes)
    for load in LOADERS[kind]:
        with refusing_network() as asked, pytest.raises(ValueError) as caught:
            load(folders[kind])
        check_one_line(caught.value, str(folders[kind] / file))
        assert key in str(caught.value) and not asked


def test_sound_folders_load_without_a_connection(folders: dict[str, Path]) -> None:
    """Strange values of keys that only name things are never looked up."""
    edit(folders["clip"] / CLIP, text_cfg__hf_tokenizer_name="hf-hub:evil/code")
    edit(folders["clip"] / TOKENS, name_or_path="evil/code", tokenizer_file="https://127.0.0.1:9/x", backend="evil")
    edit(folders["clip"] / TOKENS, fix_mistral_regex=True, processor_class="Evil", chat_template="{{ evil }}")
    edit(folders["clip"] / "config.json", model_type="mistral", _name_or_path="evil/code")
    edit(folders["diffusion"] / UNET, _name_or_path="evil/code", _diffusers_version="9.9")
    edit(folders["diffusion"] / TEXT, transformers_weights="https://127.0.0.1:9/x", model_type="evil")
    edit(folders["diffusion"] / NOISE, _class_name="EvilScheduler")
    siglip = folders["transformers-clip"]
    edit(siglip / "config.json", _name_or_path="evil/code", transformers_version="9.9", architectures=["Evil"])
    edit(siglip / "preprocessor_config.json", image_processor_type="Evil", processor_class="Evil")
    edit(siglip / TOKENS, name_or_path="evil/code", processor_class="Evil", sp_model_kwargs={"x": 1})
    with refusing_network() as asked:
        clip = Clip.from_pretrained(folders["clip"])
        assert Clip.from_pretrained(siglip).encode_text(["cat"], ["{}"]).shape == (1, 32)
        LatentDiffusion.from_pretrained(folders["diffusion"])
    assert not asked and clip.encode_text(["cat"], ["{}"]).shape == (1, 16)


def test_the_network_of_these_tests_would_notice() -> None:
    from huggingface_hub import hf_hub_download

    with refusing_network() as asked, pytest.raises(Exception):  # noqa: B017 - the library's own
        hf_hub_download("evil/code", "evil.py", force_download=True)
    assert asked


FETCH = """
import json, sys
from ovseg import weights
for kind, source in json.load(sys.stdin):
    try:
        weights.fetch({kind: source})
        print(json.dumps([source, "fetched"]))
    except (ValueError, OSError) as error:
        print(json.dumps([source, f"{type(error).__name__}: {error}"]))
"""


def test_by_hub_id_they_are_refused_before_weights_or_code_are_asked_for(folders, tmp_path: Path) -> None:
    """All in one process, of which the hub on this machine counts what it asks for."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "evil.py").write_text(CODE, encoding="utf-8")
    repositories, keys = {"evil/code": stranger}, {}
    for number, (kind, file, changes, key) in enumerate(FETCHING):
        kinds = KINDS[kind]
        if any(fnmatch(file, pattern) for pattern in (*kinds.configs, *kinds.settings)):  # others are not fetched
            folder = Path(shutil.copytree(folders[kind], tmp_path / f"{kind}-{number}"))
            edit(folder / file, **changes)
            (folder / "evil.py").write_text(CODE, encoding="utf-8")
            source = f"evil/{kind}-{number:02}"
            repositories[source], keys[source] = folder, (kind.removeprefix("transformers-"), key)
    assert len(keys) > 30
    marker = tmp_path / "marker"
    with loopback_hub(repositories) as hub:
        run = subprocess.run(
            [sys.executable, "-c", FETCH],
            env=os.environ | hub.environment(tmp_path / "home") | {"OVSEG_TEST_MARKER": str(marker)},
            input=json.dumps([(kind, source) for source, (kind, _) in keys.items()]),
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stderr
    said = dict(json.loads(line) for line in run.stdout.splitlines())
    assert said.keys() == keys.keys()
    for source, (_, key) in keys.items():
        assert said[source].startswith("ValueError: ") and key in said[source] and "\n" not in said[source], said[
            source
        ]
    assert not marker.exists()
    assert {path.split("/resolve/")[0] for path in hub.asked if "/resolve/" in path} == keys.keys()
    assert not [path for path in hub.asked if "evil/code" in path or path.endswith((".py", ".safetensors"))]


# kind, file, what it says, what is said of it.
WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("diffusion", UNET, {"norm_num_groups": 0}, "norm_num_groups: expected a whole number from 1"),
    ("diffusion", UNET, {"norm_num_groups": 3}, "norm_num_groups: expected a divisor of block_out_channels"),
    ("diffusion", UNET, {"attention_head_dim": 0}, "attention_head_dim: expected a whole number from 1"),
    ("diffusion", UNET, {"attention_head_dim": 64}, "attention_head_dim: expected at most block_out_channels"),
    ("diffusion", UNET, {"block_out_channels": []}, "block_out_channels: expected a list of length 1 to 8"),
    ("diffusion", UNET, {"block_out_channels": [8, 16]}, "down_block_types: expected 2 values"),
    ("diffusion", UNET, {"block_out_channels": [10**9] * 3}, "block_out_channels: expected a list"),
    ("diffusion", UNET, {"block_out_channels": [8192] * 3}, "parameters are not|weights do not fit"),
    ("diffusion", UNET, {"layers_per_block": 10**6}, "layers_per_block: expected a whole number from 1 to 16"),
    ("diffusion", UNET, {"layers_per_block": [1, 2]}, "layers_per_block: expected 3 values"),
    ("diffusion", UNET, {"transformer_layers_per_block": 32, "layers_per_block": 16}, "expected at most 256 layers"),
    ("diffusion", UNET, {"in_channels": None}, "in_channels: expected a whole number from 1 to 8192, got null"),
    ("diffusion", UNET, {"out_channels": 8}, "out_channels: expected 4, got 8"),
    ("diffusion", UNET, {"sample_size": "64"}, "sample_size: expected a whole number .* got '64'"),
    ("diffusion", UNET, {"flip_sin_to_cos": 1}, "flip_sin_to_cos: expected true or false, got 1"),
    ("diffusion", UNET, {"mid_block_scale_factor": 0}, "mid_block_scale_factor: expected a number above 0"),
    ("diffusion", UNET, {"norm_eps": float("nan")}, "norm_eps: expected a number .* got nan"),
    ("diffusion", UNET, {"down_block_types": ["AttnDownBlock2D"] * 3}, "down_block_types: expected .* of DownBlock2D"),
    ("diffusion", UNET, {"mid_block_type": "evil.Block"}, "mid_block_type: expected .* or null, got 'evil.Block'"),
    ("diffusion", UNET, {"up_block_types": ["UpBlock2D"] * 3}, "up_block_types: expected cross-attention on the"),
    ("diffusion", UNET, {"cross_attention_dim": 9}, "cross_attention_dim: expected 8, the width of the text encoder"),
    ("diffusion", UNET, {"addition_embed_type": "text_time"}, "addition_time_embed_dim: expected a whole number"),
    ("diffusion", UNET, {"center_input_sample": True}, "center_input_sample: expected null or false"),
    ("diffusion", UNET, {"num_class_embeds": 3}, "num_class_embeds: expected null or false"),
    ("diffusion", UNET, {"only_cross_attention": [False, True, False]}, "only_cross_attention: expected null or false"),
    ("diffusion", VAE, {"scaling_factor": None}, "scaling_factor: expected a number above 0"),
    ("diffusion", VAE, {"scaling_factor": 0}, "scaling_factor: expected a number above 0"),
    ("diffusion", VAE, {"norm_num_groups": 0}, "norm_num_groups: expected a whole number"),
    ("diffusion", VAE, {"block_out_channels": []}, "block_out_channels: expected a list"),
    ("diffusion", VAE, {"latents_mean": [1, 2, 3, 4]}, "latents_mean: expected null"),
    ("diffusion", VAE, {"in_channels": 4}, "in_channels: expected 3, got 4"),
    ("diffusion", NOISE, {"beta_schedule": "mine"}, "beta_schedule: expected linear, scaled_linear or squaredcos"),
    ("diffusion", NOISE, {"beta_schedule": None}, "beta_schedule: expected a scheduler with betas"),
    (
        "diffusion",
        NOISE,
        {"num_train_timesteps": 10**9},
        "num_train_timesteps: expected a whole number from 2 to 100000",
    ),
    ("diffusion", NOISE, {"trained_betas": [0.1, 0.2]}, "trained_betas: expected 1000 values"),
    ("diffusion", NOISE, {"trained_betas": [0.1, "x"]}, "trained_betas: expected a list"),
    ("diffusion", NOISE, {"steps_offset": 1000}, "steps_offset: expected less than num_train_timesteps"),
    ("diffusion", NOISE, {"timestep_spacing": 3}, "timestep_spacing: expected leading"),
    ("diffusion", TEXT, {"vocab_size": 2**40}, "vocab_size: expected a whole number"),
    ("diffusion", TEXT, {"vocab_size": 300}, "weights do not fit|tokens below vocab_size, 300, got 513"),
    ("diffusion", TEXT, {"hidden_size": 9}, "num_attention_heads: expected a divisor of hidden_size"),
    ("diffusion", TEXT, {"hidden_size": 16}, "cross_attention_dim: expected 16, the width of the text encoder's st"),
    ("diffusion", TEXT, {"hidden_act": "evil"}, "hidden_act: expected quick_gelu"),
    ("diffusion", TEXT, {"pad_token_id": -5}, "pad_token_id: expected a whole number from -1"),
    ("diffusion", TEXT, {"eos_token_id": [1]}, "eos_token_id: expected a whole number"),
    ("diffusion", "tokenizer/tokenizer_config.json", {"pad_token": 5}, "pad_token: expected a text"),
    (
        "diffusion",
        "tokenizer/vocab.json",
        {"<|endoftext|>": 10**9},
        "vocab.json: the file: expected an object of words",
    ),
    ("diffusion", "tokenizer/vocab.json", {"<|endoftext|>": 514}, "below vocab_size, 514, got 514"),
    ("clip", CLIP, {"vision_cfg__patch_size": 0}, "vision_cfg.patch_size: expected a whole number from 1"),
    ("clip", CLIP, {"vision_cfg__patch_size": 64}, "vision_cfg.patch_size: expected 1 to 16384 cells"),
    (
        "clip",
        CLIP,
        {"vision_cfg__image_size": 4096, "vision_cfg__patch_size": 1},
        "vision_cfg.patch_size: expected 1 to",
    ),
    ("clip", CLIP, {"vision_cfg__head_width": 0}, "vision_cfg.head_width: expected a whole number from 1"),
    ("clip", CLIP, {"vision_cfg__head_width": 64}, "vision_cfg.head_width: expected a width that divides"),
    ("clip", CLIP, {"vision_cfg__layers": 10**6}, "vision_cfg.layers: expected a whole number from 1 to 64"),
    ("clip", CLIP, {"vision_cfg": []}, r"model_cfg.vision_cfg: expected an object, got \[\]"),
    ("clip", CLIP, {"text_cfg__heads": 3}, "text_cfg.heads: expected a divisor of width, 16, got 3"),
    ("clip", CLIP, {"text_cfg__vocab_size": 0}, "text_cfg.vocab_size: expected a whole number from 1"),
    ("clip", CLIP, {"text_cfg__vocab_size": 513}, "not the weights|514 entries"),
    ("clip", CLIP, {"text_cfg__context_length": "77"}, "text_cfg.context_length: expected a whole number"),
    ("clip", CLIP, {"embed_dim": 8192}, "not the weights that .* describes .it asks for"),
    ("clip", CLIP, {"embed_dim": None}, "embed_dim: expected a whole number"),
    ("clip", CLIP, {"quick_gelu": "yes"}, "quick_gelu: expected true or false"),
    ("clip", CLIP, {"multimodal_cfg": {"layers": 1}}, "custom_text: expected true"),
    (
        "clip",
        "tokenizer.json",
        {"normalizer": {"type": "Prepend", "prepend": "x" * 5000}},
        "normalizer: expected texts",
    ),
    ("clip", "tokenizer.json", {"model": 3}, "tokenizer.json: model: expected an object, got 3"),
]


@pytest.mark.parametrize(("kind", "file", "changes", "said"), WRONG)
def test_wrong_values_are_one_line_by_their_key_soon_and_in_little_memory(folders, kind, file, changes, said):
    edit(folders[kind] / file, **changes)
    start = time.process_time()
    with bounded_memory(2**31), pytest.raises((ValueError, OSError), match=said) as caught:
        LOADERS[kind][0](folders[kind])
    check_one_line(caught.value, str(folders[kind]))
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "content", ["[]", "null", "5", "{", "[" * 100_000, '{"a":' * 200 + "1" + "}" * 200, "\ufeff{}"]
)
def test_files_that_are_no_settings_are_named(folders: dict[str, Path], content: str) -> None:
    files = {"clip": (CLIP, TOKENS), "diffusion": (UNET, VAE, TEXT, NOISE, "tokenizer/tokenizer_config.json")}
    for kind, names in files.items():
        for name in names:
            path = folders[kind] / name
            sound = path.read_bytes()
            path.write_text(content, encoding="utf-8")
            with pytest.raises(ValueError) as caught:
                LOADERS[kind][0](folders[kind])
            check_one_line(caught.value, str(path))
            path.write_bytes(sound)


def test_the_mean_has_three_numbers(folders: dict[str, Path]) -> None:
    config = json.loads((folders["clip"] / CLIP).read_text())
    for key, value in (("mean", [0.5, 0.5]), ("mean", 5), ("std", [0.5, 0, 0.5]), ("std", ["a"] * 3)):
        (folders["clip"] / CLIP).write_text(json.dumps(config | {"preprocess_cfg": {key: value}}))
        with pytest.raises(ValueError, match=f"{CLIP}: preprocess_cfg.{key}: expected a list of length 3"):
            Clip.from_pretrained(folders["clip"])


def test_a_file_of_settings_that_is_enormous_is_not_read(folders: dict[str, Path]) -> None:
    with (folders["clip"] / CLIP).open("wb") as file:
        file.truncate(2**40)  # holds no disk space
    with pytest.raises(ValueError, match=f"{CLIP}: expected at most 16777216 bytes, got 1099511627776"):
        Clip.from_pretrained(folders["clip"])


WEIGHTS = {"clip": "open_clip_model.safetensors", "diffusion": "unet/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(folders: dict[str, Path], kind: str, value: float) -> None:
    path = folders[kind] / WEIGHTS[kind]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weights = load_file(path)
        name = sorted(weights)[len(weights) // 2]
        weights[name] = weights[name].to(dtype)
        weights[name].view(-1)[-1] = value
        sound = path.read_bytes()
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(ValueError, match=f"{WEIGHTS[kind]}: {name}: expected finite numbers"):
            LOADERS[kind][0](folders[kind])
        path.write_bytes(sound)


def test_weights_beyond_the_free_memory_are_refused_before_they_are_read(folders, monkeypatch) -> None:
    monkeypatch.setattr("emerdiff.memory._free_on_cpu", lambda: 1000)
    for kind, name in WEIGHTS.items():
        with pytest.raises(ValueError, match=rf"{name}: expected weights that fit into the free memory of the CPU"):
            LOADERS[kind][0](folders[kind])


# Published configs, by what they say. Stable Diffusion 1.4 as diffusers 0.2 wrote it, 1.5 as 0.6, 2.1 as 0.10.
SD_1 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
SD_2 = SD_1 | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "use_linear_projection": True,
    "upcast_attention": True,
}
VAE_1 = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_1 = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "vocab_size": 49408,
}
TEXT_2 = TEXT_1 | {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
NOISE_1 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
NOISE_2 = NOISE_1 | {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction"}
EULER = {
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "use_karras_sigmas": False,
    "timestep_spacing": "leading",
}


def write_configs(folder: Path, *contents: dict[str, Any]) -> Path:
    for name, content in zip((UNET, VAE, TEXT, NOISE), contents, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("contents", "sides", "parameters"),
    [
        ((SD_1, VAE_1, TEXT_1, NOISE_1), (512, 8), 859_520_964),
        ((SD_2, VAE_1 | {"sample_size": 768, "_name_or_path": "x"}, TEXT_2, NOISE_2), (768, 8), 865_910_724),
        (
            (SD_1 | {"sample_size": 32}, VAE_1 | {"scaling_factor": 0.18215}, TEXT_1, NOISE_1 | EULER),
            (256, 8),
            859_520_964,
        ),
    ],
)
def test_configs_as_they_were_published_are_read(tmp_path: Path, contents, sides, parameters: int) -> None:
    """The counts of parameters are those of the published weights."""
    model = LatentDiffusion.sketch(write_configs(tmp_path, *contents))
    assert (model.native_size, model.latent_factor) == sides
    assert sum(tensor.numel() for tensor in model.predictor.unet.parameters()) == parameters
    assert [step.timestep for step in model.grid(50)] == list(range(981, 0, -20))
    assert model.vae.config.scaling_factor == 0.18215


def test_what_is_handed_on_is_what_is_known(tmp_path: Path) -> None:
    """Neither names nor versions, nor keys of other libraries."""
    extra = {"something": {"else": [1]}, "_name_or_path": "x"}
    folder = write_configs(tmp_path, *(one | extra for one in (SD_1, VAE_1, TEXT_1, NOISE_1)))
    for read, content in ((read_unet, SD_1), (read_vae, VAE_1), (read_text_encoder, TEXT_1), (read_scheduler, NOISE_1)):
        found = read(folder)
        assert found == {key: content[key] for key in found} and len(found) >= 7
        assert not [key for key in found if key.startswith("_") or key == "something"]


NATIVE = [
    name
    for name in open_clip.list_models()
    if "timm_model_name" not in (config := open_clip.get_model_config(name))["vision_cfg"]
    and "hf_model_name" not in config["text_cfg"]
    # Two have a vocabulary that no tokenizer of theirs fits.
    and (config["text_cfg"].get("vocab_size", 49408) == 49408 or "hf_tokenizer_name" in config["text_cfg"])
]


def test_all_of_open_clips_own_configs_are_read(tmp_path: Path) -> None:
    assert len(NATIVE) > 50
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in NATIVE:
        config = open_clip.get_model_config(name)
        (tmp_path / CLIP).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": None}}))
        found = read_clip_config(tmp_path)
        plain = {key: value for key, value in config["vision_cfg"].items() if value is not None}
        assert found.model["vision_cfg"] == plain and found.text == config["text_cfg"], name


@pytest.mark.parametrize("name", ["RN50", "ViT-B-16-quickgelu", "ViT-H-14-CLIPA", "coca_ViT-B-32"])
def test_sketches_of_open_clips_models_are_as_large_as_its_own(tmp_path: Path, name: str) -> None:
    config = open_clip.get_model_config(name)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / CLIP).write_text(json.dumps({"model_cfg": config}))
    with torch.device("meta"):
        sketch = _build(tmp_path, read_clip_config(tmp_path), torch.float32)
        own = open_clip.create_model(name, load_weights=False, device="meta")
    shapes = {key: value.shape for key, value in own.state_dict().items()}
    assert {key: value.shape for key, value in sketch.state_dict().items()} == shapes
