"""Builders of diffusers folders with random weights: a tiny one, and one of Stable Diffusion 1.4's full size."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENIZER_FORMS = ("vocab.json", "tokenizer.json")


def save_tiny_diffusion(
    folder: Path, seed: int = 0, tokenizer_form: str = "vocab.json", prediction: str = "epsilon"
) -> Path:
    """Save a folder of SD's shape, 1 MB: f = 2, so images of 32x32 have latents of 16x16, and up_blocks.1 is 8x8."""
    torch.manual_seed(seed)
    UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        sample_size=16,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).save_pretrained(folder / "vae")
    vocabulary = _save_tokenizer(folder / "tokenizer", tokenizer_form)
    _save_text_encoder(folder, len(vocabulary), hidden_size=8, intermediate_size=16, layers=1, heads=2)
    _save_scheduler(folder, prediction)
    return folder


def save_sd14(folder: Path, seed: int = 0) -> Path:
    """Save random weights with the configurations of Stable Diffusion 1.4, 4.3 GB in float32.

    The tokenizer's files hold bytes alone; the text encoder has the real vocabulary of 49,408 tokens all the same, and
    the empty prompt asks for its start and end tokens only.
    """
    torch.manual_seed(seed)
    UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768,
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    ).save_pretrained(folder / "vae")
    _save_tokenizer(folder / "tokenizer", "vocab.json", vocabulary_size=49408)
    _save_text_encoder(folder, 49408, hidden_size=768, intermediate_size=3072, layers=12, heads=12)
    _save_scheduler(folder, "epsilon")
    return folder


def _save_tokenizer(folder: Path, form: str, vocabulary_size: int | None = None) -> dict[str, int]:
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


def _save_text_encoder(
    folder: Path, vocabulary_size: int, hidden_size: int, intermediate_size: int, layers: int, heads: int
) -> None:
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


def _save_scheduler(folder: Path, prediction: str) -> None:
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    ).save_pretrained(folder / "scheduler")
