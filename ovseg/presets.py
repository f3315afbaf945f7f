"""Named pairs of models with the settings that suit them; a new one is an entry in `PRESETS`. Does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from math import ceil
from pathlib import Path

from emerdiff.options import Options
from ovseg.towers.view import View

DEFAULT = "sd14-vitb16"
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, repr=False)
class Preset:
    """Two models and how to use them."""

    name: str
    diffusion: str  # hub id or folder of a diffusers latent diffusion model
    clip: str  # hub id or folder of the naming model, of open_clip or a classifier (see ovseg.naming)
    method: Mapping[str, int | float | str] = field(default_factory=dict, hash=False)  # Options unlike the defaults
    short_side: int = 336  # pixels of the image's shorter side in CLIP (see ovseg.towers.view.View)
    window: int = 224  # pixels of CLIP's sliding window
    stride: int = 112  # pixels from window to window
    templates: str = "imagenet80"  # name of the prompt templates (see prompts.templates)
    regions: str = "mean"  # the masks' features, where there are masks (see ovseg.towers.region_kinds)
    refine: str = "none"  # "pamr": masks, or scores of pixels, follow the image's edges (see ovseg.pamr)
    background: str = "words"  # the rule where none is asked for (see ovseg.classes.parse_background)
    megabytes: int = 0  # of all weights together
    note: str = ""  # what it is, for the list of models
    warning: str = ""  # what to tell everybody who uses it

    def __repr__(self) -> str:
        return f"Preset({self.name})" if self.name else f"Preset({self.diffusion}, {self.clip})"

    @property
    def options(self) -> Options:
        """The diffusion side's settings."""
        return Options(**self.method)  # type: ignore[arg-type]

    @property
    def view(self) -> View:
        """How images are shown to CLIP."""
        return View(short_side=self.short_side, window=self.window, stride=self.stride, regions=self.regions)

    @property
    def sources(self) -> dict[str, str]:
        """Its models by kind: "diffusion" and "clip", each a hub id or folder."""
        return {"diffusion": self.diffusion, "clip": self.clip}


POCKET = Path(str(files("ovseg.pocket") / "weights"))
POCKET_METHOD: dict[str, int | float | str] = {  # chosen on tuning scenes, see docs/RESULTS.md
    "base_size": 128,
    "masks": 20,
    "steps": 10,
    "feature_timestep": 101,
    "modulation_timestep": 501,
    "sigma": 0.25,  # the paper's one pixel of 512, scaled
    "feature_layer": "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    "modulated_layer": "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
}


def _megabytes(*folders: str) -> int:
    """Of the embedded weights in these folders, rounded up."""
    found = [path for folder in folders for path in (POCKET / folder).rglob("*.safetensors")]
    return ceil(sum(path.stat().st_size for path in found) / 1e6)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="sd14-vitb16",
            diffusion="CompVis/stable-diffusion-v1-4",
            clip="timm/vit_base_patch16_clip_224.openai",
            megabytes=4900,
            note="Stable Diffusion 1.4 and OpenAI's CLIP ViT-B/16: photos of anything",
        ),
        Preset(
            name="photo",
            diffusion=str(POCKET / "diffusion"),
            clip=str(POCKET / "namer"),
            method=POCKET_METHOD | {"base_size": 256, "place": 1.0},  # chosen on tuning photos, see docs/RESULTS.md
            short_side=384,
            window=0,  # the whole image
            stride=0,
            templates="plain",
            background="threshold=0.22",
            megabytes=_megabytes("diffusion", "namer"),
            note="small models that come with ovseg: photos, some 3,000 nouns for things, little stuff; works offline",
        ),
        Preset(
            name="pocket",
            diffusion=str(POCKET / "diffusion"),
            clip=str(POCKET / "clip"),
            method=POCKET_METHOD | {"place": 0.5},  # it and three times the size: see docs/RESULTS.md
            refine="pamr",
            short_side=384,
            window=0,  # the whole image
            stride=0,
            megabytes=_megabytes("diffusion", "clip"),
            note="tiny models that come with ovseg: scenes of emoji, works offline",
            warning="the pocket models only know their own emoji world; on photos of the real world their labels mean "
            "little (use --preset photo or sd14-vitb16 for those)",
        ),
    )
}


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError, with the names there are."""
    if name not in PRESETS:
        raise ValueError(f"preset: no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
