"""Images that come by the page: written beside the run's results while they arrive, kept only if they are images."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

from ovseg.app.session import Session
from ovseg.images import IMAGE_SUFFIXES, read_size
from ovseg.run.inputs import Item
from ovseg.run.schema import outside

MOST_UPLOAD = 100_000_000  # bytes of one image
MOST_UPLOADS = 20_000_000_000  # bytes of all that a session takes
MOST_FILES = 100_000
MOST_PART = 200  # bytes of a folder's or a file's name


class TooLarge(ValueError):
    """More than an upload may have."""


class Uploads:
    """Takes a session's uploads. They are counted, so that a page that runs wild does not fill the disk."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.bytes = self.files = 0

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> str:
        """Write a file as it arrives and, if it is an image, add it to the session; returns its id.

        name: as the page has it, a path with "/" below a folder that was dropped. Raises `TooLarge` as soon as it is,
        ValueError for a name that leads elsewhere or a file that is no image, OSError where it cannot be written.
        """
        parts = safe_parts(name)
        if self.files >= MOST_FILES:
            raise TooLarge(f"expected at most {MOST_FILES} images")
        folder = self.session.uploads
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{secrets.token_hex(8)}.upload"
        size = 0
        try:
            with temporary.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    self.bytes += len(chunk)
                    if size > MOST_UPLOAD:
                        raise TooLarge(f"{name}: expected at most {MOST_UPLOAD // 10**6} MB")
                    if self.bytes > MOST_UPLOADS:
                        raise TooLarge(f"expected at most {MOST_UPLOADS // 10**9} GB in all")
                    await asyncio.to_thread(file.write, chunk)
            return await asyncio.to_thread(self._add, parts, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _add(self, parts: list[str], temporary: Path) -> str:
        try:
            read_size(temporary)
        except ValueError as error:
            reason = str(error).replace(str(temporary), parts[-1])
            raise ValueError(reason) from None
        with self.session.lock:
            *folders, last = parts
            stem, suffix = os.path.splitext(last)
            number = 1
            while True:
                tail = "" if number == 1 else f"-{number}"
                path = self.session.uploads.joinpath(*folders, f"{stem}{tail}{suffix}")
                id = "/".join([*folders, f"{stem}{tail}"])
                if id not in self.session.items and not path.exists():
                    break
                number += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
            self.files += 1
            self.session.add(Item(id, Path(os.path.abspath(path))))
        return id


def safe_parts(name: str) -> list[str]:
    """A path from a page in parts that stay below their folder, on any system.

    Raises ValueError for one that is absolute, leads upwards, is hidden, or has another ending than an image's.
    """
    parts = re.split(r"[/\\]", unicodedata.normalize("NFC", name))
    for part in parts:
        if not part or part[0] == "." or part[-1] in ". " or len(part.encode("utf-8", "replace")) > MOST_PART:
            raise ValueError(f"name: expected a path of names that are not hidden, got {name[:80]!r}")
        if any(unicodedata.category(letter)[0] == "C" or letter in ':"|?*' for letter in part):
            raise ValueError(f"name: holds a character that file names cannot have, {name[:80]!r}")
    if wrong := outside("/".join(parts)) or (len(parts) > 20 and "too many folders"):
        raise ValueError(f"name: {wrong}")
    if os.path.splitext(parts[-1])[1].lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{parts[-1]}: expected an image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return parts
