"""The names of the features by which masks can be named, and what is known of each. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegionKind:
    """How a mask's feature comes from CLIP's patches.

    about: a line for the help. values: patches are pooled before the tower's last norm, as values, so that long ones
    count more; otherwise their features of length 1 are. mlp: the last block's MLP sees the pooled value; total: their
    sum rather than their mean, whose length hides the MLP in large masks. filtered: patches that are more like other
    masks than like their own are left out. whole: values of the whole image at the tower's own size are added. soft:
    masks overlap, by the difference maps that EmerDiff left. own_head: the tower's own class token, pool or average
    makes one vector of each mask.
    """

    about: str
    values: bool = False
    mlp: bool = False
    total: bool = False
    filtered: bool = False
    whole: bool = False
    soft: bool = False
    own_head: bool = False


REGIONS: dict[str, RegionKind] = {
    "mean": RegionKind("mean of the patches' features of length 1"),
    "soft": RegionKind("the same with soft masks, from EmerDiff's difference maps", soft=True),
    "values": RegionKind("mean of the last block's values, before the last norm", values=True),
    "values-soft": RegionKind("the same with soft masks", values=True, soft=True),
    "values-filter": RegionKind("values of patches that are most like their own mask's", values=True, filtered=True),
    "values-mlp": RegionKind("values and, added to their mean, what the block's MLP says of it", values=True, mlp=True),
    "text-region": RegionKind(
        "TextRegion (arXiv 2505.23769): sum of filtered values, and the MLP's word on it",
        values=True,
        mlp=True,
        total=True,
        filtered=True,
    ),
    "values-whole": RegionKind("values and those of the whole image at the tower's own size", values=True, whole=True),
    "text-region-whole": RegionKind(
        "TextRegion with its view of the whole image",
        values=True,
        mlp=True,
        total=True,
        filtered=True,
        whole=True,
    ),
    "head": RegionKind(
        "the tower's own class token (as CorrCLIP, arXiv 2411.10086), attention pool or average, over the mask",
        own_head=True,
    ),
}


def check_regions(name: str) -> None:
    """Raise ValueError for a name that is not in `REGIONS`."""
    if name not in REGIONS:
        raise ValueError(f"regions: no region feature {name!r}, expected one of {', '.join(REGIONS)}")


def help_lines() -> str:
    """The region features with what they are, a line each, for a command's help."""
    return "\n".join(f"  {name:<17} {kind.about}" for name, kind in REGIONS.items())
