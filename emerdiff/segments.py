"""What comes of an image, as a value; and the baseline, which needs no model for kept clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emerdiff.edges import follow_edges
from emerdiff.image import largest, nearest
from emerdiff.options import Options


@dataclass(frozen=True, eq=False)
class Segments:
    """The masks of one image, and what led to them."""

    labels: np.ndarray  # (H, W) int32 at the image's own size; ids are those of low_resolution_masks
    low_resolution_masks: np.ndarray  # (h, w) int32, ids 0..K-1, each in use; K < options.masks on flat images
    queries: np.ndarray  # (h*w, C) float32, row by row
    difference_maps: np.ndarray | None  # (K, H', W') float32 at the network's input size, after smoothing
    feature_timestep: int  # t_f as snapped to the grid
    modulation_timestep: int  # t_m as snapped to the grid
    network_size: tuple[int, int]  # (H', W'), pixels
    layer_rms: float | None  # RMS of the modulated tensor, unmodulated, at t_m; None without modulation
    options: Options  # as snapped
    carried: bool = False  # whether the clusters grew out of the frame's before, and ids with them


def labels_of(maps: Tensor, image: np.ndarray, options: Options) -> np.ndarray:
    """Masks (H, W) int32 at the image's own size by the largest of the maps (K, h, w)."""
    size = image.shape[0], image.shape[1]
    if options.edges:
        return largest(follow_edges(maps, image), size, image)
    if options.upsampling == "modulated" and options.speed == "exact":  # as the paper: the network's masks, enlarged
        return nearest(maps.argmax(0).int().numpy(), size)
    return largest(maps, size)


def naive_segments(low_resolution_masks: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return what `segment` gives with upsampling="naive", from kept low-resolution masks: no model is run.

    low_resolution_masks: (h, w) int, ids 0..K-1; image_size: (H, W), pixels. Returns (H, W) int32.
    """
    ids = torch.from_numpy(low_resolution_masks)
    masks = ids == torch.arange(int(ids.max()) + 1)[:, None, None]
    return largest(masks.float(), image_size)
