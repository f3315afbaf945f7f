"""Every pixel labelled as the published code of dense CLIP does it, step by step, so that labels are the same.

SCLIP (arXiv 2312.01597), NACLIP (arXiv 2404.08181), ClearCLIP (arXiv 2407.12442) and SC-CLIP (arXiv 2411.15869) share
one pipeline, which differs from `Clip.dense_features` and `labels.label_pixels` in everything but the network:

    image -- OpenCV's bilinear kernel, mmcv's size --> pixels -- rounded mean and deviation --> windows, by pixels
    window -- whole cells of it, or padded to whole cells --> cosines on CLIP's grid -- bilinear --> the window's pixels
    sums of windows / number of windows at each pixel -- bilinear --> the image's own pixels --> softmax, best name

The table of positions is resized by factors of (cells + 0.1) / the table's cells, not by a size. Windows are seen one
at a time. What the pipeline is given (lengths, scale, lists, thresholds) is a protocol's: `ovseg.eval.protocols`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.classes import Vocabulary
from ovseg.labels import Tile, background_bias, bands_of_rows, label_logits, label_tiles
from ovseg.resampling import resize_bilinear, sides_within
from ovseg.towers.clip import Clip
from ovseg.towers.dense import dense_features
from ovseg.towers.readout import cell_size
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View, window_starts

SMALL = 128  # height and width of an output together, up to which torch's bilinear kernel is another
DECIMALS = 3  # of the mean and the deviation, which published code writes in units of 0..255


@torch.inference_mode()
def pixel_cosines(clip: Clip, image: np.ndarray, text: np.ndarray, view: View, pad: bool = False) -> Tensor:
    """Cosines of prompts at the pixels of an image as it was resized for CLIP, the mean over windows.

    Args:
        image: (H, W, 3) uint8 RGB. text: (P, C) float32, rows of length 1.
        view: lengths in pixels; they need not be whole cells. Window sides longer than the image's are the image's.
        pad: give windows whose sides are not whole cells zeros, as many before as behind them (or one less before);
            otherwise what is beyond the last whole cell is not seen, and the grid is stretched over it.
    Returns:
        (P, h, w) float32, on the CLIP's device; h, w as `sides_within` has them. This is the memory it takes.
    Raises:
        ValueError: a side shorter than a cell after resizing, or what `dense_features` refuses.
    """
    tower, prompts = clip.model.visual, torch.from_numpy(text).to(clip.device)
    cells = cell_size(tower)
    pixels = _pixels(clip, image, view)
    sides = pixels.shape[1], pixels.shape[2]
    if not pad and (sides[0] < cells[0] or sides[1] < cells[1]):
        raise ValueError(f"image: {sides[1]} x {sides[0]} pixels after resizing, expected a cell of CLIP at least")
    window = [min(view.window or side, side) for side in sides]
    tops, lefts = (window_starts(side, size, view.stride or side) for side, size in zip(sides, window, strict=True))
    total, count = torch.zeros(len(text), *sides, device=clip.device), torch.zeros(sides, device=clip.device)
    for top in tops:
        for left in lefts:
            place = slice(top, top + window[0]), slice(left, left + window[1])
            total[:, *place] += _window_cosines(tower, pixels[:, *place], prompts, view.variant, pad)
            count[place] += 1
    return total.div_(count)


def label_pixels_exactly(
    cosines: Tensor, size: tuple[int, int], vocabulary: Vocabulary, scoring: Scoring
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) int32 and their probabilities (H, W) float32, of an image of `size`, from `pixel_cosines`.

    By a softmax whatever the CLIP's rule; torch's own, so that near draws are decided as published code does.
    """

    bias = background_bias(vocabulary).astype(np.float32)[:, None, None]

    def bands() -> Iterator[Tile]:
        top = 0
        for band in _upsampled(cosines, size):
            place = slice(top, top := top + band.shape[1]), slice(0, size[1])
            logits = band * np.float32(scoring.scale)
            yield place, torch.from_numpy(logits + bias if vocabulary.bias else logits).softmax(0).numpy()

    return label_tiles(bands, replace(vocabulary, bias=0.0), Scoring(1.0, rule="given"), size)


