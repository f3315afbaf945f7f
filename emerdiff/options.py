"""The settings of the method, each stated once: default, command line flag, reader, and text in a figure's footer.

Importing it loads no torch, so that a mistake in a setting is reported at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

MODULATIONS = ("after-projection", "before-projection")
SPEEDS = ("fast", "exact")
UPSAMPLINGS = ("modulated", "naive", "attention", "diffcut")
OWN_LAYER = "default"  # the text that stands for the model's own layer
NO_TILE = "none"  # the text that stands for a whole image
TILE_SIDE = 1024  # where none is said
CROSS_ATTENTION = "{}.attentions.{}.transformer_blocks.0.attn2"  # of a block such as up_blocks.1, and an index in it


def read_layer(text: str) -> str | None:
    """A layer's full module name, from itself or a short name; None, the model's own layer, from "default".

    "up1.0" -> "up_blocks.1.attentions.0.transformer_blocks.0.attn2"; likewise "down2.1" and "mid.0". ValueError for "".
    """
    if not text:
        raise ValueError("layer: expected a name such as up1.0, got ''")
    if text == OWN_LAYER:
        return None
    if match := re.fullmatch(r"(up|down)(\d+)\.(\d+)", text):
        return CROSS_ATTENTION.format(f"{match[1]}_blocks.{match[2]}", match[3])
    if match := re.fullmatch(r"mid\.(\d+)", text):
        return CROSS_ATTENTION.format("mid_block", match[1])
    return text


def show_layer(name: str | None) -> str:
    """A layer as `read_layer` reads it: "up1.0" for that layer of the up blocks, and full names for all others."""
    if name is None:
        return OWN_LAYER
    match = re.fullmatch(r"up_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.0\.attn2", name)
    return f"up{match[1]}.{match[2]}" if match else name


def read_switch(text: str) -> bool:
    """True from "on", False from "off"; ValueError for anything else."""
    if text not in ("on", "off"):
        raise ValueError(f"expected on or off, got {text!r}")
    return text == "on"


def read_speed(text: str) -> str:
    """One of SPEEDS; ValueError for anything else."""
    if text not in SPEEDS:
        raise ValueError(f"expected {' or '.join(SPEEDS)}, got {text!r}")
    return text


def read_tile(text: str) -> int | None:
    """A whole number, or None from "none"; ValueError for anything else."""
    return None if text == NO_TILE else int(text)


def _nothing(_value: Any) -> str:
    return ""


@dataclass(frozen=True)
class Setting:
    """What the command line, an ablation and a figure's footer need to know of a field of `Options`."""

    flag: str  # "--t-f"; a switch has "--no-injection" as well
    metavar: str
    help: str
    read: Callable[[str], Any]  # a value from text; raises ValueError
    expected: str  # what it reads
    show: Callable[[Any], str] = str  # the other way round
    footer: Callable[[Any], str] = _nothing  # what a figure's footer says of a value
    alone: Any = None  # the value where the flag has none beside it; None: it needs one
    field: str = ""  # of Options
    default: Any = None

    @property
    def name(self) -> str:
        """The setting's name in an ablation: "t_f"."""
        return self.flag.removeprefix("--").replace("-", "_")


def settings() -> tuple[Setting, ...]:
    """The settings that have a flag, in the order of the fields."""
    return tuple(
        dataclasses.replace(field.metadata["setting"], field=field.name, default=field.default)
        for field in dataclasses.fields(Options)
        if "setting" in field.metadata
    )


WHOLE: dict[str, Any] = {"read": int, "expected": "a whole number"}
NUMBER: dict[str, Any] = {"read": float, "expected": "a number", "show": "{:g}".format}
LAYER: dict[str, Any] = {"read": read_layer, "expected": "a layer", "show": show_layer}
TILE: dict[str, Any] = {"read": read_tile, "expected": "a whole number or none", "alone": TILE_SIDE}
TILE["show"] = lambda side: NO_TILE if side is None else str(side)
SPEED: dict[str, Any] = {"read": read_speed, "expected": " or ".join(SPEEDS)}
SWITCH: dict[str, Any] = {"read": read_switch, "expected": "on or off", "show": lambda on: "on" if on else "off"}


def _option(
    default: Any, flag: str, metavar: str, help: str, footer: Callable[[Any], str] = _nothing, **kind: Any
) -> Any:
    """A field of `Options` with its `Setting`; kind: WHOLE, NUMBER, ..."""
    setting = Setting(flag, metavar, help, footer=footer, **kind)
    return dataclasses.field(default=default, metadata={"setting": setting})


TYPES: dict[str, tuple[Any, str]] = {  # of the fields of `Options`, by their annotation
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "text"),
    "int | None": ((Integral, type(None)), "a whole number or None"),
    "str | None": ((str, type(None)), "text or None"),
}


