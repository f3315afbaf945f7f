"""What `ovseg label`, `ovseg masks` and `ovseg models` do, given the parsed command line.

The order is: everything that can be wrong without the networks, then the weights, then the models, then the images.
torch loads inside the functions that need it, so that a mistake is told at once.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ovseg.batch import LABEL_FILES, MASK_FILES, Item, Progress, Run, collect, prepare
from ovseg.classes import build_vocabulary, parse_classes, read_classes
from ovseg.draw import class_colours
from ovseg.images import read_image, read_size
from ovseg.presets import DEFAULT, PRESETS, Preset, fetch, get_preset, identity, local_folder, require
from ovseg.result import no_label, save_masks
from ovseg.terminal import duration, make_report, say

if TYPE_CHECKING:
    import torch

    from emerdiff import EmerDiff, Options
    from ovseg.segmenter import Segmenter

LONG_RUN_SECONDS = 60  # a run on a CPU that will take longer says so before it starts
# Command line flag -> field of emerdiff.Options.
METHOD = {
    "masks": "masks",
    "steps": "steps",
    "t_f": "feature_timestep",
    "t_m": "modulation_timestep",
    "strength": "strength",
    "sigma": "sigma",
    "seed": "seed",
    "upsampling": "upsampling",
}


def run_label(given: Namespace) -> int:
    """`ovseg label`; returns the exit code."""
    classes = parse_classes(given.classes) if given.classes is not None else read_classes(given.classes_file)
    vocabulary = build_vocabulary(classes, given.background)
    unlabelled = no_label(len(vocabulary.names))
    for note in vocabulary.notes:
        say(f"note: {note}")
    items = collect(given.inputs, given.out, tell=say)
    out = prepare(given.out, items, LABEL_FILES, overwrite=given.overwrite)
    preset = _choose_models(given, ("diffusion", "clip"))
    segmenter, loading_seconds = _load_segmenter(given, preset)
    text = segmenter.encode(classes, given.background)
    facts = {
        "command": "label",
        "names": vocabulary.names,
        "colours": class_colours(vocabulary.names),
        "no_label": unlabelled,
        "vocabulary_sha256": vocabulary.sha256,
        "background": given.background,
        "options": asdict(segmenter.options),
        "view": asdict(segmenter.view),
        "templates": preset.templates,
        **_provenance(given, preset, segmenter.models, segmenter.emerdiff),
    }

    def work(item: Item, progress: Progress) -> str:
        image = read_image(item.path)
        result = segmenter.label_analysis(segmenter.analyze(image, progress=progress), text)
        result.save(out, item.id, image)
        rows = sorted(result.summary(), key=lambda row: -row["pixels"])
        return ", ".join(f"{row['name']} {100 * row['share']:.0f}%" for row in rows[:6] if row["pixels"])

    return _process(Run(out, facts, loading_seconds), items, work, segmenter.emerdiff, segmenter.options)


def run_masks(given: Namespace) -> int:
    """`ovseg masks`; returns the exit code."""
    items = collect(given.inputs, given.out, tell=say)
    out = prepare(given.out, items, MASK_FILES, overwrite=given.overwrite)
    preset = _choose_models(given, ("diffusion",))

    start = time.perf_counter()
    from emerdiff import EmerDiff
    from ovseg.segmenter import native_options

    _method(given, preset.options)  # mistakes in the flags show before anything is loaded
    device, dtype = _choose_device(given)
    model = EmerDiff.from_pretrained(preset.diffusion, device=device, dtype=dtype)
    options = _snapped(model, _method(given, preset.options if preset.name else native_options(model)))
    models = {"diffusion": identity("diffusion", preset.diffusion)}
    facts = {"command": "masks", "options": asdict(options), **_provenance(given, preset, models, model)}

    def work(item: Item, progress: Progress) -> str:
        image = read_image(item.path)
        segments = model.segment(image, options, progress=progress)
        return f"{save_masks(out, item.id, image, segments.labels)} masks"

    return _process(Run(out, facts, time.perf_counter() - start), items, work, model, options)


def run_models(given: Namespace) -> int:
    """`ovseg models`; returns the exit code."""
    rows = []
    for preset in PRESETS.values():
        here = all(local_folder(kind, source) for kind, source in preset.sources.items())
        name = f"{preset.name} (default)" if preset.name == DEFAULT else preset.name
        rows.append((name, "yes" if here else "no", f"{preset.megabytes} MB", preset.note))
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in rows))
        return 0
    table = Table("preset", "at hand", "size", "what it is")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return 0


def run_fetch(given: Namespace) -> int:
    """`ovseg models fetch`; returns the exit code."""
    preset = get_preset(given.preset)
    print(f"{preset.name}: {preset.megabytes} MB in all; what is here already is not fetched again", flush=True)
    for folder in fetch(preset):
        print(f"at hand: {folder}")
    return 0


def _choose_models(given: Namespace, kinds: tuple[str, ...]) -> Preset:
    """The preset asked for, or one without a name for --diffusion and --clip; its weights are at hand afterwards."""
    own = {"diffusion": given.diffusion, "clip": given.clip}
    if any(own.values()):
        absent = [f"--{kind}" for kind in kinds if not own[kind]]
        if given.preset:
            raise ValueError("--preset brings its own models: give either it, or --diffusion and --clip")
        if absent:
            raise ValueError(f"{' and '.join(absent)} missing: without a preset every model must be named")
        preset = Preset(name="", diffusion=given.diffusion, clip=given.clip or "")
    else:
        preset = get_preset(given.preset or DEFAULT)
    if wanted := require(preset, kinds):
        say(f"fetching {' and '.join(wanted)}" + (f" (up to {preset.megabytes} MB)" if preset.megabytes else ""))
        fetch(preset, kinds)
    if preset.warning:
        say(f"warning: {preset.warning}")
    return preset


def _load_segmenter(given: Namespace, preset: Preset) -> tuple[Segmenter, float]:
    """Both models with the flags' options, and the seconds it took."""
    start = time.perf_counter()
    from ovseg.segmenter import Segmenter

    _method(given, preset.options)  # mistakes in the flags show before anything is loaded
    device, dtype = _choose_device(given)
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
    segmenter = replace(segmenter, options=_snapped(segmenter.emerdiff, _method(given, segmenter.options)))
    return segmenter, time.perf_counter() - start


