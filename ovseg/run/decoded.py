"""Videos and animated images decoded frame by frame: only the frame at hand is in memory.

Videos are decoded by PyAV (the extra `video`), animated GIF, WebP and PNG by Pillow. Frames count from 0 as they are
decoded, however long each is shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.images import MAX_PIXELS, TOO_LARGE, VIDEOS, as_image

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}  # -> the format that Pillow calls so
# A record may be anyone's: what only refers to other files or addresses, as playlists do, is not followed.
OPENING = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg", "protocol_whitelist": "file"}
SOME_RATE = Fraction(10)  # frames a second, of a file that does not say

# Converts a decoded frame to (H, W, 3) uint8, upright, before the next one is asked for; ValueError for a damaged one.
Frame = Callable[[], np.ndarray]


def is_video(given: str) -> bool:
    """Whether an input is a file with frames to take apart: a video by its ending, an image with several frames."""
    path = Path(given)
    suffix = path.suffix.lower()
    if not path.is_file():
        return False
    return suffix in VIDEOS or (suffix in ANIMATED and _frames_of_image(path) > 1)


def decoded(path: Path) -> Iterator[Frame]:
    """The frames of a file in their order; a damaged one counts. Raises ValueError, naming the file, for one that
    cannot be opened or holds no video, and where the rest of it cannot be read."""
    return _of_image(path) if path.suffix.lower() in ANIMATED else _of_video(path)


def frames_a_second(path: Path) -> Fraction:
    """How many frames a file shows a second, in the mean over those that can be read. Raises ValueError for a video
    that cannot be opened."""
    if path.suffix.lower() in ANIMATED:
        milliseconds: list[float] = []
        with _animation(path) as picture, suppress(ValueError):
            milliseconds.extend(_shown(picture, number) for number in range(picture.n_frames))
        return Fraction(1000 * len(milliseconds), round(sum(milliseconds))) if any(milliseconds) else SOME_RATE
    with path.open("rb") as file, _opened(path, file) as container:
        return container.streams.video[0].average_rate or SOME_RATE


def _of_video(path: Path) -> Iterator[Frame]:
    if path.suffix.lower() not in VIDEOS:
        raise ValueError(f"{path}: expected a video ({', '.join(VIDEOS)})")
    number, broken = 0, _errors(path)
    with path.open("rb") as file, _opened(path, file) as container:
        try:
            for packet in container.demux(video=0):
                for frame in _frames_of(packet, f"{path}: frame {number}", broken):
                    yield frame
                    number += 1
        except broken as error:
            raise ValueError(f"{path}: cannot be read from frame {number} on ({_line(error)})") from error


def _frames_of(packet: Any, name: str, broken: tuple[type[Exception], ...]) -> list[Frame]:
    """The frames that come of a packet; one that fails where the packet is damaged."""
    try:
        return [partial(_upright, frame, name, broken) for frame in packet.decode()]
    except broken as error:
        reason = f"{name} is damaged ({_line(error)})"

    def fail() -> np.ndarray:
        raise ValueError(reason)

    return [fail]


def _upright(frame: Any, name: str, broken: tuple[type[Exception], ...]) -> np.ndarray:
    """(H, W, 3) uint8, turned as the file says it is to be shown; transparent pixels over white, as of images."""
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"{name}: {frame.width} x {frame.height} pixels; {TOO_LARGE}")
    transparent = any(component.is_alpha for component in frame.format.components)
    try:
        pixels = as_image(frame.to_ndarray(format="rgba" if transparent else "rgb24"))
    except broken as error:
        raise ValueError(f"{name} cannot be converted to RGB ({_line(error)})") from error
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _opened(path: Path, file: Any) -> Any:
    broken = _errors(path)
    try:
        container = import_module("av").open(file, options=OPENING)
    except broken as error:
        raise ValueError(f"{path}: not a video that can be read ({_line(error)})") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: holds no frames")
    return container


def _errors(path: Path) -> tuple[type[Exception], ...]:
    """What PyAV raises for files that are damaged or none: its own, and some that Python has. Raises ValueError where
    it is not installed."""
    try:
        return (import_module("av.error").FFmpegError, OSError, ValueError)
    except ImportError as error:
        raise ValueError(f"{path}: needs PyAV, not installed here: pip install 'ovseg[video]'") from error


def _of_image(path: Path) -> Iterator[Frame]:
    with _animation(path) as picture:
        for number in range(picture.n_frames):
            _shown(picture, number)
            yield lambda: as_image(picture)


def _animation(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path, formats=(ANIMATED[path.suffix.lower()],))


def _shown(picture: Any, number: int) -> float:
    """Go to a frame of an animation; returns for how many milliseconds it is shown."""
    try:
        picture.seek(number)
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{picture.filename}: cannot be read from frame {number} on ({_line(error)})") from error
    return float(picture.info.get("duration") or 0)


def _frames_of_image(path: Path) -> int:
    """How many frames an image has; 0 where it cannot be told, which is reported when it is read as an image."""
    try:
        with _animation(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
