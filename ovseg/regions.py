"""Masks on a coarse grid: the mean dense feature of every mask, the mask of every cell. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np


def pool(features: np.ndarray, segments: np.ndarray, unit: bool = True) -> np.ndarray:
    """Mean feature of every mask: of the features, for CLIP L2-normalised, upsampled bilinearly to the image.

    The mean of an upsampled map is a weighted mean of the map, so each mask is reduced to fractional weights on the
    features' grid instead (same result, memory K*h*w instead of C*H*W).

    Args:
        features: (C, h, w) float.
        segments: (H, W) int, ids 0..K-1; K = the highest id + 1.
        unit: whether to L2-normalise the features, per position, first.
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


def neighbours(pixels: int, cells: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """For each pixel along one side: the cell before it and its share, the cell after it and its share."""
    position = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0)
    before = np.minimum(position.astype(np.int64), cells - 1)
    after = np.minimum(before + 1, cells - 1)
    share = position - before
    return (before, 1 - share), (after, share)
