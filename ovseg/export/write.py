"""Exports of a run: checks, one writer after the other, complete folders only.

Each format gets a folder of its own, OUT/<format>. It is written under a temporary name and renamed once complete and
on the disk. OUT/export.json lists the exports there; --overwrite replaces only what it lists. One process at a time
exports into OUT.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ovseg import locks
from ovseg.export import NEEDS, WRITERS, check_asked, check_names
from ovseg.export.image import ImageSet
from ovseg.files import json_bytes, named, sweep, sync_folder, write_atomically
from ovseg.json_files import read_json
from ovseg.run.inputs import AGAIN
from ovseg.run.syncing import have_on_disk
from ovseg.run.terminal import one_line

RECORD = "export.json"
MOST_RECORD = 1 << 20  # bytes


def check_formats(names: Sequence[str]) -> list[str]:
    """The formats asked for, each once. Raises ValueError for one that is not in `WRITERS`, or whose package is not
    installed."""
    if unknown := [name for name in names if name not in WRITERS]:
        raise ValueError(f"format: {unknown[0]}: no such format; choose from {', '.join(WRITERS)}")
    for name in names:
        if name in NEEDS and find_spec(NEEDS[name][0]) is None:
            package, extra = NEEDS[name]
            raise ValueError(f"format: {name}: needs {package}, not installed here: pip install 'ovseg[{extra}]'")
    return list(dict.fromkeys(names))


def export(
    images: ImageSet,
    formats: Sequence[str],
    out: Path,
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Write the images of a run in every format, each into a folder of `out`, whole or not at all.

    tell: gets a line where images of the run are left out, one for each image that is damaged or whose original is not
    copied, and one for each format when it is written. Returns how many images these are.
    Raises ValueError, before anything is written, for class names that a format cannot hold, options that none of them
    knows, where an earlier export would be replaced without `overwrite`, and where another process exports into `out`;
    and for images that a format cannot hold, an `unsure` that cannot act, or where no image can be read.
    """
    tell = tell or (lambda line: None)
    check_names(formats, images.names)
    check_asked(formats, images)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the exports")
    with locks.held(out / ".export.lock", f"{out}: another process is exporting into this folder; wait for it"):
        for name in (*formats, RECORD):
            sweep(out / name)
        for name in formats:
            _check(out, name, overwrite=overwrite)
        if left_out := _left_out(images):
            tell(left_out)
        told: set[str] = set()
        for name in formats:
            with _whole_folder(out / name) as folder:
                WRITERS[name](images, folder)
                _note(out, name, {"unfinished": True})  # for one who is killed before the line below
            for line in _lines(images):
                if line not in told:
                    tell(line)
                    told.add(line)
            count = sum(id not in images.problems for id in images.run.done)
            _note(out, name, _facts(images, count))
            tell(f"{name}: {count} image{'s' * (count != 1)} in {out / name}")
        if images.unsure is not None and (lowest := min(images.lowest.values(), default=1.0)) >= images.unsure:
            tell(
                f"unsure: no pixel has a score under {images.unsure:g}, the lowest is {lowest:.3g}; all labels are kept"
            )
    return len(images.problems) + len(images.not_copied)


def _lines(images: ImageSet) -> list[str]:
    """What the export did without: a line for each image."""
    copies = (f"{id}: the image is not copied: {reason}" for id, reason in images.not_copied.items())
    return [one_line(line) for line in (*(f"left out: {reason}" for reason in images.problems.values()), *copies)]


def _check(out: Path, name: str, *, overwrite: bool) -> None:
    target = out / name
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise ValueError(f"{target}: already there; {AGAIN}")
    if name not in _noted(out):
        raise ValueError(f"{target}: {out / RECORD} does not name it as an export; remove it, or choose another folder")


def _left_out(images: ImageSet) -> str | None:
    """The line about a run's images that are not done; None where all are."""
    states = [entry["state"] for entry in images.run.ids.values() if entry["state"] != "damaged"]
    failed, unfinished = states.count("failed"), states.count("pending")
    if not failed + unfinished:
        return None
    return f"left out: {failed + unfinished} of {len(states)} images ({failed} failed, {unfinished} unfinished)"


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that replaces `target` if the block succeeds, and is removed if it raises."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    replaced = target.with_name(f".{target.name}.{os.getpid()}.old")
    temporary.mkdir(parents=True)
    try:
        with named(target):
            yield temporary
            have_on_disk(path for path in temporary.rglob("*") if path.is_file())
            if target.exists():
                os.rename(target, replaced)
            os.rename(temporary, target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        shutil.rmtree(replaced, ignore_errors=True)


def _noted(out: Path) -> dict[str, Any]:
    """The exports that OUT/export.json names; none if there is no such file."""
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        noted = read_json(path, MOST_RECORD)
    except ValueError as error:
        raise ValueError(f"{error}; remove it, or choose another folder") from error
    return noted if isinstance(noted, dict) else {}


def _facts(images: ImageSet, count: int) -> dict[str, Any]:
    return {
        "run": str(images.run.path),
        "images": count,
        "unsure": images.unsure,
        "components": images.components,
        "background": images.background,
        "uncorrected": images.uncorrected,
        "versions": images.run.versions,
    }


def _note(out: Path, name: str, facts: dict[str, Any]) -> None:
    write_atomically(out / RECORD, json_bytes({**_noted(out), name: facts}))
