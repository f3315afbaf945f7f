"""`ovseg.locks` as Windows loads it, over a stand-in for msvcrt and for how Windows treats open files.

A lock of msvcrt is of bytes from where the file is read next, belongs to one opening of the file, and ends with it; a
file that is open cannot be removed. Locks are flock's underneath, so that other processes count.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

from ovseg import locks

opened: dict[int, Path] = {}  # descriptor -> the file, of those that are open
locked: set[int] = set()


def locking(descriptor: int, mode: int, count: int) -> None:
    assert (mode, count, os.lseek(descriptor, 0, os.SEEK_CUR)) == (2, 1, 0), "other bytes would be locked"
    try:
        if descriptor in locked:  # Windows refuses its own lock once more, flock does not
            raise BlockingIOError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error
    locked.add(descriptor)


def open_file(path: Path, flags: int, mode: int = 0o777) -> int:
    descriptor = os.open(path, flags, mode)
    opened[descriptor] = Path(path)
    return descriptor


def close_file(descriptor: int) -> None:
    opened.pop(descriptor, None)
    locked.discard(descriptor)
    os.close(descriptor)


class WindowsPath(type(Path())):  # type: ignore[misc]
    def unlink(self, missing_ok: bool = False) -> None:
        if any(path == self for path in opened.values()):
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(self))
        super().unlink(missing_ok)


def as_windows() -> Any:
    """A copy of the module, loaded as on Windows."""
    spec = importlib.util.spec_from_file_location("windows_locks_of_ovseg", locks.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    kept, given = sys.platform, sys.modules.get("msvcrt")
    sys.platform, sys.modules["msvcrt"] = "win32", types.SimpleNamespace(LK_NBLCK=2, locking=locking)  # type: ignore
    try:
        spec.loader.exec_module(module)
    finally:
        sys.platform = kept
        del sys.modules["msvcrt"]
        if given is not None:
            sys.modules["msvcrt"] = given
    module.sys = types.SimpleNamespace(platform="win32")  # type: ignore[attr-defined]
    module.os = types.SimpleNamespace(**{**vars(os), "open": open_file, "close": close_file})  # type: ignore[attr-defined]
    return module
