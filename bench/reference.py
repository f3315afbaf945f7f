"""The paper's procedure, literally: one mask and one sign at a time, attention maps recorded as maps and given back.

What the engines of `emerdiff` are measured against, in speed and in results. It shares with them the model's weights,
the grid of timesteps, the inversion's formulas, the noise, k-means and the image's sizes, and nothing else: every
evaluation is a plain call of diffusers' UNet at batch 1, every step is a full step, every latent is decoded whole.

It is no straw man: the maps of a step are recorded once for all of its rows, and an evaluation with given maps leaves
out the queries, the keys and the softmax, so that it costs what diffusers' own costs (see `injection_cost`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import isqrt
from statistics import median

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bench.attention import MapAttention, installed, map_attention
from bench.clock import Clock
from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.clusters import cluster_queries, with_place
from emerdiff.image import nearest, network_size, to_tensor
from emerdiff.inversion import Step, draw_noise, noisy_latent, posterior_mean

SIGNS = (-1, 1)


@dataclass(frozen=True)
class Part:
    """How much of the procedure to run where all of it would take too long."""

    masks: int
    steps: int

    def __post_init__(self) -> None:
        if self.masks < 1 or self.steps < 1:
            raise ValueError(f"part: expected at least 1 mask and 1 step, got {self.masks} and {self.steps}")


@dataclass(frozen=True, eq=False)
class Reference:
    """What came of an image, and what it cost."""

    labels: np.ndarray | None  # (H, W) int32 at the image's own size; None where only a part was run
    difference_maps: np.ndarray | None  # (K, H', W') float32, after smoothing; likewise
    low_resolution_masks: np.ndarray  # (h, w) int32
    seconds: float
    flops: float  # 0 where they were not counted
    unet_rows: int  # UNet evaluations of the whole procedure
    decodes: int  # images decoded in the whole procedure
    extrapolated: str  # from which part seconds and FLOPs are extrapolated; empty where all was run


@torch.inference_mode()
def reference_segment(
    model: EmerDiff, image: np.ndarray, options: Options, part: Part | None = None, *, count_flops: bool = False
) -> Reference:
    """Segment an image (H, W, 3) uint8 RGB as `EmerDiff.segment` does, by the letter of the paper.

    part: run the first masks and steps alone and extrapolate the cost of the whole from the mean of its calls.
    Raises ValueError as `EmerDiff.segment` does for images, masks and layers.
    """
    diffusion, start = model.diffusion, time.perf_counter()
    options = model.snap(options)
    model.cost(image.shape[:2], options)  # refuses what is wrong before any work is done
    height, width = network_size(image.shape[:2], options.base_size, diffusion.size_multiple)
    clock = Clock(diffusion.device, count_flops)
    with clock("encode"):
        x_0 = diffusion.encode(to_tensor(image, height, width))
    feature_step, feature_latent, steps, path = _noisy_path(diffusion, x_0, options)
    attention = map_attention(diffusion, options)
    with installed(diffusion.predictor.unet, attention):
        with clock("queries"):
            attention.mode = "record"
            _predict_noise(diffusion, feature_latent, feature_step)
            feature_layer = diffusion.attention(model.layers(options)[0])
            queries = attention.queries[feature_layer][0].float().cpu().numpy()
        with clock("clusters"):
            vectors = with_place(queries, _grid_of(len(queries), height, width), options.place)
            ids = cluster_queries(vectors, options.masks, options.seed)
        masks, done = int(ids.max()) + 1, part or Part(options.masks, len(steps))
        nudges = [options.strength * torch.from_numpy(ids == mask)[None, :, None].float() for mask in range(masks)]
        nudges = [nudge.to(diffusion.device) for nudge in nudges[: done.masks]]
        rows = _denoise(diffusion, attention, steps[: done.steps], path, nudges, options.attention_injection, clock)
    maps = np.stack([_difference_map(diffusion, minus, plus, options.sigma, clock) for minus, plus in rows])
    with clock("argmax"):
        labels = nearest(maps.argmax(axis=0).astype(np.int32), image.shape[:2])
    seconds, flops = clock.extrapolated(_calls(masks, len(steps)))
    whole = len(rows) == masks and done.steps >= len(steps)
    share = f"{len(rows)} of {masks} masks and {min(done.steps, len(steps))} of {len(steps)} steps"
    return Reference(
        labels=labels if whole else None,
        difference_maps=maps if whole else None,
        low_resolution_masks=ids.reshape(_grid_of(len(ids), height, width)),
        seconds=time.perf_counter() - start if whole else seconds,
        flops=flops,
        unet_rows=1 + len(steps) * (1 + 2 * masks),
        decodes=2 * masks,
        extrapolated="" if whole else f"extrapolated from {share}",
    )


def _noisy_path(
    diffusion: LatentDiffusion, x_0: Tensor, options: Options
) -> tuple[Step, Tensor, list[Step], list[Tensor]]:
    """Return the step at t_f with its latent, and the steps from t_m down with the latents x_{t_m}, ..., x_0.

    Noise is drawn for every timestep of the grid, from the lowest up.
    """
    grid = diffusion.grid(options.steps)
    noises = draw_noise(x_0.shape, len(grid), options.seed)
    latents = [
        noisy_latent(x_0, noise.to(x_0.device), step.alpha) for step, noise in zip(grid, reversed(noises), strict=True)
    ]
    feature, start = (
        min(range(len(grid)), key=lambda index: abs(grid[index].timestep - timestep))
        for timestep in (options.feature_timestep, options.modulation_timestep)
    )
    return grid[feature], latents[feature], grid[start:], [*latents[start:], x_0]


def _denoise(
    diffusion: LatentDiffusion,
    attention: MapAttention,
    steps: list[Step],
    path: list[Tensor],
    nudges: list[Tensor],
    injection: bool,
    clock: Clock,
) -> list[list[Tensor]]:
    """Return the latents (1, C, h, w) that remain after the steps, [minus, plus] for each of the masks' nudges."""
    reference = path[0]
    rows = [[path[0] for _ in SIGNS] for _ in nudges]
    for index, step in enumerate(steps):
        with clock("recorded"):
            attention.mode = "record"
            noise = _predict_noise(diffusion, reference, step)
        mean = posterior_mean(reference, noise, step)
        residual = path[index + 1] - mean
        reference = mean + residual
        attention.mode = "inject" if injection else "plain"
        for row, nudge in zip(rows, nudges, strict=True):
            for side, sign in enumerate(SIGNS):
                attention.nudge = sign * nudge if index == 0 else None
                with clock("row"):
                    noise = _predict_noise(diffusion, row[side], step)
                row[side] = posterior_mean(row[side], noise, step) + residual
        attention.nudge = None
    return rows


