"""`ovseg masks`: class-agnostic masks alone."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ovseg.cli.setup import make_ready, read_items, read_setup
from ovseg.run.batch import run_job
from ovseg.run.work import MaskJob


def run(given: Namespace) -> int:
    """`ovseg masks`; returns the exit code."""
    job = MaskJob(read_setup(given, by=given.by), Path(given.out))
    items, run = read_items(given, job.files)
    make_ready(job.setup, items)
    return run_job(job, items, **run)
