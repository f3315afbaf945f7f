"""Label every pixel of an image with the classes you name, from a diffusion model's masks and CLIP's features.

    import ovseg
    result = ovseg.label("photo.jpg", "cat, dog, grass")     # shows itself in a notebook; result["cat"] is a mask

    segmenter = ovseg.Segmenter.from_preset("pocket")        # loaded once, for many images
    results = segmenter.label(["a.png", "b.png"], "cat, dog")

The names below load on first use, so that `import ovseg` and `ovseg --help` do not wait for the networks' libraries.
`ovseg.eval` evaluates on benchmarks, `ovseg.prompts` holds class lists and templates as data.
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
    from ovseg.one_call import label as label
    from ovseg.presets import PRESETS as PRESETS
    from ovseg.presets import Preset as Preset
    from ovseg.refinement import Refined as Refined
    from ovseg.refinement import refine as refine
    from ovseg.refinement import refine_image as refine_image
    from ovseg.result import Segmentation as Segmentation
    from ovseg.segmenter import Segmenter as Segmenter
    from ovseg.setup import Setup as Setup

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
    "Setup": "ovseg.setup",
    "explain_figure": "ovseg.figure",
    "label": "ovseg.one_call",
    "read_image": "ovseg.images",
    "refine": "ovseg.refinement",
    "refine_image": "ovseg.refinement",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("eval", "prompts"):
        return import_module(f"ovseg.{name}")
    raise AttributeError(f"module 'ovseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "eval", "prompts"]
