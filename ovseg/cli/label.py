"""What `ovseg label`, `ovseg masks` and `ovseg models` do, given the parsed command line.

The order is: everything that can be wrong without the networks, then the weights, then the models, then the images.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from ovseg.classes import build_vocabulary
from ovseg.cli.loading import choose_classes, choose_models, load_emerdiff, load_segmenter, provenance
from ovseg.draw import class_colours
from ovseg.images import read_image, read_size
from ovseg.presets import DEFAULT, PRESETS, fetch, get_preset, identity, local_folder
from ovseg.result import no_label, save_masks
from ovseg.run.batch import ANALYSIS_FILE, LABEL_FILES, MASK_FILES, Progress, Run
from ovseg.run.folder import read_run
from ovseg.run.inputs import Item, collect, prepare
from ovseg.run.kept import Kept
from ovseg.run.launch import choose_shard, launched, total
from ovseg.run.terminal import duration, make_report, say

if TYPE_CHECKING:
    from emerdiff import EmerDiff, Options

LONG_RUN_SECONDS = 60  # a run on a CPU that will take longer says so before it starts


def run_label(given: Namespace) -> int:
    """`ovseg label`; returns the exit code."""
    classes = choose_classes(given)
    vocabulary = build_vocabulary(classes, given.background)
    unlabelled = no_label(len(vocabulary.names))
    for note in vocabulary.notes:
        say(f"note: {note}")
    formats = _formats(given.format, vocabulary.names)
    files = (*LABEL_FILES, ANALYSIS_FILE) if given.keep_analysis else LABEL_FILES
    items, run = _plan(given, files)
    kept = Kept.choose(given.analyses, run.out)
    preset = choose_models(given, ("diffusion", "clip"))
    segmenter, run.loading_seconds = load_segmenter(given, preset)
    text = segmenter.encode(classes, given.background)
    run.facts = {
        "command": "label",
        "names": vocabulary.names,
        "colours": class_colours(vocabulary.names),
        "no_label": unlabelled,
        "vocabulary_sha256": vocabulary.sha256,
        "background": given.background,
        "protocol": None,
        "options": asdict(segmenter.options),
        "view": asdict(segmenter.view),
        "templates": preset.templates,
        **provenance(given, preset, segmenter.models, segmenter.emerdiff.diffusion.device),
    }

    def work(item: Item, progress: Progress) -> str:
        image = read_image(item.path)
        found = kept.load(item, lambda analysis: analysis.check(segmenter.origin(image)))
        analysis = found or segmenter.analyze(image, progress=progress)
        if given.keep_analysis and not (found and kept.own):
            analysis.save(run.out / f"{item.id}{ANALYSIS_FILE}")
        result = segmenter.label_analysis(analysis, text)
        result.save(run.out, item.id, image)
        return shares(result.labels, result.names)

    kept.expect(items, {key: run.facts[key] for key in ("models", "options", "view", "dtype")}, tell=say)
    code = process(run, items, work, segmenter.emerdiff, segmenter.options, kept=kept)
    if formats:
        _export(run, formats)
    return code


def run_masks(given: Namespace) -> int:
    """`ovseg masks`; returns the exit code."""
    items, run = _plan(given, MASK_FILES)
    preset = choose_models(given, ("diffusion",))

    start = time.perf_counter()
    model, options = load_emerdiff(given, preset)
    models = {"diffusion": identity("diffusion", preset.diffusion)}
    device = model.diffusion.device
    run.facts = {"command": "masks", "options": asdict(options), **provenance(given, preset, models, device)}
    run.loading_seconds = time.perf_counter() - start

    def work(item: Item, progress: Progress) -> str:
        image = read_image(item.path)
        segments = model.segment(image, options, progress=progress)
        return f"{save_masks(run.out, item.id, image, segments.labels)} masks"

    return process(run, items, work, model, options)


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


def _plan(given: Namespace, files: Sequence[str]) -> tuple[list[Item], Run]:
    """The images asked for, or this shard's, and their run, checked but not begun."""
    shard = choose_shard(given.shard)
    items = collect(given.inputs, given.out, tell=say)
    items = shard.take(items) if shard else items
    out = prepare(given.out, items, files, overwrite=given.overwrite, shard=shard)
    return items, Run(out, {}, files, shard=shard, overwrite=given.overwrite)


def _formats(formats: Sequence[str], names: Sequence[str]) -> list[str]:
    """The export formats asked for; ValueError for one that there is not, or that cannot hold the names."""
    if not formats:
        return []  # without loading what exports need
    from ovseg.cli.export import check_formats
    from ovseg.export import check_names

    chosen = check_formats(formats)
    check_names(chosen, names)
    return chosen


def _export(run: Run, formats: Sequence[str]) -> None:
    """Export a run that is whole to its folder `exports`, in place of what an earlier call left there."""
    from ovseg.cli.export import export
    from ovseg.export import open_images

    if run.shard and not launched():
        say(f"not exported, this is one shard: when all are done, `ovseg export {run.out}`")
    elif run.shard and run.shard.number > 1:
        return  # the first of the processes launched together does it
    elif not read_run(run.out).done:
        say("not exported: no image is done")
    else:
        export(open_images(run.out), formats, run.out / "exports", overwrite=True)


def shares(labels: np.ndarray, names: Sequence[str]) -> str:
    """One line about a labelled image: its largest classes and their shares."""
    found, counts = np.unique(labels[labels < len(names)], return_counts=True)
    largest = sorted(zip(-counts, found, strict=True))[:6]
    return ", ".join(f"{names[index]} {-100 * count / labels.size:.0f}%" for count, index in largest)


def process(
    run: Run,
    items: Sequence[Item],
    work: Callable[[Item, Progress], str],
    model: EmerDiff | None = None,
    options: Options | None = None,
    kept: Kept | None = None,
) -> int:
    """Process all items that are not finished, with a report that fits the terminal; returns the exit code.

    model, options: what segments the images, to say beforehand how long that will take on a CPU.
    kept: where analyses lie that need not be made again.
    The code is the same in all processes launched together: 1 if any image of any of them failed.
    """
    todo = run.open(items)
    if model is not None and options is not None and model.diffusion.device.type == "cpu":
        new = [item for item in todo if not (kept and kept.has(item))]
        announce_long_run(new, model, options)
    with make_report(len(items) - len(todo), len(items)) as report:
        failed = run.process(todo, work, report)
    say(f"results in {run.out}" + (f"; {failed} of {len(items)} images failed" if failed else ""))
    return 1 if total(failed) else 0


def announce_long_run(items: Sequence[Item], model: EmerDiff, options: Options) -> None:
    """Say how long it will take, where that is long: as if every image had the size of the first usable one."""
    from emerdiff.memory import is_out_of_memory
    from ovseg.segmenter import expected_seconds

    for item in items:
        try:
            one = expected_seconds(model, read_size(item.path), options)
        except (ValueError, MemoryError, RuntimeError) as error:
            if not isinstance(error, ValueError) and not is_out_of_memory(error):
                raise
            continue  # its own turn will come to be reported
        if one * len(items) > LONG_RUN_SECONDS:
            say(f"this takes about {duration(one)} an image on this CPU, {duration(one * len(items))} in all")
        return