def _choose_device(given: Namespace) -> tuple[torch.device, torch.dtype]:
    import torch

    from ovseg.segmenter import choose_device

    device = choose_device(given.device)
    if device.type == "cuda":
        say(f"device: {device} ({torch.cuda.get_device_name(device)}), {given.dtype}")
    else:
        remark = ", no CUDA GPU found" if given.device == "auto" else ""
        say(f"device: {device} ({torch.get_num_threads()} threads{remark}), {given.dtype}")
    return device, getattr(torch, given.dtype)


def _method(given: Namespace, options: Options) -> Options:
    """The options with the method flags that were given."""
    changes = {name: getattr(given, flag) for flag, name in METHOD.items() if getattr(given, flag) is not None}
    if given.no_injection:
        changes["attention_injection"] = False
    return replace(options, **changes)


def _snapped(model: EmerDiff, options: Options) -> Options:
    """The options as the model uses them, said where timesteps differ; refuses what would be wrong for every image."""
    snapped = model.snap(options)
    asked, used = ((one.feature_timestep, one.modulation_timestep) for one in (options, snapped))
    if asked != used:
        say(
            f"timesteps: t_f {used[0]} and t_m {used[1]}, the nearest to {asked[0]} and {asked[1]} "
            f"in the grid of {options.steps} steps"
        )
    return snapped


def _provenance(given: Namespace, preset: Preset, models: dict[str, str], model: EmerDiff) -> dict[str, Any]:
    return {
        "preset": preset.name or None,
        "models": models,
        "sources": {kind: preset.sources[kind] for kind in models},
        "device": str(model.diffusion.device),
        "dtype": given.dtype,
    }


def _process(
    run: Run, items: Sequence[Item], work: Callable[[Item, Progress], str], model: EmerDiff, options: Options
) -> int:
    """Process all items with a report that fits the terminal; returns the exit code."""
    if model.diffusion.device.type == "cpu":
        _announce_long_run(items, model, options)
    with make_report() as report:
        failed = run.process(items, work, report)
    say(f"results in {run.out}" + (f"; {failed} of {len(items)} images failed" if failed else ""))
    return 1 if failed else 0


def _announce_long_run(items: Sequence[Item], model: EmerDiff, options: Options) -> None:
    """Say how long it will take, where that is long: as if every image had the size of the first usable one."""
    from ovseg.segmenter import expected_seconds

    for item in items:
        try:
            one = expected_seconds(model, read_size(item.path), options)
        except ValueError:
            continue  # its own turn will come to be reported
        if one * len(items) > LONG_RUN_SECONDS:
            say(f"this takes about {duration(one)} an image on this CPU, {duration(one * len(items))} in all")
        return