def _difference_map(diffusion: LatentDiffusion, minus: Tensor, plus: Tensor, sigma: float, clock: Clock) -> np.ndarray:
    """Return ||I^- - I^+||_2 over RGB, smoothed: (H', W') float32."""
    images = []
    for latent in (minus, plus):
        with clock("decode"):
            images.append(diffusion.vae.decode(latent / diffusion.vae.config.scaling_factor).sample)
    with clock("difference"):
        distance = torch.linalg.vector_norm(images[0] - images[1], dim=1)[0]
        return gaussian_filter(distance.cpu().numpy(), sigma)


def _predict_noise(diffusion: LatentDiffusion, latent: Tensor, step: Step) -> Tensor:
    """One plain call of diffusers' UNet, for a latent (1, C, h, w)."""
    predictor = diffusion.predictor
    output = predictor.unet(latent, step.timestep, encoder_hidden_states=predictor.empty_prompt).sample
    if diffusion.scheduler.config.prediction_type == "v_prediction":
        return step.alpha**0.5 * output + (1 - step.alpha) ** 0.5 * latent
    return output


def _calls(masks: int, steps: int) -> dict[str, int]:
    """How many calls of each kind the whole procedure makes."""
    once = dict.fromkeys(("encode", "queries", "clusters", "argmax"), 1)
    return {**once, "recorded": steps, "row": 2 * masks * steps, "decode": 2 * masks, "difference": masks}


def _grid_of(positions: int, height: int, width: int) -> tuple[int, int]:
    """Return (h, w) of a UNet level with so many positions, for an image of (H', W')."""
    factor = isqrt(height * width // positions)
    return height // factor, width // factor


@torch.inference_mode()
def injection_cost(model: EmerDiff, image_size: tuple[int, int], options: Options, calls: int = 5) -> float:
    """Return the time of one evaluation with given maps, in units of diffusers' plain one: medians of some calls each.

    The two take turns. Batch 1, random latents of the size that an image of (H, W) has in the network.
    """
    diffusion, step = model.diffusion, model.diffusion.grid(options.steps)[-1]
    cost = model.cost(image_size, options)
    sides = (cost.height // diffusion.latent_factor, cost.width // diffusion.latent_factor)
    latent = torch.randn(1, diffusion.latent_channels, *sides).to(diffusion.device)
    clock, attention = Clock(diffusion.device), map_attention(diffusion, model.snap(options))
    with installed(diffusion.predictor.unet, attention):
        attention.mode = "record"
        _predict_noise(diffusion, latent, step)
        attention.mode = "inject"
    for _ in range(calls + 1):
        with clock("plain"):
            _predict_noise(diffusion, latent, step)
        with installed(diffusion.predictor.unet, attention), clock("injected"):
            _predict_noise(diffusion, latent, step)
    plain, injected = (median(clock.calls[kind].seconds[1:]) for kind in ("plain", "injected"))  # but the first
    return injected / plain
