"""One evaluation of a UNet of Stable Diffusion's shape, block by block: one row may become many halfway.

The blocks and their order are those of diffusers' `UNet2DConditionModel.forward`, which the tests compare it with. What
comes before a given transformer is evaluated for one latent, what comes after it for many rows, because each row has
its own change inside the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
MID = ("UNetMidBlock2DCrossAttn",)
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
# Settings that add inputs besides text, time and latents, or change the kind of attention.
ABSENT = (
    "addition_embed_type",
    "center_input_sample",
    "class_embed_type",
    "cross_attention_norm",
    "dual_cross_attention",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "only_cross_attention",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
)


def check_shape(unet: Any) -> None:
    """Raise ValueError unless the UNet is built as Stable Diffusion 1.x and 2.x are."""
    config = unet.config
    for key, known in (("down_block_types", DOWN), ("mid_block_type", MID), ("up_block_types", UP)):
        blocks = [config[key]] if key == "mid_block_type" else config[key]
        if others := [name for name in blocks if name not in known]:
            raise ValueError(f"unet/config.json: {key} {others[0]!r}; expected blocks of Stable Diffusion 1.x or 2.x")
    if others := [key for key in ABSENT if _set(config.get(key))]:
        raise ValueError(
            f"unet/config.json: {others[0]} is {config[others[0]]!r}; Stable Diffusion 1.x and 2.x have none"
        )


def _set(value: Any) -> bool:
    """Whether a setting, or one of a list of them, is on."""
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


def evaluate(
    unet: Any, latents: Tensor, timestep: int, prompt: Tensor, *, widen_at: str | None = None, rows: int = 1
) -> Tensor:
    """Latents (B, C, h, w) at a timestep -> the UNet's output (B, C, h, w), as its own forward gives it.

    prompt: (1, S, D), the same for all rows. widen_at: name of a transformer ("up_blocks.1.attentions.2") before which
    one latent becomes `rows` equal rows; the output is (rows, C, h, w) then. Sides are multiples of all halvings.
    """
    time = unet.time_embedding(unet.get_time_embed(sample=latents[:1], timestep=timestep))  # (1, D), for all rows
    widened = unet.get_submodule(widen_at) if widen_at else None

    def attend(block: Any, index: int, hidden: Tensor) -> Tensor:
        if not hasattr(block, "attentions"):
            return hidden
        transformer = block.attentions[index]
        if transformer is widened:
            hidden = hidden.expand(rows, -1, -1, -1)
        context = prompt.expand(len(hidden), -1, -1)
        return transformer(hidden, encoder_hidden_states=context, return_dict=False)[0]

    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            hidden = attend(block, index, resnet(hidden, time))
            skips.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)
    first, *others = unet.mid_block.resnets
    hidden = first(hidden, time)
    for index, resnet in enumerate(others):
        hidden = resnet(attend(unet.mid_block, index, hidden), time)
    for block in unet.up_blocks:
        for index, resnet in enumerate(block.resnets):
            skip = skips.pop()
            joined = torch.cat([hidden, skip.expand(len(hidden), -1, -1, -1)], dim=1)
            hidden = attend(block, index, resnet(joined, time))
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
