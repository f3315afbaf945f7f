"""Anyone's masks from files: index PNG, NumPy npz, or run lengths in JSON as SAM's and COCO's tools write them.

    DIR/ID.masks.png   index PNG (a run folder of ovseg has these)
    DIR/ID.png         index PNG: every value is one mask
    DIR/ID.npz         one array: (H, W) integers, or (K, H, W) booleans
    DIR/ID.json        run lengths: a list of {"segmentation": {"size": [H, W], "counts": ...}}, or an object that holds
                       such a list as "masks" or "annotations"

Masks that may overlap or leave gaps (npz of booleans, JSON): where several cover a pixel the smallest has it, and the
pixels that none covers are one mask more, the last. A run's record names the folder, not what is in it: where masks
have changed, label again with --overwrite.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emerdiff.settings import one_line, show
from ovseg.archives import BROKEN, read_npz
from ovseg.files import read_index_png
from ovseg.json_files import read_json

MOST_MASKS = 65536  # numbers of a 16-bit map
MOST_PIXELS = 1 << 34  # of all masks of an image together: 1400 of 12 megapixels
MOST_ARRAY = 1 << 31  # of those in one array, a byte each; run lengths are decoded one after the other
MOST_BYTES = 1 << 28  # of a JSON
MOST_BITS = 64  # of a compressed run length
ENDINGS = (".masks.png", ".png", ".npz", ".json")
RUN_LENGTHS = 'a list of {"segmentation": {"size": [H, W], "counts": ...}}'


def read_mask_file(folder: Path, id: str, size: tuple[int, int]) -> np.ndarray:
    """The masks of one image: (H, W) int32, ids 0..K-1, each in use.

    folder: see above; id: the image's, "sub/a" for DIR/sub/a.png; size: (H, W) of the image in pixels.
    Raises ValueError, naming the file, where there is none or several, for damaged files, and for another size; without
    a file for an image that has no id.
    """
    if not id:
        raise ValueError("masks_from: this image has no name to find its masks by; give its path, or analyze(..., id=)")
    found = [path for ending in ENDINGS if (path := folder / f"{id}{ending}").is_file()]
    if found and found[0].name.endswith(".masks.png"):
        found = found[:1]  # beside it lie the labels and their summary
    if len(found) != 1:
        looked = ", ".join(f"{id}{ending}" for ending in ENDINGS)
        raise ValueError(
            f"masks_from: {found[0]} and {found[1].name} both hold masks of this image; keep one of them"
            if found
            else f"masks_from: {folder}: no masks for this image; looked for {looked}"
        )
    path = found[0]
    labels = READERS[path.suffix](path, size)
    if labels.shape != size:
        raise ValueError(f"{path}: {_other_size(labels.shape, size)}")
    ids, numbers = np.unique(labels, return_inverse=True)
    if len(ids) > MOST_MASKS:
        raise ValueError(f"{path}: {len(ids)} masks, at most {MOST_MASKS} fit into a map of mask numbers")
    return numbers.reshape(size).astype(np.int32)


def layered(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Masks (H, W) bool, which may overlap -> (H, W) int64: the smallest at each pixel, of equals the later, and one
    number more where there is none."""
    labels, areas, count = np.full(size, -1), np.full(size, np.iinfo(np.int64).max), 0
    for number, mask in enumerate(masks):
        area, count = int(mask.sum()), number + 1
        here = mask & (areas >= area)
        labels[here], areas[here] = number, area
    labels[labels < 0] = count
    return labels


def _other_size(shape: tuple[int, ...], size: tuple[int, ...]) -> str:
    return f"masks of {show(shape[1])}x{show(shape[0])} pixels, but the image has {size[1]}x{size[0]}"


def _check_count(count: int, size: tuple[int, int], most_pixels: int) -> None:
    if count > (most := min(MOST_MASKS, most_pixels // (size[0] * size[1]))):
        raise ValueError(f"{count} masks, expected at most {most} of an image of {size[1]}x{size[0]}")


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    return read_index_png(path)


def _read_arrays(path: Path, size: tuple[int, int]) -> np.ndarray:
    def check(shape: tuple[int, ...], dtype: np.dtype) -> None:
        whole, layers = len(shape) == 2 and dtype.kind in "iu", len(shape) == 3 and dtype == np.bool_
        if not (whole or layers) or 0 in shape:
            raise ValueError(f"expected (H, W) integers or (K, H, W) booleans, got {dtype} of shape {shape}")
        if shape[-2:] != size:
            raise ValueError(_other_size(shape[-2:], size))
        if layers:
            _check_count(shape[0], size, MOST_ARRAY)

    try:
        masks = read_npz(path, check)
    except BROKEN as error:
        reason = one_line(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: cannot be read as masks ({reason})") from error
    return masks if masks.ndim == 2 else layered(masks, size)


def _read_run_lengths(path: Path, size: tuple[int, int]) -> np.ndarray:
    content: Any = read_json(path, MOST_BYTES)
    try:
        rows: Any = content.get("masks", content.get("annotations")) if isinstance(content, dict) else content
        if not rows:
            raise ValueError("no mask")
        _check_count(len(rows), size, MOST_PIXELS)
        return layered((decode_run_lengths(row.get("segmentation", row), size) for row in rows), size)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: expected {RUN_LENGTHS} ({one_line(error)})") from error


def decode_run_lengths(run_lengths: Any, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool of COCO's run lengths, {"size": [H, W], "counts": a list or compressed}, of this size.

    Raises ValueError, TypeError or KeyError for anything else: pycocotools would take a part of them for the whole, and
    write beyond the image for too many.
    """
    from pycocotools import mask as coco_mask

    (height, width), counts = run_lengths["size"], run_lengths["counts"]
    if (height, width) != tuple(size):
        raise ValueError(_other_size((height, width), size))
    runs = counts if isinstance(counts, list) else _runs(counts.encode("ascii") if isinstance(counts, str) else b"")
    if not all(type(run) is int and 0 <= run <= height * width for run in runs):
        raise ValueError(f"counts: expected whole numbers from 0 to {height * width}")
    if sum(runs) != height * width:
        raise ValueError(f"counts cover {sum(runs)} pixels of {height * width}")
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    found: np.ndarray = coco_mask.decode(encoded).astype(bool)
    return found


def _runs(counts: bytes) -> list[int]:
    """COCO's compressed run lengths: five bits a character, the lowest first; the fourth run and those after it are
    written as what they have more than the one two before.

    b"52203" -> [5, 2, 2, 2, 5]
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > MOST_BITS:
            raise ValueError(f"counts: a number of over {MOST_BITS} bits")
        if not bits & 32:  # the last character of this number
            value -= (bits >> 4 & 1) << shift  # its sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


READERS = {".png": _read_png, ".npz": _read_arrays, ".json": _read_run_lengths}
