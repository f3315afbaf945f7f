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

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ovseg.files import MAX_MAP_PIXELS, read_index_png

MOST_MASKS = 65536  # numbers of a 16-bit map
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
    masks = READERS[path.suffix](path)
    if masks.shape[-2:] != size:
        (height, width), (rows, columns) = masks.shape[-2:], size
        raise ValueError(f"{path}: masks of {width}x{height} pixels, but the image has {columns}x{rows}")
    labels = masks if masks.ndim == 2 else layered(masks)
    ids, numbers = np.unique(labels, return_inverse=True)
    if len(ids) > MOST_MASKS:
        raise ValueError(f"{path}: {len(ids)} masks, at most {MOST_MASKS} fit into a map of mask numbers")
    return numbers.reshape(size).astype(np.int32)


def layered(masks: np.ndarray) -> np.ndarray:
    """(K, H, W) bool, which may overlap -> (H, W) int64: the smallest mask at each pixel, K where there is none."""
    labels = np.full(masks.shape[1:], len(masks))
    for number in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):  # the largest first, smaller ones over it
        labels[masks[number]] = number
    return labels


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"holds {len(arrays.files)} arrays ({', '.join(arrays.files)}), expected one")
            masks = arrays[arrays.files[0]]
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as masks ({error})") from error
    whole, layers = masks.ndim == 2 and masks.dtype.kind in "iu", masks.ndim == 3 and masks.dtype == np.bool_
    if not (whole or layers) or masks.size == 0:
        raise ValueError(
            f"{path}: expected (H, W) integers or (K, H, W) booleans, got {masks.dtype} of shape {masks.shape}"
        )
    return masks


def _read_run_lengths(path: Path) -> np.ndarray:
    from pycocotools import mask as coco_mask

    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        rows: Any = content.get("masks", content.get("annotations")) if isinstance(content, dict) else content
        encoded = [row.get("segmentation", row) for row in rows]
        if not encoded:
            raise ValueError("no mask")
        masks = [coco_mask.decode(_compressed(one)).astype(bool) for one in encoded]
        return np.stack(masks)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected {RUN_LENGTHS} ({error})") from error


def _compressed(run_lengths: Any) -> dict[str, Any]:
    """Run lengths as pycocotools takes them, which would take a part of them for the whole."""
    from pycocotools import mask as coco_mask

    (height, width), counts = (int(side) for side in run_lengths["size"]), run_lengths["counts"]
    if not 0 < height * width <= MAX_MAP_PIXELS:
        raise ValueError(f"size {width} x {height}, expected at most {MAX_MAP_PIXELS} pixels")
    runs = counts if isinstance(counts, list) else _runs(str(counts).encode("ascii"))
    if sum(runs) != height * width or min(runs) < 0:
        raise ValueError(f"counts cover {sum(runs)} pixels of {height * width}")
    if isinstance(counts, list):
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return {"size": [height, width], "counts": counts.encode("ascii")}


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
        if not bits & 32:  # the last character of this number
            value -= (bits >> 4 & 1) << shift  # its sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


READERS = {".png": read_index_png, ".npz": _read_npz, ".json": _read_run_lengths}
