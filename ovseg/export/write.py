"""Exports of a run: checks, one writer after the other, complete folders only.

Each format gets a folder of its own, OUT/<format>. It is written under a temporary name and renamed once complete.
OUT/export.json lists the exports there; --overwrite replaces only what it lists.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovseg.export import WRITERS, check_names
from ovseg.export.image import ImageSet
from ovseg.files import json_bytes, sweep, write_atomically
from ovseg.run.inputs import AGAIN

RECORD = "export.json"


def check_formats(names: Sequence[str]) -> list[str]:
    """The formats asked for, each once. Raises ValueError for one that is not in `WRITERS`."""
    if unknown := [name for name in names if name not in WRITERS]:
        raise ValueError(f"format: {unknown[0]}: no such format; choose from {', '.join(WRITERS)}")
    return list(dict.fromkeys(names))


def export(
    images: ImageSet,
    formats: Sequence[str],
    out: Path,
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Write the images of a run in every format, each into a folder of `out`, whole or not at all.

    tell: gets a line where images of the run are left out, and one for each format when it is written.
    Raises ValueError, before anything is written, for class names that a format cannot hold and where an earlier export
    would be replaced without `overwrite`; and for images that a format cannot hold.
    """
    tell = tell or (lambda line: None)
    check_names(formats, images.names)
    for name in (*formats, RECORD):
        sweep(out / name)
    for name in formats:
        _check(out, name, overwrite=overwrite)
    if left_out := _left_out(images):
        tell(left_out)
    for name in formats:
        with _whole_folder(out / name) as folder:
            WRITERS[name](images, folder)
        _note(out, name, images)
        tell(f"{name}: {len(images)} image{'s' if len(images) > 1 else ''} in {out / name}")


def _check(out: Path, name: str, *, overwrite: bool) -> None:
    target = out / name
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the exports")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise ValueError(f"{target}: already there; {AGAIN}")
    if name not in _noted(out):
        raise ValueError(f"{target}: {out / RECORD} does not name it as an export; remove it, or choose another folder")


def _left_out(images: ImageSet) -> str | None:
    """The line about a run's images that are not done; None where all are."""
    states = [entry["state"] for entry in images.run.ids.values()]
    failed, unfinished = states.count("failed"), len(states) - states.count("failed") - states.count("done")
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
        yield temporary
        if target.exists():
            os.rename(target, replaced)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        shutil.rmtree(replaced, ignore_errors=True)


def _noted(out: Path) -> dict[str, Any]:
    """The exports that OUT/export.json names; none if there is no such file."""
    path = out / RECORD
    try:
        noted = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it, or choose another folder") from error
    return noted if isinstance(noted, dict) else {}


def _note(out: Path, name: str, images: ImageSet) -> None:
    facts = {
        "run": str(images.run.path),
        "images": len(images),
        "unsure": images.unsure,
        "components": images.components,
        "versions": images.run.versions,
    }
    write_atomically(out / RECORD, json_bytes({**_noted(out), name: facts}))
