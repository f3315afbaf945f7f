"""What `ovseg export` does: checks, one writer after the other, whole folders only.

Each format gets a folder of its own, OUT/<format>. It is written under a temporary name and renamed when it is whole.
OUT/export.json says which exports stand there; only what it names is replaced by --overwrite.
"""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovseg.export import WRITERS, ImageSet, check_names, open_images
from ovseg.files import json_bytes, sweep, write_atomically
from ovseg.run.terminal import say

RECORD = "export.json"


def run(given: Namespace) -> int:
    """`ovseg export`; returns the exit code."""
    formats = check_formats(given.format)
    images = open_images(
        given.folder, unsure=given.unsure, components=given.components, copy_images=given.images == "copy"
    )
    export(images, formats, Path(given.out), overwrite=given.overwrite)
    return 0


def check_formats(names: Sequence[str]) -> list[str]:
    """The formats asked for, each once. Raises ValueError for one that is not in `WRITERS`."""
    if unknown := [name for name in names if name not in WRITERS]:
        raise ValueError(f"--format {unknown[0]}: no such format; choose from {', '.join(WRITERS)}")
    return list(dict.fromkeys(names))


def export(images: ImageSet, formats: Sequence[str], out: Path, *, overwrite: bool = False) -> None:
    """Write the images of a run in every format, each into a folder of `out`, whole or not at all.

    Raises ValueError, before anything is written, for class names that a format cannot hold and where an earlier export
    would be replaced without `overwrite`; and for images that a format cannot hold.
    """
    check_names(formats, images.names)
    for name in (*formats, RECORD):
        sweep(out / name)
    for name in formats:
        _check(out, name, overwrite=overwrite)
    _tell_skipped(images)
    for name in formats:
        with _whole_folder(out / name) as folder:
            WRITERS[name](images, folder)
        _note(out, name, images)
        say(f"{name}: {len(images)} image{'s' if len(images) > 1 else ''} in {out / name}")


def _check(out: Path, name: str, *, overwrite: bool) -> None:
    target = out / name
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the exports")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise ValueError(f"{target}: already there; choose another --out, or --overwrite to replace it")
    if name not in _noted(out):
        raise ValueError(f"{target}: {out / RECORD} does not name it as an export; choose another --out, or remove it")


def _tell_skipped(images: ImageSet) -> None:
    states = [entry["state"] for entry in images.run.ids.values()]
    failed, unfinished = states.count("failed"), len(states) - states.count("failed") - states.count("done")
    if failed or unfinished:
        say(f"left out: {failed + unfinished} of {len(states)} images ({failed} failed, {unfinished} unfinished)")


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` if all goes well, and is gone if not."""
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
        raise ValueError(f"{path}: damaged ({error}); choose another --out, or remove it") from error
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
