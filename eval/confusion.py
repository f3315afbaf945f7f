"""Confusion matrices and the metrics computed from them. Counts are integers, ratios come last, so that parts add up.

A matrix is (L, L + 1) int64: rows are true classes, columns predicted ones, and the last column counts pixels with a
true class that were given none; they are in every union and in every accuracy's denominator. The IoUs need less of it,
*class counts* (L, 3) int64: for each class its true pixels, its predicted pixels, and the pixels that are both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000  # of the bootstrap, over images
PART_VALUES = 2**20  # of the draws that are held at a time


@dataclass(frozen=True, eq=False)
class Scores:
    """All in percent. Classes that are neither in the truth nor predicted are NaN, and left out of the means."""

    mIoU: float  # noqa: N815 - the field's spelling
    pixel_accuracy: float
    mean_accuracy: float  # over the classes that are in the truth
    fwIoU: float  # noqa: N815 - the mean of the IoUs weighted by the classes' true pixels
    class_IoU: np.ndarray  # noqa: N815 - (L,) float64
    class_accuracy: np.ndarray  # (L,) float64; NaN for classes that are not in the truth


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Counts (L, L + 1) int64 of two index maps (H, W) of any integer type.

    Pixels whose truth is `ignore` do not count; predictions outside 0..L-1 count as no class.
    Raises ValueError for maps of different sizes or truth values that are neither a class nor `ignore`.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"prediction is {predicted.shape}, truth is {truth.shape} (height, width)")
    counted = truth != ignore
    rows = truth[counted].astype(np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < classes:
        raise ValueError(f"truth holds ids from {rows.min()} to {rows.max()}, expected 0..{classes - 1} or {ignore}")
    columns = predicted[counted].astype(np.int64)
    columns[(columns < 0) | (columns >= classes)] = classes
    return np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """The class counts (L, 3) int64 of a matrix (L, L + 1): true, predicted, both."""
    return np.stack([confusion.sum(1), confusion[:, :-1].sum(0), confusion.diagonal()], axis=1)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU = both / (true + predicted - both) in percent, (..., L) float64, of class counts (..., L, 3).

    NaN for classes that are neither true nor predicted anywhere.
    """
    true, predicted, both = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        return 100 * both / (true + predicted - both)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that occur, in percent: (...,) of class counts (..., L, 3); NaN without any."""
    values = class_iou(counts)
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)


def scores(confusion: np.ndarray) -> Scores:
    """mIoU and the other metrics of a matrix (L, L + 1), over all pixels that were counted. NaN where no pixel was."""
    counts = class_counts(confusion)
    true, _, both = counts.T
    class_ious = class_iou(counts)
    with np.errstate(invalid="ignore"):
        class_accuracy = 100 * both / true
        shares = true / true.sum()
        accuracy = 100 * both.sum() / true.sum()
    return Scores(
        mIoU=float(mean_iou(counts)),
        pixel_accuracy=float(accuracy),
        mean_accuracy=float(class_accuracy[true > 0].mean()) if true.any() else float("nan"),
        fwIoU=float((shares * class_ious)[true > 0].sum()) if true.any() else float("nan"),
        class_IoU=class_ious,
        class_accuracy=class_accuracy,
    )


def interval(counts: np.ndarray, baseline: np.ndarray | None = None) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mIoU in percent, or of its lead over a baseline on the same images.

    counts, baseline: class counts of every image, (images, L, 3) int64. Images are drawn with replacement, the same
    ones for both, 1000 times; the ends are percentiles of the resampled values. Draws are made in parts, to bound
    the memory, which changes no value.
    """
    # float64 holds the sums exactly (they are far below 2^53) and multiplies faster.
    runs = [run.astype(np.float64) for run in (counts, baseline) if run is not None]
    parts = []
    for draws in _draws(len(counts)):
        ours, *theirs = (_resampled(draws, run) for run in runs)
        parts.append(ours - theirs[0] if theirs else ours)
    return _ends(parts)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mean of values (images,) float64; drawn as in `interval`."""
    return _ends([draws @ values / len(values) for draws in _draws(len(values))] if len(values) else [])


def _draws(images: int) -> Iterator[np.ndarray]:
    """1000 draws of as many images, with replacement: how often each is in them, (draws, images) int64, in parts."""
    rng = np.random.default_rng(0)
    size = max(1, PART_VALUES // images)
    for start in range(0, RESAMPLES, size):
        times = range(start, min(start + size, RESAMPLES))
        yield np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in times])


def _ends(parts: list[np.ndarray]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of resampled values, NaN left out; NaN without any."""
    values = np.concatenate([np.empty(0), *parts])
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _resampled(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mIoU of every draw (draws, images), of class counts (images, L, 3) float64."""
    sums = draws.astype(np.float64) @ counts.reshape(len(counts), -1)
    return mean_iou(sums.reshape(len(draws), *counts.shape[1:]))


def best_labels(segments: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Every segment with the class that most of its pixels have: an oracle that measures the masks alone.

    segments, truth: (H, W) integers, ids from 0. Returns (H, W) int64. Of classes with as many pixels, the one with the
    lowest index wins; a segment without any valid pixel, which no score sees, gets class 0.
    """
    segments = segments.astype(np.int64)
    counted = truth != ignore
    pairs = segments[counted] * classes + truth[counted]
    votes = np.bincount(pairs, minlength=(int(segments.max()) + 1) * classes).reshape(-1, classes)
    return votes.argmax(1)[segments]
