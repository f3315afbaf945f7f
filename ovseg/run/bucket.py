"""A run folder in an object store: fetched file by file where it is read, filled image by image where it is written.

    s3://bucket/run    gs://bucket/run    and what else fsspec has a writer for

A local folder stands for it while a command runs; what it holds is removed when the command ends. An object is whole
or not there, so no store holds half a file. A store has no locks: who begins to write leaves a sign, which is told to
those who come later, and stops where the record was written by somebody else meanwhile. Two writers cost work done
twice and never a wrong file, as both write the same bytes.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from ovseg.run.terminal import STAGED, one_line, say

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")
PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*:/*[^/@]*:[^/]*@")
SECRET = "a user and a password in an address would be shown and recorded; give them as the store's own settings"
MOST_FETCHED = 64  # files of a run that is read that stay on this disk at a time
MOST_SIGN = 400  # characters of another's sign that are shown


def is_bucket(place: str | Path) -> bool:
    """Whether a place is an address, "s3://bucket/run", and no path."""
    return isinstance(place, str) and ADDRESS.match(place) is not None


def holds_password(url: str) -> bool:
    """Whether an address, or the picture of one, has a user and a password in it: s3://user:password@host/run."""
    return PASSWORD.match(url) is not None


def open_store(url: str) -> tuple[Any, str]:
    """fsspec's store of an address, and the place there. Raises ValueError where one or its package is missing, and
    for an address that leads through another, s3://bucket/a::file:///b."""
    if holds_password(url):
        raise ValueError(f"{url.partition(':')[0]}://...: {SECRET}")
    if "::" in url:
        raise ValueError(f"{url}: expected one address, without ::")
    try:
        store, path = import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {reason(error)}: pip install 'ovseg[stores]'") from error
    except Exception as error:  # a scheme that it does not know, or a store that wants more than an address
        raise ValueError(f"{url}: {reason(error)}; expected an address such as s3://bucket/folder") from error
    return store, path


def reason(error: BaseException) -> str:
    """What an error of a store says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def telling(url: str, what: str) -> Iterator[None]:
    """Errors of a store, of network, name and permission, as a ValueError: "URL: cannot be read (...)"."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{url}: cannot be {what} ({reason(error)})") from error


class Bucket:
    """A run folder in a store. url: its address; folder: what stands for it here, empty at first.

    Raises ValueError for an address without a place for a run, or of a store that is not known or takes no files.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self.url = url.rstrip("/")
        if scheme in ("http", "https") or not rest.strip("/") or {".", ".."} & {*re.split(r"[/\\]", rest)}:
            raise ValueError(f"{url}: expected a folder of a store, such as s3://bucket/run, for a run")
        self._store, root = open_store(self.url)
        self._root = root.rstrip("/")
        self._temporary = tempfile.TemporaryDirectory(prefix=STAGED, ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name, scheme, *filter(None, rest.split("/")))
        self._fetched: list[Path] = []
        self._written: str | None = None  # the state of the record as it was written from here

    def __str__(self) -> str:
        return self.url

    @cached_property
    def names(self) -> set[str]:
        """What lies there, "sub/a.png", listed once. Raises ValueError where it cannot be."""
        with telling(self.url, "listed"):
            self._store.invalidate_cache()
            paths = self._store.find(self._root)
        below = f"{self._root}/"
        return {path.removeprefix(below) for path in paths if path.startswith(below)}

    def fetch(self, name: str, *, keep: bool = False) -> Path:
        """The local file of an object, fetched if it was there when it was listed; the older ones are removed, but for
        those to keep. Raises ValueError where it cannot be fetched."""
        path = self.folder / name
        if name in self.names and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")  # so that what is cut short is not taken for the file
            with telling(f"{self.url}/{name}", "fetched"):
                self._store.get_file(f"{self._root}/{name}", str(part))
                os.replace(part, path)
            if not keep:
                self._fetched.append(path)
            for old in self._fetched[:-MOST_FETCHED]:
                old.unlink(missing_ok=True)
            self._fetched = self._fetched[-MOST_FETCHED:]
        return path

    def put(self, files: Sequence[Path]) -> None:
        """Write files of `folder` to their places, several at a time. Raises ValueError where one cannot be."""
        names = [path.relative_to(self.folder).as_posix() for path in files]
        with telling(f"{self.url}/{names[0]}" if names else self.url, "written"):
            self._store.put(list(map(str, files)), [f"{self._root}/{name}" for name in names])

    def put_record(self, path: Path) -> None:
        """Write a run's record. Raises ValueError where somebody else has written it since this process did."""
        where = f"{self._root}/{path.name}"
        if self._written is not None and self._state(where) != self._written:
            raise ValueError(
                f"{self.url}/{path.name}: another process is writing this run, so that this one stops; what it did "
                "is there: start it again when the other has ended"
            )
        self.put([path])
        self._written = self._state(where)

    def _state(self, where: str) -> str:
        """What tells one content of an object from another."""
        with telling(self.url, "read"):
            self._store.invalidate_cache()
            return str(self._store.ukey(where))

    @contextmanager
    def announced(self, record: str) -> Iterator[None]:
        """Have a sign there that this process writes, which shows beforehand that it can; tell of another's.

        Raises ValueError where nothing can be written.
        """
        name = f".{record}.lock"
        if name in self.names:
            with telling(f"{self.url}/{name}", "fetched"):
                whose = one_line(self._store.cat_file(f"{self._root}/{name}")[:MOST_SIGN].decode("utf-8", "replace"))
            say(
                f"note: {self.url}: {whose}, and has not said that it ended; a store has no locks: if it still runs, "
                "stop it"
            )
        when = datetime.now(UTC).isoformat(" ", "seconds")
        sign = f"process {os.getpid()} of {socket.gethostname()} began to write {record} at {when}"
        with telling(self.url, "written"):
            self._store.pipe_file(f"{self._root}/{name}", sign.encode())
        try:
            yield
        finally:
            with suppress(Exception):  # then it is told to the next one
                self._store.rm_file(f"{self._root}/{name}")
