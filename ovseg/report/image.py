"""What one image adds to a report: a row for the page, maps that load when they are looked at, and small pictures.

Everything comes from the run folder's files but the photo, which is looked for where the run found it. Pictures longer
than `LONGEST` are shown smaller, their maps sampled at the nearest pixel; up to that size maps stay exact.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from ovseg.draw import NO_LABEL_COLOUR, Colour, distinct_colours
from ovseg.files import index_png, png_bytes, read_index_png
from ovseg.images import read_image
from ovseg.pocket.world import Block
from ovseg.result import no_label
from ovseg.run.folder import RunFolder

LONGEST = 1280  # pixels of a shown picture's longer side
THUMBNAIL = 400  # pixels of a gallery picture's longer side
JPEG_QUALITY = 86
SCENE = "pocket:"  # in front of world3/split/seed/number: a scene of a pocket world, which is painted anew
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

    Raises ValueError if its maps are damaged or do not fit the run's names or each other, OSError if a file is missing
    or cannot be read.
    """
    names = run.facts.get("names") or []
    index_map = read_index_png(run.file(id, ".png"))
    labels = index_map if names else None
    masks = _read_masks(run, id, index_map) if names else index_map
    scores, mask_rows = _read_scores(run.file(id, ".json"))
    height, width = index_map.shape
    photo, note = _read_photo(run, id, (height, width))
    size = _reduced_size(height, width, LONGEST)
    differences = _read_differences(run.file(id, ".safetensors"))
    row = {
        "id": id,
        "file": run.ids[id]["file"],
        "seconds": run.ids[id].get("seconds"),
        "width": width,
        "height": height,
        "shown": [size[1], size[0]],
        "note": note,
        "masks": 0 if masks is None else int(np.unique(masks).size),
        "rated": masks is not None and any(score is not None for _, _, score in mask_rows),
        "differences": 0 if differences is None else len(differences),
        **({"classes": [], "score": None} if labels is None else _class_rows(labels, len(names), scores)),
    }
    maps = {
        "labels": None if labels is None else pack(_reduce(labels, size)),
        "masks": None if masks is None else pack(_reduce(masks, size)),
        "rows": mask_rows,
        "differences": None if differences is None else pack(differences),
    }
    colours = run.facts["colours"] if names else mask_colours()
    files = {".png": _tint(index_map if names else index_map.astype(np.int64) % MASK_COLOURS, colours)}
    if photo is not None:
        files |= _photo_files(photo, size)
    return ReportImage(row | {"pictures": sorted(files)}, maps, files)


def pack(array: np.ndarray) -> dict[str, Any]:
    """An unsigned array as JSON: its shape, the bits of a number (8 or 16), and the little-endian bytes, zlib, base64.

    The page unpacks it without a canvas, whose pixels some browsers disturb against fingerprinting.
    """
    little = array.astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes())).decode("ascii")
    return {"shape": list(array.shape), "bits": 8 * array.dtype.itemsize, "data": data}


@cache
def mask_colours() -> tuple[Colour, ...]:
    """The colours of masks by number, to be repeated."""
    return distinct_colours(MASK_COLOURS)


def _read_masks(run: RunFolder, id: str, labels: np.ndarray) -> np.ndarray | None:
    """The mask numbers of a labelled image, None if the run has none; checks that labels and masks fit."""
    path, names = run.file(id, ".png"), run.facts["names"]
    unlabelled = run.facts.get("no_label", no_label(len(names)))
    wrong = labels[(labels >= len(names)) & (labels != unlabelled)]
    if wrong.size:
        raise ValueError(f"{path}: holds the index {wrong[0]}, but the run has {len(names)} names")
    path = run.file(id, ".masks.png")
    if not path.is_file():
        return None
    masks = read_index_png(path)
    if masks.shape != labels.shape:
        sizes = " pixels, but the labels have ".join(
            f"{width} x {height}" for height, width in (masks.shape, labels.shape)
        )
        raise ValueError(f"{path}: {sizes}")
    return masks


