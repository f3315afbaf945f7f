"""How an image is shown to a model that names, as values: its size, windows, and what is read of it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg.towers.region_kinds import check_regions
from ovseg.towers.scope import NO_SCOPE, check_scope
from ovseg.towers.variants import check_variant


@dataclass(frozen=True)
class View:
    """How an image is shown to the CLIP tower, and what is read of it. Lengths are pixels of the resized image.

    The aspect ratio is kept: the scale is short_side / the image's shorter side, or long_side / its longer side where
    that is less (mmcv's rule). Unlike there, both sides are then rounded to whole cells.
    window and stride must be multiples of the tower's cell (patch) size; `clip.Clip.dense_features` checks it.
    """

    short_side: int  # the image's shorter side is resized to about this
    window: int = 0  # side of the square sliding windows; 0 = the whole image at once
    stride: int = 0  # step between windows; 0 where there are none
    variant: str = "maskclip"  # a name in VARIANTS
    long_side: int = 0  # the longer side is resized to at most about this; 0 = no limit
    regions: str = "mean"  # the masks' features, a name in region_kinds.REGIONS
    scope: str = NO_SCOPE  # attention within masks in the last block, in place of the variant: a name in SCOPES
    merge: float = 1.0  # masks whose mean features have at least this cosine are one scope; 1: none are

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise ValueError(f"View.short_side must be at least 1 pixel, got {self.short_side}")
        if self.window < 0 or (self.window == 0) != (self.stride == 0) or not 0 <= self.stride <= self.window:
            raise ValueError(
                "View needs 0 < stride <= window, or both 0 for the whole image at once, "
                f"got window={self.window}, stride={self.stride}"
            )
        if self.long_side < 0 or 0 < self.long_side < self.short_side:
            raise ValueError(
                "View.long_side must be at least short_side, or 0 for no limit, "
                f"got long_side={self.long_side}, short_side={self.short_side}"
            )
        check_variant(self.variant)
        check_regions(self.regions)
        check_scope(self.scope)
        if not -1 <= self.merge <= 1 or (self.merge < 1 and self.scope == NO_SCOPE):
            raise ValueError(
                f"merge: expected a cosine up to 1 beside a scope, got {self.merge} and scope {self.scope}"
            )


def resized_sides(sides: tuple[int, int], view: View, cell: tuple[int, int]) -> tuple[int, int]:
    """(H, W) as `view` has it resized, each side rounded to whole cells, at least one. Pixels."""
    scale = view.short_side / min(sides)
    if view.long_side:
        scale = min(scale, view.long_side / max(sides))
    height, width = (max(1, round(side * scale / unit)) * unit for side, unit in zip(sides, cell, strict=True))
    return height, width


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride`, the last one shifted back inside. All in the same unit."""
    starts = list(range(0, max(side - window, 0) + 1, stride))
    if starts[-1] + window < side:
        starts.append(side - window)
    return starts
