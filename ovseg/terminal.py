"""What a run says while it goes: rich progress bars and a table on a terminal, plain lines in a pipe.

Results go to standard output; notes, warnings and errors to standard error.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ovseg.batch import Item


def say(text: str) -> None:
    """One line to standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A length of time for people: "4.2 s", "3 min", "5.1 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class PlainReport:
    """One line an image."""

    def __init__(self) -> None:
        self._place = ""

    def __enter__(self) -> PlainReport:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def image_started(self, number: int, total: int, item: Item) -> None:
        self._place = f"[{number}/{total}]"

    def rows(self, done: int, total: int) -> None:
        pass

    def image_done(self, item: Item, summary: str, seconds: float) -> None:
        print(f"{self._place} {item.id}: {summary} ({duration(seconds)})", flush=True)

    def image_failed(self, item: Item, error: str) -> None:
        say(f"{self._place} {item.id}: failed: {error}")


class RichReport:
    """Two progress bars while the run goes, a table when it ends."""

    def __init__(self) -> None:
        self._console = Console()
        self._table = Table("image", "result", "time")
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
        self._images: TaskID | None = None
        self._steps: TaskID | None = None

    def __enter__(self) -> RichReport:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
        if self._table.row_count:
            self._console.print(self._table)

    def image_started(self, number: int, total: int, item: Item) -> None:
        if self._images is None or self._steps is None:
            self._images = self._bars.add_task("images", total=total)
            self._steps = self._bars.add_task("", total=1)
        self._bars.reset(self._steps, total=1, description=f"denoising {escape(item.id)}")

    def rows(self, done: int, total: int) -> None:
        if self._steps is not None:
            self._bars.update(self._steps, completed=done, total=total)

    def image_done(self, item: Item, summary: str, seconds: float) -> None:
        self._end(item, escape(summary), duration(seconds))

    def image_failed(self, item: Item, error: str) -> None:
        self._end(item, f"[red]failed:[/red] {escape(error)}", "")

    def _end(self, item: Item, result: str, time: str) -> None:
        self._table.add_row(escape(item.id), result, time)
        if self._images is not None:
            self._bars.advance(self._images)


def make_report() -> PlainReport | RichReport:
    """Progress bars where standard output is a terminal, else plain lines."""
    return RichReport() if sys.stdout.isatty() else PlainReport()
