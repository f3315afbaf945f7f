"""Edit-friendly DDPM inversion: a noise path that leads from a noisy latent back to one given image, exactly.

Follows Huberman-Spiegelglas, Kulikov and Michaeli, "An Edit Friendly DDPM Noise Space" (arXiv 2304.06140), eta = 1.
The noisy latents x_t are drawn independently for every t, not along a chain, and the path is made to pass through
all of them. What is kept of a step is the residual r_t = sigma_t z_t and not z_t itself, since sigma_t may be 0.
This file evaluates no network: the caller hands in the predicted noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One denoising step of the grid, from x_t to x_t'."""

    timestep: int  # t
    alpha: float  # cumulative alpha at t, in (0, 1)
    next_alpha: float  # cumulative alpha at the next smaller timestep t' (below the grid: the scheduler's final one)


def draw_noise(shape: Sequence[int], count: int, seed: int) -> list[Tensor]:
    """Draw `count` independent standard normal float32 tensors on the CPU.

    The i-th tensor depends on `seed`, `shape` and i alone, so a longer path shares the noise of a shorter one.
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def noisy_latent(x_0: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (2304.06140, equation 6)."""
    return sqrt(alpha) * x_0 + sqrt(1 - alpha) * noise


def posterior_mean(x_t: Tensor, predicted_noise: Tensor, step: Step) -> Tensor:
    """Return mu_t, the mean of the DDPM step from x_t to x_t', computed in float32.

    P = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t),
    sigma_t^2 = (1 - abar_t') / (1 - abar_t) (1 - abar_t / abar_t'),
    mu_t = sqrt(abar_t') P + sqrt(1 - abar_t' - sigma_t^2) eps.
    """
    x_t, predicted_noise = x_t.float(), predicted_noise.float()
    clean = (x_t - sqrt(1 - step.alpha) * predicted_noise) / sqrt(step.alpha)
    variance = (1 - step.next_alpha) / (1 - step.alpha) * (1 - step.alpha / step.next_alpha)
    direction = sqrt(max(0.0, 1 - step.next_alpha - variance))
    return sqrt(step.next_alpha) * clean + direction * predicted_noise


def invert_step(x_t: Tensor, x_next: Tensor, predicted_noise: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Return the residual r_t = x_t' - mu_t(x_t) (= sigma_t z_t) and mu_t + r_t, where a replay of this step lands.

    The next step must start from the second: it is x_t' up to rounding, and starting from x_t' itself would let the
    rounding errors pile up over a replay.
    """
    mean = posterior_mean(x_t, predicted_noise, step)
    residual = x_next - mean
    return residual, mean + residual
