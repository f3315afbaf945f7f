"""Masks of a single evaluation of the UNet: groups of low-resolution cells, carried to the pixels by what it computes.

`spread` carries maps by the UNet's self-attention, as CLIPer carries scores (Sun et al., ICCV 2025, arXiv 2411.13836);
`likeness` gives every position the group whose mean feature is most like its own, as DiffCut does (arXiv 2406.02842).
Neither is EmerDiff's; both cost some 2 TFLOP at Stable Diffusion's size, where `fast` takes tens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from emerdiff.clusters import cluster_queries, fit, with_place
from emerdiff.cuts import cut_vectors
from emerdiff.diffusion import LatentDiffusion
from emerdiff.hooks import MAP_ELEMENTS, record_output
from emerdiff.inversion import Step
from emerdiff.memory import Peak
from emerdiff.options import Options

LAYERS = 2  # of the finest self-attentions of the up path, from the first on: CLIPer's
LEAST = 0.2  # of a column's largest weight: smaller ones count as 0, CLIPer's


@dataclass(frozen=True, eq=False)
class Spreading:
    """The self-attentions that `spread` uses, of one evaluation: queries and keys (1, N, heads d) by layer."""

    queries: Sequence[Tensor]
    keys: Sequence[Tensor]
    heads: Sequence[int]
    grid: tuple[int, int]  # of their N positions


@dataclass(frozen=True, eq=False)
class Reading:
    """What one evaluation of the UNet tells of an image, and the noisy path for what follows."""

    network_size: tuple[int, int]  # (H', W'), pixels
    grid: tuple[int, int]  # (h, w) of the cells that are grouped
    queries: np.ndarray  # (h*w, C) float32, row by row
    steps: list[Step]  # from t_m down
    path: list[Tensor]  # latents (1, C, h', w') x_{t_m}, ..., x_0
    spreading: Spreading | None  # with upsampling="attention" alone
    row: Peak  # memory that the evaluation took


def group(
    queries: np.ndarray, grid: tuple[int, int], options: Options, start: np.ndarray | None = None
) -> tuple[np.ndarray, bool]:
    """Group the queries (N, C) of a grid's cells by k-means, or with "diffcut" by cuts.

    start: centres that k-means begins at if they `fit`. Returns (N,) int32 ids 0..K-1, and whether it began there.
    """
    vectors = with_place(queries, grid, options.place)
    if options.upsampling == "diffcut":
        return cut_vectors(vectors, options.masks), False
    if start is not None and not fit(vectors, start, options.masks):
        start = None
    return cluster_queries(vectors, options.masks, options.seed, start), start is not None


def carry_at_once(reading: Reading, ids: np.ndarray, options: Options) -> np.ndarray:
    """Maps (K, h, w) float32 of groups (N,) without any modulation; a pixel belongs to the largest map."""
    if options.upsampling == "attention":
        assert reading.spreading is not None
        found = reading.spreading
        maps = one_hot(ids.reshape(reading.grid), found.grid).flatten(1)
        return spread(maps, found.queries, found.keys, found.heads).unflatten(1, found.grid).cpu().numpy()
    if options.upsampling == "diffcut":
        vectors = torch.from_numpy(with_place(reading.queries, reading.grid, options.place))
        return likeness(vectors, ids).unflatten(1, reading.grid).numpy()
    return one_hot(ids.reshape(reading.grid), reading.grid).numpy()  # naive


def read_outputs(diffusion: LatentDiffusion, latent: Tensor, step: Step, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What modules return for latents (B, C, h, w) at a step, in one evaluation of the UNet."""
    with ExitStack() as stack:
        recordings = [stack.enter_context(record_output(module)) for module in modules]
        diffusion.predict_noise(latent, step)
    return [recording.read() for recording in recordings]


def finest_self_attentions(diffusion: LatentDiffusion) -> list[str]:
    """The first `LAYERS` self-attentions among those of the up path at its finest level that has any.

    Raises ValueError for a UNet without self-attention in its up path.
    """
    names = [name for name in diffusion.predictor.attentions if name.startswith("up_blocks") and "attn1" in name]
    if not names:
        raise ValueError("by attention: this UNet has no self-attention in its up path")
    finest = min(map(diffusion.level, names))
    return [name for name in names if diffusion.level(name) == finest][:LAYERS]


def one_hot(ids: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Ids (h, w) int from 0 as maps (K, H, W) float32, upsampled bilinearly where the sizes differ."""
    maps = torch.from_numpy(ids == np.arange(ids.max() + 1)[:, None, None]).float()
    return (
        maps if ids.shape == size else functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    )


def spread(maps: Tensor, queries: Sequence[Tensor], keys: Sequence[Tensor], heads: Sequence[int]) -> Tensor:
    """Carry maps (K, N) by the product A_1 ... A_H of all heads' attention over N positions; returns (K, N) float32.

    queries, keys: (1, N, heads d) of each layer, in the layers' order. A head's A is its softmax(Q K^T / sqrt d), every
    column by its largest value, what is under `LEAST` then 0, and rows to a sum of 1. The product is applied from the
    right, so that one head's weights are in memory at a time; many positions go in several bands.
    """
    carried = maps.T.to(queries[0].device, torch.float32)
    for query, key, count in reversed(list(zip(queries, keys, heads, strict=True))):
        for head in reversed(range(count)):
            width = query.shape[2] // count
            part = slice(head * width, (head + 1) * width)
            carried = _carry(query[0, :, part].float() * width**-0.5, key[0, :, part].float(), carried)
    return carried.T.contiguous()


def _carry(query: Tensor, key: Tensor, maps: Tensor) -> Tensor:
    """One head's A times maps (N, K); query, key (N, d), the query scaled."""
    rows = max(1, MAP_ELEMENTS // len(key))
    bands = [slice(top, top + rows) for top in range(0, len(query), rows)]
    weights = (query[bands[0]] @ key.T).softmax(dim=1)
    peaks = weights.amax(dim=0)
    for band in bands[1:]:
        peaks = torch.maximum(peaks, (query[band] @ key.T).softmax(dim=1).amax(dim=0))
    carried = torch.empty_like(maps)
    for number, band in enumerate(bands):
        if number:  # the first ones are there
            weights = (query[band] @ key.T).softmax(dim=1)
        weights = weights / peaks.clamp(min=1e-30)
        weights = weights.where(weights >= LEAST, 0)
        # A position that nobody's column has for its best keeps what it has.
        total = weights.sum(dim=1, keepdim=True)
        carried[band] = torch.where(total > 0, weights @ maps / total.clamp(min=1e-30), maps[band])
    return carried


def likeness(vectors: Tensor, ids: np.ndarray) -> Tensor:
    """How like every position's vector is to each group's mean: (K, N) float32, dot products with unit means.

    vectors: (N, C) float32; ids: (N,) int from 0. Being linear in the vectors, the maps can be enlarged in their place:
    where one is the largest, so is its cosine.
    """
    members = torch.from_numpy(ids == np.arange(ids.max() + 1)[:, None]).to(vectors)
    unit = functional.normalize(vectors, dim=1)
    return functional.normalize(members @ unit, dim=1) @ unit.T
