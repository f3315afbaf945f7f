"""Files that are whole or not there at all, and the exact index maps among them.

Files are written under a temporary name and renamed, so that a reader never meets half a file. Nothing here depends on
the clock: the same content gives the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.draw import NO_LABEL_COLOUR, Colour


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
        with Image.open(path) as picture:
            mode, indices = picture.mode, np.array(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of Pillow, on damaged files
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


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(target: Path) -> None:
    """Remove what killed processes left beside `target`: files and folders named `.NAME.PID.tmp` or `.NAME.PID.old`.

    An `.old` is made `target` again where that is gone. What belongs to a process that is alive stays, but for our own
    id: call this before `target` is written, then it was an earlier process that had it.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.([0-9]{{1,9}})\.(tmp|old)")
    for path in list(target.parent.iterdir()) if target.parent.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match is None or _is_another(int(match[1])):
            continue
        if match[2] == "old" and not os.path.lexists(target):
            os.rename(path, target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_another(process: int) -> bool:
    """Whether a process of this id is alive and not this one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, of another user
        return True
    return process != os.getpid()
