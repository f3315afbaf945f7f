"""Attention by explicit maps, as the paper describes it: an attention processor for diffusers' UNets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from emerdiff import LatentDiffusion, Options


class MapAttention:
    """diffusers' attention by maps softmax(QK^T / sqrt d), which can be recorded and reused, and the nudge."""

    def __init__(self, modulated: Attention, before_projection: bool) -> None:
        self.modulated, self.before_projection = modulated, before_projection
        self.maps: dict[Attention, Tensor] = {}  # (heads, positions, keys)
        self.queries: dict[Attention, Tensor] = {}  # (1, positions, channels) of the last recording
        self.mode = "plain"  # or "record", or "inject"
        self.nudge: Tensor | None = None  # (1, positions, 1), added to the modulated attention's output

    def __call__(
        self, attention: Attention, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        maps = self.maps[attention] if self.mode == "inject" else self._maps(attention, hidden, context)
        mixed = torch.bmm(maps, attention.head_to_batch_dim(attention.to_v(context)))
        mixed = attention.batch_to_head_dim(mixed)
        nudge = self.nudge if attention is self.modulated else None
        if nudge is not None and self.before_projection:
            mixed = mixed + nudge
        output = attention.to_out[0](mixed)
        return output + nudge if nudge is not None and not self.before_projection else output

    def _maps(self, attention: Attention, hidden: Tensor, context: Tensor) -> Tensor:
        queries, keys = attention.to_q(hidden), attention.to_k(context)
        maps = attention.get_attention_scores(attention.head_to_batch_dim(queries), attention.head_to_batch_dim(keys))
        if self.mode == "record":
            self.maps[attention], self.queries[attention] = maps, queries
        return maps


def map_attention(diffusion: LatentDiffusion, options: Options) -> MapAttention:
    """Make the attention for one image's rows. options: as snapped by `EmerDiff.snap`."""
    assert options.modulated_layer is not None
    return MapAttention(diffusion.attention(options.modulated_layer), options.modulation == "before-projection")


@contextmanager
def installed(unet: Any, attention: MapAttention) -> Iterator[None]:
    """Use this processor for every attention of the UNet inside the block."""
    original = unet.attn_processors
    unet.set_attn_processor(attention)
    try:
        yield
    finally:
        unet.set_attn_processor(original)
