"""The whole way in one call: `ovseg.label("photo.jpg", "cat, dog")`. Models stay loaded between calls."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ovseg.images import ImageLike
from ovseg.presets import DEFAULT, Preset
from ovseg.result import Segmentation
from ovseg.segmenter import Classes, Rule, Segmenter
from ovseg.setup import Setup


def label(
    what: ImageLike | list[ImageLike],
    classes: Classes,
    background: Rule | None = None,
    *,
    background_bias: float = 0.0,
    preset: str | Preset = DEFAULT,
    **options: Any,
) -> Segmentation | list[Segmentation]:
    """Label every pixel of an image, or of each of a list, in one call: `ovseg.label("photo.jpg", "cat, dog")`.

    The models are loaded at the first call and kept for the next ones with the same preset and options.
    what, classes, background, background_bias: as in `Segmenter.label`. preset, options: as in `from_preset`.
    """
    return _loaded(Setup.of(preset, options)).label(what, classes, background, background_bias)


_loaded = lru_cache(maxsize=1)(Segmenter.fetch_and_load)
