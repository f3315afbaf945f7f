"""Trains the pocket autoencoder: 128x128 scenes to 32x32 latents of 8 channels and back.

    python -m ovseg.pocket.training.autoencoder

A diffusers `AutoencoderKL` with few channels, learned on random crops with an L1 loss on pixels and on their
differences, and a slight pull of the latents towards a unit Gaussian.

With `--from-weights` only the decoder is trained: the diffusion model was trained on the present encoder's latents.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from ovseg.pocket.training.data import scenes
from ovseg.pocket.training.loop import Plan, carry_out, fit, read_plan
from ovseg.pocket.weights import DIFFUSION, save_half
from ovseg.pocket.world import scene

CROP = 64  # pixels
SCENES = 40_000
KL_WEIGHT = 1e-6
EDGE_WEIGHT = 0.5  # of the loss on differences between neighbouring pixels


def build(from_weights: bool = False) -> Any:
    """An untrained autoencoder, or the shipped one, whose encoder stays fixed.

    Any, here and below: diffusers' classes carry no types for their calls.
    """
    if from_weights:
        model = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float()
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
        return model
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=128,
    )


def to_network(images: np.ndarray, device: str) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(plan: Plan) -> Any:
    torch.manual_seed(plan.seed)
    model = build(plan.from_weights).to(plan.device)
    images, _ = scenes("train", SCENES, plan.world)

    def loss(rng: np.random.Generator) -> Tensor:
        picks = np.sort(rng.choice(SCENES, plan.batch, replace=False))
        top, left = rng.integers(0, images.shape[1] - CROP + 1, 2)
        crops = to_network(images[picks, top : top + CROP, left : left + CROP], plan.device)
        posterior = model.encode(crops).latent_dist
        decoded = model.decode(posterior.sample()).sample.float()
        return distance(decoded, crops) + KL_WEIGHT * posterior.kl().mean()

    fit(model, loss, plan)
    if not plan.from_weights:
        with torch.no_grad():
            latents = model.encode(to_network(images[:512], plan.device)).latent_dist.mode()
        model.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    return model


def distance(decoded: Tensor, pictures: Tensor) -> Tensor:
    """L1 on pixels and on the differences between neighbours, of pictures (B, 3, H, W) float32."""
    error = decoded - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + EDGE_WEIGHT * edges


def psnr(model: Any, images: np.ndarray, device: str) -> float:
    """Peak signal-to-noise ratio, in dB, of decoding the encoding of images (B, H, W, 3) uint8."""
    pixels = to_network(images, device)
    with torch.no_grad():
        decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / functional.mse_loss(decoded, pixels)))


def save(plan: Plan, model: Any) -> None:
    """Writes the diffusers folder in half precision, and prints the PSNR on scenes that were not trained on."""
    unseen = np.stack([scene("tuning", 0, number, plan.world).image for number in range(100)])
    print(f"{psnr(model, unseen, plan.device):.2f} dB on tuning scenes")
    save_half(model, DIFFUSION / "vae")


def main() -> None:
    plan = read_plan("autoencoder", "Train the pocket autoencoder.", steps=1800, batch=48, learning_rate=2e-3)
    carry_out(plan, train, partial(save, plan))


if __name__ == "__main__":
    main()
