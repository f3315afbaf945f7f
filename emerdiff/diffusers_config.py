"""The JSON of a diffusers folder: what it may say, read once and checked, before diffusers or transformers sees any.

Each reader gives the arguments of one class, built from known keys alone; other keys are not read. Ranges are wide
round Stable Diffusion 1.x, 2.x and SDXL, in all the forms that their configs have had, and narrow enough that a sketch
of the network takes some seconds at most. `emerdiff.configs` refuses, before this, keys that ask for code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emerdiff.configs import read_config
from emerdiff.scheduler_config import check_length
from emerdiff.settings import (
    FLAG,
    NOTHING,
    Allowed,
    Table,
    choice,
    either,
    known_settings,
    listed,
    number,
    refusal,
    show,
    whole,
)

DEPTH, UP_DEPTH = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
LEVELS = 8  # of a network, each half the size of the one before
MOST_LAYERS = 256  # transformer layers of a UNet; Stable Diffusion has 16, SDXL 70
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
MIDDLE = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)  # SSD-1B's has no attention, BK-SDM small has none
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
CHANNELS = whole(1, 8192)
SIDE = whole(1, 8192)
SIDES = either(SIDE, listed(SIDE, 2, 2))
LAYERS = whole(1, 16)
DEPTHS = either(whole(0, 32), listed(whole(0, 32), 1, 17))
ACTIVATION = choice("silu", "swish", "mish", "gelu", "relu")
# Settings that add inputs besides text, time and latents, or change the kind of attention.
ABSENT = Allowed(
    "null or false, as Stable Diffusion and SDXL have it",
    lambda value: not any(value) if isinstance(value, list) else not value,
)


def per_level(kind: Allowed) -> Allowed:
    """One value for all levels, or a list of one for each."""
    return either(kind, listed(kind, 1, LEVELS))


UNET: Table = {
    "sample_size": either(SIDES, NOTHING),
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "flip_sin_to_cos": FLAG,
    "freq_shift": number(0, 1),
    "down_block_types": listed(choice(*DOWN), 1, LEVELS),
    "mid_block_type": choice(*MIDDLE),
    "up_block_types": listed(choice(*UP), 1, LEVELS),
    "block_out_channels": listed(whole(4, 8192), 1, LEVELS),
    "layers_per_block": per_level(LAYERS),
    "downsample_padding": whole(0, 1),
    "mid_block_scale_factor": number(0, 1e6, above=True),
    "dropout": number(0, 1),
    "act_fn": ACTIVATION,
    "norm_num_groups": CHANNELS,
    "norm_eps": number(0, 1, above=True),
    "cross_attention_dim": per_level(CHANNELS),
    DEPTH: per_level(DEPTHS),
    UP_DEPTH: either(NOTHING, listed(DEPTHS, 1, LEVELS)),
    "attention_head_dim": per_level(CHANNELS),
    "num_attention_heads": either(per_level(CHANNELS), NOTHING),
    "use_linear_projection": FLAG,
    "upcast_attention": either(FLAG, NOTHING),
    "resnet_time_scale_shift": choice("default", "scale_shift"),
    "resnet_skip_time_act": FLAG,
    "resnet_out_scale_factor": number(0, 1e6, above=True),
    "time_embedding_type": choice("positional"),
    "time_embedding_dim": either(CHANNELS, NOTHING),
    "timestep_post_act": either(ACTIVATION, NOTHING),
    "conv_in_kernel": choice(1, 3, 5, 7),
    "conv_out_kernel": choice(1, 3, 5, 7),
    "attention_type": choice("default", "gated", "gated-text-image"),
    "mid_block_only_cross_attention": either(FLAG, NOTHING),
    "addition_embed_type": either(choice("text_time"), NOTHING),  # SDXL's pooled text and sizes
    "addition_time_embed_dim": either(CHANNELS, NOTHING),
    "projection_class_embeddings_input_dim": either(whole(1, 65536), NOTHING),
}
UNET_ABSENT: Table = dict.fromkeys(
    (
        *("center_input_sample", "class_embed_type", "cross_attention_norm", "dual_cross_attention"),
        *("encoder_hid_dim", "encoder_hid_dim_type", "num_class_embeds", "only_cross_attention"),
        *("time_cond_proj_dim", "time_embedding_act_fn", "class_embeddings_concat"),
    ),
    ABSENT,
)
VAE: Table = {
    "in_channels": choice(3),
    "out_channels": choice(3),
    "down_block_types": listed(choice("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), 1, LEVELS),
    "up_block_types": listed(choice("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), 1, LEVELS),
    "block_out_channels": listed(whole(4, 8192), 1, LEVELS),
    "layers_per_block": LAYERS,
    "act_fn": ACTIVATION,
    "latent_channels": CHANNELS,
    "norm_num_groups": CHANNELS,
    "sample_size": either(SIDES, NOTHING),
    "scaling_factor": number(0, 1e4, above=True),
    "force_upcast": FLAG,
    "use_quant_conv": FLAG,
    "use_post_quant_conv": FLAG,
    "mid_block_add_attention": FLAG,
}
# Latents that are shifted, or scaled by channel, which is not done here.
VAE_ABSENT: Table = dict.fromkeys(
    ("shift_factor", "latents_mean", "latents_std"), Allowed("null or 0", lambda value: value is None or value == 0)
)
TOKEN = whole(-1, 2**31 - 1)
# What CLIP's text encoder is built from.
TEXT_ENCODER: Table = {
    "vocab_size": whole(1, 2_000_000),
    "hidden_size": CHANNELS,
    "intermediate_size": whole(1, 65536),
    "projection_dim": either(CHANNELS, NOTHING),
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": CHANNELS,
    "max_position_embeddings": whole(2, 8192),
    "hidden_act": choice("quick_gelu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu"),
    "layer_norm_eps": number(0, 1, above=True),
    "attention_dropout": number(0, 1),
    "initializer_range": number(0, 100),
    "initializer_factor": number(0, 100),
    "pad_token_id": either(TOKEN, NOTHING),
    "bos_token_id": either(TOKEN, NOTHING),
    "eos_token_id": either(TOKEN, NOTHING),
}


def read_unet(folder: Path) -> dict[str, Any]:
    """The arguments of UNet2DConditionModel. Raises ValueError, naming the key, for a UNet unlike SD's."""
    path = folder / "unet/config.json"
    whole_file = read_config(path)
    known_settings(path, whole_file, UNET_ABSENT)
    unet = known_settings(path, whole_file, UNET)
    widths = unet.get("block_out_channels", [320, 640, 1280, 1280])
    levels = len(widths)
    for key in ("down_block_types", "up_block_types"):
        check_length(path, key, unet.get(key, [None] * 4), levels)
    for key in (
        "layers_per_block",
        "cross_attention_dim",
        "attention_head_dim",
        "num_attention_heads",
        DEPTH,
        UP_DEPTH,
    ):
        if isinstance(unet.get(key), list):
            check_length(path, key, unet[key], levels)
    _check_groups(path, unet, widths)
    _check_heads(path, unet, widths)
    if unet.get("addition_embed_type"):
        for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            if unet.get(key) is None:
                raise refusal(path, key, "a whole number, for addition_embed_type text_time", None)
    depth = max(_largest(unet.get(key) or 1) for key in (DEPTH, UP_DEPTH))
    if (count := levels * (2 * _largest(unet.get("layers_per_block", 2)) + 1) * depth) > MOST_LAYERS:
        raise ValueError(
            f"{path}: layers_per_block, {DEPTH}: expected at most {MOST_LAYERS} layers in all, got {count}"
        )
    return unet