@dataclass(frozen=True)
class Options:
    """Settings of the method; the defaults are the paper's for Stable Diffusion 1.4.

    masks: K, how many low-resolution masks.
    place: weight of a cell's place beside its query in the clustering, see `clusters.with_place`; 0, the paper's: none.
    feature_timestep: t_f, where queries are read; snaps to the grid.
    modulation_timestep: t_m, where the layer is modulated; snaps to the grid.
    strength: lambda, added to every channel at a mask's positions.
    feature_layer: the attention whose queries are read, by full or short name (`read_layer`); None: the model's own.
    modulated_layer: the attention that is nudged; likewise.
    sigma: of the Gaussian smoothing of the difference maps, in pixels of the network's input; 0 for none.
    steps: denoising steps of the whole grid; only those from t_m down are run.
    seed: of the noise and of k-means.
    speed: "fast", or "exact", the paper's own procedure, at 3 to 10 times the cost.
    attention_injection: whether the modulated rows use the attention maps of the unmodulated pass.
    edges: whether contours follow the photo's edges: a guided filter over the maps, see `edges`.
    tile: side in the image's pixels of the tiles that it is taken apart into, see `tiled`; None: whole.
    detail: whether the image goes through the network at twice base_size.
    modulation: "after-projection" or "before-projection", of the modulated layer's output.
    batch: rows per UNet call at base_size x base_size pixels, 3 at least; fewer for longer images and small GPUs.
    upsampling: "modulated", or of one evaluation of the UNet: "naive", the low-resolution masks upsampled bilinearly,
        the baseline; "attention", carried by its self-attention; "diffcut", cells grouped by normalised cuts instead.
    base_size: shorter side of the image in the network, pixels.
    keep_difference_maps: whether to return them, K times the network's input size in float32.

    Raises ValueError, naming the field, for a value that no model could take.
    """

    masks: int = _option(30, "--masks", "K", "masks per image", "K = {}".format, **WHOLE)
    place: float = _option(
        0.0, "--place", "W", "weight of place in the clustering", lambda w: f"place {w:g}" if w else "", **NUMBER
    )
    feature_timestep: int = _option(1, "--t-f", "T", "timestep whose queries are clustered", "t_f = {}".format, **WHOLE)
    modulation_timestep: int = _option(
        281, "--t-m", "T", "timestep at which a mask is nudged", "t_m = {}".format, **WHOLE
    )
    strength: float = _option(10.0, "--strength", "X", "lambda, how strongly it is nudged", "λ = {:g}".format, **NUMBER)
    feature_layer: str | None = _option(
        None, "--feature-layer", "L", "attention whose queries are clustered, such as up1.0", **LAYER
    )
    modulated_layer: str | None = _option(
        None, "--modulated-layer", "L", "attention that is nudged, such as up1.2", **LAYER
    )
    sigma: float = _option(
        1.0, "--sigma", "PX", "Gaussian smoothing of the difference maps", "σ = {:g} px".format, **NUMBER
    )
    steps: int = _option(50, "--steps", "N", "denoising steps of the whole schedule", "{} steps".format, **WHOLE)
    seed: int = _option(0, "--seed", "S", "of the noise and the clustering", "seed {}".format, **WHOLE)
    speed: str = _option(
        "fast", "--speed", "S", "fast, or exact: the paper's own procedure, 3 to 10 times slower", str, **SPEED
    )
    attention_injection: bool = _option(
        True,
        "--injection",
        "",
        "keep the attention maps while nudging, or do not",
        lambda on: "" if on else "no attention injection",
        **SWITCH,
    )
    edges: bool = _option(
        False, "--edges", "", "let contours follow the photo's edges", lambda on: "edges" if on else "", **SWITCH
    )
    tile: int | None = _option(
        None,
        "--tile",
        "SIDE",
        "overlapping tiles of so many pixels (1024) for a large or long image, each with --masks",
        lambda side: f"tiles of {side} px" if side else "",
        **TILE,
    )
    detail: bool = _option(
        False,
        "--detail",
        "",
        "for small things: twice the size in the network, 4 times the cost and more",
        lambda on: "detail" if on else "",
        **SWITCH,
    )
    modulation: str = "after-projection"
    batch: int = 16
    upsampling: str = "modulated"
    base_size: int = 512
    keep_difference_maps: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, (kinds, expected) = getattr(self, field.name), TYPES[str(field.type)]
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise ValueError(f"{field.name}: expected {expected}, got {value!r}")
        for name, least in (("masks", 1), ("steps", 1), ("batch", 1), ("base_size", 1), ("seed", 0), ("tile", 32)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected less than 2**32, got {self.seed}")
        for name in ("place", "feature_timestep", "modulation_timestep", "sigma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number from 0 up, got {getattr(self, name)}")
        if self.sigma > self.base_size:  # it would be one grey, of an array larger than any memory
            raise ValueError(f"sigma: expected at most the base size, {self.base_size} pixels, got {self.sigma:g}")
        if not abs(self.strength) < float("inf"):
            raise ValueError(f"strength: expected a finite number, got {self.strength}")
        for name, choices in (("modulation", MODULATIONS), ("upsampling", UPSAMPLINGS), ("speed", SPEEDS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.tile is not None and self.upsampling == "diffcut":
            raise ValueError("tile: not by diffcut, whose cuts compare every two cells of an image")
        if self.keep_difference_maps and self.upsampling != "modulated":
            raise ValueError(f"keep_difference_maps: {self.upsampling} has none; it needs upsampling='modulated'")

    @property
    def side(self) -> int:
        """Shorter side of an image, or of a tile, in the network, pixels."""
        return self.base_size * (2 if self.detail else 1)
