"""What a run says while it goes: rich progress bars on a terminal, plain lines in a pipe.

Results go to standard output; notes, warnings and errors to standard error.
"""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ovseg.classes import JOINERS

if TYPE_CHECKING:
    from ovseg.run.attempt import Outcome
    from ovseg.run.inputs import Item

STAGED = "ovseg-bucket-"  # how folders begin that stand for one in a bucket; their files are shown by their addresses
STAGED_FILE = re.compile(rf"[^\s':]*{STAGED}\w+[/\\](\w+)[/\\]")
TELLING_SECONDS = 5  # into an image, before the time that it still takes is told
LONG_SECONDS = 60  # left of an image, about which a pipe is told too
STOPPING = "stopping after this image; the same command goes on from there (Ctrl-C once more stops at once)"


def say(text: str) -> None:
    """One line to standard error: a note, a warning, an error."""
    write_line(sys.stderr, text)


def show(text: str) -> None:
    """Lines to standard output: a result."""
    write_line(sys.stdout, text)


def write_line(stream: Any, text: str) -> None:
    """Write a line at once, or several, with terminal codes as escapes, whoever's file they come from.

    Nothing where the stream is closed; one of a notebook or a test may only have `write`.
    """
    if stream is None or getattr(stream, "closed", False):
        return
    text = STAGED_FILE.sub(r"\1://", text)
    stream.write("\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n")) + "\n")
    getattr(stream, "flush", lambda: None)()


def duration(seconds: float) -> str:
    """A length of time for people: "4.2 s", "3 min", "5.1 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def one_line(text: str) -> str:
    """The text with what is not to be printed (newlines, terminal codes, surrogates of a file name) as escapes."""
    return "".join(letter if _is_shown(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _is_shown(letter: str) -> bool:
    """Whether a character only adds to what is read: joiners and wide spaces do, terminal codes do not."""
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"


class Pace:
    """How long an image will still take, from the rows of it that were done since the first call."""

    def __init__(self) -> None:
        self._begin: tuple[float, int] | None = None  # when, and how many rows were done then

    def left(self, done: int, total: int) -> float | None:
        """Seconds, or None as long as too little is done to tell."""
        now = time.monotonic()
        self._begin = self._begin or (now, done)
        elapsed, rows = now - self._begin[0], done - self._begin[1]
        return elapsed * (total - done) / rows if rows and elapsed > TELLING_SECONDS else None


class PlainReport:
    """One line an image, with the time that is left; a line more where the first one takes long."""

    def __init__(self, finished: int, total: int) -> None:
        self._done, self._total, self._first = finished, total, finished
        self._begin = time.monotonic()
        self._id, self._pace, self._told = "", Pace(), False

    def __enter__(self) -> PlainReport:
        if self._done:
            say(f"{self._done} of {self._total} images are finished already")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def image_started(self, item: Item) -> None:
        self._done += 1
        self._id, self._pace = item.id, Pace()

    def rows(self, done: int, total: int) -> None:
        left = self._pace.left(done, total)
        if left is not None and left > LONG_SECONDS and not self._told:
            say(f"{one_line(self._id)}: about {duration(left)} left")
            self._told = True

    def image_ended(self, outcome: Outcome) -> None:
        head = f"[{self._done}/{self._total}] {one_line(outcome.item.id)}"
        if outcome.error is not None:
            say(f"{head}: failed: {one_line(outcome.error)}")
            return
        left = ""
        if self._done < self._total:
            each = (time.monotonic() - self._begin) / (self._done - self._first)
            left = f", {duration(each * (self._total - self._done))} left"
        show(f"{head}: {outcome.summary} ({duration(outcome.seconds)}{left})")

    def stopping(self) -> None:
        say(STOPPING)


class RichReport:
    """A line an image, over two progress bars: of the images, with rate and time left, and of the image at hand."""

    def __init__(self, finished: int, total: int) -> None:
        self._console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        rate = TextColumn("{task.fields[rate]}")
        self._bars = Progress(*columns, TimeElapsedColumn(), rate, console=self._console)
        self._images = self._bars.add_task("images", total=total, completed=finished, rate="")
        self._steps = self._bars.add_task("", total=1, rate="")
        self._begin, self._first, self._done, self._total = time.monotonic(), finished, finished, total
        self._pace = Pace()

    def __enter__(self) -> RichReport:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.update(self._steps, visible=False)
        self._bars.stop()

    def image_started(self, item: Item) -> None:
        self._bars.reset(self._steps, total=1, description=f"denoising {escape(one_line(item.id))}", rate="")
        self._pace = Pace()

    def rows(self, done: int, total: int) -> None:
        left = self._pace.left(done, total)
        rate = f"{duration(left)} left" if left else ""
        self._bars.update(self._steps, completed=done, total=total, rate=rate)

    def image_ended(self, outcome: Outcome) -> None:
        head = escape(one_line(outcome.item.id))
        if outcome.error is None:
            self._end(f"{head}: {escape(one_line(outcome.summary))} ({duration(outcome.seconds)})")
        else:
            self._end(f"{head}: [red]failed:[/red] {escape(one_line(outcome.error))}")

    def stopping(self) -> None:
        self._console.print(STOPPING)

    def _end(self, line: str) -> None:
        self._console.print(line, highlight=False)
        self._done += 1
        each = (time.monotonic() - self._begin) / (self._done - self._first)
        left = f", {duration(each * (self._total - self._done))} left" if self._done < self._total else ""
        self._bars.update(self._images, completed=self._done, rate=f"{duration(each)} an image{left}")


def make_report(finished: int, total: int) -> PlainReport | RichReport:
    """Progress bars where standard output is a terminal, else plain lines; `finished` of `total` images are already."""
    return RichReport(finished, total) if is_terminal(sys.stdout) else PlainReport(finished, total)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal. A stream may be closed, None, or a notebook's own."""
    return not getattr(stream, "closed", False) and bool(getattr(stream, "isatty", lambda: False)())
