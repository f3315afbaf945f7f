"""Confusion matrices and what is read off them. Integer counts first, ratios once at the end, so that parts add up.

A matrix is (L, L + 1) int64: rows are true classes, columns predicted ones, and the last column counts pixels with a
true class that were given none; they are in every union and in every accuracy's denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """All in percent. Classes that are neither in the truth nor predicted are NaN, and left out of the means."""

    mIoU: float  # noqa: N815 - the field's spelling
    pixel_accuracy: float
    mean_accuracy: float
    class_IoU: np.ndarray  # noqa: N815 - (L,) float64
    class_accuracy: np.ndarray  # (L,) float64


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


def scores(confusion: np.ndarray) -> Scores:
    """mIoU and its kin of a matrix (L, L + 1); IoU = intersection / union over all pixels that were counted."""
    intersection = confusion.diagonal().astype(np.float64)
    true, predicted = confusion.sum(1), confusion[:, :-1].sum(0)
    with np.errstate(invalid="ignore"):
        class_iou = 100 * intersection / (true + predicted - intersection)
        class_accuracy = 100 * intersection / true
    return Scores(
        mIoU=_mean(class_iou),
        pixel_accuracy=_mean(100 * intersection.sum(keepdims=True) / max(true.sum(), 1)),
        mean_accuracy=_mean(class_accuracy),
        class_IoU=class_iou,
        class_accuracy=class_accuracy,
    )


def best_labels(segments: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Every segment with the class that most of its pixels have: an oracle that measures the masks alone.

    segments, truth: (H, W) integers, ids from 0. Returns (H, W) int64; a segment without any valid pixel gets class 0.
    """
    segments = segments.astype(np.int64)
    counted = truth != ignore
    pairs = segments[counted] * classes + truth[counted]
    votes = np.bincount(pairs, minlength=(int(segments.max()) + 1) * classes).reshape(-1, classes)
    return votes.argmax(1)[segments]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
