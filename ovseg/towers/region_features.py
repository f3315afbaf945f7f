"""A feature for every mask out of a CLIP's patches, other than the mean of their dense features (`regions.pool`).

    image -- tower --> values of patches, before the last norm -- masks --> (K, D) -- MLP, norm, projection --> (K, C)

As TextRegion (arXiv 2505.23769) does it with another model's masks. What is pooled is what the last block's attention
adds, by whatever dense variant or scope the view asks for; windows are averaged on the common grid first.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.towers.dense import Window, last_block, over_windows
from ovseg.towers.readout import cell_size, pool_regions, readout
from ovseg.towers.region_kinds import REGIONS
from ovseg.towers.regions import grid_weights, keep_own, soft_weights
from ovseg.towers.variants import VARIANTS, Variant
from ovseg.towers.view import View
from ovseg.towers.vit import mean_of_levels, normed_and_projected, pool_values, token_levels


def region_features(
    tower: nn.Module,
    image: Tensor,
    view: View,
    masks: np.ndarray,
    maps: np.ndarray | None = None,
    scope: np.ndarray | None = None,
) -> np.ndarray:
    """The feature of every mask, as `view.regions` says; not for "mean" and "soft", which dense features have.

    Args:
        image: (3, H', W') float, normalised, on the tower's device; whole cells.
        masks: (H, W) int, ids 0..K-1, at any size; they cover the whole image.
        maps: (K, h, w) uint8, difference maps, for soft masks.
        scope: (h', w') int, the mask that each cell is of, for a view with a scope.
    Returns:
        (K, C) float32, of any length; zeros for an id that no pixel has.
    Raises:
        ValueError: a tower or a view that has no such feature, or masks without the maps that it needs.
    """
    kind, cells = REGIONS[view.regions], cell_size(tower)
    grid = image.shape[1] // cells[0], image.shape[2] // cells[1]
    weights, pixels = grid_weights(masks, grid), np.bincount(masks.ravel())[:, None, None]
    if kind.own_head:
        features = _by_own_head(tower, image, view, weights * pixels)
    else:
        if kind.soft:
            weights = soft_weights(maps, grid, len(weights))

        def read(crops: Tensor, windows: list[Window]) -> Tensor:
            return values(tower, crops, last_block(view, scope, windows, crops.device)).float()

        found = over_windows(image, view, cells, read)
        if kind.whole:
            found = found + whole_values(tower, image, view, grid)
        if kind.filtered:
            weights = keep_own(found.cpu().numpy(), weights)
        # In a sum a cell counts by its share in the mask, in a mean by its share of the mask.
        weights = weights * (pixels * found[0].numel() / masks.size) if kind.total else weights / _sums(weights)
        pooled = torch.from_numpy(weights).to(found).flatten(1) @ found.flatten(1).T
        features = finish(tower, pooled, kind.mlp).float()
    return np.where(pixels[:, 0] > 0, features.cpu().numpy(), np.float32(0))


def whole_values(tower: nn.Module, image: Tensor, view: View, grid: tuple[int, int]) -> Tensor:
    """TextRegion's global view: values of the image (3, H, W) at the tower's own size, on a grid (h, w), (D, h, w).

    The shorter side is the tower's own, sides are whole cells; the view's scope, if any, is not for it.
    """
    own: Any = tower.image_size
    scale = int(np.min(own)) / min(image.shape[1:])
    sizes = zip(image.shape[1:], cell_size(tower), strict=True)
    size = [max(1, round(side * scale / cell)) * cell for side, cell in sizes]
    small = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)
    found = values(tower, small, VARIANTS[view.variant]).float()
    return F.interpolate(found, size=grid, mode="bilinear", align_corners=False)[0]


def _sums(weights: np.ndarray) -> np.ndarray:
    return np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1e-12)


@singledispatch
def values(tower: nn.Module, images: Tensor, block: Variant) -> Tensor:
    """What the last block's attention adds at each patch, (B, levels * D, h, w), one level after the other.

    Raises ValueError for a tower whose values are not known.
    """
    raise ValueError(
        "regions: values are known for open_clip's own ViT and ResNet towers, this one has mean and perhaps head, "
        f"got {type(tower).__name__}"
    )


@values.register
def _(tower: VisionTransformer, images: Tensor, block: Variant) -> Tensor:
    if tower.attn_pool is not None:
        tokens, grid = pool_values(tower, images)
        levels = tokens[None]
    else:
        levels, grid = token_levels(tower, images, block, branch=True)
    return levels[:, :, 1:].transpose(0, 1).transpose(2, 3).flatten(1, 2).unflatten(2, grid)


@values.register
def _(tower: ModifiedResNet, images: Tensor, block: Variant) -> Tensor:
    return readout(tower, images, "maskclip")


@singledispatch
def finish(tower: nn.Module, pooled: Tensor, mlp: bool) -> Tensor:
    """Pooled values (K, levels * D) to the text space, (K, C). mlp: add what the last block's MLP says of them.

    Raises ValueError for an MLP that the tower has not.
    """
    raise NotImplementedError(type(tower).__name__)


@finish.register
def _(tower: VisionTransformer, pooled: Tensor, mlp: bool) -> Tensor:
    levels = pooled.unflatten(1, (-1, tower.ln_post.weight.shape[0])).transpose(0, 1).to(tower.ln_post.weight.dtype)
    if mlp:
        if tower.attn_pool is not None:
            raise ValueError("regions: an attention pool has no MLP; choose values without it")
        block = tower.transformer.resblocks[-1]
        levels = levels + block.ls_2(block.mlp(block.ln_2(levels)))
    return mean_of_levels(normed_and_projected(tower, levels))


@finish.register
def _(tower: ModifiedResNet, pooled: Tensor, mlp: bool) -> Tensor:
    if mlp:
        raise ValueError("regions: a ResNet has no MLP; choose values without it")
    return pooled


def _by_own_head(tower: nn.Module, image: Tensor, view: View, weights: np.ndarray) -> Tensor:
    """(K, C): each mask as the tower's head pools it in every window, of length 1, by its pixels in the window.

    weights: (K, h, w), pixels of each mask in each cell.
    """
    total = torch.zeros(())

    def read(crops: Tensor, windows: list[Window]) -> Tensor:
        nonlocal total
        for crop, window in zip(crops, windows, strict=True):
            inside = torch.from_numpy(weights[:, window.rows, window.columns]).to(crops)
            shares, here = inside / inside.sum(dim=0).clamp_min(1e-12), inside.sum(dim=(1, 2)) > 0
            try:
                found = F.normalize(pool_regions(tower, crop[None], shares[here])[0].float(), dim=1)
            except ValueError as error:
                raise ValueError(f"regions: {error}") from error
            features = found.new_zeros(len(inside), found.shape[1])
            features[here] = found * inside[here].sum(dim=(1, 2))[:, None].float()
            total = total + features
        return torch.zeros(len(crops), 1, *weights[0, windows[0].rows, windows[0].columns].shape, device=crops.device)

    over_windows(image, view, cell_size(tower), read)
    return total
