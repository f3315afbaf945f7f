"""Images that are no files of their own: in object stores and on web servers, in tar archives (WebDataset), in parquet.

A record names them by a scheme, and `ovseg.run.pictures` makes them from what stands behind it:

    s3:bucket/photos/a.jpg    gs:bucket/photos/a.jpg    https:host/photos/a.jpg
    tar:/data/shard-000.tar#0001.jpg                     parquet:/data/train.parquet#12

An image is fetched when its turn comes, and kept nowhere. Stores are read by fsspec, with the credentials that its s3fs
and gcsfs find; web servers by Python itself.
"""

from __future__ import annotations

import re
import tarfile
import urllib.request
from collections.abc import Iterator
from functools import lru_cache
from http.client import HTTPException
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovseg.images import IMAGE_SUFFIXES, read_image
from ovseg.run.bucket import open_store, reason
from ovseg.run.finding import RESULTS, LeftOut, is_image
from ovseg.run.folder import is_record
from ovseg.run.pictures import FAR, far_picture

WEB = ("https", "http")
ARCHIVES = (".tar", ".parquet")
MOST_BYTES = 1 << 29  # of one image
PATIENCE = 60  # seconds that a web server may say nothing
COLUMNS = ("image", "jpg", "png", "bytes")  # of parquet, that images are looked for in
KEYS = ("id", "__key__", "file_name", "path")  # and what may name them

Found = tuple[PurePosixPath, Path]  # a name to be an id, and the picture as a record has it


def is_url(given: str) -> bool:
    """Whether an input is an address: s3://, gs://, https:// or http://."""
    return given.partition("://")[0] in FAR and "://" in given


def images_at(url: str, left_out: LeftOut) -> Iterator[Found]:
    """The images at an address: one, those below a prefix of a store, or those that a pattern there matches.

    Raises ValueError where there are none, or the store cannot be listed.
    """
    scheme, _, rest = url.partition("://")
    if scheme in WEB:
        name = PurePosixPath(rest.partition("?")[0].partition("#")[0])
        yield PurePosixPath(name.name), far_picture(scheme, rest)
        return
    try:
        store, root = open_store(url.rstrip("/"))
        if re.search(r"[*?[]", root):
            paths, root = store.glob(root), re.split(r"/[^/]*[*?[]", root)[0]
        elif store.isfile(root):
            paths, root = [root], str(PurePosixPath(root).parent)
        else:
            paths = store.find(root)
    except ValueError:
        raise
    except Exception as error:  # each store's own, of network, name and permission
        raise ValueError(f"{url}: cannot be listed ({reason(error)})") from error
    places = sorted(map(PurePosixPath, paths))
    runs = {path.parent for path in places if is_record(path.name)}
    if PurePosixPath(root) in runs:
        raise ValueError(f"{url}: is a run's results; give the folder of images, or copy the run to a disk to open it")
    for run in runs:
        left_out.add(RESULTS, far_picture(scheme, str(run)))
    visible = (path for path in places if _visible(path, root) and not runs & {*path.parents})
    found = [path for path in visible if is_image(path, left_out)]
    if not found:
        raise ValueError(f"{url}: no images there (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    yield from ((path.relative_to(root), far_picture(scheme, str(path))) for path in found)


def _visible(path: PurePosixPath, root: str) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def s3(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image bucket/key of S3, or of what speaks its language (AWS_ENDPOINT_URL)."""
    return _of_store("s3", name)


def gs(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image bucket/key of Google's storage."""
    return _of_store("gs", name)


def https(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image at https://NAME."""
    return _of_web("https", name)


def http(name: str) -> np.ndarray:
    """(H, W, 3) uint8: the image at http://NAME."""
    return _of_web("http", name)


def _of_store(scheme: str, name: str) -> np.ndarray:
    try:
        store, path = open_store(f"{scheme}://{name}")
        with store.open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except ValueError:
        raise
    except Exception as error:  # as in `images_at`
        raise ValueError(f"{scheme}://{name}: cannot be fetched ({reason(error)})") from error
    return _decoded(f"{scheme}://{name}", data)


def _of_web(scheme: str, name: str) -> np.ndarray:
    url = f"{scheme}://{name}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data = answer.read(MOST_BYTES + 1)
            if answer.length and len(data) <= MOST_BYTES:
                raise OSError(f"cut short, {answer.length} bytes are missing")
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(f"{url}: cannot be fetched ({reason(error)})") from error
    return _decoded(url, data)


def _decoded(where: str, data: bytes) -> np.ndarray:
    if len(data) > MOST_BYTES:
        raise ValueError(f"{where}: over {MOST_BYTES} bytes")
    return read_image(where, data)


def is_archive(given: str) -> bool:
    """Whether an input is a file that holds many images."""
    return given.lower().endswith(ARCHIVES) and Path(given).is_file()


def images_in(path: Path, left_out: LeftOut) -> Iterator[Found]:
    """The images in a tar or parquet file. Raises ValueError for one that holds none, or is damaged."""
    found = list(_in_tar(path, left_out) if path.suffix.lower() == ".tar" else _in_parquet(path))
    if not found:
        raise ValueError(f"{path}: holds no images")
    yield from found


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
        return _decoded(f"{path}#{member}", file.read(min(size, MOST_BYTES + 1)))


@lru_cache(maxsize=16)
def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where the files of a tar archive begin, and their sizes in bytes."""
    try:
        with tarfile.open(path, "r:") as archive:
            return {one.name: (one.offset_data, one.size) for one in archive if one.isfile() and one.sparse is None}
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a tar archive without compression ({error})") from error


def _in_parquet(path: Path) -> Iterator[Found]:
    table = _parquet(path)
    _image_column(path)
    key = next((name for name in KEYS if name in table.schema_arrow.names), None)
    place = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        names = table.read_row_group(group, [key])[key].to_pylist() if key else [f"{place + n:08}" for n in range(rows)]
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
            value = _rows(Path(path), group)[place]
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise ValueError(f"{path}: row {row} holds no image's bytes")
            return _decoded(f"{path}#{row}", data)
        place -= rows
    raise ValueError(f"{path}: has no row {row}")


@lru_cache(maxsize=1)
def _rows(path: Path, group: int) -> list[Any]:
    """The images of one row group: those of the last one asked for stay in memory."""
    column = _image_column(path)
    rows: list[Any] = _parquet(path).read_row_group(group, [column])[column].to_pylist()
    return rows


@lru_cache(maxsize=4)
def _parquet(path: Path) -> Any:
    try:
        return import_module("pyarrow.parquet").ParquetFile(path)
    except ImportError as error:
        raise ValueError(f"{path}: needs pyarrow, not installed here: pip install 'ovseg[parquet]'") from error
    except ValueError as error:  # pyarrow's own are of this kind
        raise ValueError(f"{path}: not parquet ({reason(error)})") from error


def _image_column(path: Path) -> str:
    schema = _parquet(path).schema_arrow
    fitting = [field.name for field in schema if str(field.type) == "binary" or "bytes: binary" in str(field.type)]
    column = next((name for name in COLUMNS if name in fitting), fitting[0] if len(fitting) == 1 else None)
    if column is None:
        raise ValueError(
            f"{path}: expected a column of image bytes, such as {COLUMNS[0]}, got {', '.join(schema.names)}"
        )
    return column
