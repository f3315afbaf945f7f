"""Who may write: locks of the operating system, which end with the process that holds them, however it ends.

A lock is an empty file beside what it guards; it is there while it is held (or where a process was killed, after which
it means nothing). Readers take none and wait for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # what file systems say that have none

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file; whether it could be, as nobody else has it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                raise
            return False
        return True
else:
    import fcntl

    def _try(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file; whether it could be, as nobody else has it. shared: others may share it."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


class Taken(ValueError):
    """Another process has the lock."""


@contextlib.contextmanager
def held(lock: Path, message: str) -> Iterator[bool]:
    """Hold a lock while this is entered, making its folder if need be; yields False where the file system has none.

    Raises `Taken` with the message where another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = -1
    locked: bool | None = False
    try:
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            if not (locked := _lock(descriptor)) and locked is not None:
                raise Taken(message)
            if _leads_to(lock, descriptor):
                break
            os.close(descriptor)  # the one who had it has removed it in between: make another
            descriptor = -1
        yield locked is True
    finally:
        if descriptor >= 0:
            _release(lock, descriptor, mine=locked is not False)


def _lock(descriptor: int) -> bool | None:
    """Whether the open file is locked now; None where the file system has no locks."""
    try:
        return _try(descriptor)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return None


def _release(lock: Path, descriptor: int, *, mine: bool) -> None:
    """Close the file, and remove it where it is ours; on Windows, where only a closed file can be, after that."""
    if sys.platform == "win32":
        os.close(descriptor)
    if mine:
        with contextlib.suppress(OSError):
            lock.unlink()
    if sys.platform != "win32":
        os.close(descriptor)


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process holds this lock, or has this file open for writing as `keep` does, at this moment."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:  # on Windows a file that is open, elsewhere another user's
        return True
    try:
        return not _try(descriptor, shared=True)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)


def keep(descriptor: int) -> None:
    """Lock a file that this process has just opened to write, until it is closed, so that others see that it lives."""
    with contextlib.suppress(OSError):  # a file system without locks
        _try(descriptor)
