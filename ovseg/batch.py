"""Many images into one run folder, one after the other: what is finished is skipped, a bad image is reported.

An image is finished when all its files are there: each is written whole or not at all, so a run that was killed goes
on where it stopped. Its record (`ovseg.run_folder`) is written when it starts, every few seconds, and when it ends.
Memory does not grow with the number of images, but for a line of the record each.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from ovseg import __version__
from ovseg.inputs import Item
from ovseg.result import json_bytes, write_atomically
from ovseg.run_folder import FORMAT, RUN_FILE, Shard, differences, facts_of, read_record, record_files

LABEL_FILES = (".json", ".masks.png", ".overlay.png", ".png")  # what `ovseg label` writes for an id
MASK_FILES = (".overlay.png", ".png")  # what `ovseg masks` writes for an id
ANALYSIS_FILE = ".safetensors"  # and, with --keep-analysis, for an id
RECORD_SECONDS = 2.0  # the least time between two writings of the record, unless writing it is slow itself
OUT_OF_MEMORY = "out of memory; --dtype float16 takes half of it, and a smaller or less elongated image takes less"
LIBRARIES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy", "pillow")
AGAIN = "choose another --out, or --overwrite to replace it"

Progress = Callable[[int, int], None]


class Report(Protocol):
    """Who is told how a run goes."""

    def image_started(self, item: Item) -> None: ...

    def rows(self, done: int, total: int) -> None: ...

    def image_done(self, item: Item, summary: str, seconds: float) -> None: ...

    def image_failed(self, item: Item, error: str) -> None: ...

    def stopping(self) -> None: ...


def prepare(
    out: str | Path,
    items: Iterable[Item],
    suffixes: Sequence[str],
    *,
    overwrite: bool = False,
    shard: Shard | None = None,
) -> Path:
    """Check that a run can be written to the folder `out`, or go on there; nothing is made yet.

    Raises ValueError if `out` is a file, if it holds files of these names but no record of this run (unless
    `overwrite`) or a run divided otherwise, if an output would replace an input, or if two outputs share a name.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the results")
    items = list(items)
    record = out / (shard.file if shard else RUN_FILE)
    owners: dict[Path, str] = {record: "the run's own record"}
    for item in items:
        for suffix in suffixes:
            target = out / f"{item.id}{suffix}"
            if target in owners:
                raise ValueError(f"{item.path}: its result {target} is also the file of {owners[target]}; rename it")
            owners[target] = str(item.path)
    inputs = {os.path.realpath(item.path) for item in items}
    for target in owners:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{target}: the result would replace this input image; choose another --out")
    if overwrite:
        return out
    if others := [path for path in record_files(out) if not _same_division(path.name, shard)]:
        raise ValueError(f"{others[0]}: the folder holds a run that is divided otherwise; {AGAIN}")
    if not record.exists() and (there := next((target for target in owners if target.exists()), None)):
        raise ValueError(f"{there}: already there, without the record of its run; {AGAIN}")
    return out


def _same_division(record: str, shard: Shard | None) -> bool:
    return record.endswith(f"-of-{shard.count}.json") if shard else record == RUN_FILE


