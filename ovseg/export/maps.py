"""Readers of label maps: index PNGs, PASCAL VOC trees, and CVAT's zips of class masks in colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from emerdiff.settings import one_line, show
from ovseg.archives import BROKEN
from ovseg.draw import Colour
from ovseg.export.returned import Canvas, Returned, by_colours, read_colours, text_of
from ovseg.files import read_index_png
from ovseg.json_files import read_json

LINE = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
MOST_TEXT = 1 << 22  # bytes of labelmap.txt, of a legend
MOST_MASK = 1 << 28  # bytes of a PNG in a zip


def read_png(folder: Path) -> Iterator[Returned]:
    """Index PNGs. legend.json, as the export writes it, says what the indices mean; without it they are the run's."""
    legend = read_json(folder / "legend.json", MOST_TEXT) if (folder / "legend.json").is_file() else None
    if legend is not None and not _is_legend(legend):
        raise ValueError(f"{folder / 'legend.json'}: expected names, a list of texts, and no_label, a number")
    for path in sorted(folder.rglob("*.png")):
        yield Returned(path.relative_to(folder).with_suffix("").as_posix(), partial(_draw_png, path, legend))


def _is_legend(legend: Any) -> bool:
    names = legend.get("names") if isinstance(legend, dict) and "no_label" in legend else None
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and type(legend["no_label"]) is int


def _draw_png(path: Path, legend: dict[str, Any] | None, canvas: Canvas) -> np.ndarray:
    indices = read_index_png(path).astype(np.int64)
    canvas.check_size(*indices.shape)
    if legend is None:
        return indices
    labels, known = canvas.blank(), indices == legend["no_label"]
    for index in np.unique(indices[~known]).tolist():
        if index >= len(legend["names"]):
            raise ValueError(f"holds index {index}, which legend.json has not")
        labels[indices == index] = canvas.index(legend["names"][index])
    return labels


def read_voc(folder: Path) -> Iterator[Returned]:
    """SegmentationClass/<id>.png in the colours of labelmap.txt."""
    classes = _classes(text_of(folder / "labelmap.txt", MOST_TEXT), f"{folder / 'labelmap.txt'}")
    place = folder / "SegmentationClass"
    for path in sorted(place.rglob("*.png")):
        name = path.relative_to(place).with_suffix("").as_posix()
        yield Returned(name, partial(_draw_colours, path.read_bytes, classes))


def read_cvat(path: Path) -> Iterator[Returned]:
    """The same in a zip, as CVAT exports "Segmentation mask 1.1"."""
    with _opened(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sizes.get("labelmap.txt", MOST_TEXT + 1) > MOST_TEXT:
            raise ValueError(f"{path}: no labelmap.txt in it; expected CVAT's export Segmentation mask 1.1")
        classes = _classes(_text(archive, path), f"{path}: labelmap.txt")
        for name in sorted(sizes):
            if name.startswith("SegmentationClass/") and name.endswith(".png"):
                read = partial(_member, archive, name)
                id = name.removeprefix("SegmentationClass/").removesuffix(".png")
                yield Returned(id, partial(_draw_colours, read, classes))


def _opened(path: Path) -> ZipFile:
    try:
        return ZipFile(path)
    except BROKEN as error:
        raise ValueError(f"{path}: not a zip to be read ({one_line(error)})") from error


def _text(archive: ZipFile, path: Path) -> str:
    try:
        return archive.read("labelmap.txt").decode("utf-8")
    except BROKEN as error:  # RuntimeError: encrypted
        raise ValueError(f"{path}: labelmap.txt: not a zip to be read ({one_line(error)})") from error


def _member(archive: ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MOST_MASK:
        raise ValueError(f"is of over {MOST_MASK} bytes")
    try:
        return archive.read(name)
    except BROKEN as error:
        raise ValueError(f"cannot be read from the zip ({one_line(error)})") from error


def _draw_colours(read: Callable[[], bytes], classes: dict[Colour, str], canvas: Canvas) -> np.ndarray:
    return by_colours(read_colours(read()), classes, canvas)


def _classes(text: str, where: str) -> dict[Colour, str]:
    """Colour -> name of a labelmap.txt. Raises ValueError, with `where` in front, for a line that is none of its."""
    classes: dict[Colour, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not (match := LINE.fullmatch(line.strip())):
            raise ValueError(f"{where}: expected lines name:red,green,blue::, got {show(line)}")
        classes[int(match[2]), int(match[3]), int(match[4])] = match[1]
    return classes
