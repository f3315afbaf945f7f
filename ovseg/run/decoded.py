"""Videos and animated images decoded frame by frame: only the frame at hand is in memory.

Videos are decoded by PyAV (the extra `video`), animated GIF, WebP and PNG by Pillow. Frames count from 0 as they are
decoded, however long each is shown.
"""

from __future__ import annotations

import errno
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

from ovseg.images import BROKEN, MAX_PIXELS, TOO_LARGE, VIDEOS, as_image

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}  # -> the format that Pillow calls so
# A record may be anyone's: what only refers to other files or addresses, as playlists do, is not followed.
OPENING = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg", "protocol_whitelist": "file"}
DECODING = {"max_pixels": str(MAX_PIXELS)}  # beyond it nothing is decoded, so that no memory is taken for it
SOME_RATE = Fraction(10)  # frames a second, of a file that does not say

# Converts a decoded frame to (H, W, 3) uint8, upright, before the next one is asked for; ValueError for a damaged one.
Frame = Callable[[], np.ndarray]


def is_video(given: str) -> bool:
    """Whether an input is a file with frames to take apart: a video by its ending, an image with several frames."""
    path = Path(given)
    suffix = path.suffix.lower()
    if not path.is_file():
        return False
    return suffix in VIDEOS or (suffix in ANIMATED and _is_animated(path))


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
            milliseconds.extend(_shown(picture))
        return 1000 * len(milliseconds) / Fraction(sum(milliseconds)) if any(milliseconds) else SOME_RATE
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
        large = f" or over {MAX_PIXELS // 10**6} megapixels" * (getattr(error, "errno", None) == errno.EINVAL)
        reason = f"{name} is damaged{large} ({_line(error)})"

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
        # A title may be in any encoding, and is not asked for.
        container = import_module("av").open(file, options=OPENING | DECODING, metadata_errors="replace")
    except broken as error:
        raise ValueError(f"{path}: not a video that can be read ({_line(error)})") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: holds no frames")
    decoder = container.streams.video[0].codec_context
    if decoder is None:
        container.close()
        raise ValueError(f"{path}: of a codec that cannot be read here")
    if decoder.width * decoder.height > MAX_PIXELS:
        container.close()
        raise ValueError(f"{path}: {decoder.width} x {decoder.height} pixels; {TOO_LARGE}")
    decoder.options = DECODING
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
        for number, _ in enumerate(_shown(picture)):
            yield partial(_pixels, picture, f"{path}: frame {number}")


def _pixels(picture: Any, name: str) -> np.ndarray:
    try:
        return as_image(picture)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _animation(path: Path) -> Any:
    """An animation, nothing of it decoded. Raises ValueError, naming it, for one that is none or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=(ANIMATED[path.suffix.lower()],))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {TOO_LARGE}") from error
    except BROKEN as error:
        raise ValueError(f"{path}: not an animation that can be read ({_line(error)})") from error
    _check_size(picture, str(path))
    return picture


def _check_size(picture: Any, name: str) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{name}: {picture.width} x {picture.height} pixels; {TOO_LARGE}")


def _shown(picture: Any) -> Iterator[float]:
    """Go from frame to frame of an animation; gives for how many milliseconds each is shown.

    Raises ValueError, naming file and frame, where the rest cannot be read.
    """
    number, last = 0, None if picture.format == "GIF" else picture.n_frames  # a GIF does not say, it ends
    while number != last:
        try:
            if not _seek(picture, number):
                return
            _check_size(picture, f"frame {number}")  # a GIF grows where a frame of it is larger
            picture.load()
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise ValueError(f"{picture.filename}: cannot be read from frame {number} on ({_line(error)})") from error
        yield float(picture.info.get("duration") or 0)
        number += 1


def _seek(picture: Any, number: int) -> bool:
    """Whether there is such a frame, which is then the one to be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture.seek(number)
        except EOFError:
            if picture.format == "GIF":
                return False
            raise
    return True


def _is_animated(path: Path) -> bool:
    """Whether an image has several frames; not where it cannot be told, which is reported when it is read."""
    try:
        picture = _animation(path)
    except ValueError:
        return False
    with picture:
        try:
            return bool(getattr(picture, "is_animated", False))
        except (*BROKEN, Image.DecompressionBombError):  # there is a second frame, which is damaged
            return True


def _line(error: BaseException) -> str:
    """What an error says; of FFmpeg's without its number and function."""
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(said.split())[:200] or type(error).__name__
