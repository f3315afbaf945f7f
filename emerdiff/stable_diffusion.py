"""Stable Diffusion 1.x and 2.x and their kin, such as BK-SDM: their UNet, conditioned on the empty prompt.

One of `emerdiff.diffusion.FAMILIES`. Here is what differs between families of diffusion models; the autoencoder, the
grid of timesteps and the conversion of predictions are in `emerdiff.diffusion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from emerdiff.empty_prompt import encode, sketch_text_encoder
from emerdiff.folder import load_network, sketch_network
from emerdiff.hooks import attentions, shared_attention
from emerdiff.parts import ModelParts
from emerdiff.settings import refusal
from emerdiff.unet import evaluate


@dataclass(frozen=True, eq=False, repr=False)
class StableDiffusion:
    """The UNet and what it is conditioned on."""

    unet: Any  # UNet2DConditionModel; Any: diffusers' classes carry no types for their calls and configurations
    empty_prompt: Tensor  # (1, S, D) the text encoder's states for ""

    @classmethod
    def sketch(cls, parts: ModelParts) -> StableDiffusion:
        """Its shapes alone, on torch's meta device, by its settings; ValueError for a model of another shape."""
        unet, encoder = sketch_unet(parts), sketch_text_encoder(parts, "text_encoder")
        check_width(parts, unet, encoder.config.hidden_size)
        return cls(unet, torch.empty(1, 1, 1, device="meta"))

    def load(self, parts: ModelParts, device: str | torch.device, dtype: torch.dtype) -> StableDiffusion:
        """Fill a sketch with the model's weights. Raises ValueError for weights that do not fit."""
        unet = load_unet(self.unet, parts, device, dtype)
        return StableDiffusion(unet, encode(parts, "text_encoder", dtype).last_hidden_state.to(device))

    @property
    def default_layers(self) -> tuple[str, str]:
        """Default layers: the attention whose queries are read and the one that is nudged, by the paper's rule.

        The paper takes the first and the last cross-attention of the deepest block on the way up that has any: of
        Stable Diffusion 1.x and 2.x up_blocks.1, at 16 x 16 positions of 512 pixels.
        """
        names = cross_attentions_up(self.unet)
        deepest = [name for name in names if name.split(".")[1] == names[0].split(".")[1]]
        return deepest[0], deepest[-1]

    @property
    def attentions(self) -> dict[str, Attention]:
        """Every attention by its module name."""
        return attentions(self.unet)

    @property
    def device(self) -> torch.device:
        """The device it runs on."""
        return self.empty_prompt.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return self.empty_prompt.dtype

    @property
    def in_channels(self) -> int:
        """Channels of its input."""
        return int(self.unet.config.in_channels)

    @property
    def out_channels(self) -> int:
        """Channels of its output."""
        return int(self.unet.config.out_channels)

    @property
    def sample_size(self) -> Any:
        """unet/config.json's: the latents' side in training, mostly one whole number."""
        return self.unet.config.sample_size

    @property
    def deepest(self) -> int:
        """How many times the sides of latents are halved in the middle block."""
        return len(self.unet.config.block_out_channels) - 1

    def level(self, name: str) -> int:
        """How many times the sides of latents are halved where the attention called `name` is."""
        block, index, *_ = name.split(".")
        if block == "mid_block":
            return self.deepest
        return int(index) if block == "down_blocks" else self.deepest - int(index)

    def sharing_attention(self) -> AbstractContextManager[None]:
        """A block in which all rows attend as the first one does (`emerdiff.hooks.shared_attention`)."""
        return shared_attention(self.unet)

    def added(self, latents: Tensor) -> Mapping[str, Tensor] | None:
        """What latents (B, C, h, w) are conditioned on besides time and text: nothing."""
        return None

    def evaluate(self, latents: Tensor, timestep: int, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
        """Latents (B, C, h, w) at a timestep -> the UNet's output, same shape, in `dtype`.

        widen_at: name of an attention; one latent is `rows` rows from the transformer block that holds it on.
        """
        block = widen_at.rpartition(".")[0] if widen_at else None
        inputs = latents.to(self.dtype, memory_format=torch.channels_last)
        added = self.added(latents)
        return evaluate(self.unet, inputs, timestep, self.empty_prompt, added=added, widen_at=block, rows=rows)


def sketch_unet(parts: ModelParts) -> Any:
    """The model's UNet on torch's meta device; ValueError for one without cross-attention on the way up."""
    settings, path = parts.unet(), parts.where("unet")
    unet = sketch_network(lambda: UNet2DConditionModel(**settings), path)
    if not cross_attentions_up(unet):
        raise ValueError(f"{path}: up_block_types: expected cross-attention on the way up, got none")
    return unet


def load_unet(sketch: Any, parts: ModelParts, device: str | torch.device, dtype: torch.dtype) -> Any:
    """Fill a sketch of the UNet, and bring it to its device."""
    unet = load_network(sketch, parts.weights("unet"), dtype, device)
    # Convolutions are faster in this layout, on CPUs and GPUs; numbers stay the same but for rounding.
    return unet.to(device, memory_format=torch.channels_last)


def cross_attentions_up(unet: Any) -> list[str]:
    """The names of the cross-attentions on the way up, in their order."""
    return [name for name in attentions(unet) if name.startswith("up_blocks.") and name.endswith(".attn2")]


def check_width(parts: ModelParts, unet: Any, width: int) -> None:
    """Raise ValueError, naming the key, unless the text's states are as wide as the UNet's cross-attentions take."""
    if other := [dimension for dimension in widths(unet) if dimension != width]:
        expected = f"{width}, the width of the text encoder's states"
        raise refusal(parts.where("unet"), "cross_attention_dim", expected, other[0])


def widths(unet: Any) -> list[int]:
    """How wide the text's states are that the UNet takes, by level; all the same in any model that works."""
    dimension = unet.config.cross_attention_dim
    return [dimension] if isinstance(dimension, int) else list(dimension)
