"""`ovseg label`: everything that can be wrong without the networks, then the weights, the models, and the images."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ovseg.classes import build_vocabulary
from ovseg.cli.setup import analyses_folder, make_ready, read_class_flags, read_items, read_setup
from ovseg.result import no_label
from ovseg.run.batch import run_job
from ovseg.run.folder import Shard, read_run
from ovseg.run.launch import launched
from ovseg.run.terminal import say
from ovseg.run.work import LabelJob


def run(given: Namespace) -> int:
    """`ovseg label`; returns the exit code."""
    classes = read_class_flags(given)
    vocabulary = build_vocabulary(classes, given.background)
    no_label(len(vocabulary.names))  # refuses more names than fit into a label map
    for note in vocabulary.notes:
        say(f"note: {note}")
    formats = _formats(given.format, vocabulary.names)
    job = LabelJob(
        setup=read_setup(given, "clip", by=given.by),
        classes=classes,
        background=given.background,
        out=Path(given.out),
        analyses=analyses_folder(given.analyses) if given.analyses else None,
        keep_analysis=given.keep_analysis,
    )
    items, run = read_items(given, job.files)
    make_ready(job.setup, items, job.kept, "clip")
    code = run_job(job, items, **run)
    if formats:
        _export(job.out, run["shard"], formats)
    return code


def _formats(formats: Sequence[str], names: Sequence[str]) -> list[str]:
    """The export formats asked for; ValueError for one that there is not, or that cannot hold the names."""
    if not formats:
        return []  # without loading what exports need
    from ovseg.export import check_names
    from ovseg.export.write import check_formats

    chosen = check_formats(formats)
    check_names(chosen, names)
    return chosen


def _export(out: Path, shard: Shard | None, formats: Sequence[str]) -> None:
    """Export a run that is whole to its folder `exports`, in place of what an earlier call left there."""
    from ovseg.export import open_images
    from ovseg.export.write import export

    if shard and not launched():
        say(f"not exported, this is one shard: when all are done, `ovseg export {out}`")
    elif shard and shard.number > 1:
        return  # the first of the processes launched together does it
    elif not read_run(out).done:
        say("not exported: no image is done")
    else:
        export(open_images(out), formats, out / "exports", overwrite=True, tell=say)
