"""Dense CLIP features in the text space, without training: MaskCLIP (arXiv 2112.01071) and what followed it.

The tower runs as it is up to its last block. What takes that block's place keeps patches apart instead of mixing them
over the image (see `variants`); the final norm and projection then put each patch where the text embeddings are.
With MaskCLIP a ResNet's attention pool becomes two 1x1 convolutions.

`dense_features` takes the towers that `readout` knows, at any size. It does not resize or normalise images (see
`clip`), does not smooth keys and does not denoise prompts (both optional in the paper), and never changes the
tower: no hook stays, no weight is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.towers.readout import cell_size, readout, scoped_readout
from ovseg.towers.scope import NO_SCOPE, SCOPES
from ovseg.towers.variants import VARIANTS, Variant, check_variant
from ovseg.towers.view import View, window_starts

WINDOW_BATCH = 8  # windows per forward pass; fixed, so that results on the CPU are bit-equal


@dataclass(frozen=True)
class Window:
    """Where a window lies on the grid of cells of the whole image."""

    rows: slice
    columns: slice


Read = Callable[[Tensor, list[Window]], Tensor]  # crops (b, 3, H, W) and where they lie -> (b, C, h, w) float32


def dense_features(tower: nn.Module, images: Tensor, variant: str = "maskclip") -> Tensor:
    """A feature vector in CLIP's text space for every patch of every image.

    Args:
        tower: `model.visual` of an open_clip model, in eval mode.
        images: (B, 3, H, W) float, normalised with the model's mean and deviation, on the tower's device.
            H and W are any multiples of `cell_size(tower)`.
        variant: a name in `VARIANTS`. Where the last layer is an attention pool (ResNet, attentional pool) only
            MaskCLIP's two are defined; without residual and MLP they are the same.
    Returns:
        (B, C, h, w) float32, not L2-normalised; h, w = H, W divided by the cell size. Gradients flow if enabled.
    Raises:
        ValueError: unknown variant or one that the tower cannot do, unsupported tower, tower in training mode, wrong
            shape or size of `images`.
    """
    check_variant(variant)
    height, width = cell_size(tower)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % height or images.shape[3] % width:
        raise ValueError(
            f"images must be (B, 3, H, W) with H a multiple of {height} and W of {width}, got {tuple(images.shape)}"
        )
    if tower.training:
        raise ValueError("dense_features needs the tower in eval mode (call .eval()): batch norms must not be updated")
    return readout(tower, images, variant).float()


def view_features(tower: nn.Module, image: Tensor, view: View, masks: np.ndarray | None = None) -> Tensor:
    """Dense features of one image, seen as `view` says (whole, or in sliding windows averaged on the common grid).

    Args:
        image: (3, H, W) float, normalised, on the tower's device; already resized, H and W multiples of the cell size.
        masks: (h, w) int, the mask that each cell is of; for a view with a scope, which without them is as if it had
            none.
    Returns:
        (C, h, w) float32. Features are L2-normalised in each window before the average, so the dot product with a text
        embedding is the mean of the windows' cosine maps (as SCLIP and its successors average them); lengths are <= 1.
    Raises:
        ValueError: as `dense_features`; a window or stride that is not a multiple of the cell size.
    """

    def read(crops: Tensor, windows: list[Window]) -> Tensor:
        if masks is None or view.scope == NO_SCOPE:
            return F.normalize(dense_features(tower, crops, view.variant), dim=1)
        return F.normalize(scoped_readout(tower, crops, last_block(view, masks, windows, crops.device)).float(), dim=1)

    return over_windows(image, view, cell_size(tower), read)


def last_block(view: View, masks: np.ndarray | None, windows: list[Window], device: torch.device) -> Variant:
    """What takes the last block's place for these windows: the view's variant, or its scope where there are masks.

    masks: (h, w) int, the mask that each cell of the whole image is of.
    """
    if masks is None or view.scope == NO_SCOPE:
        return VARIANTS[view.variant]
    ids = np.stack([masks[one.rows, one.columns].ravel() for one in windows])
    return Variant(SCOPES[view.scope](torch.from_numpy(ids.astype(np.int64)).to(device)), residual=False)


def over_windows(image: Tensor, view: View, cells: tuple[int, int], read: Read) -> Tensor:
    """What `read` makes of the view's windows, averaged on the grid of cells that they have in common: (C, h, w).

    image: (3, H, W), whole cells. Raises ValueError for a window or stride that is not whole cells.
    """
    if any(length % cell for length in (view.window, view.stride) for cell in cells):
        raise ValueError(
            f"View.window and View.stride must be multiples of the tower's cell size {cells[0]}x{cells[1]}, "
            f"got {view.window} and {view.stride}"
        )
    sides = image.shape[1], image.shape[2]
    window = [min(view.window or side, side) for side in sides]
    tops, lefts = (window_starts(side, size, view.stride or side) for side, size in zip(sides, window, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    total, count = torch.zeros(()), torch.zeros(sides[0] // cells[0], sides[1] // cells[1], device=image.device)
    for first in range(0, len(corners), WINDOW_BATCH):
        chunk = corners[first : first + WINDOW_BATCH]
        crops = torch.stack([image[:, y : y + window[0], x : x + window[1]] for y, x in chunk])
        places = [
            Window(slice(y // cells[0], (y + window[0]) // cells[0]), slice(x // cells[1], (x + window[1]) // cells[1]))
            for y, x in chunk
        ]
        found = read(crops, places)
        if first == 0:
            total = found.new_zeros(found.shape[1], *count.shape)
        for place, one in zip(places, found, strict=True):
            total[:, place.rows, place.columns] += one
            count[place.rows, place.columns] += 1
    return total / count


def native_view(tower: nn.Module) -> View:
    """Windows of the size a tower was trained at, half overlapping, over an image 1.5 times that: SCLIP's 224 and 336.

    Raises ValueError as `cell_size`.
    """
    sides: Any = tower.image_size  # one number, or (height, width)
    size, cell = int(np.max(sides)), max(cell_size(tower))
    window, stride = (max(1, side // cell) * cell for side in (size, size // 2))  # 384 of cells of 14 are 378
    return View(short_side=size * 3 // 2, window=window, stride=stride)
