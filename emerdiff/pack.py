"""Packing many masks' responses into a few latents: what makes `speed="fast"` fast.

A mask that is nudged at t_m changes the latent, one step later, near itself and hardly anywhere else. So the K
responses need not be denoised and decoded one by one: those whose windows do not touch share a composite latent, as
columns of a sparse Jacobian that touch different rows share one difference (Curtis, Powell and Reid, 1974). Every mask
competes for the pixels of its own window alone. Ours, not the paper's; what it costs and keeps is in bench/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx
import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from torch import Tensor

SMOOTHING = 0.5  # sigma of the Gaussian over a response's magnitude, in latent positions
CORE = 0.7  # a mask's core: where its response is at least this share of the largest one
MARGIN = 3  # latent positions round the core: the mask's window


@dataclass(frozen=True, eq=False)
class Packed:
    """Responses of several masks in each latent."""

    latents: Tensor  # (G, C, h, w) float32, sums of responses inside their windows
    owners: np.ndarray  # (G, h, w) int64, the mask whose response is there; -1 outside all windows


def pack(responses: Tensor) -> Packed:
    """Lay K responses (K, C, h, w) into as few latents as a graph colouring finds.

    Two masks come to lie in different latents where one's window touches the other's core. Where windows of one latent
    overlap, a position belongs to the nearest core.
    """
    magnitudes = torch.linalg.vector_norm(responses, dim=1).cpu().numpy()
    magnitudes = gaussian_filter(magnitudes, sigma=(0, SMOOTHING, SMOOTHING))
    cores = (magnitudes >= CORE * magnitudes.max(axis=0)) & (magnitudes > 0)
    square = np.ones((1, 3, 3), dtype=bool)
    windows = binary_dilation(cores, structure=square, iterations=MARGIN)
    distances = np.stack(
        [distance_transform_edt(~core) if core.any() else np.full(core.shape, np.inf) for core in cores]
    )
    owners = []
    for members in _colours(cores, windows):
        nearest = members[distances[members].argmin(axis=0)]
        owners.append(np.where(windows[members].any(axis=0), nearest, -1))
    chosen = torch.from_numpy(np.stack(owners)).to(responses.device)
    channels = chosen.clamp(min=0)[:, None].expand(-1, responses.shape[1], -1, -1)
    latents = responses.gather(0, channels) * (chosen >= 0)[:, None]
    return Packed(latents=latents, owners=np.stack(owners))


def unpack(maps: Tensor, owners: np.ndarray, masks: int) -> Tensor:
    """Give composite difference maps (G, H, W) back to the masks: (K, H, W), 0 outside a mask's window.

    owners: as in `Packed`, (G, h, w), enlarged by nearest neighbour.
    """
    height, width = maps.shape[1:]
    factors = height // owners.shape[1], width // owners.shape[2]
    large = torch.from_numpy(owners.repeat(factors[0], axis=1).repeat(factors[1], axis=2)).to(maps.device)
    unpacked = torch.zeros(masks + 1, height, width, device=maps.device)
    unpacked.scatter_(0, large.where(large >= 0, masks), maps)
    return unpacked[:masks]


def _colours(cores: np.ndarray, windows: np.ndarray) -> list[np.ndarray]:
    """Groups of masks (arrays of their numbers), no two of which conflict."""
    flat_cores, flat_windows = (part.reshape(len(part), -1).astype(np.float32) for part in (cores, windows))
    touching = flat_cores @ flat_windows.T > 0
    graph = networkx.from_numpy_array(touching | touching.T)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    colour = networkx.greedy_color(graph, strategy="DSATUR")
    colours = np.array([colour[mask] for mask in range(len(cores))])
    return [np.flatnonzero(colours == one) for one in range(colours.max() + 1)]
