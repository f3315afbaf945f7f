"""How well contours match: boundary IoU of label maps, boundary F of class-agnostic masks.

Boundary IoU is that of Cheng et al. (CVPR 2021, arXiv 2103.16562), its counts summed over a set, class by class.
Boundary F is the harmonic mean of precision and recall of boundary pixels, as in Martin et al. (PAMI 2004), without
their one-to-one assignment.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

BAND = 0.02  # of the image's diagonal: how far from its region's edge a pixel counts for boundary IoU
TOLERANCE = 0.0075  # of the image's diagonal: how far apart matching boundary pixels may be, for boundary F


def boundary_counts(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Boundary pixels of every class, as class counts (L, 3) int64 (see `confusion`): true, predicted, both.

    truth, predicted: (H, W) integers of one size. A class's boundary pixels are its region minus the region eroded
    d times with a 3x3 square, d = 2 % of the image's diagonal, rounded, at least 1; beyond the image's border is no
    region. Ignored pixels are treated like the outside of the image: they are in no region of either map, so regions
    that touch them have an edge there in both maps. A prediction outside 0..L-1 is in no region.
    """
    width = max(1, round(BAND * math.hypot(*truth.shape)))
    ignored = truth == ignore
    true = _boundary_classes(truth, ignored, classes, width)
    given = _boundary_classes(predicted, ignored, classes, width)
    both = np.where(true == given, true, classes)
    return np.stack([np.bincount(one.ravel(), minlength=classes + 1)[:-1] for one in (true, given, both)], axis=1)


def _boundary_classes(labels: np.ndarray, ignored: np.ndarray, classes: int, width: int) -> np.ndarray:
    """(H, W) int32: the class of pixels on their region's boundary, L elsewhere.

    Eroding d times with a 3x3 square keeps the pixels whose whole (2d + 1)-square is in the region, which is where the
    smallest and the largest label of that square are equal: for all classes at once.
    """
    regions = labels.astype(np.int32)
    regions[ignored | (regions < 0) | (regions >= classes)] = classes
    smallest = ndimage.minimum_filter(regions, 2 * width + 1, mode="constant", cval=classes)
    largest = ndimage.maximum_filter(regions, 2 * width + 1, mode="constant", cval=classes)
    return np.where(smallest == largest, classes, regions)


def boundary_f(segments: np.ndarray, truth: np.ndarray, ignore: int = 255) -> float:
    """Boundary F of a segmentation in percent, from where ids differ; NaN where neither map has a boundary.

    segments, truth: (H, W) integers of one size. A boundary pixel has a neighbour (above, below, left, right) with
    another id. Precision is the share of the segmentation's boundary pixels that have one of the truth's within 0.75 %
    of the image's diagonal (between pixel centres); recall the same the other way round. Ignored pixels that near to a
    counted one take the nearest one's id in the truth, so that a rim of them round objects, as PASCAL VOC has, holds
    the boundary in its middle; a pair with any other ignored pixel makes no boundary in either map.
    """
    tolerance = TOLERANCE * math.hypot(*truth.shape)
    truth = _without_rims(truth, ignore, tolerance)
    counted = truth != ignore
    given, true = _boundary_pixels(segments, counted), _boundary_pixels(truth, counted)
    if not given.any() and not true.any():
        return float("nan")
    if not given.any() or not true.any():
        return 0.0
    precision = float((ndimage.distance_transform_edt(~true)[given] <= tolerance).mean())
    recall = float((ndimage.distance_transform_edt(~given)[true] <= tolerance).mean())
    return 100 * 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _without_rims(truth: np.ndarray, ignore: int, reach: float) -> np.ndarray:
    """The truth, ignored pixels up to `reach` from a counted one with the nearest one's id."""
    ignored = truth == ignore
    if not ignored.any() or ignored.all():
        return truth
    distance, nearest = ndimage.distance_transform_edt(ignored, return_indices=True)
    return np.where(distance <= reach, truth[tuple(nearest)], ignore)


def _boundary_pixels(ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a 4-neighbour of another id, both counted."""
    boundary = np.zeros(ids.shape, bool)
    across = (ids[:, 1:] != ids[:, :-1]) & counted[:, 1:] & counted[:, :-1]
    down = (ids[1:] != ids[:-1]) & counted[1:] & counted[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary
