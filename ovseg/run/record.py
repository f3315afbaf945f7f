"""The record of a run while it is written: what is finished is found, what is done or fails is noted.

An image is finished when all its files are there: each is written whole or not at all, so a run that was killed goes
on where it stopped. The record (see `folder`) is written when the run starts, every few seconds, and when it ends; it
says "done" only of files that are on the disk by then, so that it holds after a power loss as well.
Memory does not grow with the number of images, but for a line of the record each.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg import __version__
from ovseg.files import json_bytes, remove_dead, write_atomically
from ovseg.run.bucket import Bucket
from ovseg.run.fingerprint import RECENT_SECONDS, as_written, fingerprint, is_whole
from ovseg.run.folder import (
    FORMAT,
    RUN_FILE,
    damage_of,
    differing,
    division,
    facts_of,
    is_record,
    read_record,
    record_files,
)
from ovseg.run.images import ANALYSIS, LABELS, MASKS, OVERLAY, SUMMARY
from ovseg.run.inputs import AGAIN, Item
from ovseg.run.launch import Shard
from ovseg.run.syncing import Syncing
from ovseg.run.terminal import one_line, say

if TYPE_CHECKING:
    from ovseg.run.attempt import Outcome

RECORD_SECONDS = 2.0  # the least time between two writings of the record, unless writing it is slow itself
LIBRARIES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy", "pillow")


@dataclass
class Run:
    """A run, or one shard of it, on its way."""

    out: Path
    facts: dict[str, Any]  # of this run: command, names, colours, options, models, ...
    suffixes: Sequence[str]  # the files that make an image finished
    loading_seconds: float = 0.0  # until the models were ready
    shard: Shard | None = None
    overwrite: bool = False
    bucket: Bucket | None = None  # for which `out` stands; workers send their files there by themselves
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> file, state, and seconds or error
    _due: float = 0.0  # when the record may be written again
    _syncing: Syncing = field(default_factory=Syncing)  # files of what is done, on their way to the disk

    @property
    def record(self) -> Path:
        """The file of the record."""
        return self.out / (self.shard.file if self.shard else RUN_FILE)

    def open(self, items: Sequence[Item]) -> list[Item]:
        """Take up the record there is, or begin one; returns the items that are not finished. No file is touched yet.

        Raises ValueError if the folder's records are of another run, or a result is of another file.
        """
        before, mine, since = ({}, {}, 0.0) if self.overwrite else self._earlier()
        # What earlier calls with other inputs did stays in the record.
        self.ids = {id: entry for id, entry in mine.items() if entry["state"] == "done"}
        todo = []
        again = []  # files that are no longer what they were
        for item in items:
            file, entry = str(item.path), before.get(item.id)
            there = entry is not None and self._is_there(item, entry["state"])
            bad = self._damaged(item, entry, since) if there and entry is not None else []
            again += bad
            if not there or bad or entry is None:
                self.ids[item.id] = {"file": file, "state": "pending"}
                todo.append(item)
            elif entry["file"] != file:
                raise ValueError(f"{self.out}: {item.id!r} was labelled from {entry['file']}, not {file}; {AGAIN}")
            else:  # perhaps just before a process was killed that had not yet written so into its record
                self.ids[item.id] = entry if entry["state"] == "done" else self._done(item, {"file": file})
        if again:
            say(f"done again: {len(again)} damaged file{'s' * (len(again) > 1)}, such as {one_line(str(again[0]))}")
        return todo

    def _is_there(self, item: Item, state: str) -> bool:
        """Whether all of an image's files are there. In a bucket the record must say so, too: it is sent after them."""
        if self.bucket is None:
            return state != "damaged" and all(map(os.path.exists, self._files(item)))
        return state == "done" and all(f"{item.id}{suffix}" in self.bucket.names for suffix in self.suffixes)

    def _damaged(self, item: Item, entry: Mapping[str, Any], since: float) -> list[Path]:
        """An image's files that are there, but not whole. One that was changed, but is whole, is somebody's own."""
        if self.bucket is not None:
            return []  # an object is whole or not there
        recorded = entry.get("files") or {}
        known = entry["state"] == "done"
        return [
            path
            for suffix, path in zip(self.suffixes, self._files(item), strict=True)
            if not (known and as_written(path, recorded.get(suffix), since)) and not is_whole(path)
        ]

    def _done(self, item: Item, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry of an image that is done; the record will say so when its files are on the disk."""
        files = {end: file for end, file in zip(self.suffixes, self._files(item), strict=True) if file.exists()}
        self._syncing.add(files.values())
        return entry | {"state": "done", "files": {end: fingerprint(file) for end, file in files.items()}}

    @contextmanager
    def recording(self, todo: Sequence[Item]) -> Iterator[None]:
        """Write the record now and at the end of the block; in between, `note` does now and then.

        todo: what `open` returned; what is to be overwritten, or was left half-written, of these is removed first.
        """
        if self.overwrite:
            self.ids = self._replace(todo) | self.ids
        self._sweep(todo)
        self._write()
        try:
            yield
        finally:
            self._write()

    def note(self, outcome: Outcome) -> None:
        """Take up what came of an image."""
        entry = self.ids[outcome.item.id]
        if outcome.error is None:
            entry |= self._done(outcome.item, {"seconds": round(outcome.seconds, 3)})
        else:
            entry |= {"state": "failed", "error": outcome.error}
        if time.monotonic() >= self._due:
            self._write()

    def _earlier(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], float]:
        """The ids that the folder's records hold, those of this shard's, and from when on files may not have been on
        the disk when the records were; ValueError for one of another run.

        All shards' count, because images that are added move others to another shard.
        """
        paths = record_files(self.out)
        since = min((path.stat().st_mtime for path in paths), default=0.0) - RECENT_SECONDS
        records = {path: read_record(path) for path in paths}
        for error in (error for record in records.values() for error in damage_of(record)):
            say(f"done again, if it is among the images: {one_line(error)}")
        for path, record in list(records.items()):
            if not (found := differing(facts_of(record), self.facts)):
                continue
            if any(entry["state"] == "done" for entry in record["ids"].values()):
                raise ValueError(f"{path} was made with other settings ({'; '.join(found)}); {AGAIN}")
            del records[path]  # nothing came of it, so nothing hangs on its settings
        every = {id: entry for record in records.values() for id, entry in record["ids"].items()}
        return every, records[self.record]["ids"] if self.record in records else {}, since

    def _replace(self, items: Iterable[Item]) -> dict[str, dict[str, Any]]:
        """Remove the records that are overwritten and the files of these images; returns what they hold of others.

        Nothing, and said, if by other settings, or if a shard replaces a run that was divided otherwise: it does not
        know which of those images the other shards are asked for.
        """
        asked, lost = {item.id for item in items}, 0
        known: set[str] = set()
        others: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in self.out.iterdir() if is_record(path.name)) if self.out.is_dir() else ():
            divided_otherwise = division(path.name) != division(self.record.name)
            if path != self.record and not divided_otherwise:
                continue  # another shard's
            try:
                record = read_record(path)
            except (OSError, ValueError):
                record = {"ids": {}}
            known |= record["ids"].keys()
            found = {id: entry for id, entry in record["ids"].items() if id not in asked and entry["state"] == "done"}
            if found and (differing(facts_of(record), self.facts) or self.shard and divided_otherwise):
                lost += len(found)
            else:
                others |= found
            path.unlink(missing_ok=True)  # another shard may have done it
        if lost:
            say(
                f"{self.out}: {lost} results of other images, by other settings or parts, are no longer part of the run"
            )
        self._clear(items, known)
        return others

    def _sweep(self, items: Iterable[Item]) -> None:
        """Remove what a killed process left half-written of these items and of the record."""
        files = {self.record, *(file for item in items for file in self._files(item))}
        for path in self.out.rglob(".*.tmp"):
            match = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name, re.DOTALL)
            if match and path.with_name(match[1]) in files:
                remove_dead(path)

    def _clear(self, items: Iterable[Item], known: set[str]) -> None:
        """Remove what is to be replaced: this command's files, and those of another that `known` ids have.

        The records are gone by then, so that no old file passes for a finished one.
        """
        for item in items:
            endings = {*self.suffixes, LABELS, MASKS, OVERLAY, SUMMARY} if item.id in known else set(self.suffixes)
            for ending in endings - {ANALYSIS}:  # a kept analysis is checked before it is used
                if os.path.exists(file := self.out / f"{item.id}{ending}"):
                    file.unlink()

    def _files(self, item: Item) -> list[Path]:
        return [self.out / f"{item.id}{suffix}" for suffix in self.suffixes]

    def _write(self) -> None:
        """Write the record, whole or not at all."""
        start = time.monotonic()
        self._syncing.wait()
        seconds = sum(entry.get("seconds") or 0.0 for entry in self.ids.values())
        content = {
            "format": FORMAT,
            **self.facts,
            "shard": [self.shard.number, self.shard.count] if self.shard else None,
            "versions": _versions(),
            "timings": {"loading_seconds": round(self.loading_seconds, 3), "image_seconds": round(seconds, 3)},
            "ids": self.ids,
        }
        write_atomically(self.record, json_bytes(content))
        if self.bucket is not None:
            self.bucket.put_record(self.record)
        end = time.monotonic()
        self._due = end + max(RECORD_SECONDS, 50 * (end - start))


@cache
def _versions() -> dict[str, str]:
    own = {"ovseg": __version__, "python": platform.python_version()}
    return own | {library: version(library) for library in LIBRARIES}
