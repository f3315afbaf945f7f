"""Training scenes, drawn once and kept in a cache folder as memory-mapped arrays."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from ovseg.pocket.training import processes
from ovseg.pocket.world import NAMES, SIZE, WORLD_VERSION, scene

CACHE = Path(os.environ.get("POCKET_CACHE", "build/pocket"))
VISIBLE = 0.01  # a caption names what covers at least this share of a picture


def scenes(split: str, count: int, world: int = WORLD_VERSION) -> tuple[np.ndarray, np.ndarray]:
    """Scenes 0..count-1 of block 0: images (count, 128, 128, 3) and labels (count, 128, 128), both uint8.

    Drawn on all cores the first time, read from the cache afterwards. An interrupted drawing starts anew.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    paths = [CACHE / f"world{world}-{split}-{count}-{part}.npy" for part in ("images", "labels")]
    with processes.first_alone():
        if not all(path.exists() for path in paths):
            _draw(paths, split, count, world)
    images, labels = (np.load(path, mmap_mode="r") for path in paths)
    return images, labels


def _draw(paths: list[Path], split: str, count: int, world: int) -> None:
    shapes = [(count, SIZE, SIZE, 3), (count, SIZE, SIZE)]
    drafts = [path.with_suffix(".partial") for path in paths]
    images, labels = (
        np.lib.format.open_memmap(draft, "w+", np.uint8, shape) for draft, shape in zip(drafts, shapes, strict=True)
    )
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(partial(scene, split, 0, world=world), range(count), chunksize=64)
        for index, one in enumerate(track(drawn, f"drawing {count} {split} scenes", total=count)):
            images[index], labels[index] = one.image, one.labels
    for draft, path in zip(drafts, paths, strict=True):
        draft.rename(path)


def visible(labels: np.ndarray, share: float = VISIBLE) -> np.ndarray:
    """Which names cover at least `share` of a picture: (len(NAMES),) bool, from its label map (h, w) uint8.

    The one that covers most is always among them.
    """
    areas = np.bincount(labels.ravel(), minlength=len(NAMES))
    return areas >= min(share * labels.size, areas.max())


def cut(images: Tensor, corners: Tensor, sides: Tensor, mirrored: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Square windows of images (B, C, h, w) float, each resampled to `size`: (B, C, size, size), on their device.

    corners (B, 2), row and column, and sides (B,) are in pixels of the images; mirrored: (B,) bool.
    """
    height, width = images.shape[2:]
    middle = (2 * corners + sides[:, None]) / images.new_tensor([height, width]) - 1
    turn = torch.zeros(len(images), 2, 3, device=images.device)
    turn[:, 0, 0] = torch.where(mirrored, -sides, sides) / width
    turn[:, 1, 1] = sides / height
    turn[:, :, 2] = middle.flip(1)
    grid = functional.affine_grid(turn, [len(images), images.shape[1], size, size], align_corners=False)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
