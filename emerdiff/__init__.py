"""EmerDiff: image-resolution masks out of a text-to-image latent diffusion model, without any training.

Follows Namekata, Sabour, Fidler and Kim, "EmerDiff: Emerging Pixel-level Semantic Knowledge in Diffusion Models"
(ICLR 2024, arXiv 2401.11739). Start reading at `segment.py`.

The names below load on first use: `from emerdiff import Options` loads neither torch nor NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emerdiff.cost import Cost as Cost
    from emerdiff.diffusion import LatentDiffusion as LatentDiffusion
    from emerdiff.options import Options as Options
    from emerdiff.segment import EmerDiff as EmerDiff
    from emerdiff.segments import Segments as Segments
    from emerdiff.segments import naive_segments as naive_segments

_HOMES = {
    "Cost": "emerdiff.cost",
    "EmerDiff": "emerdiff.segment",
    "LatentDiffusion": "emerdiff.diffusion",
    "Options": "emerdiff.options",
    "Segments": "emerdiff.segments",
    "naive_segments": "emerdiff.segments",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'emerdiff' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
