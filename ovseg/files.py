"""Files that are whole or not there at all, and the exact index maps among them.

Files are written under a temporary name and renamed, so that a reader never meets half a file. Nothing here depends on
the clock: the same content gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from emerdiff.settings import check_regular
from ovseg import locks
from ovseg.draw import NO_LABEL_COLOUR, Colour

MAX_MAP_PIXELS = 100_000_000  # of an index map; as of the images that are read
# What Pillow's decoders are known to raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, IndexError, struct.error, zlib.error)


def index_png(labels: np.ndarray, colours: Sequence[Colour]) -> bytes:
    """An index map (H, W) as PNG bytes: 8-bit with a palette for uint8, plain 16-bit for uint16; indices stay exact."""
    if labels.dtype == np.uint16:
        return png_bytes(Image.fromarray(labels))
    if labels.dtype != np.uint8:
        raise ValueError(f"an index map must be uint8 or uint16, got {labels.dtype}")
    picture = Image.fromarray(labels)
    palette = [*colours[:256], *[NO_LABEL_COLOUR] * (256 - len(colours))]
    # All 256 entries, or Pillow would pack the indices into fewer bits and lose 255.
    picture.putpalette([channel for colour in palette for channel in colour])
    return png_bytes(picture)


def read_index_png(path: str | Path) -> np.ndarray:
    """Read an index map back: (H, W) uint8 or uint16, the palette ignored.

    Raises FileNotFoundError, or ValueError for a file that cannot be read or holds no indices; both name the file.
    """
    try:
        check_regular(Path(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit that counts is ours
            with Image.open(path, formats=("PNG",)) as picture:
                if picture.width * picture.height > MAX_MAP_PIXELS:
                    raise ValueError(
                        f"{picture.width} x {picture.height} pixels, over {MAX_MAP_PIXELS // 10**6} million"
                    )
                mode, indices = picture.mode, np.array(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an index map ({error})") from error
    if mode not in ("P", "L") and not mode.startswith("I;16"):
        raise ValueError(f"{path}: expected a palette, grey or 16-bit PNG of indices, got mode {mode}")
    return indices


def png_bytes(picture: Image.Image, compression: int = 6) -> bytes:
    """A picture as the bytes of a PNG file; compression is zlib's level, 0..9."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=compression)
    return buffer.getvalue()


def json_bytes(value: object) -> bytes:
    """A value as UTF-8 JSON, indented, with a newline at the end."""
    # Bytes of a file name that are no UTF-8 come as lone surrogates; "\udce9" in JSON reads back as the same one.
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` whole or not at all, making its folder if need be.

    sync: have it on the disk before this returns, so that not even a power loss leaves less. OSErrors name the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named(path):
        try:
            while not _written(temporary, path, data, sync=sync):
                pass
        finally:
            temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def _written(temporary: Path, path: Path, data: bytes, *, sync: bool) -> bool:
    """Write and rename; False where another process took the file away just when it was made, before it was locked."""
    with temporary.open("wb") as file:
        locks.keep(file.fileno())  # until it has its name, or on Windows, where open files keep theirs, is whole
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
        if os.name != "nt":
            return _renamed(temporary, path)
    return _renamed(temporary, path)


def _renamed(temporary: Path, path: Path) -> bool:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if temporary.parent.is_dir():
            return False
        raise
    return True


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """While this is entered, OSErrors that name no file, as those of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def sync_file(path: Path) -> None:
    """Have a file's content on the disk before this returns; of its name see `sync_folder`."""
    with named(path):
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk before this returns; nothing where folders cannot be, as on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system that does not do it
            raise
    finally:
        os.close(descriptor)


def sweep(target: Path) -> None:
    """Remove what killed processes left beside `target`: files and folders named `.NAME.PID.tmp` or `.NAME.PID.old`.

    An `.old` is made `target` again where that is gone. A file that a live process is writing stays. Folders have no
    such sign: call this while you hold the lock that all who write this target hold.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9]{{1,9}}\.(tmp|old)")
    for path in list(target.parent.iterdir()) if target.parent.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == "old" and not os.path.lexists(target):
            os.rename(path, target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_dead(path)


def remove_dead(temporary: Path) -> None:
    """Remove a temporary file, unless a live process is writing it."""
    if not locks.is_held(temporary):
        temporary.unlink(missing_ok=True)
