"""Which pixels answer to one cell: modulated denoising for a point, without clusters, labels or text.

EmerDiff (arXiv 2401.11739, section 3.2) nudges all cells of a cluster. Here one cell of the low-resolution grid is
nudged, both ways, and the difference of the two decoded images says how much every pixel belongs to it: a point is
turned into a soft mask, and a cut through it into a mask, with no annotation anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from emerdiff.cost import counter
from emerdiff.image import checked_size, to_tensor
from emerdiff.modulate import Modulation, difference_maps
from emerdiff.options import Options
from emerdiff.segment import EmerDiff

ROWS = 3  # of a UNet call: the unmodulated run, and the cell nudged down and up


@dataclass(frozen=True, eq=False)
class Answer:
    """How much every pixel answers to a cell.

    strength: (H, W) float32 at the image's own size, 0..1, where 1 is the strongest.
    cell: (row, column) of the nudged cell; grid: (rows, columns) of all cells.
    largest: the largest difference before it was scaled to 1, ||I^- - I^+||_2 over RGB on the [-1, 1] scale.
    """

    strength: np.ndarray
    cell: tuple[int, int]
    grid: tuple[int, int]
    largest: float

    def mask(self, cut: float) -> np.ndarray:
        """(H, W) bool: the pixels that answer at least so much. cut: 0..1."""
        if not 0 <= cut <= 1:
            raise ValueError(f"cut: expected a number from 0 to 1, got {cut}")
        return self.strength >= cut


@torch.inference_mode()
def answer_to_point(
    model: EmerDiff,
    image: np.ndarray,
    point: tuple[int, int],
    options: Options | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Nudge the cell under a pixel and return which pixels answer.

    image: (H, W, 3) uint8 RGB. point: (x, y) of a pixel, from the left and from the top. options: as for `segment`, of
    which the numbers of masks and all that is about clusters play no part. progress: called with (UNet evaluations
    done, in all). Same input, same output, bit by bit on the CPU.
    Raises ValueError for a point outside the image, and as `EmerDiff.segment`.
    """
    size = checked_size(image)
    (column, row), (rows, columns) = point, size
    if not (0 <= column < columns and 0 <= row < rows):
        raise ValueError(f"point: expected x in 0..{columns - 1} and y in 0..{rows - 1}, got {column}, {row}")
    options = model.snap(replace(options or Options(), masks=1, upsampling="modulated", tile=None))
    cost = model.cost(size, options)  # refuses elongated images
    feature_step, steps = model._steps(options)
    encoded = model.diffusion.encode(to_tensor(image, cost.height, cost.width))
    _, path = model._noisy_path(encoded, feature_step, steps, options)
    grid = model._grid((cost.height, cost.width), options)
    cell = row * grid[0] // rows, column * grid[1] // columns
    mask = torch.zeros(1, grid[0] * grid[1], dtype=torch.bool, device=path[0].device)
    mask[0, cell[0] * grid[1] + cell[1]] = True
    modulation = Modulation(
        layer=model.layers(options)[1],
        strength=options.strength,
        placement=options.modulation,
        attention_injection=options.attention_injection,
        rows=ROWS,
    )
    count_rows = counter(ROWS * len(steps), progress)
    maps, _ = difference_maps(model.diffusion, steps, path, mask, modulation, count_rows)
    smooth = torch.from_numpy(gaussian_filter(maps.numpy(), sigma=(0, options.sigma, options.sigma)))
    strength = F.interpolate(smooth[None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    largest = float(strength.max())
    return Answer(np.clip(strength / max(largest, 1e-12), 0, 1).astype(np.float32), cell, grid, largest)
