"""How the tensors of a single-file checkpoint are called: diffusers' and transformers' names -> the original ones.

The original layout is that of latent diffusion (2112.10752), which A1111 and ComfyUI read and write; text encoders are
transformers' own in SD 1.x, and open_clip's in SD 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from emerdiff.folder import Piece

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
OUTSIDE = {
    **{"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"},
    **{"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"},
    **{"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"},
}
RESNET = {
    **{"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"},
    **{"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"},
}
OF_VAE = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
OF_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OF_OPENCLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_pieces(settings: Mapping[str, Any], wanted: Iterable[str], _stored: Any = None) -> dict[str, Piece]:
    """The pieces of a UNet, by diffusers' names. settings: of UNet2DConditionModel, one layers_per_block for all."""
    return {name: Piece(UNET_PREFIX + _unet_name(settings, name)) for name in wanted}


def _unet_name(settings: Mapping[str, Any], name: str) -> str:
    if match := MIDDLE.fullmatch(name):
        kind, index, rest = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * index + (kind == 'attentions')}.{_inner(kind, rest)}"
    if match := BLOCK.fullmatch(name):
        way, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        layers = settings["layers_per_block"]
        if way == "down":  # the first of input_blocks is conv_in; each level ends with a block that halves
            place = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else index)
            return f"input_blocks.{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
        last = layers if kind == "upsamplers" else index
        attends = "CrossAttn" in settings["up_block_types"][level]
        within = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attends}[kind]
        return f"output_blocks.{level * (layers + 1) + last}.{within}.{_inner(kind, rest)}"
    return _renamed(name, OUTSIDE)


def _inner(kind: str, rest: str) -> str:
    """The name of a tensor within a block."""
    return {"resnets": _renamed(rest, RESNET), "downsamplers": rest.replace("conv.", "op.")}.get(kind, rest)


def vae_pieces(settings: Mapping[str, Any], wanted: Iterable[str], _stored: Any = None) -> dict[str, Piece]:
    """The pieces of an AutoencoderKL, by diffusers' names; its attention's projections were 1x1 convolutions."""
    levels = len(settings["block_out_channels"])
    return {name: _vae_piece(name, levels) for name in wanted}


def _vae_piece(name: str, levels: int) -> Piece:
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", name):
        is_matrix = match[2].endswith(".weight") and not match[2].startswith("group_norm")
        stored = f"{VAE_PREFIX}{match[1]}.mid.attn_1.{_renamed(match[2], OF_VAE_ATTENTION)}"
        return Piece(stored, _matrix if is_matrix else None)
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return Piece(f"{VAE_PREFIX}{match[1]}.mid.block_{int(match[2]) + 1}.{_renamed(match[3], OF_VAE)}")
    if match := re.fullmatch(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        # The decoder's levels were counted from the image's size down.
        way, level = ("down", int(match[2])) if match[1] == "encoder" else ("up", levels - 1 - int(match[2]))
        kind = {"resnets": f"block.{match[4]}", "downsamplers": "downsample", "upsamplers": "upsample"}[match[3]]
        return Piece(f"{VAE_PREFIX}{match[1]}.{way}.{level}.{kind}.{_renamed(match[5], OF_VAE)}")
    side, _, rest = name.partition(".")
    return Piece(f"{VAE_PREFIX}{side}.{_renamed(rest, OF_VAE)}")


def _matrix(tensor: Tensor) -> Tensor:
    """A 1x1 convolution's (O, I, 1, 1), or a matrix, as a matrix (O, I)."""
    return tensor.flatten(1) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def transformers_pieces(prefix: str, wanted: Iterable[str], stored: Iterable[str]) -> dict[str, Piece]:
    """The pieces of a text encoder by transformers' own names, with or without "text_model." in front."""
    names = set(stored)
    long = {name: f"{prefix}text_model.{name.removeprefix('text_model.')}" for name in wanted}
    return {
        name: Piece(text if text in names else prefix + name.removeprefix("text_model.")) for name, text in long.items()
    }


def openclip_pieces(prefix: str, wanted: Iterable[str], _stored: Any = None) -> dict[str, Piece]:
    """The pieces of open_clip's text tower, by transformers' names; it has queries, keys and values in one tensor."""
    return {name: _openclip_piece(prefix, name.removeprefix("text_model.")) for name in wanted}


def _openclip_piece(prefix: str, name: str) -> Piece:
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return Piece(prefix + _renamed(name, OF_OPENCLIP))
    block, rest = f"{prefix}transformer.resblocks.{match[1]}", match[2]
    if projection := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
        return Piece(f"{block}.attn.in_proj_{projection[2]}", _third("qkv".index(projection[1])))
    return Piece(f"{block}.{_renamed(rest, OF_OPENCLIP)}")


def _third(index: int) -> Callable[[Tensor], Tensor]:
    return partial(_nth_of_three, index=index)


def _nth_of_three(tensor: Tensor, index: int) -> Tensor:
    return tensor.chunk(3)[index]


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A name whose module, or whole, has another one in the table."""
    module, _, last = name.rpartition(".")
    return names.get(name) or (f"{names[module]}.{last}" if module in names else name)
