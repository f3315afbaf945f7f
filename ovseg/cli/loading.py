"""From the command line's flags to loaded models: which weights, on which device, with which options of the method.

torch loads inside the functions that need it, so that a mistake is told at once.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ovseg.classes import ClassList, parse_classes, read_classes
from ovseg.presets import DEFAULT, Preset, fetch, get_preset, require
from ovseg.run.launch import place
from ovseg.run.terminal import say

if TYPE_CHECKING:
    import torch

    from emerdiff import EmerDiff, Options
    from ovseg.clip import Clip
    from ovseg.segmenter import Segmenter

# Command line flag -> field of emerdiff.Options.
METHOD = {
    "speed": "speed",
    "masks": "masks",
    "steps": "steps",
    "t_f": "feature_timestep",
    "t_m": "modulation_timestep",
    "strength": "strength",
    "sigma": "sigma",
    "seed": "seed",
    "upsampling": "upsampling",
}


def choose_classes(given: Namespace) -> ClassList:
    """What --classes or --classes-file says. Raises ValueError and OSError as the readers, naming the flag."""
    if given.classes is None:
        if not os.path.isfile(given.classes_file):
            raise ValueError(f"--classes-file {given.classes_file}: no such file")
        return read_classes(given.classes_file)
    if os.path.isfile(given.classes):  # unlike Path's, it takes a list longer than a file name may be
        raise ValueError(f"--classes {given.classes}: this is a file; --classes-file reads names from it")
    return parse_classes(given.classes)


def choose_models(given: Namespace, kinds: tuple[str, ...]) -> Preset:
    """The preset asked for, or one without a name for --diffusion and --clip; its weights are at hand afterwards."""
    own = {"diffusion": given.diffusion, "clip": given.clip}
    if any(own.values()):
        absent = [f"--{kind}" for kind in kinds if not own[kind]]
        if given.preset:
            raise ValueError("--preset brings its own models: give either it, or --diffusion and --clip")
        if absent:
            raise ValueError(f"{' and '.join(absent)} missing: without a preset every model must be named")
        preset = Preset(name="", diffusion=given.diffusion or "", clip=given.clip or "")
    else:
        preset = get_preset(given.preset or DEFAULT)
    if wanted := require(preset, kinds):
        say(f"fetching {' and '.join(wanted)}" + (f" (up to {preset.megabytes} MB)" if preset.megabytes else ""))
        fetch(preset, kinds)
    if preset.warning:
        say(f"warning: {preset.warning}")
    return preset


def load_segmenter(given: Namespace, preset: Preset) -> tuple[Segmenter, float]:
    """Both models with the flags' options, and the seconds it took."""
    start = time.perf_counter()
    from ovseg.segmenter import Segmenter

    method(given, preset.options)  # mistakes in the flags show before anything is loaded
    device, dtype = choose_device(given)
    options, view = (preset.options, preset.view) if preset.name else (None, None)  # None: what fits the models
    segmenter = Segmenter.from_pretrained(
        preset.diffusion,
        preset.clip,
        options=options,
        view=view,
        templates=preset.templates,
        device=str(device),
        dtype=dtype,
    )
    segmenter = replace(segmenter, options=snapped(segmenter.emerdiff, method(given, segmenter.options)))
    return segmenter, time.perf_counter() - start


def load_emerdiff(given: Namespace, preset: Preset) -> tuple[EmerDiff, Options]:
    """The diffusion model alone, and the flags' options as it uses them."""
    from emerdiff import EmerDiff
    from ovseg.segmenter import native_options

    method(given, preset.options)  # mistakes in the flags show before anything is loaded
    device, dtype = choose_device(given)
    model = EmerDiff.from_pretrained(preset.diffusion, device=device, dtype=dtype)
    return model, snapped(model, method(given, preset.options if preset.name else native_options(model)))


def load_clip(given: Namespace, preset: Preset) -> Clip:
    """CLIP alone."""
    from ovseg.clip import Clip

    device, dtype = choose_device(given)
    return Clip.from_pretrained(preset.clip, device=device, dtype=dtype)


def choose_device(given: Namespace) -> tuple[torch.device, torch.dtype]:
    """What --device and --dtype ask for, said on the terminal; ValueError where it cannot be used."""
    import torch

    from ovseg.segmenter import find_device

    device = find_device(place(given.device))
    if device.type == "cuda":
        say(f"device: {device} ({torch.cuda.get_device_name(device)}), {given.dtype}")
    else:
        remark = ", no CUDA GPU found" if given.device == "auto" else ""
        say(f"device: {device} ({torch.get_num_threads()} threads{remark}), {given.dtype}")
    return device, getattr(torch, given.dtype)


def method(given: Namespace, options: Options) -> Options:
    """The options with the method flags that were given."""
    changes = {name: getattr(given, flag) for flag, name in METHOD.items() if getattr(given, flag) is not None}
    if given.no_injection:
        changes["attention_injection"] = False
    return replace(options, **changes)


def snapped(model: EmerDiff, options: Options) -> Options:
    """The options as the model uses them, said where timesteps differ; refuses what would be wrong for every image."""
    snapped = model.snap(options)
    asked, used = ((one.feature_timestep, one.modulation_timestep) for one in (options, snapped))
    if asked != used:
        say(
            f"timesteps: t_f {used[0]} and t_m {used[1]}, the nearest to {asked[0]} and {asked[1]} "
            f"in the grid of {options.steps} steps"
        )
    return snapped


def provenance(given: Namespace, preset: Preset, models: dict[str, str], device: torch.device) -> dict[str, Any]:
    """What a run's record says of its models: preset, identities, where they came from, device and numbers."""
    return {
        "preset": preset.name or None,
        "models": models,
        "sources": {kind: preset.sources[kind] for kind in models},
        "device": str(device),
        "dtype": given.dtype,
    }