def _read_scores(path: Path) -> tuple[dict[int, float], list[list[Any]]]:
    """The scores of an image's classes by index, and [mask, class, score] of its masks; empty without a JSON."""
    if not path.is_file():
        return {}, []
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        classes = {row["index"]: row["score"] for row in summary["classes"] if row["score"] is not None}
        return classes, [[row["mask"], row["class"], row["score"]] for row in summary["masks"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the summary of an image ({error!r})") from error


def _class_rows(labels: np.ndarray, names: int, scores: dict[int, float]) -> dict[str, Any]:
    """`classes`: [index, pixels, score or None] of what occurs, largest first, no label as the index `names`; `score`:
    their mean over the pixels that have one, None without any."""
    indices, pixels = np.unique(np.minimum(labels, names), return_counts=True)
    counted = sorted(zip(indices.tolist(), pixels.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    rated = sum(count for index, count in counted if index in scores)
    total = sum(count * scores[index] for index, count in counted if index in scores)
    classes = [[index, count, scores.get(index)] for index, count in counted]
    return {"classes": classes, "score": round(total / rated, 6) if rated else None}


def _read_photo(run: RunFolder, id: str, size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """The photo (H, W, 3) uint8, or None and why there is none."""
    file = run.ids[id]["file"]
    places = [Path(file), Path(run.facts.get("root") or ".") / file, run.path / file]
    try:
        if file.startswith(SCENE):
            block, _, number = file.removeprefix(SCENE).rpartition("/")
            photo = Block.parse(block).scene(int(number)).image
        else:
            photo = read_image(next((path for path in places if path.is_file()), file))
    except ValueError as error:
        return None, f"the image could not be read ({error})"
    if photo.shape[:2] != size:
        return None, f"{file}: has another size now, {photo.shape[1]} x {photo.shape[0]} pixels"
    return photo, ""


def _read_differences(path: Path) -> np.ndarray | None:
    """The difference maps (K, h, w) uint8 of a kept analysis, row k that of mask k; None where there are none."""
    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="numpy") as file:
            maps = file.get_tensor("difference_maps") if "difference_maps" in file.keys() else None  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a saved analysis ({error})") from error
    return maps if maps is not None and maps.dtype == np.uint8 and maps.ndim == 3 and len(maps) else None


def _reduced_size(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduce(index_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An index map sampled at the nearest pixels; itself where the size is its own."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, index_map.shape, strict=True)
    )
    return index_map[rows[:, None], columns[None, :]]


def _tint(index_map: np.ndarray, colours: Sequence[Sequence[int]]) -> bytes:
    """The gallery picture of a map as a PNG in its colours; an index without one is white, as no label is."""
    height, width = index_map.shape
    small = _reduce(index_map, _reduced_size(height, width, THUMBNAIL))
    table = np.array([*colours, NO_LABEL_COLOUR], dtype=np.uint8)
    used, places = np.unique(np.minimum(small, len(colours)), return_inverse=True)
    if used.size <= 256:
        return index_png(
            places.reshape(small.shape).astype(np.uint8), [tuple(colour) for colour in table[used].tolist()]
        )
    return png_bytes(Image.fromarray(table[np.minimum(small, len(colours))]))


def _photo_files(photo: np.ndarray, size: tuple[int, int]) -> dict[str, bytes]:
    picture = Image.fromarray(photo)
    files = {".jpg": _jpeg(picture, size)}
    if max(size) > THUMBNAIL:
        files[".thumb.jpg"] = _jpeg(picture, _reduced_size(*size, THUMBNAIL))
    return files


def _jpeg(picture: Image.Image, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    shown = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    fine = max(size) <= THUMBNAIL  # then it may be shown enlarged, where coarse colours would be seen
    shown.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0 if fine else 2, optimize=True)
    return buffer.getvalue()
