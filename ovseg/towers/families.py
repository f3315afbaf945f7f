"""The image towers that a CLIP may have, by family: what is known of each. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Towers of one design. `timm_towers` and `readout` read them; docs/MODELS.md has what they cost."""

    name: str
    timm: str  # a pattern of timm's names for it; "" for open_clip's own
    cell: str  # pixels of a cell's side
    native: str  # pixels of the images that its published weights were trained at
    end: str  # what makes one vector of an image: "class token", "attention pool" or "average"
    scoring: str = "softmax"  # the rule of its published weights

    @property
    def dense(self) -> str:
        """Which dense variants it has."""
        if self.end == "attention pool" or (self.timm and self.end == "average"):
            return "maskclip, maskclip-plain"
        return "all but elf, sc-clip" if self.timm else "all"

    @property
    def regions(self) -> str:
        """Which features of masks it has, see `region_kinds`."""
        if self.timm:
            return "mean, soft" if self.end == "class token" else "mean, soft, head"
        usual = {"attention pool": "mean, soft, values", "average": "all but head"}
        return usual.get(self.end, "all")


FAMILIES: tuple[Family, ...] = (
    Family("ViT (OpenAI, LAION, MetaCLIP, DFN)", "", "14, 16, 32", "224 to 378", "class token"),
    Family("CLIPA", "", "14", "224, 336", "average"),
    Family("CoCa", "", "14, 32", "224", "attention pool"),
    Family("ResNet (OpenAI)", "", "32", "224 to 448", "attention pool"),
    Family(
        "SigLIP, SigLIP 2",
        r"vit_(base|large|so400m|giantopt)_patch(14|16|32)_siglip_\d{3}",
        *("14, 16, 32", "224 to 512", "attention pool", "sigmoid"),
    ),
    Family(
        "PE-Core",
        r"vit_pe_core_(tiny|small|base|large|gigantic)_patch(14|16)_\d{3}",
        *("14, 16", "224 to 448", "attention pool"),
    ),
    Family(
        "EVA01, EVA02",
        r"eva_giant_patch14_\d{3}|eva02_(base|large|enormous)_patch(14|16)_clip_\d{3}",
        *("14, 16", "224, 336", "class token"),
    ),
    Family(
        "MobileCLIP-B, MobileCLIP2-B, -L",
        r"vit_base_mci_224|vit_large_patch14_clip_224",
        *("14, 16", "224", "class token"),
    ),
    Family("MobileCLIP-S1, -S2, MobileCLIP2-S0, -S2 (FastViT)", r"fastvit_mci[0-2]", "32", "256", "average"),
    Family("MobileCLIP2-S3, -S4 (FastViT)", r"fastvit_mci[34]", "64", "256", "average"),
    Family("ViTamin", r"vitamin_(small|base|large2?|xlarge)_\d{3}", "16", "224 to 384", "average"),
    Family("ConvNeXt", r"convnext_(tiny|small|base|large|xlarge|xxlarge)", "32", "224 to 320", "average"),
    Family("ViT with an average (LAION)", r"vit_medium_patch16_gap_256", "16", "256", "average"),
)


def is_known_to_timm(name: str) -> bool:
    """Whether it is timm's name for a tower of these families: a name alone, that leads to no repository."""
    return any(family.timm and re.fullmatch(family.timm, name) for family in FAMILIES)
