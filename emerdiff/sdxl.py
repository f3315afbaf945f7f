"""SDXL (2307.01952) and its kin, such as SSD-1B and Vega: one of `emerdiff.diffusion.FAMILIES`.

Its UNet is conditioned on the states of two text encoders, on the second one's pooled embedding, and on sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from emerdiff.empty_prompt import encode, sketch_text_encoder
from emerdiff.parts import ModelParts
from emerdiff.settings import refusal
from emerdiff.stable_diffusion import StableDiffusion, check_width, load_unet, sketch_unet, widths

SIZES = 6  # height and width of the original, top and left of the crop, height and width of the result; pixels
TOKENS = 77  # of a prompt


@dataclass(frozen=True, eq=False, repr=False)
class StableDiffusionXL(StableDiffusion):
    """The UNet and what it is conditioned on."""

    pooled: Tensor  # (1, E) of ""
    factor: int  # image pixels per latent position along one side

    @classmethod
    def sketch(cls, parts: ModelParts) -> StableDiffusionXL:
        """Its shapes alone, on torch's meta device, by its settings; ValueError for a model of another shape."""
        encoders = [sketch_text_encoder(parts, part, projected=part == "text_encoder_2") for part in parts.encoders]
        unet = sketch_unet(parts)
        if encoders:
            check_width(parts, unet, sum(encoder.config.hidden_size for encoder in encoders))
        width = unet.config.projection_class_embeddings_input_dim - SIZES * unet.config.addition_time_embed_dim
        if width < 1:
            expected = f"more than {SIZES} times addition_time_embed_dim, {unet.config.addition_time_embed_dim}"
            got = unet.config.projection_class_embeddings_input_dim
            raise refusal(parts.where("unet"), "projection_class_embeddings_input_dim", expected, got)
        if encoders and encoders[-1].config.projection_dim != width:
            expected = f"{width}, what the UNet's projection_class_embeddings_input_dim leaves for the pooled text"
            raise refusal(
                parts.where(parts.encoders[-1]), "projection_dim", expected, encoders[-1].config.projection_dim
            )
        factor = 2 ** (len(parts.vae().get("block_out_channels", [64])) - 1)
        prompt = torch.empty(1, TOKENS, widths(unet)[-1], device="meta")
        return cls(unet, prompt, torch.empty(1, width, device="meta"), factor)

    def load(self, parts: ModelParts, device: str | torch.device, dtype: torch.dtype) -> StableDiffusionXL:
        """Fill a sketch with the model's weights. Raises ValueError for weights that do not fit."""
        unet = load_unet(self.unet, parts, device, dtype)
        prompt, pooled = (torch.zeros(tensor.shape, dtype=dtype) for tensor in (self.empty_prompt, self.pooled))
        if parts.encoders:
            prompt, pooled = encode_empty_prompt(parts, dtype)
        return StableDiffusionXL(unet, prompt.to(device), pooled.to(device), self.factor)

    def added(self, latents: Tensor) -> Mapping[str, Tensor]:
        """Pooled text, and the sizes of an image that is neither enlarged nor cropped."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        return {"text_embeds": self.pooled, "time_ids": sizes}


def encode_empty_prompt(parts: ModelParts, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The states (1, S, D) of the layer before the last of both encoders, side by side, and the pooled text (1, E)."""
    first, second = (encode(parts, part, dtype, projected=part == "text_encoder_2") for part in parts.encoders)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds
