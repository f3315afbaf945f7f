"""The settings of the method."""

from __future__ import annotations

from dataclasses import dataclass

from emerdiff.modulate import PLACEMENTS

SPEEDS = ("fast", "exact")
UPSAMPLINGS = ("modulated", "naive")


@dataclass(frozen=True)
class Options:
    """Settings of the method; the defaults are the paper's for Stable Diffusion 1.4."""

    masks: int = 30  # K, number of low-resolution masks
    steps: int = 50  # denoising steps of the whole grid; only those from t_m down are run
    feature_timestep: int = 1  # t_f, where queries are read; snaps to the grid
    modulation_timestep: int = 281  # t_m, where the layer is modulated; snaps to the grid
    strength: float = 10.0  # lambda, added to every channel at a mask's positions
    feature_layer: str = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"  # the queries' attention
    modulated_layer: str = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"  # the attention that is nudged
    modulation: str = "after-projection"  # or "before-projection": before or after the layer's output projection
    attention_injection: bool = True  # attention maps of the unmodulated pass in the modulated rows
    sigma: float = 1.0  # Gaussian smoothing of the difference maps, in pixels of the network's input; 0 = none
    seed: int = 0  # of the noise and of k-means
    batch: int = (
        16  # rows per UNet call at base_size x base_size pixels; fewer for longer images and small GPUs, 3 at least
    )
    speed: str = "fast"  # or "exact", the paper's own procedure, at 3 to 10 times the cost
    upsampling: str = "modulated"  # or "naive": bilinear upsampling of the low-resolution masks, the baseline
    base_size: int = 512  # shorter side of the image in the network, pixels
    keep_difference_maps: bool = False  # return them; K times the network's input size in float32

    def __post_init__(self) -> None:
        for name, least in (("masks", 1), ("steps", 1), ("batch", 1), ("base_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected less than 2**32, got {self.seed}")
        for name in ("feature_timestep", "modulation_timestep", "sigma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number from 0 up, got {getattr(self, name)}")
        if not abs(self.strength) < float("inf"):
            raise ValueError(f"strength: expected a finite number, got {self.strength}")
        for name, choices in (
            ("modulation", tuple(PLACEMENTS)),
            ("upsampling", UPSAMPLINGS),
            ("speed", SPEEDS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.keep_difference_maps and self.upsampling == "naive":
            raise ValueError("keep_difference_maps: naive upsampling has none; it needs upsampling='modulated'")
