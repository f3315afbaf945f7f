"""The engines compared in one process, on the same weights: seconds, FLOPs, memory, and the label maps they give.

Every engine is first run once on a freshly loaded model, with its FLOPs counted and its memory watched; that run is
its warm-up. Then the engines take turns, image by image, so that other load on the machine affects all of them alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import peak_memory
from bench.random_weights import kept_sd14
from bench.reference import Part, Reference, reference_segment
from emerdiff import EmerDiff, Options, Segments
from ovseg.pocket.world import Scene, scene
from ovseg.presets import get_preset

ENGINES = REFERENCE, EXACT, FAST = "reference", "exact", "fast"
OTHER_SEED = "exact, another seed"  # not an engine: how much two runs of one engine agree
SPLIT, BLOCK = "evaluation", 0
SD14_FOLDER = Path("build/sd14")
SD14_PART = Part(masks=2, steps=2)  # of the reference on a CPU: all of it takes hours


@dataclass(frozen=True)
class Setting:
    """What the engines run on: a model, its options, and images by number."""

    name: str
    folder: Path
    options: Options
    image: Callable[[int], np.ndarray]


@dataclass
class Measured:
    """The cost of an engine."""

    engine: str
    dtype: str
    unet_rows: int  # UNet evaluations an image, of one latent each
    decodes: int  # images decoded an image
    flops: float  # of an image: matrix products, convolutions and attention
    peak_bytes: int | None  # of loading and one image
    counted_seconds: float  # of the run whose FLOPs were counted
    extrapolated: str = ""  # what the seconds are extrapolated from; empty where all was run
    seconds: list[float] = field(default_factory=list)  # of the images

    @property
    def mean_seconds(self) -> float:
        """Of an image."""
        return self.mean_of(len(self.seconds))

    def mean_of(self, images: int) -> float:
        """Of an image, over the first ones alone; of the counted run where none was timed."""
        return float(np.mean(self.seconds[:images] or [self.counted_seconds]))


def setting(name: str, masks: int | None) -> Setting:
    """The pocket models on their world's scenes, or random weights of Stable Diffusion 1.4's size on a 512x512 picture.

    masks: K, by default the setting's own.
    """
    if name == "pocket":
        preset = get_preset("pocket")
        chosen = Setting(name, Path(preset.diffusion), preset.options, lambda number: pocket_scene(number).image)
    else:
        chosen = Setting(name, kept_sd14(SD14_FOLDER), Options(), _large_picture)
    return chosen if masks is None else replace(chosen, options=replace(chosen.options, masks=masks))


def pocket_scene(number: int) -> Scene:
    """A scene that nothing was trained or tuned on."""
    return scene(SPLIT, BLOCK, number)


def _large_picture(number: int) -> np.ndarray:
    """A scene at 512x512, (512, 512, 3) uint8."""
    return np.asarray(Image.fromarray(pocket_scene(number).image).resize((512, 512), Image.Resampling.BICUBIC))


def load(at: Setting, engine: str, device: torch.device, dtype: torch.dtype) -> EmerDiff:
    """Load the setting's model for an engine; the reference's is in float32 and laid out as diffusers has it."""
    if engine != REFERENCE:
        return EmerDiff.from_pretrained(at.folder, device=device, dtype=dtype)
    model = EmerDiff.from_pretrained(at.folder, device=device, dtype=torch.float32)
    for network in (model.diffusion.predictor.unet, model.diffusion.vae):
        network.to(memory_format=torch.contiguous_format)
    return model


def segment(
    engine: str, model: EmerDiff, image: np.ndarray, options: Options, part: Part | None = None
) -> Segments | Reference:
    """One image by one engine."""
    if engine == REFERENCE:
        return reference_segment(model, image, options, part)
    return model.segment(image, replace(options, speed=engine))


def count(at: Setting, engine: str, device: torch.device, dtype: torch.dtype, part: Part | None = None) -> Measured:
    """Run an engine once on a fresh model, counting FLOPs and watching memory.

    The reference is counted on a part of it, which gives the same figures, since all calls of a kind are alike.
    """
    image, start = at.image(0), time.perf_counter()
    with peak_memory(device) as peak:
        model = load(at, engine, device, dtype)
        if engine == REFERENCE:
            found = reference_segment(model, image, at.options, part or Part(1, 1), count_flops=True)
            rows, decodes, flops, seconds = found.unet_rows, found.decodes, found.flops, found.seconds
        else:
            unet, vae = model.diffusion.predictor.unet, model.diffusion.vae
            start = time.perf_counter()
            counter = FlopCounterMode(display=False)
            with rows_through(unet.conv_out) as out, rows_through(vae.decoder) as decoded, counter:
                segment(engine, model, image, at.options)
            rows, decodes, flops = sum(out), sum(decoded), counter.get_total_flops()
            seconds = time.perf_counter() - start
    return Measured(
        engine=engine,
        dtype=str(torch.float32 if engine == REFERENCE else dtype).removeprefix("torch."),
        unet_rows=rows,
        decodes=decodes,
        flops=flops,
        peak_bytes=peak.size,
        counted_seconds=seconds,
        extrapolated=found.extrapolated if engine == REFERENCE else "",
    )


@contextmanager
def rows_through(module: nn.Module) -> Iterator[list[int]]:
    """Record the batch size of every call of a module."""
    rows: list[int] = []
    handle = module.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        handle.remove()


def take_turns(
    at: Setting,
    measured: Sequence[Measured],
    images: int,
    reference_images: int,
    device: torch.device,
    part: Part | None = None,
    *,
    other_seed: bool = False,
) -> dict[str, list[Segments | Reference]]:
    """Run the engines in turn on every image, record the seconds, and return their results.

    The reference runs on the first images alone. other_seed: also run "exact" with another seed, untimed.
    """
    limits = {one.engine: reference_images if one.engine == REFERENCE else images for one in measured}
    models = {one.engine: load(at, one.engine, device, getattr(torch, one.dtype)) for one in measured if images}
    found: dict[str, list[Segments | Reference]] = {engine: [] for engine in (*limits, OTHER_SEED)}
    for number in track(range(images), "images", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        image = at.image(number)
        for one in measured:
            if number < limits[one.engine]:
                start = time.perf_counter()
                result = segment(one.engine, models[one.engine], image, at.options, part)
                one.seconds.append(result.seconds if isinstance(result, Reference) else time.perf_counter() - start)
                one.extrapolated = result.extrapolated if isinstance(result, Reference) else ""
                found[one.engine].append(result)
        if other_seed and EXACT in models:
            options = replace(at.options, seed=at.options.seed + 1)
            found[OTHER_SEED].append(segment(EXACT, models[EXACT], image, options))
    return found
