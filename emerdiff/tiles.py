"""Overlapping tiles of a large or long image, and one label map out of all tiles' maps.

In an overlap the maps of one mask are mixed, each tile's by a share that falls to 0 at the tile's edge, so that no seam
shows. Rows of labels are finished as soon as no later tile reaches them: memory grows with the width of the image and
not with its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from emerdiff.image import MAX_ASPECT, bands, coloured, enlarged
from emerdiff.options import Options

OVERLAP = 0.25  # of a tile's side: two neighbours share at least so much

# A tile's masks by their numbers (k,), and their maps (k, h, w) or fits (4, k, h, w), see `image.largest`.
Maps = tuple[np.ndarray, Tensor]


@dataclass(frozen=True)
class Tiling:
    """An image's tiles: all of one size, in rows and columns."""

    size: tuple[int, int]  # (H, W) of the image
    tile: tuple[int, int]  # height and width of a tile
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Tiling:
        """Tiles of at most side x side pixels, and of no longer aspect than the network takes, for an image (H, W)."""
        short = min(side, *size)
        height, width = (min(side, length, MAX_ASPECT * short) for length in size)
        return cls(size, (height, width), starts(size[0], height), starts(size[1], width))

    def masks(self, options: Options) -> int:
        """How many masks the whole image gets: `options.masks` for every tile's area."""
        return round(options.masks * (self.size[0] * self.size[1]) / (self.tile[0] * self.tile[1]))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The tiles' places (row, column), row by row."""
        return ((row, column) for row in range(len(self.tops)) for column in range(len(self.lefts)))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def window(self, row: int, column: int) -> tuple[slice, slice]:
        """Where in the image a tile is."""
        top, left = self.tops[row], self.lefts[column]
        return slice(top, top + self.tile[0]), slice(left, left + self.tile[1])


def starts(length: int, side: int) -> tuple[int, ...]:
    """Where tiles begin along one side of an image: evenly, the first at 0 and the last at its end.

    >>> starts(100, 40)
    (0, 30, 60)
    """
    count = 1 if length <= side else ceil((length - OVERLAP * side) / ((1 - OVERLAP) * side))
    return tuple(round(index * (length - side) / max(1, count - 1)) for index in range(count))


def shares(starting: tuple[int, ...], side: int, length: int) -> Tensor:
    """How much each of n tiles counts along one side: (n, length) float32, 0 outside a tile; all tiles' sum to 1."""
    places = torch.arange(length, dtype=torch.float64) + 0.5
    weights = torch.zeros(len(starting), length, dtype=torch.float64)
    for index, start in enumerate(starting):
        before = places - start if index else torch.full_like(places, side)  # the image's border is no seam
        after = start + side - places if index < len(starting) - 1 else torch.full_like(places, side)
        inside = (places > start) & (places < start + side)
        weights[index] = torch.minimum(before, after).clamp(0, OVERLAP * side) * inside
    return (weights / weights.sum(dim=0)).float()


def stitch(tiling: Tiling, maps_of: Callable[[int, int], Maps], image: np.ndarray | None = None) -> np.ndarray:
    """Labels (H, W) int32 by the largest of all tiles' mixed maps; of equal ones the lowest number.

    maps_of: called once for every tile (row, column), row by row. image: (H, W, 3) uint8 where the maps are fits.
    """
    labels = np.empty(tiling.size, np.int32)
    held: dict[tuple[int, int], Maps] = {}
    for row, top in enumerate(tiling.tops):
        held = {place: maps for place, maps in held.items() if tiling.tops[place[0]] + tiling.tile[0] > top}
        held |= {(row, column): maps_of(row, column) for column in range(len(tiling.lefts))}
        bottom = (*tiling.tops, tiling.size[0])[row + 1]
        for column, left in enumerate(tiling.lefts):
            right = (*tiling.lefts, tiling.size[1])[column + 1]
            _label(labels, tiling, held, (slice(top, bottom), slice(left, right)), image)
    return labels


def _label(
    labels: np.ndarray,
    tiling: Tiling,
    held: dict[tuple[int, int], Maps],
    part: tuple[slice, slice],
    image: np.ndarray | None,
) -> None:
    """Fill in a part (rows, columns) of the labels by the tiles that reach into it."""
    reaching = [place for place in held if all(map(_meet, tiling.window(*place), part))]
    numbers = np.unique(np.concatenate([held[place][0] for place in reaching]))
    down = shares(tiling.tops, tiling.tile[0], tiling.size[0])
    across = shares(tiling.lefts, tiling.tile[1], tiling.size[1])
    width = part[1].stop - part[1].start
    for band in bands(part[0].stop - part[0].start, len(numbers) * width):
        rows = slice(part[0].start + band.start, part[0].start + band.stop)
        values = torch.zeros(len(numbers), rows.stop - rows.start, width)
        for place in reaching:
            present, maps = held[place]
            window = tiling.window(*place)
            found = enlarged(maps, tiling.tile, _within(rows, window[0]), _within(part[1], window[1]))
            y, x = (_within(_both(one, other), one) for one, other in zip((rows, part[1]), window, strict=True))
            if image is not None:
                found = coloured(found, image[_both(rows, window[0]), _both(part[1], window[1])])
            share = down[place[0], rows, None] * across[place[1], part[1]]
            values[torch.from_numpy(np.searchsorted(numbers, present)), y, x] += found * share[y, x]
        labels[rows, part[1]] = numbers[values.argmax(dim=0).numpy()]


def _both(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), max(min(one.stop, other.stop), max(one.start, other.start)))


def _meet(one: slice, other: slice) -> bool:
    return one.start < other.stop and other.start < one.stop


def _within(part: slice, window: slice) -> slice:
    """The part of a window that lies in it, counted from the window's start."""
    both = _both(part, window)
    return slice(both.start - window.start, both.stop - window.start)
