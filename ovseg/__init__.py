"""Label every pixel of an image with the classes you name, from a diffusion model's masks and CLIP's features.

    from ovseg import Segmenter, read_image
    segmenter = Segmenter.from_preset("pocket")
    result = segmenter.label(read_image("scene.png"), "cat, dog, grass")

The names below load on first use, so that `import ovseg` and `ovseg --help` do not wait for the networks' libraries.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.analysis import Analysis as Analysis
    from ovseg.figure import explain_figure as explain_figure
    from ovseg.images import ImageError as ImageError
    from ovseg.images import read_image as read_image
    from ovseg.presets import PRESETS as PRESETS
    from ovseg.presets import Preset as Preset
    from ovseg.refinement import Refined as Refined
    from ovseg.refinement import refine as refine
    from ovseg.refinement import refine_image as refine_image
    from ovseg.result import Segmentation as Segmentation
    from ovseg.segmenter import Segmenter as Segmenter

try:
    __version__ = version("ovseg")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+checkout"

_HOMES = {
    "Analysis": "ovseg.analysis",
    "ImageError": "ovseg.images",
    "PRESETS": "ovseg.presets",
    "Preset": "ovseg.presets",
    "Refined": "ovseg.refinement",
    "Segmentation": "ovseg.result",
    "Segmenter": "ovseg.segmenter",
    "explain_figure": "ovseg.figure",
    "read_image": "ovseg.images",
    "refine": "ovseg.refinement",
    "refine_image": "ovseg.refinement",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
