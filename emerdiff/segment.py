"""The main path: image -> latent -> query clusters -> difference maps -> segments.

EmerDiff (Namekata, Sabour, Fidler, Kim; ICLR 2024, arXiv 2401.11739), complete: no training, no labels, no text.
`speed="exact"` is the paper's procedure; `speed="fast"` takes a few coarse steps, packs many masks into one row, and
compares difference maps at the image's own size.
Images keep their aspect; there is no tiling, so sides beyond 4:1 are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from emerdiff.clusters import check_masks, cluster_queries, with_place
from emerdiff.diffusion import LatentDiffusion
from emerdiff.hooks import record_output
from emerdiff.image import checked_size, largest, nearest, network_size, to_tensor
from emerdiff.inversion import Step, draw_noise, noisy_latent, thin
from emerdiff.memory import measured, rows_that_fit
from emerdiff.modulate import Modulation, difference_maps, finite, packed_difference_maps
from emerdiff.options import Options, read_layer, show_layer

FAST_STEPS = 4  # of the grid's steps from t_m down, evenly spaced
PACKED = 12  # estimated number of latents that the responses of many masks are packed into


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
    options: Options  # as snapped


@dataclass(frozen=True)
class Cost:
    """The work for one image; an estimate with speed="fast", where the number of latents shows during the run."""

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
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> EmerDiff:
        """Load a diffusers folder; see `LatentDiffusion.from_pretrained`."""
        return cls(LatentDiffusion.from_pretrained(folder, device=device, dtype=dtype))

    @classmethod
    def sketch(cls, folder: str | Path) -> EmerDiff:
        """A folder's model without its weights: `snap` and `cost` work, `segment` does not."""
        return cls(LatentDiffusion.sketch(Path(folder)))

    @torch.inference_mode()
    def segment(
        self, image: np.ndarray, options: Options | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> Segments:
        """Segment one image into at most options.masks masks, without any class names.

        image: (H, W, 3) uint8 RGB. progress: called with (UNet evaluations done, in all) after every UNet call.
        Raises ValueError for an image of another kind, an aspect beyond 4:1, more masks than the feature layer has
        positions, unknown layers, two layers of different levels, or numbers that overflowed.
        """
        size, options = checked_size(image), self.snap(options or Options())
        cost = self.cost(size, options)
        count_rows = _counter(cost.unet_rows, progress)
        feature_step, steps = self._steps(options)

        x_0 = self.diffusion.encode(to_tensor(image, cost.height, cost.width))
        feature_latent, path = self._noisy_path(x_0, feature_step, steps, options)
        with measured(self.diffusion.device) as row:
            queries = self._queries(feature_latent, feature_step, self.layers(options)[0])
        count_rows(1)
        grid = self._grid((cost.height, cost.width), options)
        ids = cluster_queries(with_place(queries.numpy(), grid, options.place), options.masks, options.seed)
        masks = torch.from_numpy(ids == np.arange(ids.max() + 1)[:, None])  # (K, N)

        maps, layer_rms = None, None
        if options.upsampling == "naive":
            labels = largest(masks.unflatten(1, grid).float(), size)
        else:
            rows = rows_that_fit(self._rows_per_call((cost.height, cost.width), options), row, self.diffusion.device)
            maps, layer_rms = self._difference_maps(steps, path, masks, options, rows, count_rows)
            exact = options.speed == "exact"  # as the paper: masks of the network's size, enlarged
            labels = nearest(maps.argmax(0).astype(np.int32), size) if exact else largest(torch.from_numpy(maps), size)
        return Segments(
            labels=labels,
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
        """Return the options as this model uses them.

        t_f and t_m are moved to the nearest timesteps of its grid, layers have their full names, and None is the
        model's own layer. Raises ValueError for more steps than the model has, layers that it does not have, or two of
        different levels.
        """
        layers = self.layers(options)
        for field, layer in zip(("feature_layer", "modulated_layer"), layers, strict=True):
            self.diffusion.check_layer(field, layer)
        feature, modulated = (self.diffusion.level(layer) for layer in layers)
        if feature != modulated and options.upsampling == "modulated":
            raise ValueError(
                f"feature_layer: {layers[0]} sees latents halved {feature} times, modulated_layer "
                f"{layers[1]} {modulated} times: choose two layers of the same level"
            )
        feature_step, steps = self._steps(options)
        return replace(
            options,
            feature_timestep=feature_step.timestep,
            modulation_timestep=steps[0].timestep,
            feature_layer=layers[0],
            modulated_layer=layers[1],
        )

    def cost(self, image_size: tuple[int, int], options: Options | None = None) -> Cost:
        """Return the work that `segment` will do for an image of (H, W); ValueError as `segment` raises."""
        options = self.snap(options or Options())  # refuses bad options before any work is done
        height, width = network_size(image_size, options.base_size, self.diffusion.size_multiple)
        rows, columns = self._grid((height, width), options)
        check_masks(options.masks, rows * columns)
        if options.upsampling == "naive":
            return Cost(unet_rows=1, decodes=0, height=height, width=width)
        steps, masks = len(self._steps(options)[1]), options.masks
        most = self._rows_per_call((height, width), options)
        pairs = 2 * masks + ceil(masks / max(1, (most - 1) // 2))  # each call has the unmodulated row as well
        if options.speed == "exact":
            return Cost(unet_rows=1 + steps * pairs, decodes=2 * masks, height=height, width=width)
        packed = min(masks, PACKED)
        rows = packed + ceil(packed / max(1, most - 1))
        return Cost(unet_rows=1 + pairs + (steps - 1) * rows, decodes=1 + packed, height=height, width=width)

    def layers(self, options: Options) -> tuple[str, str]:
        """Full names of the attention whose queries are read, and of the one that is nudged."""
        chosen = zip((options.feature_layer, options.modulated_layer), self.diffusion.default_layers, strict=True)
        feature, modulated = (read_layer(show_layer(name)) or own for name, own in chosen)
        return feature, modulated

    def _steps(self, options: Options) -> tuple[Step, list[Step]]:
        """Return the step at t_f, and those from t_m down; both timesteps snap to the nearest of the grid."""
        grid = self.diffusion.grid(options.steps)
        feature = min(grid, key=lambda step: abs(step.timestep - options.feature_timestep))
        modulated = min(grid, key=lambda step: abs(step.timestep - options.modulation_timestep))
        steps = grid[grid.index(modulated) :]
        return feature, steps if options.speed == "exact" else thin(steps, FAST_STEPS)

    def _noisy_path(
        self, x_0: Tensor, feature_step: Step, steps: list[Step], options: Options
    ) -> tuple[Tensor, list[Tensor]]:
        """Return x_{t_f} and the latents x_{t_m}, ..., x_0 of the edit-friendly inversion.

        Every timestep has its own draw, numbered from the grid's lowest timestep up, so a timestep's noise does not
        depend on where the path begins.
        """
        grid = self.diffusion.grid(options.steps)[::-1]
        noises = draw_noise(x_0.shape, len(grid), options.seed)
        latents = {
            step.timestep: noisy_latent(x_0, noise.to(x_0.device), step.alpha)
            for noise, step in zip(noises, grid, strict=True)
        }
        return latents[feature_step.timestep], [*(latents[step.timestep] for step in steps), x_0]

    def _queries(self, latent: Tensor, step: Step, layer: str) -> Tensor:
        """Return the layer's query vectors (N, C) float32 on the CPU, all heads concatenated."""
        with record_output(self.diffusion.attention(layer).to_q) as recording:
            self.diffusion.predict_noise(latent, step)
        return finite(recording.read()[0].float(), self.diffusion.dtype).cpu()

    def _difference_maps(
        self,
        steps: list[Step],
        path: list[Tensor],
        masks: Tensor,
        options: Options,
        rows: int,
        count_rows: Callable[[int], None],
    ) -> tuple[np.ndarray, float]:
        """Return the smoothed difference maps (K, H', W') of masks (K, N), and the RMS of the modulated tensor."""
        modulation = Modulation(
            layer=self.layers(options)[1],
            strength=options.strength,
            placement=options.modulation,
            attention_injection=options.attention_injection,
            rows=rows,
        )
        compare = difference_maps if options.speed == "exact" else packed_difference_maps
        maps, layer_rms = compare(self.diffusion, steps, path, masks.to(path[0].device), modulation, count_rows)
        return gaussian_filter(maps.numpy(), sigma=(0, options.sigma, options.sigma)), layer_rms

    def _grid(self, size: tuple[int, int], options: Options) -> tuple[int, int]:
        """Rows and columns of the feature layer's grid for images of (H', W')."""
        cell = self.diffusion.latent_factor << self.diffusion.level(self.layers(options)[0])
        return size[0] // cell, size[1] // cell

    def _rows_per_call(self, size: Sequence[int], options: Options) -> int:
        """Most rows for images of (H', W') in one UNet call."""
        return max(1, options.batch * options.base_size**2 // (size[0] * size[1]))


def naive_segments(low_resolution_masks: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return what `segment` gives with upsampling="naive", from kept low-resolution masks: no model is run.

    low_resolution_masks: (h, w) int, ids 0..K-1; image_size: (H, W), pixels. Returns (H, W) int32.
    """
    ids = torch.from_numpy(low_resolution_masks)
    masks = ids == torch.arange(int(ids.max()) + 1)[:, None, None]
    return largest(masks.float(), image_size)


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def count_rows(rows: int) -> None:
        nonlocal done
        done = min(done + rows, total)
        if progress is not None:
            progress(done, total)

    return count_rows
