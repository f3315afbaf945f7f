"""A clip to watch: the overlay pictures of a video's frames as CLIP.overlay.mp4, beside the folder of their results.

Pictures are read one at a time. All are laid on a white canvas of the largest one's size, as legends differ in height.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib import import_module
from pathlib import Path

from PIL import Image

from ovseg.images import read_image, read_size
from ovseg.run.decoded import frames_a_second
from ovseg.run.frames import clips
from ovseg.run.images import LABELS, OVERLAY
from ovseg.run.inputs import Item
from ovseg.run.terminal import one_line

ENDING = ".overlay.mp4"
SLOWEST, FASTEST = Fraction(1, 1000), Fraction(1000)  # pictures a second
CODECS = ("libx264", "mpeg4")  # the first that this PyAV has


def overlay_file(out: Path, items: Sequence[Item]) -> Path:
    """Where the clip of a video's frames lies: beside the folder of their results."""
    return out / f"{items[0].id.rpartition('/')[0]}{ENDING}"


def check_places(out: Path, items: Sequence[Item]) -> None:
    """Raise ValueError where a clip would be written over one of the videos."""
    videos = {os.path.realpath(video) for video in clips(items)}
    for frames in clips(items).values():
        if os.path.realpath(target := overlay_file(out, frames)) in videos:
            raise ValueError(f"{target}: the result would replace this input; choose another --out")


def write_clips(out: Path, items: Sequence[Item], every: int, *, tell: Callable[[str], None]) -> None:
    """Write the clip of each video that has none, or an older one than its frames. Needs PyAV, of animations as well:
    without it `tell` gets a line, and none is written. Raises OSError and ValueError where one cannot be written."""
    for video, frames in clips(items).items():
        target = overlay_file(out, frames)
        done = [item for item in frames if (out / f"{item.id}{LABELS}").is_file()]
        newest = max(((out / f"{item.id}{OVERLAY}").stat().st_mtime_ns for item in done), default=0)
        if not done or (target.is_file() and target.stat().st_mtime_ns >= newest):
            continue
        try:
            import_module("av")
        except ImportError:
            tell(f"{one_line(str(target))} not written: needs PyAV, pip install 'ovseg[video]'")
            continue
        speed = min(max(frames_a_second(video) / every, SLOWEST), FASTEST)
        _write(target, [out / f"{item.id}{OVERLAY}" for item in done], speed)
        tell(f"overlays of {len(done)} frames in {one_line(str(target))}")


def _write(target: Path, pictures: Sequence[Path], speed: Fraction) -> None:
    """Encode pictures at so many a second, whole or not at all."""
    av = import_module("av")
    height, width = (side + side % 2 for side in map(max, zip(*map(read_size, pictures), strict=True)))
    codec = next(name for name in CODECS if name in av.codecs_available)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream(codec, rate=speed.limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for path in pictures:
                canvas = Image.new("RGB", (width, height), "white")
                canvas.paste(Image.fromarray(read_image(path)), (0, 0))
                container.mux(stream.encode(av.VideoFrame.from_image(canvas)))
            container.mux(stream.encode())
        os.replace(temporary, target)
    except av.error.FFmpegError as error:
        raise ValueError(f"{target}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
