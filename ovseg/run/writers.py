"""Who writes a run: one process at a time, or one for each shard. Readers wait for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovseg import locks
from ovseg.run.folder import RUN_FILE, division, is_record
from ovseg.run.launch import Shard
from ovseg.run.terminal import say


@contextmanager
def writing(out: Path, shard: Shard | None) -> Iterator[None]:
    """Be the process that writes this run, or this shard of it, while this is entered; the folder is made if need be.

    Raises ValueError where another process is, or writes the run divided otherwise.
    """
    record, made = _record(shard), not out.exists()
    try:
        with locks.held(out / f".{record}.lock", _taken(out, record)) as locked:
            if not locked:
                say(f"note: {out}: its file system has no locks; let no second process write there at a time")
            _check_others(out, record)
            yield
    finally:
        if made:
            with suppress(OSError):  # it holds something, as it should
                out.rmdir()


def check_free(out: Path, shard: Shard | None) -> None:
    """Raise ValueError, as `writing` will, where another process writes this run: so that no model is loaded for it."""
    record = _record(shard)
    if locks.is_held(out / f".{record}.lock"):
        raise ValueError(_taken(out, record))
    _check_others(out, record)


def _check_others(out: Path, record: str) -> None:
    for lock in out.glob(".run*.lock"):
        other = lock.name.removeprefix(".").removesuffix(".lock")
        if is_record(other) and division(other) != division(record) and locks.is_held(lock):
            raise ValueError(_taken(out, other))


def _record(shard: Shard | None) -> str:
    return shard.file if shard else RUN_FILE


def _taken(out: Path, record: str) -> str:
    return f"{out / record}: another process is writing this run; wait until it has ended, or choose another --out"
