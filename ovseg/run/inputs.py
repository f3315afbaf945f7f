"""Which images a run is about, and whether their results have a place: files and folders become items with ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ovseg.images import IMAGE_SUFFIXES
from ovseg.run.corrections import CORRECTIONS
from ovseg.run.folder import RUN_FILE, division, is_record, record_files
from ovseg.run.launch import Shard, choose_shard
from ovseg.run.schema import outside
from ovseg.run.writers import check_free

AGAIN = "choose another --out, or --overwrite to replace it"


@dataclass(frozen=True)
class Item:
    """One image of a run. Its id is its path below the input folder, without the suffix, with "/" between parts."""

    id: str
    path: Path  # absolute, where it is a file


@dataclass(frozen=True)
class Batch:
    """The images of a run, or of one shard of it, whose results have a checked place.

    overwrite: replace what the run folder holds of them, instead of going on there.
    """

    items: tuple[Item, ...]
    shard: Shard | None = None
    overwrite: bool = False


def collect(inputs: Sequence[str | Path], out: str | Path, *, tell: Callable[[str], None] | None = None) -> list[Item]:
    """The images of a run: files as they are, folders with all images below them. Links to folders are not followed.

    Not those in hidden folders, in `out`, or in run folders below an input; `tell` gets a line that names the latter.
    Bytes of a name that are no UTF-8 stand in its id as backslash escapes.
    Raises ValueError for an input that is not there, that is a run folder or `out`, a folder without images, or two
    images that share an id, OSError for a folder that cannot be read.
    """
    items: dict[str, Item] = {}
    runs: list[Path] = []
    skipped = os.path.realpath(out)
    for given in (Path(os.path.abspath(one)) for one in inputs):
        if os.path.realpath(given) == skipped:
            raise ValueError(f"out: {out}: is also an input; choose another folder for the results")
        if given.is_dir():
            if records := record_files(given):
                raise ValueError(f"{given}: is a run's results (it holds {records[0].name}); give the folder of images")
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
            if other is not item and os.path.realpath(other.path) != os.path.realpath(item.path):
                raise ValueError(f"{other.path} and {item.path} would both be written as {item.id!r}; rename one")
    if runs and tell:
        tell(f"left out, as results of other runs (they hold a {RUN_FILE}): {', '.join(map(str, runs))}")
    return list(items.values())


def _images_below(folder: Path, skipped: str) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and the run folders that were left out."""
    found, runs = [], []
    for root, folders, names in os.walk(folder, onerror=_raise):
        below = [
            Path(root, name) for name in folders if name[0] != "." and os.path.realpath(f"{root}/{name}") != skipped
        ]
        runs += [path for path in below if record_files(path)]
        folders[:] = [path.name for path in below if path not in runs]
        found += [Path(root, name) for name in names if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found), sorted(runs)


def _raise(error: OSError) -> None:
    raise error


def _id(path: Path, root: Path) -> str:
    return os.fsencode(path.relative_to(root).with_suffix("").as_posix()).decode("utf-8", "backslashreplace")


def prepare(
    out: str | Path,
    items: Iterable[Item],
    suffixes: Sequence[str],
    *,
    overwrite: bool = False,
    shard: Shard | None = None,
) -> Path:
    """Check that a run can be written to the folder `out`, or go on there; nothing is made yet.

    Raises ValueError if `out` is a file, if another process is writing it, if it holds files of these names but no
    record of their run, or a run divided otherwise (unless `overwrite`), if it is to be overwritten and holds labels of
    these images that a person corrected, if an output would replace an input or lie outside, or if two outputs share a
    name.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, expected a folder for the results")
    items = list(items)
    targets = _targets(out, items, suffixes)
    check_free(out, shard)
    if overwrite:
        _check_uncorrected(out, items)
        return out
    records = record_files(out)
    if records and division(records[0].name) != (str(shard.count) if shard else ""):
        raise ValueError(f"{records[0]}: the folder holds a run that is divided otherwise; {AGAIN}")
    if not records and (there := next(filter(os.path.exists, targets), None)):
        raise ValueError(f"{there}: already there, without the record of its run; {AGAIN}")
    return out


def _check_uncorrected(out: Path, items: Iterable[Item]) -> None:
    """Raise ValueError where labels that a person corrected would come to lie over others."""
    if by_hand := [item.id for item in items if os.path.exists(out / f"{item.id}{CORRECTIONS}")]:
        raise ValueError(
            f"{out}: {len(by_hand)} of the images hold corrections, such as {by_hand[0]}{CORRECTIONS}; choose another "
            "--out, or move those files away first"
        )


def batch_of(
    items: Sequence[Item],
    out: str | Path,
    suffixes: Sequence[str],
    shard: str | None = None,
    *,
    overwrite: bool = False,
) -> Batch:
    """This process' part of the images, checked as `prepare` does. shard: "2/4", or None for all of a process' own."""
    part = choose_shard(shard)
    mine = part.take(items) if part else items
    prepare(out, mine, suffixes, overwrite=overwrite, shard=part)
    return Batch(tuple(mine), part, overwrite)


def _targets(out: Path, items: Sequence[Item], suffixes: Sequence[str]) -> list[Path]:
    """The files that will be written for the items; ValueError for two of one name, or one that is an input."""
    inputs = {os.path.realpath(item.path) for item in items}
    real = cache(os.path.realpath)  # of folders; a file that is a link is replaced, not followed
    owners: dict[str, Path] = {}
    for item in items:
        if wrong := outside(item.id):
            raise ValueError(f"{item.path}: its results cannot be named {item.id!r}: {wrong}; rename it")
        for name in (f"{item.id}{suffix}" for suffix in suffixes):
            if is_record(name):
                raise ValueError(f"{item.path}: its result {out / name} would have a record's name; rename it")
            if name in owners:
                raise ValueError(f"{item.path}: its result {out / name} is also the file of {owners[name]}; rename it")
            owners[name] = item.path
            folder, file = os.path.split(os.path.join(out, name))
            if os.path.join(real(folder), file) in inputs:
                raise ValueError(f"{out / name}: the result would replace this input image; choose another --out")
    return [out / name for name in owners]
