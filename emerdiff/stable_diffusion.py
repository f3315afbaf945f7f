"""Stable Diffusion 1.x and 2.x: their UNet, conditioned on the empty prompt.

The one family of `emerdiff.diffusion.FAMILIES`. Here is what differs between families of diffusion models; the
autoencoder, the grid of timesteps and the conversion of predictions are in `emerdiff.diffusion`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from emerdiff.configs import WEIGHTS
from emerdiff.diffusers_config import read_text_encoder, read_unet
from emerdiff.folder import load_network, read_weights, sketch_network
from emerdiff.hooks import attentions, shared_attention
from emerdiff.options import CROSS_ATTENTION
from emerdiff.tokenizer_files import read_tokenizer
from emerdiff.unet import evaluate


@dataclass(frozen=True, eq=False, repr=False)
class StableDiffusion:
    """The UNet and what it is conditioned on."""

    unet: Any  # UNet2DConditionModel; Any: diffusers' classes carry no types for their calls and configurations
    empty_prompt: Tensor  # (1, S, D) the text encoder's states for ""

    @classmethod
    def sketch(cls, folder: Path) -> StableDiffusion:
        """Its shapes alone, on torch's meta device, by a folder's JSON; ValueError for a model of another shape."""
        settings = read_unet(folder)
        read_text_encoder(folder)
        unet = sketch_network(lambda: UNet2DConditionModel(**settings), folder / "unet/config.json")
        return cls(unet, torch.empty(1, 1, 1, device="meta"))

    def load(self, folder: Path, device: str | torch.device, dtype: torch.dtype) -> StableDiffusion:
        """Fill a sketch with the folder's weights. Raises ValueError for weights that do not fit."""
        unet = load_network(self.unet, folder / WEIGHTS[0], dtype, device)
        prompt = encode_empty_prompt(folder, dtype)
        # Convolutions are faster in this layout, on CPUs and GPUs; numbers stay the same but for rounding.
        return StableDiffusion(unet.to(device, memory_format=torch.channels_last), prompt.to(device))

    @property
    def default_layers(self) -> tuple[str, str]:
        """Default layers: the attention whose queries are read and the one that is nudged, as in the EmerDiff paper."""
        return CROSS_ATTENTION.format("up_blocks.1", 0), CROSS_ATTENTION.format("up_blocks.1", 2)

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

    def evaluate(self, latents: Tensor, timestep: int, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
        """Latents (B, C, h, w) at a timestep -> the UNet's output, same shape, in `dtype`.

        widen_at: name of an attention; one latent is `rows` rows from the transformer that holds it on.
        """
        transformer = widen_at.partition(".transformer_blocks")[0] if widen_at else None
        inputs = latents.to(self.dtype, memory_format=torch.channels_last)
        return evaluate(self.unet, inputs, timestep, self.empty_prompt, widen_at=transformer, rows=rows)


def sketch_text_encoder(folder: Path) -> Any:
    """The folder's text encoder on torch's meta device."""
    settings, path = read_text_encoder(folder), folder / "text_encoder/config.json"
    return sketch_network(lambda: CLIPTextModel(CLIPTextConfig(**settings)), path)


def encode_empty_prompt(folder: Path, dtype: torch.dtype) -> Tensor:
    """Return the text encoder's last hidden states (1, S, D) for the empty prompt, padded as the tokenizer says."""
    sketch = sketch_text_encoder(folder)
    tokens = tokenize_nothing(folder, sketch.config)
    weights = read_weights(sketch, folder / WEIGHTS[2], dtype)
    with _no_progress_bar():
        encoder = CLIPTextModel.from_pretrained(None, config=sketch.config, state_dict=weights, dtype=dtype).eval()
    with torch.inference_mode():
        return encoder(tokens).last_hidden_state


def tokenize_nothing(folder: Path, config: Any) -> Tensor:
    """The empty prompt's tokens (1, S) int64. Raises ValueError for tokens that the text encoder does not know."""
    place, length = folder / "tokenizer", config.max_position_embeddings

    def tokenize(copy: Path) -> Tensor:
        tokenizer = CLIPTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
        settings: Any = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        tokens: Tensor = tokenizer("", **settings).input_ids
        return tokens

    tokens = read_tokenizer(place, tokenize)
    if tokens.shape != (1, length):
        raise ValueError(f"{place}: expected {length} tokens of no text, got {tokens.numel()}")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < config.vocab_size:
        raise ValueError(f"{place}: expected tokens below vocab_size, {config.vocab_size}, got {int(tokens.max())}")
    return tokens


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over the second that loading from a disk takes."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
