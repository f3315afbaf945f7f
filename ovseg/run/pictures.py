"""The images that a run was given: files, or pictures by a scheme, such as a pocket world's scenes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from ovseg.images import read_image

# Images that are no files: what stands in front of the colon in a record -> the function (module:function) that makes
# the picture, (H, W, 3) uint8, from what stands behind it, or raises ValueError. Loaded when such an image is read.
PICTURES: dict[str, str] = {"pocket": "ovseg.pocket.world:picture"}


def read_picture(source: str, folders: Iterable[str | Path] = ("",)) -> np.ndarray:
    """(H, W, 3) uint8: an image by its file, looked for in the folders one after the other, or by one of `PICTURES`.

    Raises ValueError, naming it, where there is none or it cannot be read.
    """
    if (path := picture_file(source, folders)) is not None:
        return read_image(path)
    scheme, _, name = source.partition(":")
    module, function = PICTURES[scheme].split(":")
    return cast(np.ndarray, getattr(import_module(module), function)(name))


def picture_file(source: str, folders: Iterable[str | Path] = ("",)) -> Path | None:
    """The image's file in the first of the folders that has it, or as it is named; None for one of `PICTURES`."""
    scheme, colon, _ = source.partition(":")
    if colon and scheme in PICTURES:
        return None
    places = (Path(folder) / source for folder in folders)
    return next((path for path in places if path.is_file()), Path(source))
