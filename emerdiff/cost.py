"""The work that an image takes, before and while it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from emerdiff.options import Options

PACKED = 8  # estimated number of latents that the responses of many masks are packed into


@dataclass(frozen=True)
class Cost:
    """The work for one image, or all its tiles; with speed="fast" an estimate, as rows are counted during the run."""

    unet_rows: int  # UNet evaluations of one latent each
    decodes: int  # images decoded by the autoencoder
    height: int  # H', the image's or a tile's height in the network, pixels
    width: int  # W'
    images: int = 1  # tiles, or the one image, that are encoded


def work(options: Options, steps: int, most: int) -> tuple[int, int]:
    """UNet evaluations and decodes of one image, or tile. steps: from t_m down; most: rows in one UNet call."""
    if options.upsampling != "modulated":
        return 1, 0
    masks = options.masks
    if options.speed == "exact":  # each call has the unmodulated row as well
        return 1 + steps * (2 * masks + ceil(masks / max(1, (most - 1) // 2))), 2 * masks
    first, later = (rows + ceil(rows / max(1, most - 1)) for rows in (masks, min(masks, PACKED)))
    return 1 + first + (steps - 1) * later, 0


def counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """What is called with the rows of every UNet call, and tells `progress` how many there were of all."""
    done = 0

    def count_rows(rows: int) -> None:
        nonlocal done
        done = min(done + rows, total)
        if progress is not None:
            progress(done, total)

    return count_rows
