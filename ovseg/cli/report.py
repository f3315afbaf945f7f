"""`ovseg report`: the parsed command line to `ovseg.report.write_report`."""

from __future__ import annotations

import sys
from argparse import Namespace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ovseg.report import write_report


def run(given: Namespace) -> int:
    """`ovseg report`; returns the exit code."""
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        report = write_report(
            given.run_folder,
            given.out,
            title=given.title,
            overwrite=given.overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{report.file}: {report.images} image{'s' * (report.images != 1)}, {report.size / 1e6:.1f} MB")
    if report.folder:
        print(f"the images are in {report.folder}; keep it beside the page")
    if report.problems:
        print(f"not shown: {report.problems} (the page says why)", file=sys.stderr)
    return 0
