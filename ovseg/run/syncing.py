"""Results on the disk before a record says so, while the work goes on: a power loss then leaves no record that lies."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ovseg.files import sync_file, sync_folder

THREADS = 4  # an image's files at a time, which a file system takes together


class Syncing:
    """Files on their way to the disk."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "sync")
        self._files: list[Future[None]] = []
        self._folders: set[Path] = set()

    def add(self, paths: Iterable[Path]) -> None:
        """Begin to have these files on the disk; returns at once."""
        for path in paths:
            self._files.append(self._pool.submit(sync_file, path))
            self._folders.add(path.parent)

    def wait(self) -> None:
        """Return when all that was added is on the disk, names included. Raises the OSError of a file that is not."""
        files, self._files = self._files, []
        for file in files:
            file.result()
        for folder in self._folders:
            sync_folder(folder)
        self._folders.clear()


def have_on_disk(paths: Iterable[Path]) -> None:
    """Return when all these files are on the disk, names included. Raises the OSError of one that is not."""
    syncing = Syncing()
    syncing.add(paths)
    syncing.wait()
