"""What is open: the images, the run folder with their results, and the models that will be asked.

A session is read by many requests at a time and changed under its lock. Rows of images, as the page has them, are made
from their files when they are asked for (`ovseg.app.rows`), so that opening thousands of images reads one record.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg import locks
from ovseg.app.worker import Worker
from ovseg.run.finding import LeftOut, images_below
from ovseg.run.folder import RUN_FILE, RunFolder, read_run, record_files
from ovseg.run.images import Legend, read_legend
from ovseg.run.inputs import Item, collect
from ovseg.run.pictures import picture_file
from ovseg.setup import Setup

UPLOADS = "uploads"  # the folder, below the run's, for images that came by the page


@dataclass
class Progress:
    """What the worker does at present, for the page. state: "idle", "loading", "working", "failed" or "done"."""

    state: str = "idle"
    text: str = ""
    done: int = 0
    total: int = 0
    image: str = ""
    steps: tuple[int, int] = (0, 0)
    started: float = 0.0
    finished_before: int = 0
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Session:
    """What is open. setup: the models that will be asked, with the mask source and its settings; out: the run folder;
    who: the name that corrections get; inputs: as they were given, for the command that does the same."""

    setup: Setup
    out: Path
    who: str
    inputs: tuple[str, ...] = ()
    note: str = ""  # what to tell everybody who opens the page
    items: dict[str, Item] = field(default_factory=dict)
    run: RunFolder | None = None
    worker: Worker = field(default_factory=Worker)
    lock: threading.RLock = field(default_factory=threading.RLock)
    progress: Progress = field(default_factory=Progress)
    order: list[str] = field(default_factory=list)  # ids, by the number that the page gives them
    changes: dict[str, int] = field(default_factory=dict)  # id -> the revision that changed it last
    revision: int = 0
    writing: bool = False  # whether this process writes the run at present
    _records: tuple[Path, ...] = ()  # the files of the run's record
    _read: tuple[int, ...] = ()  # when they were written, as they were read last
    epoch: str = field(default_factory=lambda: secrets.token_hex(8))  # another one: the page must be loaded anew

    @classmethod
    def open(
        cls,
        setup: Setup,
        path: str | Path | None,
        out: Path,
        who: str,
        note: str = "",
        *,
        tell: Callable[[str], None] | None = None,
    ) -> Session:
        """Open a run folder, a folder of images, an image, or (None) what `out` holds. tell: gets a line for each
        reason that files are left out.

        Raises ValueError as `collect` and `read_run`, and where `out` holds results of other files of these names.
        """
        if path is not None and Path(path).is_dir() and record_files(Path(path)):
            session = cls(setup, Path(path), who, (), note)
        else:
            session = cls(setup, out, who, () if path is None else (str(path),), note)
            for item in collect(session.inputs, out, tell=tell) if session.inputs else ():
                session.items[item.id] = item
        if session.out.exists() and not session.out.is_dir():
            raise ValueError(f"out: {session.out}: is a file, expected a folder for the results")
        if record_files(session.out):
            session.take_run(read_run(session.out))
        uploads = session.out / UPLOADS
        if uploads.is_dir() and images_below(uploads, "", LeftOut()):  # not what a kill left of one
            for item in collect([uploads], session.out / ".none"):
                session.items.setdefault(item.id, item)
        session.count()
        return session

    def take_run(self, run: RunFolder) -> None:
        """Show this run; its images are what can be asked about again. Raises ValueError for images of other files."""
        with self.lock:
            for id, entry in run.ids.items():
                file = picture_file(str(entry["file"]), _folders(run)) if entry.get("file") else None
                if file is None:
                    continue
                place = os.path.abspath(file)
                given = self.items.setdefault(id, Item(id, Path(place)))
                if str(given.path) != place and os.path.realpath(given.path) != os.path.realpath(file):
                    raise ValueError(
                        f"out: {run.path}: {id!r} there is {file}, not {given.path}; choose another --out for this"
                    )
            self.run, self._records = run, tuple(record_files(run.path))
            self._read = _stamps(self._records)
            self.count()

    def count(self) -> None:
        """Give every image that has none a number."""
        with self.lock:
            known = set(self.order)
            ids = [*self.items, *(self.run.ids if self.run else ())]
            self.order += [id for id in dict.fromkeys(ids) if id not in known]

    def state_of(self, id: str) -> str:
        """ "done", "pending", "failed" or "damaged"."""
        entry = self.run.ids.get(id) if self.run else None
        return str(entry["state"]) if entry else "pending"

    def add(self, item: Item) -> None:
        """Another image, which came by the page."""
        with self.lock:
            self.items[item.id] = item
            self.count()
            self.changed(item.id)

    def changed(self, *ids: str) -> None:
        """Note that these images are other than the pages have them."""
        with self.lock:
            self.revision += 1
            self.changes |= dict.fromkeys(ids, self.revision)

    def changed_since(self, seen: int) -> tuple[list[str], int]:
        """The ids that changed after a revision, and the present one."""
        with self.lock:
            return [id for id, revision in self.changes.items() if revision > seen], self.revision

    @property
    def legend(self) -> Legend | None:
        """The names of the run; None where there is none yet, or one of masks alone."""
        return read_legend(self.run) if self.run else None

    @property
    def uploads(self) -> Path:
        return self.out / UPLOADS

    def read_only(self) -> str:
        """Why nothing may be changed now: another process writes the run; "" where it may."""
        for record in () if self.writing else {self.out / RUN_FILE, *self._records}:
            if locks.is_held(record.with_name(f".{record.name}.lock")):
                return f"another process is writing {record}: read only until it has ended"
        return ""

    def check_writable(self) -> None:
        """Raise `ReadOnly` where nothing may be changed."""
        if reason := self.read_only():
            raise ReadOnly(reason)

    def refresh(self) -> None:
        """Read the record anew where another process wrote it."""
        with self.lock:
            if self.run is None or self.writing or (stamps := _stamps(self._records)) == self._read:
                return
            self._read = stamps
            try:
                now, before = read_run(self.out), self.run
            except (OSError, ValueError):  # just when it is replaced
                return
            self.run = now
            self.count()
            self.changed(*(id for id in now.ids if now.ids[id] != before.ids.get(id)))

    def close(self) -> bool:
        """Stop the worker after the step at hand; whether it ended in time."""
        return self.worker.stop()


class ReadOnly(ValueError):
    """Another process writes the run."""


def _stamps(records: Sequence[Path]) -> tuple[int, ...]:
    """When these files were written; 0 where one is not there just now."""
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in records)


def _folders(run: RunFolder) -> Sequence[str | Path]:
    """Where a run's images are looked for; as `RunImage.photo` does."""
    return "", run.facts.get("root") or "", run.path


def known(session: Session, id: Any) -> str:
    """An id of this session's images; `KeyError` for anything else, so that no other path is ever made of it."""
    with session.lock:
        if not isinstance(id, str) or (id not in session.items and not (session.run and id in session.run.ids)):
            raise KeyError("no such image")
    return id
