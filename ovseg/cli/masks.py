"""`ovseg masks`: class-agnostic masks alone."""

from __future__ import annotations

from argparse import Namespace

from ovseg.cli.engine import open_out, run_by
from ovseg.cli.setup import read_setup
from ovseg.run.inputs import batch_of, collect
from ovseg.run.terminal import say
from ovseg.run.work import MaskJob


def run(given: Namespace) -> int:
    """`ovseg masks`; returns the exit code."""
    out, bucket = open_out(given)
    job = MaskJob(read_setup(given, by=given.by), out)
    items = collect(given.inputs, out, tell=say)
    return run_by(given, job, batch_of(items, out, job.files, given.shard, overwrite=given.overwrite, bucket=bucket))
