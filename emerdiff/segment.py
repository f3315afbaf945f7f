"""The main path: image -> latent -> query clusters -> difference maps -> segments.

EmerDiff (Namekata, Sabour, Fidler, Kim; ICLR 2024, arXiv 2401.11739), whole: no training, no labels, no text.
Images keep their aspect; there is no tiling, so sides beyond 4:1 are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from emerdiff.clusters import cluster_queries, upsample_naively
from emerdiff.diffusion import LatentDiffusion
from emerdiff.hooks import record_output
from emerdiff.image import checked_size, nearest, network_size, to_tensor
from emerdiff.inversion import Step, draw_noise, noisy_latent
from emerdiff.modulate import PLACEMENTS, Modulation, difference_maps, modulated_latents

UPSAMPLINGS = ("modulated", "naive")


@dataclass(frozen=True)
class Options:
    """Settings of the method; the defaults are the paper's for Stable Diffusion 1.4."""

    masks: int = 30  # K, number of low-resolution masks
    steps: int = 50  # denoising steps of the whole grid; only those from t_m down are run
    feature_timestep: int = 1  # t_f, where queries are read; snaps to the grid
    modulation_timestep: int = 281  # t_m, where the layer is modulated; snaps to the grid
    strength: float = 10.0  # lambda, added to every channel at a mask's positions
    feature_layer: str = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"  # the queries' attention
    modulated_layer: str = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"  # the attention that is nudged
    modulation: str = "after-projection"  # or "before-projection": before or after the layer's output projection
    attention_injection: bool = True  # attention maps of the unmodulated pass in the modulated rows
    sigma: float = 1.0  # Gaussian smoothing of the difference maps, in pixels of the network's input; 0 = none
    seed: int = 0  # of the noise and of k-means
    batch: int = 16  # rows per UNet call at base_size x base_size pixels; fewer for longer images, to bound memory
    upsampling: str = "modulated"  # or "naive": bilinear upsampling of the low-resolution masks, the baseline
    base_size: int = 512  # shorter side of the image in the network, pixels
    keep_difference_maps: bool = False  # return them; K times the network's input size in float32

    def __post_init__(self) -> None:
        for name, least in (("masks", 1), ("steps", 1), ("batch", 1), ("base_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected less than 2**32, got {self.seed}")
        for name in ("feature_timestep", "modulation_timestep", "sigma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number from 0 up, got {getattr(self, name)}")
        if not abs(self.strength) < float("inf"):
            raise ValueError(f"strength: expected a finite number, got {self.strength}")
        for name, choices in (("modulation", tuple(PLACEMENTS)), ("upsampling", UPSAMPLINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.keep_difference_maps and self.upsampling == "naive":
            raise ValueError("keep_difference_maps: naive upsampling has none; it needs upsampling='modulated'")


@dataclass(frozen=True, eq=False)
class Segments:
    """The masks of one image, and what led to them."""

    labels: np.ndarray  # (H, W) int32 at the image's own size; ids are those of low_resolution_masks
    low_resolution_masks: np.ndarray  # (h, w) int32, ids 0..K-1, each in use; K < options.masks on flat images
    queries: np.ndarray  # (h*w, C) float32, row by row
    difference_maps: np.ndarray | None  # (K, H', W') float32 at the network's input size, after smoothing
    feature_timestep: int  # t_f as snapped to the grid
    modulation_timestep: int  # t_m as snapped to the grid
    network_size: tuple[int, int]  # (H', W'), pixels
    layer_rms: float | None  # RMS of the modulated tensor, unmodulated, at t_m; None with naive upsampling
    options: Options


@dataclass(frozen=True)
class Cost:
    """The work one image asks for."""

    unet_rows: int  # UNet evaluations of one latent each
    decodes: int  # images decoded by the autoencoder
    height: int  # H', the image's height in the network, pixels
    width: int  # W'


@dataclass(frozen=True, eq=False)
class EmerDiff:
    """EmerDiff on one latent diffusion model. Holds no state between calls: same input, same output."""

    diffusion: LatentDiffusion

    @classmethod
    def from_pretrained(
        cls, id_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> EmerDiff:
        """Load a diffusers folder or hub repository; see `LatentDiffusion.from_pretrained`."""
        return cls(LatentDiffusion.from_pretrained(id_or_folder, device=device, dtype=dtype))

    @torch.inference_mode()
    def segment(
        self, image: np.ndarray, options: Options | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> Segments:
        """Segment one image into at most options.masks masks, without any class names.

        image: (H, W, 3) uint8 RGB. progress: called with (UNet evaluations done, in all) after every UNet call.
        Raises ValueError for an image of another kind, an aspect beyond 4:1, more masks than the feature layer has
        positions, unknown layers, or two layers of different levels.
        """
        options = options or Options()
        cost = self.cost(checked_size(image), options)
        count_rows = _counter(cost.unet_rows, progress)
        feature_step, steps = self._steps(options)

        x_0 = self.diffusion.encode(to_tensor(image, cost.height, cost.width))
        feature_latent, path = self._noisy_path(x_0, feature_step, steps, options)
        queries = self._queries(feature_latent, feature_step, options.feature_layer)
        count_rows(1)
        ids = cluster_queries(queries.numpy(), options.masks, options.seed)
        grid = _grid_of(len(ids), x_0.shape[-2:])
        masks = torch.from_numpy(ids == np.arange(ids.max() + 1)[:, None])  # (K, N)

        maps, layer_rms = None, None
        if options.upsampling == "naive":
            labels = upsample_naively(masks.unflatten(1, grid), (cost.height, cost.width))
        else:
            maps, layer_rms = self._difference_maps(steps, path, masks, options, count_rows)
            labels = maps.argmax(axis=0)
        return Segments(
            labels=nearest(labels.astype(np.int32), image.shape[:2]),
            low_resolution_masks=ids.reshape(grid),
            queries=queries.numpy(),
            difference_maps=maps if options.keep_difference_maps else None,
            feature_timestep=feature_step.timestep,
            modulation_timestep=steps[0].timestep,
            network_size=(cost.height, cost.width),
            layer_rms=layer_rms,
            options=options,
        )

    def snap(self, options: Options) -> Options:
        """Return the options as this model uses them: t_f and t_m moved to the nearest timesteps of its grid.

        Raises ValueError for more steps than the model has, or layers that it does not have.
        """
        for layer in (options.feature_layer, options.modulated_layer):
            self.diffusion.attention(layer)
        feature_step, steps = self._steps(options)
        return replace(options, feature_timestep=feature_step.timestep, modulation_timestep=steps[0].timestep)

    def cost(self, image_size: tuple[int, int], options: Options | None = None) -> Cost:
        """Return the work that `segment` will do for an image of (H, W), at most; ValueError as `segment` raises."""
        options = self.snap(options or Options())  # what is wrong for every image is told before any work is done
        height, width = network_size(image_size, options.base_size, self.diffusion.size_multiple)
        _, steps = self._steps(options)
        if options.upsampling == "naive":
            return Cost(unet_rows=1, decodes=0, height=height, width=width)
        rows = 1 + len(steps) * (1 + 2 * options.masks)
        return Cost(unet_rows=rows, decodes=2 * options.masks, height=height, width=width)

    def _steps(self, options: Options) -> tuple[Step, list[Step]]:
        """Return the step at t_f, and those from t_m down; both timesteps snap to the nearest of the grid."""
        grid = self.diffusion.grid(options.steps)
        feature = min(grid, key=lambda step: abs(step.timestep - options.feature_timestep))
        modulated = min(grid, key=lambda step: abs(step.timestep - options.modulation_timestep))
        return feature, grid[grid.index(modulated) :]

    def _noisy_path(
        self, x_0: Tensor, feature_step: Step, steps: list[Step], options: Options
    ) -> tuple[Tensor, list[Tensor]]:
        """Return x_{t_f} and the latents x_{t_m}, ..., x_0 of the edit-friendly inversion.

        Every timestep has its own draw, numbered from the grid's lowest timestep up, so a timestep's noise does not
        depend on where the path begins.
        """
        grid = self.diffusion.grid(options.steps)[::-1]
        count = 1 + max(grid.index(feature_step), grid.index(steps[0]))
        noises = draw_noise(x_0.shape, count, options.seed)
        latents = [
            noisy_latent(x_0, noise.to(x_0.device), step.alpha) for noise, step in zip(noises, grid, strict=False)
        ]
        return latents[grid.index(feature_step)], [*latents[: len(steps)][::-1], x_0]

    def _queries(self, latent: Tensor, step: Step, layer: str) -> Tensor:
        """Return the layer's query vectors (N, C) float32 on the CPU, all heads concatenated."""
        with record_output(self.diffusion.attention(layer).to_q) as recording:
            self.diffusion.predict_noise(latent, step)
        return recording.read()[0].float().cpu()

    def _difference_maps(
        self, steps: list[Step], path: list[Tensor], masks: Tensor, options: Options, count_rows: Callable[[int], None]
    ) -> tuple[np.ndarray, float]:
        """Return the smoothed difference maps (K, H', W') of masks (K, N), and the RMS of the modulated tensor."""
        modulation = Modulation(
            layer=options.modulated_layer,
            strength=options.strength,
            placement=options.modulation,
            attention_injection=options.attention_injection,
            batch=self._rows_per_call(path[0].shape[-2:], options),
        )
        masks = masks.to(path[0].device)
        latents, layer_rms = modulated_latents(self.diffusion, steps, path, masks, modulation, count_rows)
        maps = difference_maps(self.diffusion, latents).numpy()
        return gaussian_filter(maps, sigma=(0, options.sigma, options.sigma)), layer_rms

    def _rows_per_call(self, latent_size: Sequence[int], options: Options) -> int:
        pixels = latent_size[0] * latent_size[1] * self.diffusion.latent_factor**2
        return max(1, options.batch * options.base_size**2 // pixels)


def naive_segments(
    low_resolution_masks: np.ndarray, network_size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
    """Return what `segment` gives with upsampling="naive", from kept low-resolution masks: no model is run.

    low_resolution_masks: (h, w) int, ids 0..K-1; sizes (H', W') in the network and (H, W) of the image in pixels.
    Returns (H, W) int32.
    """
    ids = torch.from_numpy(low_resolution_masks)
    masks = ids == torch.arange(int(ids.max()) + 1)[:, None, None]
    return nearest(upsample_naively(masks, network_size).astype(np.int32), image_size)


def _grid_of(positions: int, latent_size: torch.Size) -> tuple[int, int]:
    """Return (h, w) of a UNet level with that many positions: the latent's size, halved some times."""
    height, width = latent_size
    factor = isqrt(height * width // positions)
    return height // factor, width // factor


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def count_rows(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    return count_rows
