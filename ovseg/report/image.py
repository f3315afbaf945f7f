"""One image's part of a report: a row for the page, maps that load when they are viewed, and small pictures.

Everything comes from the run folder's files but the photo, which is looked for where the run found it. Pictures longer
than `LONGEST` are shown smaller, their maps sampled at the nearest pixel; up to that size maps stay exact.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ovseg.draw import NO_LABEL_COLOUR, Colour, distinct_colours
from ovseg.files import index_png, png_bytes
from ovseg.run.folder import RunFolder
from ovseg.run.images import Legend, RunImage

LONGEST = 1280  # pixels of a shown picture's longer side
THUMBNAIL = 400  # pixels of a gallery picture's longer side
JPEG_QUALITY = 86
MASK_COLOURS = 256  # masks beyond so many begin again with the first colour


@dataclass(frozen=True, eq=False)
class ReportImage:
    """One image of a report.

    row: what the gallery and the statistics need, JSON values.
    maps: what the detail view needs beside it, JSON values; index maps as `pack` writes them.
    files: pictures by suffix: ".jpg" the photo, ".thumb.jpg" a smaller one if there is need, ".png" the labels in their
        colours.
    """

    row: dict[str, Any]
    maps: dict[str, Any]
    files: dict[str, bytes]


def read_report_image(run: RunFolder, id: str) -> ReportImage:
    """Read the files of one id that is done.

    Raises ValueError, naming the file, if its maps are missing, damaged, or do not fit the run's names or each other;
    OSError if a file cannot be read.
    """
    image = RunImage(run, id)
    row, maps, index_map = read_row_and_maps(image)
    photo, note = _photo(image, index_map.shape)
    size = row["shown"][1], row["shown"][0]
    files = {".png": painted(index_map, image.legend), **({} if photo is None else _photo_files(photo, size))}
    return ReportImage(row | {"note": note, "pictures": sorted(files)}, maps, files)


def read_row_and_maps(image: RunImage) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """`row`, without "note" and "pictures", and `maps` of a `ReportImage`, and the index map (H, W) behind them.

    Raises as `read_report_image`.
    """
    legend, index_map, summary = image.legend, image.index_map(), image.summary()
    height, width = index_map.shape
    labels = None if legend is None else index_map
    masks = index_map if legend is None else image.masks(index_map.shape)
    mask_rows = [] if summary is None else [[row.mask, row.index, row.score] for row in summary.masks]
    size = reduced_size(height, width, LONGEST)
    differences = image.difference_maps()
    row = {
        "id": image.id,
        "file": image.source,
        "seconds": image.run.ids[image.id].get("seconds"),
        "width": width,
        "height": height,
        "shown": [size[1], size[0]],
        "masks": 0 if masks is None else int(np.unique(masks).size),
        "rated": masks is not None and any(score is not None for _, _, score in mask_rows),
        "differences": 0 if differences is None else len(differences),
        **class_rows(index_map, legend, {} if summary is None else summary.classes),
    }
    maps = {
        "labels": None if labels is None else pack(sampled(labels, size)),
        "masks": None if masks is None else pack(sampled(masks, size)),
        "rows": mask_rows,
        "differences": None if differences is None else pack(differences),
    }
    return row, maps, index_map


def pack(array: np.ndarray) -> dict[str, Any]:
    """An unsigned array as JSON: its shape, the bits of a number (8 or 16), and the little-endian bytes, zlib, base64.

    The page unpacks it without a canvas, whose pixels some browsers alter to prevent fingerprinting.
    """
    little = array.astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes())).decode("ascii")
    return {"shape": list(array.shape), "bits": 8 * array.dtype.itemsize, "data": data}


@cache
def mask_colours() -> tuple[Colour, ...]:
    """The colours of masks by number, to be repeated."""
    return distinct_colours(MASK_COLOURS)


def class_rows(index_map: np.ndarray, legend: Legend | None, scores: Mapping[int, float]) -> dict[str, Any]:
    """`classes`: [index, pixels, score or None] of what occurs, largest first, no label as the index behind the last
    name's; `score`: their mean over the pixels that have one, None without any. Empty and None without names."""
    if legend is None:
        return {"classes": [], "score": None}
    indices, pixels = np.unique(np.minimum(index_map, len(legend.names)), return_counts=True)
    counted = sorted(zip(indices.tolist(), pixels.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    rated = sum(count for index, count in counted if index in scores)
    total = sum(count * scores[index] for index, count in counted if index in scores)
    classes = [[index, count, scores.get(index)] for index, count in counted]
    return {"classes": classes, "score": round(total / rated, 6) if rated else None}


def _photo(image: RunImage, size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """The photo (H, W, 3) uint8, or None and why there is none."""
    try:
        return image.photo(size), ""
    except ValueError as error:
        return None, str(error)


def reduced_size(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def sampled(index_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An index map sampled at the nearest pixels; itself where the size is its own."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, index_map.shape, strict=True)
    )
    return index_map[rows[:, None], columns[None, :]]


def painted(index_map: np.ndarray, legend: Legend | None) -> bytes:
    """The gallery picture of labels in their colours, or of masks, whose colours repeat."""
    if legend is None:
        return _tint(index_map.astype(np.int64) % MASK_COLOURS, mask_colours())
    return _tint(index_map, legend.colours)


def _tint(index_map: np.ndarray, colours: Sequence[Sequence[int]]) -> bytes:
    """The gallery picture of a map as a PNG in its colours; an index without one is white, as no label is."""
    height, width = index_map.shape
    small = sampled(index_map, reduced_size(height, width, THUMBNAIL))
    table = np.array([*colours, NO_LABEL_COLOUR], dtype=np.uint8)
    used, places = np.unique(np.minimum(small, len(colours)), return_inverse=True)
    if used.size <= 256:
        return index_png(
            places.reshape(small.shape).astype(np.uint8), [tuple(colour) for colour in table[used].tolist()]
        )
    return png_bytes(Image.fromarray(table[np.minimum(small, len(colours))]))


def _photo_files(photo: np.ndarray, size: tuple[int, int]) -> dict[str, bytes]:
    picture = Image.fromarray(photo)
    files = {".jpg": jpeg(picture, size)}
    if max(size) > THUMBNAIL:
        files[".thumb.jpg"] = jpeg(picture, reduced_size(*size, THUMBNAIL))
    return files


def jpeg(picture: Image.Image, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    shown = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    fine = max(size) <= THUMBNAIL  # then it may be shown enlarged, where coarse colours would show
    shown.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0 if fine else 2, optimize=True)
    return buffer.getvalue()
