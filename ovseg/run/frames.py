"""Frames of videos and of animated images, one after the other: only the frame at hand is in memory.

A record names a frame as a picture by its scheme, `video:/data/clip.mp4#frame=120`; frames count from 0 as they are
decoded. Videos are decoded by PyAV (the extra `video`), animated GIF, WebP and PNG by Pillow. To go back means to
decode from the beginning, so that those who read frames do it in their order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from ovseg.images import MAX_PIXELS, TOO_LARGE, VIDEOS, as_image

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}  # -> the format that Pillow calls so
# A record may be anyone's: what only refers to other files or addresses, as playlists do, is not followed.
OPENING = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg", "protocol_whitelist": "file"}
SOME_RATE = Fraction(10)  # frames a second, of an animation that does not say
DIGITS = 6  # of a frame's number in an id, at least
MARK = "#frame="

Frame = Callable[[], np.ndarray]  # converts a decoded frame to (H, W, 3) uint8


def is_video(given: str) -> bool:
    """Whether an input is a file with frames to take apart: a video by its ending, an image with several frames."""
    path = Path(given)
    suffix = path.suffix.lower()
    if not path.is_file():
        return False
    return suffix in VIDEOS or (suffix in ANIMATED and _frames_of_image(path) > 1)


def frames_in(path: Path, every: int) -> Iterator[tuple[str, Path]]:
    """Every such frame of a video: its number in digits, and the picture as a record has it.

    Frames are counted by decoding all. Where that breaks off, one more frame stands for the rest, to be reported when
    its turn comes. Raises ValueError, naming the file, for one that cannot be opened or holds no frame.
    """
    count, broken = 0, False
    try:
        for _ in _decoded(path):
            count += 1
    except ValueError:
        if not count:
            raise
        broken = True
    if not count:
        raise ValueError(f"{path}: holds no frames")
    numbers = list(range(0, count, every))
    numbers += [numbers[-1] + every] if broken else []
    yield from ((f"{number:0{DIGITS}}", Path(f"video:{path}{MARK}{number}")) for number in numbers)


def split_name(name: str) -> tuple[Path, int]:
    """The file and the number of a frame, "/data/clip.mp4#frame=120". Raises ValueError for another kind of name."""
    path, _, number = name.rpartition(MARK)
    if not path or not (number.isascii() and number.isdecimal()):
        raise ValueError(f"{name}: expected PATH{MARK}NUMBER")
    return Path(path), int(number)


def video(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the frame PATH#frame=NUMBER. Raises ValueError where there is none, or it cannot be decoded."""
    path, number = split_name(name)
    with _LOCK:
        return _READING.frame(path, number)


def rate(path: Path) -> Fraction:
    """Frames a second. Raises ValueError as `frames_in`."""
    if path.suffix.lower() in ANIMATED:
        with Image.open(path) as picture:
            milliseconds = picture.info.get("duration") or 0
        return Fraction(1000, max(1, round(milliseconds))) if milliseconds else SOME_RATE
    with path.open("rb") as file, _opened(path, file) as container:
        return container.streams.video[0].average_rate or SOME_RATE


@dataclass
class _Reading:
    """A file that is being decoded, and the last frame that was asked for."""

    path: Path | None = None
    stamp: tuple[int, int] = (0, 0)  # the file's time and size when it was opened
    frames: Iterator[Frame] = field(default_factory=lambda: iter(()))
    next: int = 0
    number: int = -1  # of the frame that is kept
    kept: np.ndarray | None = None
    error: ValueError | None = None  # why nothing from frame `next` on can be had

    def frame(self, path: Path, number: int) -> np.ndarray:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        facts = path.stat()
        stamp = facts.st_mtime_ns, facts.st_size
        same = (self.path, self.stamp) == (path, stamp)
        if not same or (number < self.next and number != self.number):
            self.__init__(path, stamp, _decoded(path))  # type: ignore[misc]
        if number != self.number or self.kept is None:
            self._go_to(number)
        assert self.kept is not None
        return self.kept.copy()

    def _go_to(self, number: int) -> None:
        while self.error is None:
            self.next += 1
            try:
                frame = next(self.frames)
                if self.next > number:
                    self.kept, self.number = frame(), number
                    return
            except StopIteration:
                self.error = ValueError(f"{self.path}: has no frame {number}, only {self.next - 1}")
            except ValueError as error:
                self.error = error
        raise ValueError(str(self.error))


_READING = _Reading()
_LOCK = Lock()


def _decoded(path: Path) -> Iterator[Frame]:
    """The frames of a file in their order, each to be converted before the next is asked for. Raises ValueError."""
    return _of_image(path) if path.suffix.lower() in ANIMATED else _of_video(path)


def _of_video(path: Path) -> Iterator[Frame]:
    if path.suffix.lower() not in VIDEOS:
        raise ValueError(f"{path}: expected a video ({', '.join(VIDEOS)})")
    number = 0
    with path.open("rb") as file, _opened(path, file) as container:
        broken = _errors()
        try:
            for frame in container.decode(video=0):
                yield lambda frame=frame: _upright(frame)  # type: ignore[misc]
                number += 1
        except broken as error:
            raise ValueError(f"{path}: cannot be decoded from frame {number} on ({_line(error)})") from error


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8, turned as the file says it is to be shown."""
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"a video's frame of {frame.width} x {frame.height} pixels; {TOO_LARGE}")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90)))


def _opened(path: Path, file: Any) -> Any:
    av = _av(path)
    try:
        container = av.open(file, options=OPENING)
    except _errors() as error:
        raise ValueError(f"{path}: not a video that can be read ({_line(error)})") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: holds no frames")
    return container


def _av(path: Path) -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise ValueError(f"{path}: needs PyAV, not installed here: pip install 'ovseg[video]'") from error


def _errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for files that are damaged or none: its own, and some that Python has."""
    return (import_module("av.error").FFmpegError, OSError, ValueError)


def _of_image(path: Path) -> Iterator[Frame]:
    number = 0
    with _animation(path) as picture:
        for number in range(picture.n_frames):
            try:
                picture.seek(number)
                picture.load()
            except (OSError, SyntaxError, ValueError, EOFError) as error:
                raise ValueError(f"{path}: cannot be decoded from frame {number} on ({_line(error)})") from error
            yield lambda: as_image(picture)


def _animation(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path, formats=(ANIMATED[path.suffix.lower()],))


def _frames_of_image(path: Path) -> int:
    """How many frames an image has; 0 where it cannot be told, which is reported when it is read as an image."""
    try:
        with _animation(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
