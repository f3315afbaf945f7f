"""EmerDiff: image-resolution masks out of a text-to-image latent diffusion model, without any training.

Follows Namekata, Sabour, Fidler and Kim, "EmerDiff: Emerging Pixel-level Semantic Knowledge in Diffusion Models"
(ICLR 2024, arXiv 2401.11739). Start reading at `segment.py`.
"""

from emerdiff.diffusion import LatentDiffusion
from emerdiff.options import Options
from emerdiff.segment import Cost, EmerDiff, Segments, naive_segments

__all__ = ["Cost", "EmerDiff", "LatentDiffusion", "Options", "Segments", "naive_segments"]