def read_vae(folder: Path) -> dict[str, Any]:
    """The arguments of AutoencoderKL. Raises ValueError, naming the key, for an autoencoder of another kind."""
    path = folder / "vae/config.json"
    whole_file = read_config(path)
    known_settings(path, whole_file, {"_class_name": choice("AutoencoderKL")})  # most others give no distribution
    known_settings(path, whole_file, VAE_ABSENT)
    vae = known_settings(path, whole_file, VAE)
    for key in ("down_block_types", "up_block_types"):
        check_length(path, key, vae.get(key, [None]), len(vae.get("block_out_channels", [64])))
    _check_groups(path, vae, vae.get("block_out_channels", [64]))
    return vae


def read_text_encoder(folder: Path, part: str = "text_encoder") -> dict[str, Any]:
    """The arguments of CLIPTextConfig. part: "text_encoder" or "text_encoder_2". Raises ValueError, naming the key."""
    path = folder / part / "config.json"
    encoder = known_settings(path, read_config(path), TEXT_ENCODER)
    width, heads = encoder.get("hidden_size", 512), encoder.get("num_attention_heads", 8)
    if width % heads:
        raise refusal(path, "num_attention_heads", f"a divisor of hidden_size, {width}", heads)
    return encoder


def _check_groups(path: Path, settings: Mapping[str, Any], widths: Iterable[int]) -> None:
    """Every level's channels are normalised in groups of equal size."""
    groups = settings.get("norm_num_groups", 32)
    if others := [width for width in widths if width % groups]:
        raise refusal(path, "norm_num_groups", f"a divisor of block_out_channels, which has {others[0]}", groups)


def _check_heads(path: Path, unet: Mapping[str, Any], widths: list[int]) -> None:
    """Every level has a channel for each of its heads, whose number diffusers calls attention_head_dim."""
    key = "num_attention_heads" if unet.get("num_attention_heads") else "attention_head_dim"
    heads = unet.get(key, 8)
    for width, count in zip(widths, heads if isinstance(heads, list) else [heads] * len(widths), strict=True):
        if width < count:
            raise refusal(path, key, f"at most block_out_channels, {show(widths)}", heads)


def _largest(value: Any) -> int:
    """Of a whole number, or of lists of them."""
    return max(map(_largest, value)) if isinstance(value, list) else int(value)
