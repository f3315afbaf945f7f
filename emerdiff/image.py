"""Resizing between an image's own size and the network's: aspect kept, sides whole multiples.

Difference maps are brought to the image's size before the largest is taken, so that contours are as fine as the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_ASPECT = 4
BAND_VALUES = 2**23  # maps times pixels that `largest` works on at once, float32


def network_size(image_size: tuple[int, int], base_size: int, multiple: int) -> tuple[int, int]:
    """Return the (H', W') at which an image of (H, W) goes through the network.

    The shorter side becomes base_size, the aspect is kept, and both are rounded to the nearest multiple.
    """
    short, long = sorted(image_size)
    if short < 1 or long > MAX_ASPECT * short:
        height, width = image_size
        raise ValueError(
            f"image: expected an aspect of at most {MAX_ASPECT}:1, got {width}x{height} (width x height); "
            "tiles (--tile) take longer ones"
        )
    height, width = (multiple * max(1, floor(side * base_size / short / multiple + 0.5)) for side in image_size)
    return height, width


def checked_size(image: np.ndarray) -> tuple[int, int]:
    """Return the (H, W) of an image; ValueError unless it is a (H, W, 3) uint8 array."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image: expected a (H, W, 3) uint8 array, got {got}")
    return image.shape[0], image.shape[1]


def to_tensor(image: np.ndarray, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H', W') float32 in [-1, 1]."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def fitted_photo(image: np.ndarray, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, H', W') float32 in [0, 1]."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized, dtype=np.float32) / 255).permute(2, 0, 1)


def largest(maps: Tensor, size: tuple[int, int], image: np.ndarray | None = None) -> np.ndarray:
    """Return (H, W) int32: at every pixel the map that is largest there; of equal ones the first.

    maps: (K, h, w) float32 on the CPU, upsampled bilinearly (align_corners=False) to `size`, band by band, so that
    memory does not grow with the image. With an image (H, W, 3) uint8 they are fits (4, K, h, w) of `edges`.
    """
    labels = np.empty(size, np.int32)
    for band in bands(size[0], maps[..., 0, 0].numel() * size[1]):
        values = enlarged(maps, size, band)
        labels[band] = (values if image is None else coloured(values, image[band])).argmax(dim=0).int().numpy()
    return labels


def bands(rows: int, values: int) -> Iterator[slice]:
    """All rows, some at a time: as many as have `BAND_VALUES` values, of which a row has `values`."""
    some = max(1, BAND_VALUES // values)
    return (slice(top, min(rows, top + some)) for top in range(0, rows, some))


def enlarged(maps: Tensor, size: tuple[int, int], rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    """A part of maps (..., h, w) upsampled bilinearly (align_corners=False) to a size (H, W)."""
    above, below, share = (part[rows] for part in _between(maps.shape[-2], size[0]))
    left, right, shift = (part[columns] for part in _between(maps.shape[-1], size[1]))
    lines = torch.lerp(maps[..., above, :], maps[..., below, :], share[:, None])
    return torch.lerp(lines[..., left], lines[..., right], shift)


def coloured(fits: Tensor, image: np.ndarray) -> Tensor:
    """Slopes and offsets (4, K, H, W) at an image's (H, W, 3) uint8 own colours: maps (K, H, W)."""
    colours = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
    values = fits[3]
    for slope, colour in zip(fits[:3], colours, strict=True):
        values = torch.addcmul(values, slope, colour)
    return values


def _between(cells: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """For every pixel along a side: the cells before and after it, and how near it is to the latter, 0..1."""
    position = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5).clamp(min=0)
    before = position.long().clamp(max=cells - 1)
    return before, (before + 1).clamp(max=cells - 1), (position - before).float()


def nearest(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return an index map at another size, by nearest neighbour, pixel centres on pixel centres."""
    rows, columns = (((2 * np.arange(new) + 1) * old // (2 * new)) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]
