"""Images that are no files of their own: in object stores and on web servers.

A record names them by a scheme, and `ovseg.run.pictures` makes them from what stands behind it:

    s3:bucket/photos/a.jpg    gs:bucket/photos/a.jpg    https:host/photos/a.jpg

An image is fetched when its turn comes, and kept nowhere. Stores are read by fsspec, with the credentials that its s3fs
and gcsfs find; web servers by Python itself.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from ovseg.images import IMAGE_SUFFIXES, read_image
from ovseg.run.bucket import open_store, reason, telling
from ovseg.run.finding import RESULTS, LeftOut, is_image
from ovseg.run.folder import is_record
from ovseg.run.pictures import FAR, far_picture

WEB = ("https", "http")
MOST_BYTES = 1 << 29  # of one image
PATIENCE = 60  # seconds that a web server may say nothing

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
    store, root = open_store(url.rstrip("/"))
    with telling(url, "listed"):
        if re.search(r"[*?[]", root):
            paths, root = store.glob(root), re.split(r"/[^/]*[*?[]", root)[0]
        elif store.isfile(root):
            paths, root = [root], str(PurePosixPath(root).parent)
        else:
            paths = store.find(root)
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
    url = f"{scheme}://{name}"
    store, path = open_store(url)
    with telling(url, "fetched"), store.open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    return decoded(url, data)


def _of_web(scheme: str, name: str) -> np.ndarray:
    url = f"{scheme}://{name}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data = answer.read(MOST_BYTES + 1)
            if answer.length and len(data) <= MOST_BYTES:
                raise OSError(f"cut short, {answer.length} bytes are missing")
    except (OSError, ValueError, OverflowError, HTTPException) as error:  # the third: of a port
        raise ValueError(f"{url}: cannot be fetched ({reason(error)})") from error
    return decoded(url, data)


def decoded(where: str, data: bytes) -> np.ndarray:
    """(H, W, 3) uint8: a fetched image. Raises ValueError, naming where it is from, as `read_image`."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"{where}: over {MOST_BYTES} bytes")
    return read_image(where, data)
