"""A single-file checkpoint in the layout of A1111 and ComfyUI: all of a model in one safetensors file, without JSON.

What it is built from is known by kind (`emerdiff.checkpoint_configs`), and the kind is told by the shapes in the file's
header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emerdiff.checkpoint_configs import END, KNOWN, START, Known
from emerdiff.checkpoint_names import (
    UNET_PREFIX,
    openclip_pieces,
    transformers_pieces,
    unet_pieces,
    vae_pieces,
)
from emerdiff.folder import Stored
from emerdiff.layout import PICKLED
from emerdiff.settings import one_line

Shapes = Mapping[str, tuple[int, ...]]
# Beginnings of names in files that hold something else, and what that is.
OTHERS = {
    "lora_": "a LoRA, which is used together with a checkpoint",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3, a diffusion transformer",
    "model.diffusion_model.double_blocks.": "Flux, a diffusion transformer",
    "double_blocks.": "Flux, a diffusion transformer",
    "down_blocks.": "a UNet alone, which belongs into a diffusers folder",
    "input_blocks.": "a UNet alone",
    "encoder.": "an autoencoder alone",
    "decoder.": "an autoencoder alone",
    "conditioner.embedders.0.model.": "SDXL's refiner",
    UNET_PREFIX: "a UNet of another shape",
}
# How the files by Stability say it, and the marks of fine-tuned models.
STATED, VELOCITY_MARK, ZERO_SNR_MARK = "modelspec.prediction_type", "v_pred", "ztsnr"
# ComfyUI's way to tell SD 2.x models of v-prediction, which say nothing, from those of noise.
TELLING, SPREAD = UNET_PREFIX + "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose kind is known; a `ModelParts`."""

    path: Path
    known: Known
    prediction: str  # "epsilon" or "v_prediction"
    zero_snr: bool  # whether the noise schedule was rescaled to end in noise alone (2305.08891)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """By a file's header and one small tensor. Raises ValueError, naming the file, for anything else."""
        if path.suffix.lower() in PICKLED:
            raise ValueError(
                f"{path}: pickled weights, which may hold code and are never read; expected a .safetensors file, which "
                "most publishers offer beside it, or a diffusers folder"
            )
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                known = _kind(path, shapes)
                velocity = _predicts_velocity(file, file.metadata() or {}, shapes, known)
        except (SafetensorError, TypeError) as error:
            raise ValueError(f"{path}: not a safetensors checkpoint that can be read ({one_line(error)})") from error
        return cls(path, known, "v_prediction" if velocity else "epsilon", ZERO_SNR_MARK in shapes)

    @property
    def family(self) -> tuple[Any, Any]:
        """As in a diffusers folder's unet/config.json."""
        return "UNet2DConditionModel", self.known.unet.get("addition_embed_type")

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that are needed."""
        return ("text_encoder",) if self.known.text is not None else ()

    def where(self, part: str) -> Path:
        """The file itself."""
        return self.path

    def unet(self) -> dict[str, Any]:
        """The arguments of UNet2DConditionModel."""
        size = self.known.velocity_size if self.prediction == "v_prediction" else None
        return {**self.known.unet, "sample_size": size or self.known.unet["sample_size"]}

    def vae(self) -> dict[str, Any]:
        """The arguments of AutoencoderKL."""
        return dict(self.known.vae)

    def scheduler(self) -> dict[str, Any]:
        """The arguments of DDIMScheduler."""
        return {
            **self.known.scheduler,
            "prediction_type": self.prediction,
            "rescale_betas_zero_snr": self.zero_snr,
        }

    def text_encoder(self, part: str) -> dict[str, Any]:
        """The arguments of CLIPTextConfig."""
        return dict(self.known.text or {})

    def tokens(self, part: str, config: Any) -> Tensor:
        """The empty prompt's tokens (1, S) int64 in CLIP's vocabulary: its start, its end, and padding."""
        length, last = config.max_position_embeddings, config.vocab_size - 1
        padding = last if self.known.padding == END else self.known.padding
        return torch.tensor([[last - (END - START), last] + [padding] * (length - 2)])

    def weights(self, part: str) -> Stored:
        """The file, and how a part's tensors are called in it."""
        text = openclip_pieces if self.known.openclip else transformers_pieces
        pieces: dict[str, Any] = {
            "unet": partial(unet_pieces, self.known.unet),
            "vae": partial(vae_pieces, self.known.vae),
            "text_encoder": partial(text, self.known.text_prefix),
        }
        return Stored((self.path,), pieces[part])


def _kind(path: Path, shapes: Shapes) -> Known:
    """The kind that a file's shapes tell. Raises ValueError, saying what the file seems to be."""
    for known in KNOWN.values():
        if _signature(known).items() <= shapes.items():
            return known
    first = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())
    got = next((what for start, what in OTHERS.items() if any(name.startswith(start) for name in shapes)), "none")
    if len(first) == 4 and first[1] != 4:
        got = f"a UNet of {first[1]} channels, for inpainting and the like"
    raise ValueError(f"{path}: expected a checkpoint of {', '.join(KNOWN)}, got {got}")


def _signature(known: Known) -> Shapes:
    """Names and shapes by which a kind is told: of the first convolution, and of the first keys made from text."""
    unet, layers = known.unet, known.unet["layers_per_block"]
    level = next(index for index, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind)
    keys = f"{UNET_PREFIX}input_blocks.{1 + level * (layers + 1)}.1.transformer_blocks.0.attn2.to_k.weight"
    widths = unet["block_out_channels"]
    return {
        f"{UNET_PREFIX}input_blocks.0.0.weight": (widths[0], unet["in_channels"], 3, 3),
        keys: (widths[level], unet["cross_attention_dim"]),
    }


def _predicts_velocity(file: Any, stated: Mapping[str, str], shapes: Shapes, known: Known) -> bool:
    """Whether the UNet predicts v: as the file states, or as ComfyUI tells it for SD 2.x."""
    if STATED in stated:
        return stated[STATED].startswith("v")
    if VELOCITY_MARK in shapes:
        return True
    if known.velocity_size is None or TELLING not in shapes:
        return False
    return bool(file.get_tensor(TELLING).float().std() > SPREAD)
