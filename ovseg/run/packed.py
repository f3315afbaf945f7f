"""Images that lie many in a file: in tar archives, as WebDataset has them, and in parquet.

A record names them by a scheme, and `ovseg.run.pictures` makes them from what stands behind it:

    tar:/data/shard-000.tar#0001.jpg    parquet:/data/train.parquet#12

Nothing is unpacked. A name in such a file is anybody's: one that cannot be an id is left out, and said.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from emerdiff.settings import one_line
from ovseg.images import IMAGE_SUFFIXES
from ovseg.run.finding import LeftOut, is_image
from ovseg.run.schema import outside
from ovseg.run.stores import MOST_BYTES, Found, decoded

ARCHIVES = (".tar", ".parquet")
COLUMNS = ("image", "jpg", "png", "bytes")  # of parquet, that images are looked for in
BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError)  # of headers that lie
KEYS = ("id", "__key__", "file_name", "path")  # and what may name them


def is_archive(given: str) -> bool:
    """Whether an input is a file that holds many images."""
    return given.lower().endswith(ARCHIVES) and Path(given).is_file()


def images_in(path: Path, left_out: LeftOut) -> Iterator[Found]:
    """The images in a tar or parquet file. Raises ValueError for one that holds none, or is damaged."""
    found = list(_with_ids(_in_tar(path, left_out) if path.suffix.lower() == ".tar" else _in_parquet(path), left_out))
    if not found:
        unread = "; ".join(f"{len(places)} left out, {why}" for why, places in left_out.reasons.items())
        raise ValueError(f"{path}: holds no images{'; ' if unread else ''}{unread}")
    yield from found


def _with_ids(found: Iterable[Found], left_out: LeftOut) -> Iterator[Found]:
    """Those whose results would lie inside the run folder; the others are left out with the reason."""
    for name, path in found:
        if wrong := outside(name.as_posix()):
            left_out.add(f"as their names cannot be ids ({wrong})", path)
        else:
            yield name, path


def _in_tar(path: Path, left_out: LeftOut) -> Iterator[Found]:
    for name in _members(path):
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts if part != "..")
        if not hidden and is_image(PurePosixPath(name), left_out):
            yield PurePosixPath(name.lstrip("/")), Path(f"tar:{path}#{name}")


def tar(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image PATH#MEMBER of a tar archive that is not compressed."""
    match = re.fullmatch(r"(.*?\.tar)#(.*)", name, re.DOTALL | re.IGNORECASE)
    path, member = match.groups() if match else (name, "")
    members = _members(Path(path))
    if member not in members:
        raise ValueError(f"{path}: holds no {member}")
    start, size = members[member]
    with open(path, "rb") as file:
        file.seek(start)
        return decoded(f"{path}#{member}", file.read(min(size, MOST_BYTES + 1)))


@lru_cache(maxsize=16)
def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where the files of a tar archive begin, and their sizes in bytes."""
    try:
        with tarfile.open(path, "r:") as archive:
            return {one.name: (one.offset_data, one.size) for one in archive if one.isfile() and one.sparse is None}
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:  # of headers that lie
        raise ValueError(f"{path}: not a tar archive without compression ({one_line(error)})") from error


def _in_parquet(path: Path) -> Iterator[Found]:
    table = _parquet(path)
    _image_column(path)
    key = next((name for name in KEYS if name in table.schema_arrow.names), None)
    place = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        names = _column(path, group, key) if key else [f"{place + n:08}" for n in range(rows)]
        for number, name in enumerate(names):
            text = str(name)
            suffix = "" if PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES else ".png"  # which is no part of an id
            yield PurePosixPath(f"{text.lstrip('/')}{suffix}"), Path(f"parquet:{path}#{place + number}")
        place += rows


def parquet(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image PATH#ROW of a parquet file."""
    path, _, row = name.rpartition("#")
    place = int(row) if row.isdecimal() else -1
    metadata = _parquet(Path(path)).metadata
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if 0 <= place < rows:
            value = next(iter(_rows(Path(path), group)[place : place + 1]), None)  # of damaged files the count lies
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise ValueError(f"{path}: row {row} holds no image's bytes")
            return decoded(f"{path}#{row}", data)
        place -= rows
    raise ValueError(f"{path}: has no row {row}")


@lru_cache(maxsize=1)
def _rows(path: Path, group: int) -> list[Any]:
    """The images of one row group: those of the last one asked for stay in memory."""
    return _column(path, group, _image_column(path))


def _column(path: Path, group: int, name: str) -> list[Any]:
    """The values of a column in one row group."""
    with _reading(path):
        rows: list[Any] = _parquet(path).read_row_group(group, [name])[name].to_pylist()
    return rows


@lru_cache(maxsize=4)
def _parquet(path: Path) -> Any:
    try:
        module = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(f"{path}: needs pyarrow, not installed here: pip install 'ovseg[parquet]'") from error
    with _reading(path):
        return module.ParquetFile(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A block in which whatever pyarrow raises is a ValueError that names the file, but for a want of memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of damage: its own of six kinds, OSError and KeyError
        raise ValueError(f"{path}: not parquet that can be read ({one_line(error)})") from error


def _image_column(path: Path) -> str:
    table = _parquet(path)
    with _reading(path):
        schema = table.schema_arrow
    fitting = [field.name for field in schema if str(field.type) == "binary" or "bytes: binary" in str(field.type)]
    column = next((name for name in COLUMNS if name in fitting), fitting[0] if len(fitting) == 1 else None)
    if column is None:
        raise ValueError(
            f"{path}: expected a column of image bytes, such as {COLUMNS[0]}, got {_shown(', '.join(schema.names))}"
        )
    return column


def _shown(text: str) -> str:
    return one_line(ValueError(text))