def label_masks_exactly(
    cosines: Tensor, masks: np.ndarray, vocabulary: Vocabulary, scoring: Scoring
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, L) float32 and best names (K,) int32 of masks (H, W), ids from 0: as pixels would be labelled
    if each had the mean cosines of its mask."""
    counts = np.bincount(masks.ravel())
    sums = np.zeros((len(cosines), len(counts)))
    top = 0
    for band in _upsampled(cosines, (masks.shape[0], masks.shape[1])):
        ids = masks[top : top + band.shape[1]].ravel()
        top += band.shape[1]
        sums += np.stack([np.bincount(ids, prompt.ravel(), minlength=len(counts)) for prompt in band])
    return label_logits(scoring.scale * sums / np.maximum(counts, 1), vocabulary, scoring, counts)


def _pixels(clip: Clip, image: np.ndarray, view: View) -> Tensor:
    """The image (3, h, w) float32 as the network sees it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    sides = sides_within((image.shape[0], image.shape[1]), view.short_side, view.long_side)
    pixels = torch.from_numpy(resize_bilinear(image, sides)).permute(2, 0, 1).float()
    mean, deviation = (
        torch.tensor([round(255 * value, DECIMALS) for value in values])[:, None, None]
        for values in (clip.mean, clip.deviation)
    )
    return ((pixels - mean) / deviation).to(clip.device)


def _window_cosines(tower: nn.Module, window: Tensor, prompts: Tensor, variant: str, pad: bool) -> Tensor:
    """Cosines (P, h, w) of a window's pixels (3, h, w)."""
    sides, cells = (window.shape[1], window.shape[2]), cell_size(tower)
    before = (0, 0)
    if pad:
        lacking = [-side % cell for side, cell in zip(sides, cells, strict=True)]
        before = lacking[0] // 2, lacking[1] // 2
        window = F.pad(window, (before[1], lacking[1] - before[1], before[0], lacking[0] - before[0]))
    grid = window.shape[1] // cells[0], window.shape[2] // cells[1]
    whole = window[None, :, : grid[0] * cells[0], : grid[1] * cells[1]]
    features = dense_features(_with_positions(tower, grid), whole, variant)
    tokens = features.flatten(2).transpose(1, 2)
    cosines = (tokens / tokens.norm(dim=-1, keepdim=True)) @ prompts.T
    if not cosines.isfinite().all():
        raise ValueError("CLIP overflowed: use bfloat16 or float32 instead of float16")
    maps = cosines.transpose(1, 2).unflatten(2, grid)
    upsampled = F.interpolate(maps, size=window.shape[1:], mode="bilinear", align_corners=False)[0]
    return upsampled[:, before[0] : before[0] + sides[0], before[1] : before[1] + sides[1]]


def _with_positions(tower: Any, grid: tuple[int, int]) -> Any:
    """The tower for another grid, with a table of positions resized as published code does it; it shares its weights.

    A grid with as many cells as the table has takes the table as it is, whatever its sides. A tower without such a
    table is returned itself.
    """
    table = getattr(tower, "positional_embedding", None)
    if table is None or grid == tuple(tower.grid_size):
        return tower
    if grid[0] * grid[1] + 1 != len(table):
        own, patches = table[:1], table[1:]
        square = patches.unflatten(0, tower.grid_size).permute(2, 0, 1)[None].float()
        factors = tuple((cells + 0.1) / trained for cells, trained in zip(grid, tower.grid_size, strict=True))
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic", align_corners=False)[0]
        table = torch.cat([own, resized.permute(1, 2, 0).flatten(0, 1).to(own.dtype)])
    other = copy.copy(tower)
    other._parameters = {**tower._parameters, "positional_embedding": nn.Parameter(table, requires_grad=False)}
    other.grid_size = grid
    return other


def _upsampled(cosines: Tensor, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Cosines (P, h, w) at an image's own pixels, in bands (P, rows, W) float32 from top to bottom.

    What `F.interpolate` gives of the whole, bilinear and align_corners=False, on the CPU bit by bit: columns by itself,
    then rows as its kernel does, with the second product added unrounded. It has another kernel for small sizes.
    """
    if sum(size) <= SMALL:
        yield F.interpolate(cosines[None], size=size, mode="bilinear", align_corners=False)[0].cpu().numpy()
        return
    height = cosines.shape[1]
    scale = np.float32(height) / np.float32(size[0])
    position = np.maximum((np.arange(size[0], dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    upper = np.minimum(position.astype(np.int64), height - 1)
    lower = np.minimum(upper + 1, height - 1)
    share = np.clip(position - upper.astype(np.float32), 0, 1)
    for rows in bands_of_rows(len(cosines), size):
        first, last = upper[rows.start], lower[rows.stop - 1] + 1
        part = F.pad(cosines[:, first:last], (0, 0, 0, max(0, SMALL + 1 - size[1] - (last - first))))[None]
        wide = F.interpolate(part, size=(part.shape[2], size[1]), mode="bilinear", align_corners=False)[0].cpu().numpy()
        above, below = wide[:, upper[rows] - first], wide[:, lower[rows] - first]
        weight = share[rows, None]
        second = above.astype(np.float64) * (np.float32(1) - weight)
        yield ((below * weight).astype(np.float64) + second).astype(np.float32)
