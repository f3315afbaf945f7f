"""A dense prediction of anyone's, made to follow an image's masks: every mask takes the mean of the prediction in it.

The second half of EmerDiff's use with open-vocabulary models (arXiv 2401.11739), for predictions that were made
elsewhere: MaskCLIP's, another network's, at whatever resolution. `refine` needs masks and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovseg.draw import class_colours
from ovseg.result import Segmentation, no_label
from ovseg.towers.regions import grid_weights

if TYPE_CHECKING:
    from emerdiff import EmerDiff, Options


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined prediction over L classes.

    labels: (H, W) int32, 0..L-1: the class with the highest score in each pixel's mask, the first of equals.
    segments: (H, W) int, the masks as they were given, ids 0..K-1.
    scores: (K, L) float32, the prediction's mean in each mask, in its own unit; zeros for an id that no pixel has.
    """

    labels: np.ndarray
    segments: np.ndarray
    scores: np.ndarray

    def __repr__(self) -> str:
        (height, width), (masks, classes) = self.labels.shape, self.scores.shape
        low, high = float(self.scores.min()), float(self.scores.max())
        return f"Refined({height}x{width}, {masks} masks, {classes} classes, scores from {low:.4g} to {high:.4g})"

    def named(self, names: Sequence[str]) -> Segmentation:
        """The same as a `Segmentation`, which draws and saves itself; needs a name a class, and a prediction that was
        probabilities. Raises ValueError for another number of names, or scores outside 0..1."""
        if len(names) != self.scores.shape[1]:
            raise ValueError(f"names: expected {self.scores.shape[1]}, one a class of the prediction, got {len(names)}")
        low, high = float(self.scores.min()), float(self.scores.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"named needs probabilities, got scores from {low:.4g} to {high:.4g}: refine the softmax of the logits"
            )
        index_type = np.uint8 if no_label(len(names)) == 255 else np.uint16
        return Segmentation(
            labels=self.labels.astype(index_type),
            names=tuple(names),
            colours=class_colours(names),
            masks=self.segments.astype(np.int32),
            mask_scores=self.scores,
        )


def refine(segments: np.ndarray, dense: np.ndarray) -> Refined:
    """Let every mask take the mean of a dense prediction inside it, and its best class.

    The mean is that of the prediction upsampled bilinearly (align_corners=False) to the masks' size, but no (L, H, W)
    array is made: each mask becomes weights on the prediction's own grid, (K, h, w) float64 at most.

    Args:
        segments: (H, W) int, ids 0..K-1: `EmerDiff.segment(image).labels`, a kept `Analysis.segments`, or any masks.
        dense: (L, h, w) float, logits or probabilities of L classes, at any size; it covers the whole image.
    Raises:
        ValueError: arrays of another kind or shape, a negative id, a prediction that is not finite.
    """
    _check_dense(dense)
    _check_segments(segments)
    scores = _means(segments, dense).astype(np.float32)
    return Refined(scores.argmax(axis=1).astype(np.int32)[segments], segments, scores)


def refine_image(
    image: np.ndarray,
    dense: np.ndarray,
    model: EmerDiff,
    options: Options | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Segment an image, then `refine` the dense prediction that somebody made of it.

    image: (H, W, 3) uint8 RGB; dense: as in `refine`. model, options, progress: as in `EmerDiff.segment`; a
    `Segmenter` has both as `.emerdiff` and `.options`. Raises ValueError as they do, for the prediction before any
    mask is computed.
    """
    _check_dense(dense)
    return refine(model.segment(image, options, progress=progress).labels, dense)


def _check_segments(segments: np.ndarray) -> None:
    wanted = "segments: expected a NumPy array (H, W) of integers from 0"
    if not isinstance(segments, np.ndarray) or segments.dtype.kind not in "iu" or segments.ndim != 2:
        raise ValueError(f"{wanted}, got {_kind(segments)}")
    if segments.size == 0 or segments.min() < 0:
        raise ValueError(f"{wanted}, got {segments.min() if segments.size else f'shape {segments.shape}'}")


def _check_dense(dense: np.ndarray) -> None:
    if not isinstance(dense, np.ndarray) or dense.dtype.kind != "f" or dense.ndim != 3 or dense.size == 0:
        raise ValueError(f"dense: expected a NumPy array (classes, h, w) of floats, got {_kind(dense)}")
    if not all(np.isfinite(channel).all() for channel in dense):
        raise ValueError("dense: expected finite numbers, got NaN or infinity")


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _means(segments: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """(K, L) float64: each class's mean in every mask."""
    if dense.shape[1:] == segments.shape:  # nothing to upsample: weights would be as large as K images
        ids = segments.ravel().astype(np.int64, copy=False)
        pixels = np.maximum(np.bincount(ids), 1)
        return np.stack([np.bincount(ids, channel.ravel()) / pixels for channel in dense], axis=1)
    weights = grid_weights(segments, (dense.shape[1], dense.shape[2])).reshape(-1, dense[0].size)
    return np.stack([weights @ channel.ravel() for channel in dense], axis=1)
