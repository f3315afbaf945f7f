"""Packing many masks' responses into a few latents: what makes `speed="fast"` fast.

A mask that is nudged at t_m changes the latent, one step later, near itself and hardly anywhere else. So the K
responses need not be denoised one by one: those whose windows do not touch share a composite latent, as columns of a
sparse Jacobian that touch different rows share one difference (Curtis, Powell and Reid, 1974). Every mask competes for
the positions of its own windows alone. Ours, not the paper's; what it costs and keeps is in bench/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx
import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, label
from torch import Tensor

SMOOTHING = 0.5  # sigma of the Gaussian over a response's magnitude, in latent positions
SQUARE = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Fit:
    """How closely responses are packed."""

    core: float  # a mask's core: where its response is at least this share of the largest one
    margin: int  # latent positions round a core: its window
    apart: bool  # whether each connected part of a core has a window of its own, and may lie in a latent of its own


@dataclass(frozen=True, eq=False)
class Packed:
    """Responses of several masks in each latent."""

    latents: Tensor  # (G, C, h, w) float32, sums of responses inside their windows
    owners: np.ndarray  # (G, h, w) int64, the mask whose response is there; -1 outside all windows


def pack(responses: Tensor, fit: Fit) -> Packed:
    """Lay K responses (K, C, h, w) into as few latents as a graph colouring finds.

    Two cores come to lie in different latents where the window of one touches the other. Where windows of one latent
    overlap, a position belongs to the nearest core. A mask has each position in one latent at most.
    """
    magnitudes = torch.linalg.vector_norm(responses, dim=1).cpu().numpy()
    magnitudes = gaussian_filter(magnitudes, sigma=(0, SMOOTHING, SMOOTHING))
    whole = (magnitudes >= fit.core * magnitudes.max(axis=0)) & (magnitudes > 0)
    masks, cores = _parts(whole) if fit.apart else (np.arange(len(whole)), whole)
    windows = binary_dilation(cores, structure=SQUARE[None], iterations=fit.margin)
    distances = np.stack(
        [distance_transform_edt(~core) if core.any() else np.full(core.shape, np.inf) for core in cores]
    )
    for mask in np.unique(masks) if fit.apart else ():
        own = np.flatnonzero(masks == mask)
        windows[own] &= distances[own].argmin(axis=0) == np.arange(len(own))[:, None, None]
    distances[~windows] = np.inf
    owners = []
    for members in _colours(cores, windows):
        nearest = masks[members[distances[members].argmin(axis=0)]]
        owners.append(np.where(windows[members].any(axis=0), nearest, -1))
    chosen = torch.from_numpy(np.stack(owners)).to(responses.device)
    channels = chosen.clamp(min=0)[:, None].expand(-1, responses.shape[1], -1, -1)
    latents = responses.gather(0, channels) * (chosen >= 0)[:, None]
    return Packed(latents=latents, owners=np.stack(owners))


def unpack(latents: Tensor, owners: np.ndarray, masks: int) -> Tensor:
    """Give composite latents (G, C, h, w) back to the masks: (K, C, h, w), 0 outside a mask's windows.

    owners: as in `Packed`, (G, h, w).
    """
    unpacked = latents.new_zeros(masks + 1, *latents.shape[1:])
    places = torch.from_numpy(owners).to(latents.device)
    places = places.where(places >= 0, masks)[:, None].expand_as(latents)
    for latent, place in zip(latents, places, strict=True):  # a mask may have parts in several
        unpacked.scatter_add_(0, place[None], latent[None])
    return unpacked[:masks]


def _parts(cores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts of all cores (K, h, w), one at least: whose they are (P,), and they themselves (P, h, w)."""
    masks, parts = [], []
    for mask, core in enumerate(cores):
        numbers, count = label(core, structure=SQUARE)
        count = max(1, count)
        masks += [mask] * count
        parts += [numbers == part for part in range(1, count + 1)]
    return np.array(masks), np.stack(parts)


def _colours(cores: np.ndarray, windows: np.ndarray) -> list[np.ndarray]:
    """Groups of cores (arrays of their numbers), no two of which conflict."""
    flat_cores, flat_windows = (part.reshape(len(part), -1).astype(np.float32) for part in (cores, windows))
    touching = flat_cores @ flat_windows.T > 0
    graph = networkx.from_numpy_array(touching | touching.T)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    colour = networkx.greedy_color(graph, strategy="DSATUR")
    colours = np.array([colour[core] for core in range(len(cores))])
    return [np.flatnonzero(colours == one) for one in range(colours.max() + 1)]
