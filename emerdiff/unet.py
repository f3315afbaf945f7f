"""One evaluation of a UNet of Stable Diffusion's shape, block by block: one row may become many halfway.

The blocks and their order are those of diffusers' `UNet2DConditionModel.forward`, which the tests compare it with. What
comes before a given transformer is evaluated for one latent, what comes after it for many rows, because each row has
its own change inside the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
