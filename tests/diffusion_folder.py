"""Builders of tiny diffusers folders and checkpoints with random weights; `bench.random_weights` has full size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.random_weights import save_scheduler, save_text_encoder, save_tokenizer, sd14_scheduler
from emerdiff.checkpoint_configs import KNOWN, SCHEDULER, Known
from emerdiff.checkpoint_names import openclip_pieces, transformers_pieces, unet_pieces, vae_pieces

TOKENIZER_FORMS = ("vocab.json", "tokenizer.json")
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 16,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 2,
    "down_block_types": (CROSS_DOWN, CROSS_DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", CROSS_UP, CROSS_UP),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SDXL: dict[str, Any] = SD | {
    "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 + 6 * 4,  # pooled text and six sizes
}
SD_2 = {"use_linear_projection": True, "attention_head_dim": (1, 2, 2), "upcast_attention": True}
# The UNets of published models in small, by family.
UNETS: dict[str, dict[str, Any]] = {
    "sd-1": SD,
    "sd-2": SD | SD_2,
    "sd-turbo": SD | SD_2,
    "bk-sdm-base": SD | {"layers_per_block": 1},
    "bk-sdm-small": SD | {"layers_per_block": 1, "mid_block_type": None},
    "bk-sdm-tiny": SD
    | {
        "layers_per_block": 1,
        "mid_block_type": None,
        "block_out_channels": (8, 16),
        "down_block_types": (CROSS_DOWN,) * 2,
        "up_block_types": (CROSS_UP,) * 2,
    },
    "sdxl": SDXL,
    "sdxl-turbo": SDXL | {"sample_size": 8},
    "ssd-1b": SDXL
    | {
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [[0, 0], [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 4], [2, 1, 1], 1],
    },
    "vega": SDXL | {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": (1, 1, 2)},
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
}


def save_tiny_diffusion(
    folder: Path,
    seed: int = 0,
    tokenizer_form: str = "vocab.json",
    prediction: str = "epsilon",
    family: str = "sd-1",
    zeros: bool = True,
) -> Path:
    """Save a folder of a family's shape, 1 MB: f = 2, so images of 32x32 have latents of 16x16, and up_blocks.1 is 8x8.

    zeros: of SDXL's kin, whether zeros stand for the empty prompt; otherwise both text encoders are saved.
    """
    torch.manual_seed(seed)
    unet = UNETS[family]
    UNet2DConditionModel(**unet).save_pretrained(folder / "unet")
    extra = {"scaling_factor": 0.13025, "force_upcast": True} if "addition_embed_type" in unet else {}
    AutoencoderKL(**VAE | extra).save_pretrained(folder / "vae")
    if family == "sd-turbo":
        beta = {key: value for key, value in sd14_scheduler("epsilon").config.items() if key.startswith("beta")}
        EulerDiscreteScheduler(**beta, timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    else:
        save_scheduler(folder, prediction)
    if "addition_embed_type" not in unet:
        vocabulary = save_tokenizer(folder / "tokenizer", tokenizer_form)
        save_text_encoder(folder, len(vocabulary), hidden_size=8, intermediate_size=16, layers=1, heads=2)
        return folder
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": zeros}))
    if not zeros:
        _save_two_encoders(folder, tokenizer_form)
    return folder


def _save_two_encoders(folder: Path, tokenizer_form: str) -> None:
    for part, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        size = len(save_tokenizer(folder / f"tokenizer{part}", tokenizer_form))
        shape = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        tokens = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1}
        config = CLIPTextConfig(**shape, **tokens, projection_dim=6, max_position_embeddings=77)
        kind(config).save_pretrained(folder / f"text_encoder{part}")


def known_of(folder: Path) -> Known:
    """What a checkpoint made of a tiny folder is built from; with SD 2.x's layout for a UNet of linear projections."""
    unet, vae, text = (
        json.loads((folder / part / "config.json").read_text()) if (folder / part).is_dir() else None
        for part in ("unet", "vae", "text_encoder")
    )
    published = KNOWN["Stable Diffusion 2.x" if unet["use_linear_projection"] else "Stable Diffusion 1.x"]
    if text is None:
        return Known(_arguments(unet, UNETS["sdxl"]), _arguments(vae, VAE | {"scaling_factor": 0}), None)
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    settings = {key: text[key] for key in keys} | {"max_position_embeddings": 77}
    return Known(
        _arguments(unet, UNETS["sd-2"]),
        _arguments(vae, VAE),
        settings,
        published.text_prefix,
        openclip=published.openclip,
        scheduler=SCHEDULER,
    )


def _arguments(config: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in like if key in config}


def save_checkpoint(path: Path, folder: Path, known: Known, metadata: dict[str, str] | None = None) -> Path:
    """Write a folder's weights into one file, in the layout of A1111 and ComfyUI; what is split there is joined."""
    tensors: dict[str, Tensor] = {"model_ema.decay": torch.ones(1)}
    parts: dict[str, Any] = {"unet": (unet_pieces, known.unet), "vae": (vae_pieces, known.vae)}
    if known.text is not None:
        text = openclip_pieces if known.openclip else transformers_pieces
        parts["text_encoder"] = (text, known.text_prefix)
    for part, (pieces, given) in parts.items():
        (weights,) = (folder / part).glob("*.safetensors")
        own = load_file(weights)
        named = pieces(given, own, {f"{given}text_model.{name}" for name in own} if part == "text_encoder" else ())
        for name, piece in named.items():
            value = own[name]
            if ".in_proj_" in piece.name:
                kinds = [name.replace(f".{kind}_proj.", ".{}_proj.") for kind in "qkv" if f".{kind}_proj." in name]
                value = torch.cat([own[kinds[0].format(kind)] for kind in "qkv"])
            elif piece.change is not None:
                value = value[:, :, None, None]
            tensors[piece.name] = value.contiguous()
    save_file(tensors, path, metadata)
    return path
