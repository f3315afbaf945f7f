"""Masks on a coarse grid: the mean dense feature of every mask, the mask of every cell. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

SOFTNESS = 2  # the power of a difference map in soft masks
OWN_LEAD = 0.07  # by how much a patch must be more like its own mask than like others; TextRegion's


def pool(features: np.ndarray, segments: np.ndarray, unit: bool = True, maps: np.ndarray | None = None) -> np.ndarray:
    """Mean feature of every mask: of the features, for CLIP L2-normalised, upsampled bilinearly to the image.

    The mean of an upsampled map is a weighted mean of the map, so each mask is reduced to fractional weights on the
    features' grid instead (same result, memory K*h*w instead of C*H*W).

    Args:
        features: (C, h, w) float.
        segments: (H, W) int, ids 0..K-1; K = the highest id + 1.
        unit: whether to L2-normalise the features, per position, first.
        maps: (K, h', w') uint8, difference maps: masks are soft ones by these; None: hard.
    Returns:
        (K, C) float32; zeros for an id that no pixel has.
    Raises:
        ValueError: arrays of another shape, or a negative id.
    """
    if features.ndim != 3 or segments.ndim != 2 or segments.size == 0 or segments.min() < 0:
        raise ValueError(
            "pool needs features (C, h, w) and segments (H, W) with ids from 0, "
            f"got shapes {features.shape} and {segments.shape}"
        )
    grid = features.reshape(features.shape[0], -1).astype(np.float64)
    if unit:
        grid /= np.maximum(np.linalg.norm(grid, axis=0), 1e-12)
    weights = grid_weights(segments, features.shape[1:])
    if maps is not None:
        weights = soft_weights(maps, features.shape[1:], len(weights)) * weights.any(axis=(1, 2), keepdims=True)
    return (weights.reshape(len(weights), -1) @ grid.T).astype(np.float32)


def grid_weights(segments: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Each mask as weights on a coarse grid: the mean over its pixels of bilinear upsampling (align_corners=False).

    segments (H, W) int, grid (h, w) -> (K, h, w) float64. A mask's weights sum to 1 (to 0 for an id without pixels).
    """
    (height, width), (h, w) = segments.shape, grid
    count = int(segments.max()) + 1
    mask_cell = segments.astype(np.int64) * h * w
    weights = np.zeros(count * h * w)
    for rows, row_shares in neighbours(height, h):
        for columns, column_shares in neighbours(width, w):
            index = mask_cell + rows[:, None] * w + columns
            shares = row_shares[:, None] * column_shares
            weights += np.bincount(index.ravel(), shares.ravel(), minlength=count * h * w)
    pixels = np.bincount(segments.ravel(), minlength=count)
    return weights.reshape(count, h, w) / np.maximum(pixels, 1)[:, None, None]


def patch_masks(segments: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) int64: the mask that has most of each cell. segments (H, W) int, ids 0..K-1."""
    weights = grid_weights(segments, grid)
    pixels = np.bincount(segments.ravel(), minlength=len(weights))
    return (weights * pixels[:, None, None]).argmax(axis=0)


def merged(segments: np.ndarray, features: np.ndarray, least: float) -> np.ndarray:
    """Segments (H, W) with those joined whose features are alike: connected components of cosines of at least `least`.

    features: (K, C), of each mask. Returns ids from 0, in the order of the masks' own; with `least` of 1 or more,
    the segments themselves.
    """
    if least >= 1:
        return segments
    from scipy.sparse.csgraph import connected_components

    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    _, component = connected_components(unit @ unit.T >= least, directed=False)
    return component.astype(segments.dtype)[segments]


def soft_weights(maps: np.ndarray | None, grid: tuple[int, int], count: int) -> np.ndarray:
    """Soft masks as weights on a coarse grid, as `grid_weights` has those of hard ones: (K, h, w) float64.

    A place belongs to each mask by the share of its difference map there, squared: hard where one is far above the
    others. maps: (K, h', w') uint8 or more of them, over the whole image. Raises ValueError where there are none.
    """
    if maps is None or len(maps) < count:
        raise ValueError(
            "regions: soft masks need EmerDiff's difference maps, which these masks have not (--by emerdiff)"
        )
    squares = maps.astype(np.float64) ** SOFTNESS
    shares = squares / np.maximum(squares.sum(axis=0), 1e-12)
    rows, columns = (upsampling(side, cells) for side, cells in zip(shares.shape[1:], grid, strict=True))
    weights = np.einsum("kyx,yh,xw->khw", shares[:count], rows, columns, optimize=True)
    return weights / np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1e-12)


def keep_own(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights without patches that are not like their own mask: TextRegion's filter of "global" patches.

    A patch's likeness to a mask is its mean cosine with the mask's patches. It is left out of every mask if its mean
    likeness to its own masks is not by at least 0.07 above that to the others. A mask that would be empty keeps all.

    values: (D, h, w); weights: (K, h, w) float64, those of a mask adding up to 1. Returns weights, not scaled again.
    """
    unit = values.reshape(len(values), -1).astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=0), 1e-12)
    flat = weights.reshape(len(weights), -1)
    likeness = flat @ unit.T @ unit  # (K, N)
    present = np.any(flat > 0, axis=1, keepdims=True)
    own, others = flat > 0, (flat == 0) & present
    to_own = (likeness * own).sum(axis=0) / np.maximum(own.sum(axis=0), 1)
    to_others = (likeness * others).sum(axis=0) / np.maximum(others.sum(axis=0), 1)
    kept = flat * ((to_own - to_others >= OWN_LEAD) | ~others.any(axis=0))
    return np.where(kept.any(axis=1)[:, None], kept, flat).reshape(weights.shape)


def upsampling(pixels: int, cells: int) -> np.ndarray:
    """Bilinear upsampling along one side as a matrix, (pixels, cells) float64; rows add up to 1."""
    matrix = np.zeros((pixels, cells))
    for index, share in neighbours(pixels, cells):
        matrix[np.arange(pixels), index] += share
    return matrix


def neighbours(pixels: int, cells: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """For each pixel along one side: the cell before it and its share, the cell after it and its share."""
    position = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0)
    before = np.minimum(position.astype(np.int64), cells - 1)
    after = np.minimum(before + 1, cells - 1)
    share = position - before
    return (before, 1 - share), (after, share)
