"""What the single-file checkpoints that people own are built from, for the files themselves do not say it.

The settings are diffusers' for the published models; a further kind is an entry in `KNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]
START, END = 49406, 49407  # of a text, in CLIP's vocabulary
PADDING_OF_OPENCLIP = 0  # "!", with which texts were filled up in the training of Stable Diffusion 2.x


@dataclass(frozen=True)
class Known:
    """One kind of checkpoint."""

    unet: Settings
    vae: Settings
    text: Settings | None  # of CLIPTextConfig; None where zeros stand for the empty prompt
    text_prefix: str = ""  # of its text encoder's tensors
    openclip: bool = False  # whether these have open_clip's names
    padding: int = END
    scheduler: Settings = field(default_factory=lambda: SCHEDULER)
    velocity_size: int | None = None  # sample_size of those of v-prediction, where it is not the UNet's own


SCHEDULER: Settings = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
VAE: Settings = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
UNET_1: Settings = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
UNET_2: Settings = {
    **UNET_1,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
UNET_XL: Settings = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TEXT_1: Settings = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
TEXT_2: Settings = {  # the layer before the last of ViT-H's text tower is the last that is run
    **TEXT_1,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}

KNOWN: dict[str, Known] = {
    "Stable Diffusion 1.x": Known(UNET_1, VAE, TEXT_1, "cond_stage_model.transformer."),
    "Stable Diffusion 2.x": Known(
        UNET_2, VAE, TEXT_2, "cond_stage_model.model.", openclip=True, padding=PADDING_OF_OPENCLIP, velocity_size=96
    ),
    "SDXL": Known(UNET_XL, {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}, None),
}
