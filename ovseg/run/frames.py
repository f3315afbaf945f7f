"""Frames of videos as images of a run: their names and ids, and the frame of a name.

A record names a frame as a picture by its scheme, `video:/data/clip.mp4#frame=120`. Frames are decoded one after the
other (`decoded`); to go back means to decode from the beginning, so that those who read frames do it in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from ovseg.run.decoded import Frame, decoded

if TYPE_CHECKING:
    from ovseg.run.inputs import Item

SCHEME = "video"
MARK = "#frame="
DIGITS = 6  # of a frame's number in an id, at least
LONGEST = 300  # characters of a name that a message shows


def frames_in(path: Path, every: int) -> Iterator[tuple[str, Path]]:
    """Every such frame of a video: its number in digits, and the picture as a record has it.

    Frames are counted by decoding all. Where the rest cannot be read, one more frame stands for it, to be reported when
    its turn comes. Raises ValueError, naming the file, for one that cannot be opened or holds no frame.
    """
    count, broken = 0, False
    try:
        for _ in decoded(path):
            count += 1
    except ValueError:
        if not count:
            raise
        broken = True
    if not count:
        raise ValueError(f"{path}: holds no frames")
    numbers = list(range(0, count, every))
    numbers += [numbers[-1] + every] if broken else []
    yield from ((digits(number), Path(f"{SCHEME}:{path}{MARK}{number}")) for number in numbers)


def digits(number: int) -> str:
    """A frame's number as ids have it."""
    return f"{number:0{DIGITS}}"


def split_name(name: str) -> tuple[Path, int]:
    """The file and the number of a frame, "/data/clip.mp4#frame=120". Raises ValueError for another kind of name."""
    path, _, number = name.rpartition(MARK)
    if not path or not re.fullmatch(r"[0-9]{1,18}", number):
        raise ValueError(f"{name[:LONGEST]}: expected PATH{MARK}NUMBER")
    return Path(path), int(number)


def is_frame(item: Item) -> bool:
    """Whether an item is a frame of a video."""
    return not item.path.is_absolute() and str(item.path).startswith(f"{SCHEME}:")


def place_of(item: Item) -> tuple[Path, int]:
    """The video that a frame is of, and its number there."""
    return split_name(str(item.path).removeprefix(f"{SCHEME}:"))


def clips(items: Sequence[Item]) -> dict[Path, list[Item]]:
    """Frames by their video."""
    found: dict[Path, list[Item]] = {}
    for item in items:
        found.setdefault(place_of(item)[0], []).append(item)
    return found


def video(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the frame PATH#frame=NUMBER. Raises ValueError where there is none, or it cannot be decoded."""
    path, number = split_name(name)
    with _LOCK:
        return _reading(path, number).frame(number)


@dataclass
class _Reading:
    """A file that is being decoded, and the last frame that was asked for."""

    path: Path
    stamp: tuple[int, int]  # the file's time and size when it was opened
    frames: Iterator[Frame]
    next: int = 0
    kept: tuple[int, np.ndarray] | None = None  # its number, and the frame

    def has(self, number: int) -> bool:
        """Whether a frame is at hand or still to come."""
        return number >= self.next or (self.kept is not None and self.kept[0] == number)

    def frame(self, number: int) -> np.ndarray:
        while self.kept is None or self.kept[0] != number:
            try:
                decoded_frame = next(self.frames, None)
            except ValueError:
                _OPEN.clear()  # what is read next is read from the beginning
                raise
            if decoded_frame is None:
                raise ValueError(f"{self.path}: has no frame {number}, only {self.next}")
            self.next += 1
            if self.next > number:
                self.kept = number, decoded_frame()
        return self.kept[1].copy()


_LOCK = Lock()
_OPEN: list[_Reading] = []  # the one that was used last


def _reading(path: Path, number: int) -> _Reading:
    """A reading of a file that has this frame at hand or before it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    facts = path.stat()
    stamp = facts.st_mtime_ns, facts.st_size
    if not (_OPEN and (_OPEN[0].path, _OPEN[0].stamp) == (path, stamp) and _OPEN[0].has(number)):
        _OPEN[:] = [_Reading(path, stamp, decoded(path))]
    return _OPEN[0]
