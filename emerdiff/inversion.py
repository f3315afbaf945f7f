"""Edit-friendly DDPM inversion: a noise path that leads from a noisy latent back to one given image, exactly.

Follows Huberman-Spiegelglas, Kulikov and Michaeli, "An Edit Friendly DDPM Noise Space" (arXiv 2304.06140), eta = 1.
The noisy latents x_t are drawn independently for every t, not along a chain, and the path is made to pass through
all of them. What a step leaves over is the residual r_t = sigma_t z_t and not z_t itself, since sigma_t may be 0.
This file evaluates no network: the caller hands in the predicted noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One denoising step of the grid, from x_t to x_t'."""

    timestep: int  # t
    alpha: float  # cumulative alpha at t, in (0, 1)
    next_alpha: float  # cumulative alpha at the next smaller timestep t' (below the grid: the scheduler's final one)


def thin(steps: Sequence[Step], count: int) -> list[Step]:
    """Return `count` of the steps, evenly spaced from the first on, each leading to the next and the last to the end.

    Any grid will do for the inversion: the path passes through every x_t it is made of, however far apart.
    """
    count = min(count, len(steps))
    chosen = [steps[index * len(steps) // count] for index in range(count)]
    ends = [*(step.alpha for step in chosen[1:]), steps[-1].next_alpha]
    return [replace(step, next_alpha=end) for step, end in zip(chosen, ends, strict=True)]


def draw_noise(shape: Sequence[int], count: int, seed: int) -> list[Tensor]:
    """Draw `count` independent standard normal float32 tensors on the CPU.

    The i-th tensor depends on `seed`, `shape` and i alone, so a longer path shares the noise of a shorter one.
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def noisy_latent(x_0: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (2304.06140, equation 6)."""
    return sqrt(alpha) * x_0 + sqrt(1 - alpha) * noise


def noisy_latents(x_0: Tensor, grid: Sequence[Step], seed: int) -> dict[int, Tensor]:
    """Return x_t for every timestep of a grid, which goes from the largest down.

    Every timestep has its own draw, numbered from the grid's lowest timestep up, so a timestep's noise does not depend
    on where the path begins.
    """
    noises = draw_noise(x_0.shape, len(grid), seed)
    return {
        step.timestep: noisy_latent(x_0, noise.to(x_0.device), step.alpha)
        for noise, step in zip(noises, reversed(grid), strict=True)
    }


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


def follow(rows: Tensor, target: Tensor, predicted_noise: Tensor, step: Step) -> Tensor:
    """Return where rows (B, C, h, w) land when row 0 is to land on `target` (1, C, h, w) = x_t'.

    The residual of row 0, r_t = x_t' - mu_t(x_t) (= sigma_t z_t), is every row's: mu_t + r_t. Row 0 lands on the target
    up to rounding, and the next step goes on from where it landed, so that rounding errors do not pile up.
    """
    mean = posterior_mean(rows, predicted_noise, step)
    return mean + (target - mean[:1])
