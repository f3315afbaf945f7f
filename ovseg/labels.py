"""From dense CLIP features to labels, one a mask or one a pixel: pooling, softmax over prompts, the background rule.

Labels of masks follow EmerDiff's use with CLIP (arXiv 2401.11739): the mean feature of a mask, its cosine with the text
embeddings, softmax with CLIP's logit scale, best class. Labels of pixels, and aliases in both, are scored as SCLIP
(arXiv 2312.01597) and its successors do: softmax over all prompts, and a class takes its best one. Arrays in, arrays
out: no network, no file, no image.
"""

from __future__ import annotations

import numpy as np

from ovseg.classes import Vocabulary

BAND_VALUES = 2**18  # prompts times pixels that `label_pixels` works on at once, in some seven arrays of float64


def pool(features: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Mean CLIP feature of every mask: of the L2-normalised features, upsampled bilinearly to the image.

    The mean of an upsampled map is a weighted mean of the map, so each mask is reduced to fractional weights on the
    CLIP grid instead (same result, memory K*h*w instead of C*H*W).

    Args:
        features: (C, h, w) float; L2-normalised here per position.
        segments: (H, W) int, ids 0..K-1; K = the highest id + 1.
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
    for rows, row_shares in _neighbours(height, h):
        for columns, column_shares in _neighbours(width, w):
            index = mask_cell + rows[:, None] * w + columns
            shares = row_shares[:, None] * column_shares
            weights += np.bincount(index.ravel(), shares.ravel(), minlength=count * h * w)
    pixels = np.bincount(segments.ravel(), minlength=count)
    return weights.reshape(count, h, w) / np.maximum(pixels, 1)[:, None, None]


def _neighbours(pixels: int, cells: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """For each pixel along one side: the cell before it and its share, the cell after it and its share."""
    position = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0)
    before = np.minimum(position.astype(np.int64), cells - 1)
    after = np.minimum(before + 1, cells - 1)
    share = position - before
    return (before, 1 - share), (after, share)


def label_masks(
    mask_features: np.ndarray, text: np.ndarray, vocabulary: Vocabulary, logit_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every mask, and its label.

    Args:
        mask_features: (K, C) float, any length; normalised here.
        text: (P, C) float, unit rows, one per `vocabulary.prompts`.
        vocabulary: names and which prompt speaks for which.
        logit_scale: factor between cosine and logit (`Clip.logit_scale`).
    Returns:
        probabilities (K, L) float32: softmax over all P prompts, then each name's best prompt (so rows need not sum
        to 1). A background that is a threshold alone has the threshold itself as its probability.
        best (K,) int32: index into `vocabulary.names`; background where the best class stays below the threshold.
    Raises:
        ValueError: text that does not fit the vocabulary or the features.
    """
    if text.shape != (len(vocabulary.prompts), mask_features.shape[-1]) or mask_features.ndim != 2:
        raise ValueError(
            f"text must be ({len(vocabulary.prompts)} prompts, C) and mask_features (K, C), "
            f"got {text.shape} and {mask_features.shape}"
        )
    features = mask_features.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    probabilities, best = _decide(logit_scale * text.astype(np.float64) @ features.T, vocabulary)
    if 0 not in vocabulary.owners:
        probabilities[0] = vocabulary.threshold
    return probabilities.T.astype(np.float32), best.astype(np.int32)


def label_pixels(
    features: np.ndarray, text: np.ndarray, vocabulary: Vocabulary, logit_scale: float, size: tuple[int, int]
) -> np.ndarray:
    """The label of every pixel, without masks: cosine maps upsampled to the image, then softmax and the best name.

    Args:
        features: (C, h, w) float, as `Clip.dense_features` gives them. Not normalised here: where windows overlap
            their lengths are below 1, and the dot product with a text embedding is the mean of the windows' cosines.
        text, vocabulary, logit_scale: as in `label_masks`.
        size: (H, W) of the image; upsampling is bilinear, align_corners=False.
    Returns:
        (H, W) int32, index into `vocabulary.names`; background as in `label_masks`. Worked out in float64.
    Raises:
        ValueError: text that does not fit the vocabulary or the features.
    """
    if features.ndim != 3 or text.shape != (len(vocabulary.prompts), features.shape[0]):
        raise ValueError(
            f"text must be ({len(vocabulary.prompts)} prompts, C) and features (C, h, w), "
            f"got {text.shape} and {features.shape}"
        )
    (height, width), (h, w) = size, features.shape[1:]
    logits = logit_scale * np.einsum("pc,chw->phw", text.astype(np.float64), features.astype(np.float64), optimize=True)
    (above, above_share), (below, below_share) = _neighbours(height, h)
    (left, left_share), (right, right_share) = _neighbours(width, w)
    labels, rows = [], max(1, BAND_VALUES // (len(text) * width))
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        part = logits[:, above[band]] * above_share[band, None] + logits[:, below[band]] * below_share[band, None]
        part = part[:, :, left] * left_share + part[:, :, right] * right_share
        _, best = _decide(part.reshape(len(text), -1), vocabulary)
        labels.append(best.astype(np.int32).reshape(-1, width))
    return np.concatenate(labels)


def _decide(logits: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Logits of P prompts for n things, (P, n), to each name's probability (L, n) and the best name (n,).

    Softmax over prompts; a name has the probability of its best prompt, 0 if it has none. The background is best
    where no other name reaches the threshold, whatever its own words say.
    """
    probabilities = np.exp(logits - logits.max(axis=0))
    probabilities /= probabilities.sum(axis=0)
    order = np.argsort(vocabulary.owners, kind="stable")
    named, first = np.unique(np.asarray(vocabulary.owners)[order], return_index=True)
    by_name = np.zeros((len(vocabulary.names), logits.shape[1]))
    by_name[named] = np.maximum.reduceat(probabilities[order], first)
    best = by_name.argmax(axis=0)
    if vocabulary.threshold is not None:
        best[by_name[1:].max(axis=0) < vocabulary.threshold] = 0
    return by_name, best
