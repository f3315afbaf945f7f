"""Masks along the photograph's edges: a guided filter between a mask's maps and the argmax.

`speed="fast"` has it where the paper decodes; with `Options.edges` it brings maps to the photo's full size.

The guided filter of He, Sun and Tang (PAMI 2013): in every window a map is fitted by a linear function of the photo's
colours. The fits are made at the maps' own size, enlarged, and applied to the photo's own pixels, as in He and Sun's
fast form (arXiv 1505.00996), so that contours follow the photo at its full resolution.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from emerdiff.image import fitted_photo

WINDOW = 1 / 64  # a window's radius, as a share of the maps' shorter side; at least 1
PENALTY = 1e-3  # of slopes, in squares of colours from 0 to 1


def follow_edges(maps: Tensor, image: np.ndarray) -> Tensor:
    """Fit maps (K, h, w) float32 by the colours of the image (H, W, 3) uint8 that they belong to: (4, K, h, w) float32.

    Three slopes, of red, green and blue from 0 to 1, and an offset; `image.largest` applies them.
    """
    height, width = maps.shape[1:]
    return _fits(maps, fitted_photo(image, height, width), max(1, round(WINDOW * min(height, width))))


def sharpen(maps: Tensor, image: np.ndarray, radius: int) -> Tensor:
    """Maps (K, h, w) float32 filtered along the edges of the image that they belong to, windows of 2 radius + 1."""
    guide = fitted_photo(image, *maps.shape[1:])
    fits = _fits(maps, guide, radius)
    return (fits[:3] * guide[:, None]).sum(dim=0) + fits[3]


def _fits(maps: Tensor, guide: Tensor, radius: int) -> Tensor:
    """The guided filter's means of slopes and offsets (4, K, h, w) for a guide (3, h, w) from 0 to 1."""
    whole = uniform_filter(np.ones(guide.shape[1:], np.float32), 2 * radius + 1, mode="constant")

    def mean(values: Tensor) -> Tensor:  # (..., h, w), over windows, which end at the border
        axes = (values.ndim - 2, values.ndim - 1)
        return torch.from_numpy(uniform_filter(values.numpy(), 2 * radius + 1, mode="constant", axes=axes) / whole)

    maps = maps / maps.max().clamp(min=1e-12)
    colour, level = mean(guide), mean(maps)
    spread = mean(guide[:, None] * guide[None]) - colour[:, None] * colour[None]  # (3, 3, h, w), their covariance
    shared = mean(guide[:, None] * maps[None]) - colour[:, None] * level[None]  # (3, K, h, w), with the maps
    system = spread.permute(2, 3, 0, 1) + PENALTY * torch.eye(3)
    slopes = (torch.linalg.inv(system) @ shared.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    offsets = level - (slopes * colour[:, None]).sum(dim=0)
    return mean(torch.cat([slopes, offsets[None]]))
