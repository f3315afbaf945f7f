"""`ovseg label`: checks what needs no networks, then gets the weights, loads the models, and labels the images."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ovseg.cli.engine import open_out, run_by
from ovseg.cli.setup import read_class_flags, read_setup
from ovseg.cli.video import finish, job_for
from ovseg.fonts import undrawn
from ovseg.run.folder import read_run
from ovseg.run.inputs import Batch, batch_of, collect
from ovseg.run.launch import launched
from ovseg.run.terminal import say
from ovseg.run.work import LabelJob


def run(given: Namespace) -> int:
    """`ovseg label`; returns the exit code."""
    out, bucket = open_out(given)
    setup = read_setup(given, "clip", by=given.by)
    job = LabelJob(
        setup=setup,
        classes=read_class_flags(given),
        background=given.background or setup.preset.background,
        out=out,
        analyses=Path(given.analyses) if given.analyses else None,
        keep_analysis=given.keep_analysis,
        formats=tuple(given.format),
        background_bias=given.background_bias,
    )
    for note in job.vocabulary.notes:
        say(f"note: {note}")
    if boxes := undrawn(job.vocabulary.names):
        say(f"note: no font here has the letters of {', '.join(boxes)}: boxes in overlays; install one, such as Noto")
    items = collect(given.inputs, out, tell=say, every=given.every or 1)
    job = job_for(given, job, items)
    batch = batch_of(items, out, job.files, given.shard, overwrite=given.overwrite, bucket=bucket)
    code = run_by(given, job, batch)
    finish(given, job.out, batch)
    return max(code, export_whole(job, batch)) if job.formats else code


def export_whole(job: LabelJob, batch: Batch) -> int:
    """Export a complete run to its folder `exports`, in place of what an earlier call left there; the exit code."""
    from ovseg.export import open_images
    from ovseg.export.write import export

    if batch.shard and not launched():
        say(f"not exported, this is one shard: when all are done, `ovseg export {job.out}`")
    elif batch.shard and batch.shard.number > 1:
        pass  # the first of the processes launched together does it
    elif not read_run(job.out).done:
        say("not exported: no image is done")
    else:
        return 1 if export(open_images(job.out), job.formats, job.out / "exports", overwrite=True, tell=say) else 0
    return 0
