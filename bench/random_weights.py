"""A diffusers folder of Stable Diffusion 1.4's full size with random weights, to measure cost without a download."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def sd14_unet() -> UNet2DConditionModel:
    """Return Stable Diffusion 1.4's UNet with random weights, 3.4 GB in float32."""
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768,
        attention_head_dim=8,
    )


def sd14_vae() -> AutoencoderKL:
    """Return Stable Diffusion 1.4's autoencoder with random weights, 0.3 GB in float32."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def save_sd14(folder: Path, seed: int = 0) -> Path:
    """Save random weights with the configurations of Stable Diffusion 1.4, 4.3 GB in float32.

    The tokenizer's files hold bytes alone; the text encoder still has the real vocabulary of 49,408 tokens, of which
    the empty prompt needs the start and end tokens only.
    """
    torch.manual_seed(seed)
    networks: dict[str, Any] = {"unet": sd14_unet(), "vae": sd14_vae()}  # Any: diffusers' classes tell no types
    for part, network in networks.items():
        network.save_pretrained(folder / part)
    save_tokenizer(folder / "tokenizer", "vocab.json", vocabulary_size=49408)
    save_text_encoder(folder, 49408, hidden_size=768, intermediate_size=3072, layers=12, heads=12)
    save_scheduler(folder, "epsilon")
    return folder


def kept_sd14(folder: Path) -> Path:
    """Return the folder with such a model, saved now if it is not there yet; whole or not at all."""
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            save_sd14(temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def save_tokenizer(folder: Path, form: str, vocabulary_size: int | None = None) -> dict[str, int]:
    """Save a CLIP tokenizer of bytes without merges; start and end of text have the two highest ids, as in CLIP's."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [f"{character}</w>" for character in alphabet]
    first_special = (vocabulary_size or len(tokens) + 2) - 2
    vocabulary = {token: index for index, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": first_special, "<|endoftext|>": first_special + 1}
    folder.mkdir(parents=True)
    if form == "tokenizer.json":
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
        return vocabulary
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return vocabulary


def save_text_encoder(
    folder: Path, vocabulary_size: int, hidden_size: int, intermediate_size: int, layers: int, heads: int
) -> None:
    """Save a CLIP text encoder with random weights into FOLDER/text_encoder."""
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def save_scheduler(folder: Path, prediction: str) -> None:
    """Save Stable Diffusion 1.x's scheduler into FOLDER/scheduler."""
    sd14_scheduler(prediction).save_pretrained(folder / "scheduler")


def sd14_scheduler(prediction: str) -> Any:
    """Return Stable Diffusion 1.x's scheduler."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
