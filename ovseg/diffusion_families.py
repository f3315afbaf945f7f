"""The diffusion models that load, by name: what is known of each at full size. Loads no torch.

Figures are counted on shapes alone: `python -m bench.families` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A published model, or several of one shape."""

    name: str
    pixels: int  # side of the images it was trained at, which is the default size in the network
    millions: int  # of its UNet's parameters
    gigabytes: float  # weights of UNet and autoencoder in float32; float16 and bfloat16 take half
    tflop: float  # a call of its UNet for one image of 512 pixels
    layers: str  # whose queries are clustered and which is nudged, by default
    licence: str


RAIL, RAIL_2 = "CreativeML OpenRAIL-M", "CreativeML Open RAIL++-M"
TURBO = "Stability AI's, non-commercial"
APACHE = "Apache-2.0, by its card"
SD, SD_LESS, SD_TINY = "up1.0, up1.2", "up1.0, up1.1", "up0.0, up0.1"
XL, XL_LESS = "up0.0, up0.2 block 9", "up0.0, up0.2 block 1"
FAMILIES = (
    Family("Stable Diffusion 1.x", 512, 860, 3.8, 0.80, SD, RAIL),
    Family("Stable Diffusion 2.x base", 512, 866, 3.8, 0.80, SD, RAIL_2),
    Family("Stable Diffusion 2.x", 768, 866, 3.8, 0.80, SD, RAIL_2),
    Family("sd-turbo", 512, 866, 3.8, 0.80, SD, TURBO),
    Family("BK-SDM base", 512, 579, 2.65, 0.52, SD_LESS, RAIL),
    Family("BK-SDM small", 512, 482, 2.3, 0.51, SD_LESS, RAIL),
    Family("BK-SDM tiny", 512, 323, 1.6, 0.49, SD_TINY, RAIL),
    Family("SDXL", 1024, 2567, 10.6, 1.59, XL, RAIL_2),
    Family("sdxl-turbo", 512, 2567, 10.6, 1.59, XL, TURBO),
    Family("SSD-1B", 1024, 1331, 5.7, 0.98, XL, APACHE),
    Family("Segmind Vega", 1024, 745, 3.3, 0.66, XL_LESS, APACHE),
)