@dataclass
class Run:
    """A run, or one shard of it: does the work and keeps the record."""

    out: Path
    facts: dict[str, Any]  # of this run: command, names, colours, options, models, ...
    suffixes: Sequence[str]  # the files that make an image finished
    loading_seconds: float = 0.0  # until the models were ready
    shard: Shard | None = None
    overwrite: bool = False
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> file, state, and seconds or error

    @property
    def record(self) -> Path:
        """The file of the record."""
        return self.out / (self.shard.file if self.shard else RUN_FILE)

    def open(self, items: Sequence[Item]) -> list[Item]:
        """Take up the record there is, or begin one; returns the items that are not finished.

        Raises ValueError if the folder's record is of another run.
        """
        if self.overwrite:
            self._clear(items)
        before = self._earlier_ids()
        done = {id: entry for id, entry in before.items() if entry["state"] == "done"}
        self.ids = dict(done)  # of earlier calls with other inputs, too
        todo = []
        for item in items:
            file = str(item.path)
            if item.id in before and before[item.id]["file"] != file:
                raise ValueError(f"{self.record}: {item.id!r} was {before[item.id]['file']}, now it is {file}; {AGAIN}")
            if item.id in before and all((self.out / f"{item.id}{suffix}").exists() for suffix in self.suffixes):
                self.ids[item.id] = done.get(item.id, {"file": file, "state": "done"})
            else:
                self.ids[item.id] = {"file": file, "state": "pending"}
                todo.append(item)
        self._sweep(todo)
        return todo

    def process(self, items: Sequence[Item], work: Callable[[Item, Progress], str], report: Report) -> int:
        """Do `work` for every image, as `open` returned them; returns how many failed.

        work: writes the item's files, gets a progress callback, returns a line about the result. A ValueError or
        OSError of one image, or one too large for the memory, is reported and recorded, and the next one follows;
        anything else ends the run. Ctrl-C ends it with KeyboardInterrupt after the image at hand, a second one at once.
        """
        from torch.cuda import OutOfMemoryError  # here, because torch takes seconds to load

        with self._recording() as record, _finishing_the_image(report) as asked_to_stop:
            for item in items:
                if asked_to_stop.is_set():
                    raise KeyboardInterrupt
                report.image_started(item)
                start, entry = time.perf_counter(), self.ids[item.id]
                try:
                    summary = work(item, report.rows)
                except (ValueError, OSError, MemoryError, OutOfMemoryError) as error:
                    too_large = isinstance(error, (MemoryError, OutOfMemoryError))
                    reason = f"{item.path}: {OUT_OF_MEMORY}" if too_large else str(error)
                    entry |= {"state": "failed", "error": reason}
                    report.image_failed(item, reason)
                else:
                    seconds = time.perf_counter() - start
                    entry |= {"state": "done", "seconds": round(seconds, 3)}
                    report.image_done(item, summary, seconds)
                record()
        return sum(self.ids[item.id]["state"] == "failed" for item in items)

    def _earlier_ids(self) -> dict[str, dict[str, Any]]:
        """The ids of this run's record, none if there is no record; ValueError if another record does not fit."""
        for path in record_files(self.out):
            earlier = facts_of(read_record(path))
            if found := differences(earlier, self.facts):
                raise ValueError(f"{path} was made with other settings ({'; '.join(found)}); {AGAIN}")
        return read_record(self.record)["ids"] if self.record.exists() else {}

    def _sweep(self, items: Iterable[Item]) -> None:
        """Remove what a killed process left half-written of these items."""
        names = {f"{item.id}{suffix}" for item in items for suffix in self.suffixes}
        for path in self.out.rglob(".*.tmp"):
            match = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
            if match and path.with_name(match[1]).relative_to(self.out).as_posix() in names:
                path.unlink(missing_ok=True)

    def _clear(self, items: Iterable[Item]) -> None:
        """Remove what is to be replaced, the record first, so that no old file passes for a finished one."""
        for path in record_files(self.out):
            if path == self.record or not _same_division(path.name, self.shard):
                path.unlink()
        for item in items:
            for suffix in self.suffixes:
                if suffix != ANALYSIS_FILE:  # a kept one is checked before it is used
                    (self.out / f"{item.id}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _recording(self) -> Iterator[Callable[[], None]]:
        """Write the record now and at the end, and now and then as the callable that is yielded is called."""
        due = self._write()

        def record() -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = self._write()

        try:
            yield record
        finally:
            self._write()

    def _write(self) -> float:
        """Write the record, whole or not at all; returns when it may be written again."""
        start = time.monotonic()
        versions = {"ovseg": __version__, "python": platform.python_version()}
        versions |= {library: version(library) for library in LIBRARIES}
        seconds = sum(entry.get("seconds", 0.0) for entry in self.ids.values())
        content = {
            "format": FORMAT,
            **self.facts,
            "shard": [self.shard.number, self.shard.count] if self.shard else None,
            "versions": versions,
            "timings": {"loading_seconds": round(self.loading_seconds, 3), "image_seconds": round(seconds, 3)},
            "ids": self.ids,
        }
        write_atomically(self.record, json_bytes(content))
        end = time.monotonic()
        return end + max(RECORD_SECONDS, 50 * (end - start))


@contextmanager
def _finishing_the_image(report: Report) -> Iterator[threading.Event]:
    """While this is entered the first Ctrl-C sets the event that is yielded, and the second one interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        report.stopping()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
