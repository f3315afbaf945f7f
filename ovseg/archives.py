"""NumPy's files and zips of strangers: arrays whose header is judged before memory is taken, and what damage raises."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile, ZipFile

import numpy as np

from emerdiff.settings import one_line

# What zipfile and NumPy raise on damaged, encrypted and crafted files; RuntimeError and TypeError among them.
BROKEN = (
    *(BadZipFile, EOFError, KeyError, LZMAError, OSError, OverflowError, RuntimeError, SyntaxError, TokenError),
    *(TypeError, ValueError, struct.error, zlib.error),
)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path, check: Callable[[tuple[int, ...], np.dtype], None]) -> np.ndarray:
    """The one array of an npz. check: raises ValueError for a shape and dtype that are not read; pickles never are.

    Raises one of `BROKEN` for a file that is damaged, or holds another number of arrays.
    """
    with ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            shown = ", ".join(name.removesuffix(".npy") for name in names[:8])
            raise ValueError(f"holds {len(names)} arrays ({shown}), expected one")
        with archive.open(names[0]) as file:
            version = np.lib.format.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"of NumPy's format {version}, expected {', '.join(map(str, HEADERS))}")
            shape, _, dtype = HEADERS[version](file)
            check(shape, dtype)
    with np.load(path, allow_pickle=False) as arrays:
        array: np.ndarray = arrays[arrays.files[0]]
    return array


def open_npy(path: Path) -> np.ndarray:
    """The array of an npy, which stays on the disk. Raises ValueError, naming the file, for anything else."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except BROKEN as error:
        raise ValueError(f"{path}: cannot be read as an array ({one_line(error)})") from error
