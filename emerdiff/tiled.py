"""EmerDiff in tiles (`Options.tile`): large images at a size where their parts can be seen, and any aspect.

Every tile is read by the network as an image of its own, with the same noise, and the queries of all tiles are grouped
together: masks are clusters of the whole image, so that a wall that goes through several tiles is one mask and a seam
needs no merging. What is nudged in a tile are the clusters that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from emerdiff.clusters import cluster_queries, join_places
from emerdiff.edges import follow_edges
from emerdiff.one_pass import Reading
from emerdiff.options import Options
from emerdiff.tiles import Maps, Tiling, stitch

Read = Callable[[np.ndarray], Reading]  # of a tile (H, W, 3) uint8
# A tile, its reading and its cells' ids (N,) -> maps (K, h, w), and the modulated layer's RMS.
Carry = Callable[[np.ndarray, Reading, np.ndarray], tuple[np.ndarray, float | None]]


@dataclass(frozen=True, eq=False)
class Tiled:
    """What came of all tiles; as in `segments.Segments`, cells by the tile that counts most where they are."""

    labels: np.ndarray
    low_resolution_masks: np.ndarray
    queries: np.ndarray
    layer_rms: float | None


def segment_tiles(image: np.ndarray, tiling: Tiling, options: Options, read: Read, carry: Carry) -> Tiled:
    """Read all tiles of an image (H, W, 3) uint8, group their cells, and carry the groups to the pixels.

    There are `options.masks` groups for every tile's area, and places count as they do in a tile.
    """
    # What spreading needs is too large to be kept of all tiles.
    readings = {place: replace(read(image[tiling.window(*place)]), spreading=None) for place in tiling}
    grid = next(iter(readings.values())).grid
    queries = np.concatenate([reading.queries for reading in readings.values()])
    places = np.concatenate([_centres(tiling, place, grid) for place in tiling])
    unit = float(_centres(tiling, (0, 0), grid).var(axis=0).sum()) ** 0.5
    grouped = cluster_queries(join_places(queries, places, options.place, unit), tiling.masks(options), options.seed)
    ids = dict(zip(tiling, grouped.reshape(len(tiling), -1), strict=True))
    strengths: list[float | None] = []

    def maps_of(row: int, column: int) -> Maps:
        reading, window = readings.pop((row, column)), image[tiling.window(row, column)]
        if options.upsampling == "attention":
            reading = read(window)
        present, own = np.unique(ids[row, column], return_inverse=True)
        maps, rms = carry(window, reading, own.astype(np.int32))
        strengths.append(rms)
        found = torch.from_numpy(maps)
        return present, follow_edges(found, window) if options.edges else found

    labels = stitch(tiling, maps_of, image if options.edges else None)
    cells = _cells(tiling, grid)
    return Tiled(labels, grouped[cells], queries[cells.ravel()], strengths[0])


def _centres(tiling: Tiling, place: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Where in the image the cells (N,) of a tile have their centres: (N, 2) float64, pixels from the top and left."""
    sides = zip(tiling.window(*place), tiling.tile, grid, strict=True)
    axes = [window.start + (np.arange(cells) + 0.5) * side / cells for window, side, cells in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _cells(tiling: Tiling, grid: tuple[int, int]) -> np.ndarray:
    """A grid over the whole image: each cell's number among all tiles' cells, of the tile with the nearest centre.

    (h, w) int64.
    """
    numbers = []
    for tops, side, cells, length in zip((tiling.tops, tiling.lefts), tiling.tile, grid, tiling.size, strict=True):
        places = (np.arange(max(1, round(length * cells / side))) + 0.5) * side / cells
        tile = np.abs(places[:, None] - (np.array(tops) + side / 2)).argmin(axis=1)
        inside = ((places - np.array(tops)[tile]) * cells / side).astype(int).clip(0, cells - 1)
        numbers.append((tile, inside))
    (row, above), (column, left) = numbers
    tile = row[:, None] * len(tiling.lefts) + column
    return np.asarray(tile * grid[0] * grid[1] + above[:, None] * grid[1] + left)
