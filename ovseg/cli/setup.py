"""From flags to a set-up: classes, models, mask source and settings. torch is not loaded: a mistake is told at once."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emerdiff.options import settings
from ovseg import weights
from ovseg.classes import ClassList, parse_classes, read_classes
from ovseg.presets import DEFAULT, Preset, get_preset
from ovseg.run.folder import facts_of, read_record, record_files
from ovseg.run.inputs import Item, collect, prepare
from ovseg.run.kept import Kept
from ovseg.run.launch import choose_shard, device_of_process
from ovseg.run.terminal import say
from ovseg.setup import Setup, setup_of

MODELS = ("preset", "diffusion", "clip")


def read_class_flags(given: Namespace) -> ClassList:
    """What --classes or --classes-file says. Raises ValueError and OSError as the readers, naming the flag."""
    if given.classes is None:
        if not os.path.isfile(given.classes_file):
            raise ValueError(f"classes_file: {given.classes_file}: no such file")
        return read_classes(given.classes_file)
    if os.path.isfile(given.classes):  # unlike Path's, it takes a list longer than a file name may be
        raise ValueError(f"classes: {given.classes}: this is a file; --classes-file reads names from it")
    return parse_classes(given.classes)


def read_setup(given: Namespace, *kinds: str, by: str | None = None) -> Setup:
    """The set-up that the flags ask for; with --analyses and no model named, that of the run, with flags over it.

    kinds: the models that the command itself needs, such as "clip". by: the mask source; None: the set-up's own.
    """
    changes: dict[str, Any] = {"device": device_of_process(given.device)}
    if by is not None:
        changes["by"] = by
    for name in ("masks_from", "dense", "dtype"):
        if getattr(given, name, None) is not None:
            changes[name] = getattr(given, name)
    asked = {one.field: getattr(given, one.field) for one in settings() if getattr(given, one.field) is not None}
    if getattr(given, "analyses", None) and not any(getattr(given, name) for name in MODELS):
        return _recorded_setup(analyses_folder(given.analyses), changes, asked)
    setup = Setup(preset=_preset(given), settings=asked, **changes)
    setup.sources(*setup.needs, *kinds)  # refuses those that are not named
    return setup


def _recorded_setup(folder: Path, changes: Mapping[str, Any], asked: Mapping[str, Any]) -> Setup:
    """The set-up of an earlier run; settings that are asked for and are not the run's are looked up anew."""
    facts = facts_of(read_record(record_files(folder)[0]))
    setup = setup_of(facts, **changes)
    if all(setup.settings.get(name) == value for name, value in asked.items()):
        return setup
    return replace(setup, settings={**setup.settings, **asked}, recorded=None)


def analyses_folder(flag: str) -> Path:
    """The run folder that --analyses names. Raises ValueError for one that is none."""
    if not record_files(Path(flag)):
        raise ValueError(f"analyses: {flag}: no run folder; expected one made with --keep-analysis")
    return Path(flag)


def _preset(given: Namespace) -> Preset:
    """The preset asked for, or one without a name for --diffusion and --clip."""
    own = {"diffusion": given.diffusion or "", "clip": given.clip or ""}
    if not any(own.values()):
        return get_preset(given.preset or DEFAULT)
    if given.preset:
        raise ValueError("preset: brings its own models; give either it, or --diffusion and --clip")
    return Preset(name="", **own)


def read_items(given: Namespace, files: Sequence[str]) -> tuple[list[Item], dict[str, Any]]:
    """The images asked for, or this shard's, with a checked place for their files, and the rest of a run's settings."""
    shard = choose_shard(given.shard)
    items = collect(given.inputs, given.out, tell=say)
    items = shard.take(items) if shard else items
    prepare(given.out, items, files, overwrite=given.overwrite, shard=shard)
    return items, {"shard": shard, "overwrite": given.overwrite}


def make_ready(setup: Setup, items: Sequence[Item], kept: Kept | None = None, *kinds: str) -> None:
    """Fetch what the work on these images needs, and say where it will run.

    kept: where analyses lie that make a diffusion model needless. kinds: models that are needed all the same.
    """
    from_kept = setup.recorded is not None and kept is not None and all(map(kept.has, items))
    sources = setup.sources(*(() if from_kept else setup.needs), *kinds)
    preset = setup.preset
    if wanted := weights.require(sources, preset.name):
        size = f" (up to {preset.megabytes} MB)" if preset.megabytes else ""
        say(f"fetching {' and '.join(wanted)}{size}")
        weights.fetch(sources, preset.name)
    if preset.warning:
        say(f"warning: {preset.warning}")
    say(_device_line(setup))


def _device_line(setup: Setup) -> str:
    import torch

    device = setup.find_device()
    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)}), {setup.dtype}"
    remark = ", no CUDA GPU found" if setup.device == "auto" else ""
    return f"device: {device} ({torch.get_num_threads()} threads{remark}), {setup.dtype}"
