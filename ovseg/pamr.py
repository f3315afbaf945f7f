"""Pixel-adaptive mask refinement, PAMR (arXiv 2005.08104): masks or scores that follow the image's own edges.

Every pixel takes, some times over, the mean of its neighbours' values, weighted by how like the image is there. No
network. The image is worked on in tiles with a margin as wide as values can travel, so that memory is bounded and the
result that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg.labels import bands_of_rows
from ovseg.towers.regions import SOFTNESS, upsampling

TILE = 768  # pixels of a tile's side, without its margin
NARROWEST = 1e-8  # added to the spread of the neighbours' colours
STEEPNESS = 0.1  # of that spread: differences of it weigh exp(-10)

Place = tuple[slice, slice]  # rows and columns
Read = Callable[[Place], Iterable[Tensor]]  # maps (r, c) float32 of a place in the image, one after the other


@dataclass(frozen=True)
class Pamr:
    """How far and how often values travel: 10 times, to 8 neighbours at each of these distances, as PAMR's authors do.

    NACLIP has the distances 8 and 16 alone, no near neighbour, and so loses boundaries, see docs/RESULTS.md.
    """

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)

    @property
    def margin(self) -> int:
        """How far a value travels, pixels."""
        return self.iterations * max(self.dilations)

    def shifts(self) -> list[tuple[int, int]]:
        """The neighbours of a pixel: (down, across), pixels."""
        around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
        return [(step * y, step * x) for step in self.dilations for y, x in around]


def refined_tiles(image: np.ndarray, read: Read, settings: Pamr) -> Iterator[tuple[Place, Iterator[Tensor]]]:
    """The maps that `read` gives, refined: each tile of the image and its maps (r, c) float32, one after the other.

    image: (H, W, 3) uint8. Beyond the image its outermost values are repeated.
    """
    for inner, outer in tiles((image.shape[0], image.shape[1]), settings.margin):
        yield inner, _refined(image, read, settings, inner, outer)


def tiles(size: tuple[int, int], margin: int) -> Iterator[tuple[Place, Place]]:
    """The tiles of an image of (H, W), each without and with its margin."""
    for top in range(0, size[0], TILE):
        for left in range(0, size[1], TILE):
            rows, columns = slice(top, min(top + TILE, size[0])), slice(left, min(left + TILE, size[1]))
            wide = [
                slice(max(0, one.start - margin), min(side, one.stop + margin))
                for one, side in zip((rows, columns), size, strict=True)
            ]
            yield (rows, columns), (wide[0], wide[1])


def _refined(image: np.ndarray, read: Read, settings: Pamr, inner: Place, outer: Place) -> Iterator[Tensor]:
    """The maps of a tile, worked out with its margin."""
    weights = affinities(torch.from_numpy(image[outer].copy()).permute(2, 0, 1).float() / 255, settings)
    rows, columns = (
        slice(one.start - other.start, one.stop - other.start) for one, other in zip(inner, outer, strict=True)
    )
    for values in read(outer):
        yield spread(values, weights, settings)[rows, columns]


def affinities(image: Tensor, settings: Pamr) -> Tensor:
    """How much each neighbour of a pixel counts, (neighbours, H, W) float32, adding up to 1.

    softmax over all neighbours of the mean over channels of -|x - x'| / (1e-8 + 0.1 spread), where the spread is the
    standard deviation of the 3 x 3 values around the pixel at every dilation. image: (3, H, W) float32.
    """
    shifts, (height, width) = settings.shifts(), image.shape[1:]
    reach = max(settings.dilations)
    padded = _padded(image, reach)

    def shifted(shift: tuple[int, int]) -> Tensor:
        return padded[:, reach + shift[0] :, reach + shift[1] :][:, :height, :width]

    copies = [*shifts, *[(0, 0)] * len(settings.dilations)]
    mean = torch.zeros_like(image)
    for shift in copies:
        mean += shifted(shift)
    mean /= len(copies)
    spread = torch.zeros_like(image)
    for shift in copies:
        spread += (shifted(shift) - mean).square()
    spread = (spread / (len(copies) - 1)).sqrt()
    unit = NARROWEST + STEEPNESS * spread
    weights = torch.empty(len(shifts), height, width)  # the softmax is worked out in place: there are 48 such maps
    for weight, shift in zip(weights, shifts, strict=True):
        torch.mean(-((shifted(shift) - image).abs() / unit), dim=0, out=weight)
    weights = weights.sub_(weights.amax(dim=0)).exp_()
    return weights.div_(weights.sum(dim=0))


def spread(values: Tensor, weights: Tensor, settings: Pamr) -> Tensor:
    """A map (H, W) float32 after all rounds of its neighbours' weighted means."""
    (height, width), reach = values.shape, max(settings.dilations)
    for _ in range(settings.iterations):
        padded = _padded(values[None], reach)[0]
        values = torch.zeros_like(values)
        for weight, (down, across) in zip(weights, settings.shifts(), strict=True):
            values.addcmul_(weight, padded[reach + down :, reach + across :][:height, :width])
    return values


