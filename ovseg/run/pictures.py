"""The images that a run was given: files, or pictures by a scheme, such as a pocket world's scenes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from ovseg.images import read_image, read_size
from ovseg.run.bucket import SECRET, holds_password

# Images that are no files: what stands in front of the colon in a record -> the function (module:function) that makes
# the picture, (H, W, 3) uint8, from what stands behind it, or raises ValueError. Loaded when such an image is read.
PICTURES: dict[str, str] = {
    "pocket": "ovseg.pocket.world:picture",
    "video": "ovseg.run.frames:video",
    **{scheme: f"ovseg.run.stores:{scheme}" for scheme in ("s3", "gs", "https", "http")},
    **{scheme: f"ovseg.run.packed:{scheme}" for scheme in ("tar", "parquet")},
}
FAR = ("s3", "gs", "https", "http")  # those for which a network is asked


def read_picture(source: str, folders: Iterable[str | Path] = ("",)) -> np.ndarray:
    """(H, W, 3) uint8: an image by its file, looked for in the folders one after the other, or by one of `PICTURES`.

    Raises ValueError, naming it, where there is none or it cannot be read.
    """
    if (path := picture_file(source, folders)) is not None:
        return read_image(path)
    scheme, _, name = source.partition(":")
    module, function = PICTURES[scheme].split(":")
    return cast(np.ndarray, getattr(import_module(module), function)(name))


def far_picture(scheme: str, name: str) -> Path:
    """The picture of an address as items and records have it. Raises ValueError for one that a path cannot hold, or
    that nobody should read."""
    if holds_password(f"{scheme}:{name}"):
        raise ValueError(f"{scheme}://...: {SECRET}")
    path = Path(f"{scheme}:{name}")
    if str(path) != f"{scheme}:{name}":
        raise ValueError(f"{scheme}://{name}: empty parts or dots in an address cannot be held here; give another")
    return path


def read_item(path: Path) -> np.ndarray:
    """(H, W, 3) uint8: the image of an item, a file or a picture by its scheme. Raises as `read_picture`."""
    return read_image(path) if path.is_absolute() else read_picture(str(path))


def size_of_item(path: Path) -> tuple[int, int]:
    """(H, W) of an item's image; of a file from its header. Raises as `read_picture`."""
    if path.is_absolute():
        return read_size(path)
    height, width, _ = read_picture(str(path)).shape
    return height, width


def picture_file(source: str, folders: Iterable[str | Path] = ("",)) -> Path | None:
    """The image's file in the first of the folders that has it, or as it is named; None for one of `PICTURES`."""
    scheme, colon, _ = source.partition(":")
    if colon and scheme in PICTURES:
        return None
    places = (Path(folder) / source for folder in folders)
    return next((path for path in places if path.is_file()), Path(source))
