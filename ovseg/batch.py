"""Many images into one run folder: which inputs, under which ids, what became of each.

A run folder is `run.json` (what was run, written anew after every image) and the files of each id. A bad image is
reported and the rest goes on. It does not resume and does not share work between machines.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from ovseg import __version__
from ovseg.images import IMAGE_SUFFIXES
from ovseg.result import json_bytes, write_atomically

FORMAT = "ovseg run 1"
RUN_FILE = "run.json"
LABEL_FILES = (".png", ".json", ".overlay.png")  # what `ovseg label` writes for an id
MASK_FILES = (".png", ".overlay.png")  # what `ovseg masks` writes for an id
OUT_OF_MEMORY = "out of memory; --dtype float16 takes half of it, and a smaller or less elongated image takes less"
LIBRARIES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy", "pillow")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """One image of a run. Its id is its path below the input folder, without the suffix, with "/" between parts."""

    id: str
    path: Path


class Report(Protocol):
    """Who is told how a run goes."""

    def image_started(self, number: int, total: int, item: Item) -> None: ...

    def rows(self, done: int, total: int) -> None: ...

    def image_done(self, item: Item, summary: str, seconds: float) -> None: ...

    def image_failed(self, item: Item, error: str) -> None: ...


def collect(inputs: Sequence[str | Path], out: str | Path, *, tell: Callable[[str], None] | None = None) -> list[Item]:
    """The images of a run: files as they are, folders with all images below them.

    Not those in hidden folders, in `out`, or in run folders below an input; `tell` gets a line that names the latter.
    Raises ValueError for an input that is not there, a folder without images, or two images that share an id, OSError
    for a folder that cannot be read.
    """
    items: dict[str, Item] = {}
    runs: list[Path] = []
    skipped = Path(out).resolve()
    for given in map(Path, inputs):
        if given.is_dir():
            paths, runs_below = _images_below(given, skipped)
            runs += runs_below
            found = [Item(_id(path, given), path) for path in paths]
            if not found:
                raise ValueError(f"{given}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        elif given.exists():
            found = [Item(_id(given, given.parent), given)]
        else:
            raise ValueError(f"{given}: no such file or folder")
        for item in found:
            other = items.setdefault(item.id, item)
            if other.path.resolve() != item.path.resolve():
                raise ValueError(f"{other.path} and {item.path} would both be written as {item.id!r}; rename one")
    if runs and tell:
        tell(f"left out, as results of other runs (they hold a {RUN_FILE}): {', '.join(map(str, runs))}")
    return list(items.values())


def _images_below(folder: Path, skipped: Path) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and the run folders that were left out."""
    found, runs = [], []
    for root, folders, names in os.walk(folder, onerror=_raise):
        below = [Path(root, name) for name in folders if name[0] != "." and Path(root, name).resolve() != skipped]
        runs += [path for path in below if (path / RUN_FILE).is_file()]
        folders[:] = [path.name for path in below if path not in runs]
        found += [Path(root, name) for name in names if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found), sorted(runs)


def _raise(error: OSError) -> None:
    raise error


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def prepare(out: str | Path, items: Iterable[Item], suffixes: Sequence[str], *, overwrite: bool = False) -> Path:
    """Check that a run can be written to the folder `out`; nothing is made yet.

    Raises ValueError if `out` is a file, if it holds a run or files of these names (unless `overwrite`), if an output
    would replace an input, or if two outputs share a name (an image called "run", say).
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the results")
    items = list(items)
    owners: dict[Path, str] = {out / RUN_FILE: "the run's own record"}
    for item in items:
        for suffix in suffixes:
            target = out / f"{item.id}{suffix}"
            if target in owners:
                raise ValueError(f"{item.path}: its result {target} is also the file of {owners[target]}; rename it")
            owners[target] = str(item.path)
    inputs = {item.path.resolve() for item in items}
    for target in owners:
        if target.resolve() in inputs:
            raise ValueError(f"{target}: the result would replace this input image; choose another --out")
        if target.exists() and not overwrite:
            raise ValueError(f"{target}: already there; choose another --out, or --overwrite to replace it")
    return out


@dataclass
class Run:
    """The run's record, `run.json`: the facts given, the versions, and the state of every id."""

    out: Path
    facts: dict[str, Any]  # of this run: command, names, colours, options, models, ...
    loading_seconds: float = 0.0  # until the models were ready
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> file, state, and seconds or error

    def write(self) -> None:
        """Write `run.json`, whole or not at all."""
        versions = {"ovseg": __version__, "python": platform.python_version()}
        versions |= {library: version(library) for library in LIBRARIES}
        seconds = sum(entry.get("seconds", 0.0) for entry in self.ids.values())
        record = {
            "format": FORMAT,
            **self.facts,
            "protocol": None,
            "versions": versions,
            "timings": {"loading_seconds": round(self.loading_seconds, 3), "image_seconds": round(seconds, 3)},
            "ids": self.ids,
        }
        write_atomically(self.out / RUN_FILE, json_bytes(record))

    def process(self, items: Sequence[Item], work: Callable[[Item, Progress], str], report: Report) -> int:
        """Do `work` for every image, one after the other; returns how many failed.

        work: writes the item's files, gets a progress callback, returns a line about the result. A ValueError or
        OSError of one image, or one too large for the memory, is reported and recorded, and the next one follows;
        anything else ends the run.
        """
        from torch.cuda import OutOfMemoryError  # here, because torch takes seconds to load

        self.ids = {item.id: {"file": str(item.path), "state": "pending"} for item in items}
        self.write()
        failed = 0
        for number, item in enumerate(items, 1):
            report.image_started(number, len(items), item)
            start, entry = time.perf_counter(), self.ids[item.id]
            try:
                summary = work(item, report.rows)
            except (ValueError, OSError, MemoryError, OutOfMemoryError) as error:
                failed += 1
                too_large = isinstance(error, (MemoryError, OutOfMemoryError))
                reason = f"{item.path}: {OUT_OF_MEMORY}" if too_large else str(error)
                entry |= {"state": "failed", "error": reason}
                report.image_failed(item, reason)
            else:
                seconds = time.perf_counter() - start
                entry |= {"state": "done", "seconds": round(seconds, 3)}
                report.image_done(item, summary, seconds)
            self.write()
        return failed
