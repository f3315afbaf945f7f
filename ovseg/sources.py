"""The names of the mask sources, and what is known of each before it is made. Nothing heavy is imported.

A new source is an entry in `SOURCES`; the command line, its help, evaluation and Python choose from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Source:
    """An entry of `SOURCES`.

    maker: a function from a `Setup` to a `masks.MaskSource`, or its "module:name", which loads when it is asked for.
    about: a line for the help. needs: kinds of models beside CLIP. masks: whether it has masks to write and number.
    soft: whether it leaves difference maps, of which soft masks are made. clusters: whether its masks are k-means
    clusters, which can go on from one frame of a video to the next. own: whether masks are made here, so that a
    preset's refiner is for them; somebody's stay as they are.
    """

    maker: Callable[[Any], Any] | str
    about: str
    needs: tuple[str, ...] = ()
    masks: bool = True
    soft: bool = False
    clusters: bool = False
    own: bool = True

    def make(self, setup: Any) -> Any:
        """The source for a set-up, a `masks.MaskSource`. Raises ValueError for settings that it cannot take."""
        if callable(self.maker):
            return self.maker(setup)
        module, name = self.maker.split(":")
        return getattr(import_module(module), name)(setup)


SOURCES: dict[str, Source] = {
    "emerdiff": Source(
        "ovseg.masks:by_emerdiff",
        "clusters of the diffusion model's queries, carried to the pixels by modulated denoising (default)",
        needs=("diffusion",),
        soft=True,
        clusters=True,
    ),
    "naive": Source(
        "ovseg.masks:by_naive",
        "the same clusters, upsampled bilinearly: quick and blocky",
        needs=("diffusion",),
        clusters=True,
    ),
    "attention": Source(
        "ovseg.masks:by_attention",
        "the same clusters, carried by the UNet's finest self-attention: one evaluation, for large models",
        needs=("diffusion",),
        clusters=True,
    ),
    "diffcut": Source(
        "ovseg.masks:by_diffcut",
        "normalised cuts on the UNet's queries, at most --masks: one evaluation",
        needs=("diffusion",),
    ),
    "slic": Source("ovseg.masks:by_superpixels", "SLIC superpixels, as many as --masks"),
    "none": Source("ovseg.masks:by_pixels", "no masks: every pixel by itself", masks=False),
    "files": Source(
        "ovseg.masks:by_files", "of any tool, from --masks-from DIR: index PNGs, npz, or run lengths in JSON", own=False
    ),
}


def help_lines() -> str:
    """The sources with what they are, a line each, for a command's help."""
    return "\n".join(f"  {name:<12} {source.about}" for name, source in SOURCES.items())
