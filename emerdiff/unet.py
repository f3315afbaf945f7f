"""One evaluation of a UNet of Stable Diffusion's or SDXL's shape, block by block: one row may become many halfway.

The blocks and their order are those of diffusers' `UNet2DConditionModel.forward`, which the tests compare it with. What
comes before a given transformer block is evaluated for one latent, what comes after it for many rows, because each row
has its own change inside the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def evaluate(
    unet: Any,
    latents: Tensor,
    timestep: int,
    prompt: Tensor,
    *,
    added: Mapping[str, Tensor] | None = None,
    widen_at: str | None = None,
    rows: int = 1,
) -> Tensor:
    """Latents (B, C, h, w) at a timestep -> the UNet's output (B, C, h, w), as its own forward gives it.

    prompt: (1, S, D), the same for all rows. added: SDXL's further conditioning, of one row: text_embeds (1, E) and
    time_ids (1, 6). widen_at: name of a transformer block ("up_blocks.1.attentions.2.transformer_blocks.0") before
    which one latent becomes `rows` equal rows; the output is (rows, C, h, w) then. Sides are multiples of all halvings.
    """
    time = unet.time_embedding(unet.get_time_embed(sample=latents[:1], timestep=timestep))  # (1, D), for all rows
    if added is not None:
        time = time + unet.get_aug_embed(emb=time, encoder_hidden_states=prompt, added_cond_kwargs=dict(added))
    widened = unet.get_submodule(widen_at) if widen_at else None

    def attend(block: Any, index: int, hidden: Tensor) -> Tensor:
        return _transform(block.attentions[index], hidden, prompt, widened, rows) if _attends(block) else hidden

    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            hidden = attend(block, index, resnet(hidden, time))
            skips.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)
    if unet.mid_block is not None:
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


def _attends(block: Any) -> bool:
    """Whether a block of a UNet holds transformers."""
    return hasattr(block, "attentions")


def _transform(transformer: Any, hidden: Tensor, prompt: Tensor, widened: Any, rows: int) -> Tensor:
    """A transformer of any number of blocks, as diffusers' Transformer2DModel: (B, C, h, w) -> the same.

    widened: the block before which one row becomes `rows`, if it is one of this transformer's.
    """
    _, _, height, width = hidden.shape
    linear = transformer.use_linear_projection
    tokens = transformer.norm(hidden)
    tokens = tokens if linear else transformer.proj_in(tokens)
    tokens = tokens.permute(0, 2, 3, 1).flatten(1, 2)
    tokens = transformer.proj_in(tokens) if linear else tokens
    for block in transformer.transformer_blocks:
        if block is widened:
            tokens = tokens.expand(rows, -1, -1)
        tokens = block(tokens, encoder_hidden_states=prompt.expand(len(tokens), -1, -1))
    tokens = transformer.proj_out(tokens) if linear else tokens
    tokens = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()
    return (tokens if linear else transformer.proj_out(tokens)) + hidden
