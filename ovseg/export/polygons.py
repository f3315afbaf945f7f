"""Outlines of regions as polygons that give the region back, pixel for pixel.

An outline runs 0.01 px inside the pixel edges, its corners cut. So it holds the centres of exactly the region's
pixels, and its points truncate to pixels of the region: readers that test pixel centres (matplotlib, scikit-image) and
readers that truncate to whole pixels and draw the border too (Pillow, OpenCV) both fill exactly these pixels.

A hole is joined to the ring on its left by a cut that goes there and back along one row of the region's pixels
(a keyhole), because the formats hold one ring a polygon; even-odd and winding fills both leave the hole empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

INSET = 0.01  # px between outline and pixel edge; a fraction that survives two decimals
LEVEL = 0.5 + INSET  # between 0 and 1: find_contours then passes 0.5 - INSET from the centres of the region's pixels

Point = tuple[float, float]


def polygons(mask: np.ndarray) -> Iterator[np.ndarray]:
    """One polygon for each 4-connected part of `mask` (H, W) bool.

    Yields (P, 2) float64, P >= 4: x and y in pixels with two decimals, origin at the image's upper left corner, pixel
    (row, column) covering [column, column + 1] x [row, row + 1]; not closed. Only points where the direction changes.
    """
    parts, _ = ndimage.label(mask)
    for part, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
        outline = _outline(parts[rows, columns] == part)
        yield np.round(outline + (columns.start, rows.start), 2)


def _outline(part: np.ndarray) -> np.ndarray:
    """(P, 2) float64: the outer ring of one connected part (h, w), its holes joined to it."""
    contours = find_contours(np.pad(part, 1).astype(np.float64), LEVEL)
    # Contours come closed, as row and column of pixel centres in the padded mask.
    rings = [[(round(x - 0.5, 2), round(y - 0.5, 2)) for y, x in contour[:-1].tolist()] for contour in contours]
    outer, *holes = sorted(rings, key=min)
    cuts: dict[Point, list[Point]] = {}
    for hole in holes:
        start = hole.index(min(hole))  # beside the hole's leftmost pixel, on the row of that pixel's centre
        x, y = hole[start]
        outside = np.flatnonzero(~part[int(y), : int(x)])
        end = (round(int(outside[-1]) + 1 + INSET if outside.size else INSET, 2), y)  # every row's border has a point
        cuts[end] = [*hole[start:], *hole[: start + 1], end]
    return _corners(_walk(outer, cuts))


def _walk(outer: list[Point], cuts: dict[Point, list[Point]]) -> list[Point]:
    """The outer ring with a detour at each point that has a cut; detours may have cuts of their own."""
    path: list[Point] = []
    walks = [iter(outer)]
    while walks:
        point = next(walks[-1], None)
        if point is None:
            walks.pop()
            continue
        path.append(point)
        if point in cuts:
            walks.append(iter(cuts.pop(point)))
    return path


def _corners(path: list[Point]) -> np.ndarray:
    """The points of a closed path at which its direction changes. It never turns right back: cuts run along rows, and
    outlines meet them upwards, downwards or slanting."""
    points = np.array(path)
    arriving, leaving = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turn = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
    return points[np.abs(turn) > INSET**2 / 2]