def refine_masks(
    image: np.ndarray, masks: np.ndarray, maps: np.ndarray | None = None, settings: Pamr | None = None
) -> np.ndarray:
    """Masks whose borders follow the image: every pixel goes to the mask that is strongest there after PAMR.

    Args:
        image: (H, W, 3) uint8. masks: (H, W) int, ids 0..K-1.
        maps: (K, h, w) uint8, difference maps of any size: masks start soft, each as its share of them; None: hard.
    Returns:
        (H, W) int32, ids of `masks`; the first of equals. A mask without a pixel gets none.
    """
    settings, result = settings or Pamr(), np.zeros(masks.shape, np.int32)
    shares = None if maps is None else _shares(maps, int(masks.max()) + 1)
    for inner, outer in tiles((masks.shape[0], masks.shape[1]), settings.margin):
        # Of hard masks those that a tile has not, margin and all, are 0 there and stay so.
        ids = np.unique(masks[outer] if shares is None else masks).tolist()
        if len(ids) == 1:
            result[inner] = ids[0]
            continue

        def read(place: Place, ids: list[int] = ids) -> Iterator[Tensor]:
            return (_start(masks, shares, one, place) for one in ids)

        best: Tensor | None = None
        for one, values in zip(ids, _refined(image, read, settings, inner, outer), strict=True):
            if best is None:
                best, result[inner] = values, one
            else:
                better = values > best
                result[inner][better.numpy()] = one
                best = torch.maximum(best, values)
    return result


def refined_maps(
    image: np.ndarray, maps: np.ndarray, settings: Pamr | None = None
) -> Iterator[tuple[Place, np.ndarray]]:
    """Maps (n, h, w) float, upsampled bilinearly to the image and refined: parts of it, (n, r, c) float32 each.

    Parts are as large as `labels.bands_of_rows` has them of a tile, the maps of which are in memory together.
    """
    height, width = upsampling(image.shape[0], maps.shape[1]), upsampling(image.shape[1], maps.shape[2])

    def read(place: Place) -> Iterator[Tensor]:
        return (torch.from_numpy((height[place[0]] @ one @ width[place[1]].T).astype(np.float32)) for one in maps)

    for (rows, columns), refined in refined_tiles(image, read, settings or Pamr()):
        tile = torch.stack(list(refined)).numpy()
        for part in bands_of_rows(len(tile), (tile.shape[1], tile.shape[2])):
            yield (slice(rows.start + part.start, rows.start + part.stop), columns), tile[:, part]


def _shares(maps: np.ndarray, count: int) -> np.ndarray:
    """Soft masks (K, h, w) float32 out of difference maps, adding up to 1."""
    if len(maps) < count:
        raise ValueError(f"maps: expected one for each of {count} masks, got {len(maps)}")
    squares = maps.astype(np.float32) ** SOFTNESS
    return squares / np.maximum(squares.sum(axis=0), 1e-12)


def _start(masks: np.ndarray, shares: np.ndarray | None, id: int, place: Place) -> Tensor:
    """A mask (r, c) float32 at a place of the image, before it is refined: hard, or its share upsampled bilinearly."""
    if shares is None:
        return torch.from_numpy((masks[place] == id).astype(np.float32))
    rows, columns = (
        upsampling(side, cells)[part] for side, cells, part in zip(masks.shape, shares.shape[1:], place, strict=True)
    )
    return torch.from_numpy((rows @ shares[id] @ columns.T).astype(np.float32))


def _padded(maps: Tensor, reach: int) -> Tensor:
    """(C, H, W) with its outermost values repeated."""
    return F.pad(maps[None], (reach, reach, reach, reach), mode="replicate")[0]
