"""`ovseg report`: the parsed command line to `ovseg.report.write_report`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ovseg.report import Report, write_report
from ovseg.report.errors import truth_in
from ovseg.run.terminal import is_terminal, say, show


def run(given: Namespace) -> int:
    """`ovseg report`; returns the exit code."""
    if is_terminal(sys.stderr):
        columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("images", total=None)
            report = _write(given, lambda done, total: bar.update(task, completed=done, total=total))
    else:
        report = _write(given, None)
    show(f"{report.file}: {report.images} image{'s' * (report.images != 1)}, {report.size / 1e6:.1f} MB")
    if report.folder:
        show(f"the images are in {report.folder}; keep it beside the page")
    if given.truth is not None and report.judged < report.images:
        say(f"{report.images - report.judged} images have no true labels in {given.truth}")
    if report.problems:
        say(f"not shown: {report.problems} (the page says why)")
    return 1 if report.damaged else 0


def _write(given: Namespace, progress: Callable[[int, int], None] | None) -> Report:
    truth = None if given.truth is None else truth_in(given.truth)
    return write_report(
        given.run_folder, given.out, title=given.title, overwrite=given.overwrite, progress=progress, truth=truth
    )
