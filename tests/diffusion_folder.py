"""Builder of a tiny diffusers folder with random weights; `bench.random_weights` has one of full size."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from bench.random_weights import save_scheduler, save_text_encoder, save_tokenizer

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
    vocabulary = save_tokenizer(folder / "tokenizer", tokenizer_form)
    save_text_encoder(folder, len(vocabulary), hidden_size=8, intermediate_size=16, layers=1, heads=2)
    save_scheduler(folder, prediction)
    return folder
