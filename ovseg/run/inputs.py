"""Which images a run is about, and whether their results have a place: files and folders become items with ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from ovseg.images import IMAGE_SUFFIXES
from ovseg.run.bucket import Bucket
from ovseg.run.corrections import CORRECTIONS
from ovseg.run.decoded import is_video
from ovseg.run.finding import MOST_SHOWN, STDIN, LeftOut, images_below, is_list, is_pattern, listed, matching
from ovseg.run.folder import division, is_record, record_files
from ovseg.run.frames import frames_in
from ovseg.run.launch import Shard, choose_shard, launched
from ovseg.run.packed import images_in, is_archive
from ovseg.run.schema import outside
from ovseg.run.stores import images_at, is_url
from ovseg.run.writers import check_free

AGAIN = "choose another --out, or --overwrite to replace it"


@dataclass(frozen=True)
class Item:
    """One image of a run. Its id is a path with "/" between its parts; see `collect`."""

    id: str
    path: Path  # absolute, where it is a file; else a picture by its scheme, "s3:bucket/a.jpg" (see `pictures`)


@dataclass(frozen=True)
class Batch:
    """The images of a run, or of one shard of it, whose results have a checked place.

    overwrite: replace what the run folder holds of them, instead of going on there. bucket: where the run folder lies,
    if on no disk; the job's folder stands for it here.
    """

    items: tuple[Item, ...]
    shard: Shard | None = None
    overwrite: bool = False
    bucket: Bucket | None = None


def collect(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    tell: Callable[[str], None] | None = None,
    every: int | None = None,
) -> list[Item]:
    """The images of a run: files as they are, folders with all images below them, patterns, lists of paths, addresses
    in stores (see `stores`), and archives (`packed`).

    An id is the path below the folder, or below a pattern's fixed part, or as a list has it, without the ending; where
    two images would share one, as `a.jpg` and `a.png` would, theirs keep the ending, and the folder's name if need be.
    Not in hidden folders, in `out`, or in run folders below an input (see `finding`); `tell` gets a line for each
    reason that something is left out. every: such frames of videos and animations that are given by name; None: they
    are taken for images. Bytes of a name that are no UTF-8 stand in its id as backslash escapes.
    Raises ValueError for an input that is not there, that is a run folder or `out`, one without images, and images
    that share an id all the same, OSError for a folder or list that cannot be read.
    """
    left_out = LeftOut()
    taken = [one for given in inputs for one in _images_of(str(given), out, left_out, every)]
    items = _distinct(taken, tell or (lambda line: None))
    if tell:
        left_out.tell(tell)
    return items


@dataclass(frozen=True)
class _Taken:
    """An image with the names that it may have as an id, the one to be preferred first."""

    names: tuple[str, ...]
    path: Path
    clip: Path | None = None  # the video that it is a frame of: all of one have the same kind of name


def _images_of(given: str, out: str | Path, left_out: LeftOut, every: int | None) -> Iterator[_Taken]:
    """The images of one input."""
    skipped = os.path.realpath(out)
    if every is not None and is_video(given):
        yield from _frames_of(Path(os.path.abspath(given)), every)
        return
    if is_url(given):
        yield from (_taken(name, path, "") for name, path in images_at(given, left_out))
        return
    if is_archive(given):
        place = Path(os.path.abspath(given))
        yield from (_taken(name, path, place.stem) for name, path in images_in(place, left_out))
        return
    if is_list(given):
        if given == STDIN and launched():
            raise ValueError(f"{STDIN}: standard input reaches one process alone; give a file of paths instead")
        for written, path in listed(given):
            yield _taken(written, path, "list")
        return
    if is_pattern(given):
        root, paths = matching(given, skipped, left_out)
        yield from (_taken(path.relative_to(root), path, root.name) for path in paths)
        return
    place = Path(os.path.abspath(given))
    if os.path.realpath(place) == skipped:
        raise ValueError(f"out: {out}: is also an input; choose another folder for the results")
    if place.is_dir():
        if records := record_files(place):
            raise ValueError(f"{place}: is a run's results (it holds {records[0].name}); give the folder of images")
        paths = images_below(place, skipped, left_out)
        if not paths:
            unread = "; ".join(f"{len(files)} left out, {why}" for why, files in left_out.reasons.items())
            looked = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"{place}: no images in this folder (looked for {looked}{'; ' if unread else ''}{unread})")
        yield from (_taken(path.relative_to(place), path, place.name) for path in paths)
    elif place.exists():
        yield _taken(PurePath(place.name), place, place.parent.name)
    else:
        raise ValueError(f"{place}: no such file or folder")


def _frames_of(clip: Path, every: int) -> Iterator[_Taken]:
    stem = clip.stem if clip.stem.strip(".") else clip.name  # "..mp4" has no other
    for number, path in frames_in(clip, every):
        names = (
            PurePath(stem, number),
            PurePath(clip.name, number),
            PurePath(clip.parent.name, clip.name, number),
        )
        yield _Taken(tuple(map(_name, names)), path, clip)


def _taken(name: PurePath, path: Path, origin: str) -> _Taken:
    names = (name.with_suffix(""), name, PurePath(origin, name))
    return _Taken(tuple(map(_name, names)), path)


def _name(path: PurePath) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _distinct(taken: Sequence[_Taken], tell: Callable[[str], None]) -> list[Item]:
    """Items with an id each. Raises ValueError, naming all, for different files that cannot be told apart by one."""
    level: dict[_Taken, int] = dict.fromkeys(taken, 0)
    for last in (False, False, True):
        groups: dict[str, list[_Taken]] = {}
        for one, step in level.items():
            groups.setdefault(one.names[step], []).append(one)
        shared = {id: group for id, group in groups.items() if len({os.path.realpath(one.path) for one in group}) > 1}
        if not shared:
            break
        if last:
            pairs = ", ".join(f"{one.path} and {other.path}" for one, other, *_ in list(shared.values())[:MOST_SHOWN])
            raise ValueError(f"{len(shared)} ids are of two files each: {pairs}; rename one of each, or run them apart")
        clashing = {one for group in shared.values() for one in group}
        clips = {one.clip for one in clashing} - {None}
        level |= {one: level[one] + 1 for one in level if one in clashing or one.clip in clips}
    if longer := sorted(one.names[step] for one, step in level.items() if step):
        tell(f"note: {len(longer)} images share their names with others; their ids are longer, such as {longer[0]!r}")
    items: dict[str, Item] = {}
    for one, step in level.items():
        items.setdefault(one.names[step], Item(one.names[step], one.path))
    return list(items.values())


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
    bucket: Bucket | None = None,
) -> Batch:
    """This process' part of the images, checked as `prepare` does. shard: "2/4", or None for all of a process' own.
    bucket: that for which `out` stands, its records fetched."""
    part = choose_shard(shard)
    mine = part.take(items) if part else items
    prepare(out, mine, suffixes, overwrite=overwrite, shard=part)
    if bucket is not None and not record_files(Path(out)):
        for name in (f"{item.id}{suffix}" for item in mine for suffix in suffixes):
            if name in bucket.names:
                raise ValueError(f"{bucket}/{name}: already there, without the record of its run; choose another --out")
    return Batch(tuple(mine), part, overwrite, bucket)


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
