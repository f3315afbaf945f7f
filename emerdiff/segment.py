"""The main path: image -> latent -> query clusters -> difference maps -> segments.

EmerDiff (Namekata, Sabour, Fidler, Kim; ICLR 2024, arXiv 2401.11739), complete: no training, no labels, no text.
`speed="exact"` is the paper's procedure; `speed="fast"` takes a few coarse steps, packs many masks into one row, and
compares latents along the photo's edges in place of decoded images.
Images keep their aspect; sides beyond 4:1 go in tiles (`Options.tile`, see `tiled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from emerdiff.clusters import check_masks
from emerdiff.cost import Cost, counter, work
from emerdiff.diffusion import LatentDiffusion
from emerdiff.edges import sharpen
from emerdiff.image import checked_size, enlarged, network_size, to_tensor
from emerdiff.inversion import Step, noisy_latents, thin
from emerdiff.memory import measured, rows_that_fit
from emerdiff.modulate import Modulation, difference_maps, finite, packed_response_maps
from emerdiff.one_pass import Reading, Spreading, carry_at_once, finest_self_attentions, group, read_outputs
from emerdiff.options import Options, read_layer, show_layer
from emerdiff.segments import Segments, labels_of
from emerdiff.tiled import segment_tiles
from emerdiff.tiles import Tiling

FAST_STEPS = 4  # of the grid's steps from t_m down, evenly spaced
EDGE_CELLS = 2  # positions of the latent: the radius in which its changes are brought to the photo's edges


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
        self,
        image: np.ndarray,
        options: Options | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        start: np.ndarray | None = None,
    ) -> Segments:
        """Segment one image into at most options.masks masks, without any class names.

        image: (H, W, 3) uint8 RGB. progress: called with (UNet evaluations done, in all) after every UNet call.
        start: (K, C) float32, `clusters.centres` of the frame before, whose masks keep their ids here; not with tiles
        or "diffcut".
        Raises ValueError for an image of another kind, an aspect beyond 4:1, more masks than the feature layer has
        positions, unknown layers, two layers of different levels, or numbers that overflowed.
        """
        size, options = checked_size(image), self.snap(options or Options())
        cost = self.cost(size, options)
        network, count_rows = (cost.height, cost.width), counter(cost.unet_rows, progress)
        if options.tile is not None:
            return self._segment_tiles(image, Tiling.of(size, options.tile), options, network, count_rows)
        reading = self._read(image, network, options, count_rows)
        ids, carried = group(reading.queries, reading.grid, options, start)
        maps, layer_rms = self._carry(image, reading, ids, options, count_rows)
        return Segments(
            labels=labels_of(torch.from_numpy(maps), image, options),
            low_resolution_masks=ids.reshape(reading.grid),
            queries=reading.queries,
            difference_maps=maps if options.keep_difference_maps else None,
            feature_timestep=options.feature_timestep,  # snapped
            modulation_timestep=options.modulation_timestep,
            network_size=network,
            layer_rms=layer_rms,
            options=options,
            carried=carried,
        )

    def _segment_tiles(
        self,
        image: np.ndarray,
        tiling: Tiling,
        options: Options,
        network: tuple[int, int],
        count_rows: Callable[[int], None],
    ) -> Segments:
        """As `segment`, in tiles that each go through the network at (H', W')."""
        found = segment_tiles(
            image,
            tiling,
            options,
            lambda tile: self._read(tile, network, options, count_rows),
            lambda tile, reading, ids: self._carry(tile, reading, ids, options, count_rows),
        )
        return Segments(
            labels=found.labels,
            low_resolution_masks=found.low_resolution_masks,
            queries=found.queries,
            difference_maps=None,
            feature_timestep=options.feature_timestep,
            modulation_timestep=options.modulation_timestep,
            network_size=network,
            layer_rms=found.layer_rms,
            options=options,
        )

    def _read(
        self, image: np.ndarray, network: tuple[int, int], options: Options, count_rows: Callable[[int], None]
    ) -> Reading:
        """What one evaluation of the UNet tells of an image (H, W, 3) that goes through it at (H', W')."""
        feature_step, steps = self._steps(options)
        encoded = self.diffusion.encode(to_tensor(image, *network))
        feature_latent, path = self._noisy_path(encoded, feature_step, steps, options)
        attention = self.diffusion.attention
        names = finest_self_attentions(self.diffusion) if options.upsampling == "attention" else []
        modules = [attention(self.layers(options)[0]).to_q]
        modules += [module for name in names for module in (attention(name).to_q, attention(name).to_k)]
        with measured(self.diffusion.device) as row:
            queries, *others = read_outputs(self.diffusion, feature_latent, feature_step, modules)
        count_rows(1)
        heads = [attention(name).heads for name in names]
        return Reading(
            network_size=network,
            grid=self._grid(network, options),
            queries=finite(queries[0].float(), self.diffusion.dtype).cpu().numpy(),
            steps=steps,
            path=path,
            spreading=Spreading(others[::2], others[1::2], heads, self._positions(network, names[0]))
            if names
            else None,
            row=row,
        )

    def _carry(
        self,
        image: np.ndarray,
        reading: Reading,
        ids: np.ndarray,
        options: Options,
        count_rows: Callable[[int], None],
    ) -> tuple[np.ndarray, float | None]:
        """Maps (K, h, w) float32 of the groups (N,), whose largest is a pixel's mask, and the modulated layer's RMS.

        Difference maps are (K, H', W'), smoothed; with speed="fast" those of latents, along the image's edges.
        """
        if options.upsampling != "modulated":
            return carry_at_once(reading, ids, options), None
        modulation = Modulation(
            layer=self.layers(options)[1],
            strength=options.strength,
            placement=options.modulation,
            attention_injection=options.attention_injection,
            rows=rows_that_fit(self._rows_per_call(reading.network_size, options), reading.row, self.diffusion.device),
        )
        masks = torch.from_numpy(ids == np.arange(ids.max() + 1)[:, None]).to(reading.path[0].device)  # (K, N)
        exact = options.speed == "exact"
        compare = difference_maps if exact else packed_response_maps
        maps, layer_rms = compare(self.diffusion, reading.steps, reading.path, masks, modulation, count_rows)
        smooth = gaussian_filter(enlarged(maps, reading.network_size).numpy(), sigma=(0, options.sigma, options.sigma))
        if exact:
            return smooth, layer_rms
        sharp = sharpen(torch.from_numpy(smooth), image, EDGE_CELLS * self.diffusion.latent_factor)
        return sharp.clamp(min=0).numpy(), layer_rms

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
        tiling = None if options.tile is None else Tiling.of(image_size, options.tile)
        images = len(tiling) if tiling else 1
        height, width = network_size(tiling.tile if tiling else image_size, options.side, self.diffusion.size_multiple)
        rows, columns = self._grid((height, width), options)
        check_masks(tiling.masks(options) if tiling else options.masks, images * rows * columns)
        most = self._rows_per_call((height, width), options)
        unet_rows, decodes = work(options, len(self._steps(options)[1]), most)
        twice = images if tiling and options.upsampling == "attention" else 0  # tiles that are read twice
        return Cost(images * unet_rows + twice, images * decodes, height, width, images)

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
        """Return x_{t_f} and the latents x_{t_m}, ..., x_0 of the edit-friendly inversion."""
        latents = noisy_latents(x_0, self.diffusion.grid(options.steps), options.seed)
        return latents[feature_step.timestep], [*(latents[step.timestep] for step in steps), x_0]

    def _grid(self, size: tuple[int, int], options: Options) -> tuple[int, int]:
        """Rows and columns of the feature layer's grid for images of (H', W')."""
        return self._positions(size, self.layers(options)[0])

    def _positions(self, size: tuple[int, int], layer: str) -> tuple[int, int]:
        """Rows and columns that an attention sees of images of (H', W')."""
        cell = self.diffusion.latent_factor << self.diffusion.level(layer)
        return size[0] // cell, size[1] // cell

    def _rows_per_call(self, size: Sequence[int], options: Options) -> int:
        """Most rows for images of (H', W') in one UNet call."""
        return max(1, options.batch * options.side**2 // (size[0] * size[1]))
