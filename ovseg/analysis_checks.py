"""What a saved analysis may hold: its arrays, its origin and its other metadata. Damage is named by its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emerdiff.settings import NOTHING, Allowed, Table, either, listed, number, show, show_key, text, whole
from ovseg.compare import NEW_IN_VIEWS
from ovseg.images import MAX_PIXELS

MOST_MASKED = 2**26  # masks times cells of `low_resolution_masks`; of EmerDiff's 256 masks and 64x64 cells it is 2**20
MOST_IDS = 2**17  # of segments in a small image, some of which may have no pixel; in a large one, as many as pixels
AXES = {  # of the arrays that readers rely on, and their kind of numbers: u unsigned, i signed, f floating point
    "segments": (2, "ui"),
    "refined": (2, "ui"),
    "features": (3, "f"),
    "regions": (2, "f"),
    "low_resolution_masks": (2, "i"),
    "queries": (2, "f"),
    "difference_maps": (3, "u"),
}

SIDE = whole(1, MAX_PIXELS)
NAME = text()
ORIGIN: Table = {
    "image_sha256": text(r"[0-9a-f]{64}"),
    "height": SIDE,
    "width": SIDE,
    "clip": NAME,
    "dtype": NAME,
    "view": Allowed("an object", lambda value: isinstance(value, dict)),
    "masks": Allowed(
        "the identity of a mask source", lambda value: isinstance(value, dict) and NAME.fits(value.get("by"))
    ),
}
FACTS: Table = {  # of EmerDiff's; other sources may leave others
    "network_size": listed(whole(1, 2**14), 2, 2),
    "layer_rms": either(number(0, 1e38), NOTHING),
}


def check_content(origin: Any, facts: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, naming the key or the array, for an analysis that is damaged; KeyError without its features.

    arrays: as `check_arrays` let them pass.
    """
    _check_settings(origin, ORIGIN, "origin.")
    _check_settings(facts, FACTS, "facts.")
    _check_masks(origin["height"], origin["width"], arrays)
    _check_regions(origin["view"], arrays)
    _check_evidence(arrays)


def _check_settings(settings: Any, known: Table, prefix: str) -> None:
    """ValueError, naming the key, for a value that is not as allowed."""
    if not isinstance(settings, dict):
        raise ValueError(f"{prefix[:-1]}: expected an object, got {show(settings)}")
    for key in settings:
        if key in known and not known[key].fits(settings[key]):
            raise ValueError(f"{prefix}{key}: expected {known[key].expected}, got {show(settings[key])}")
        if known is ORIGIN and key not in known:
            raise ValueError(f"{prefix}{show_key(key)}: not a key of an origin")
    if absent := sorted(known.keys() - settings.keys()) if known is ORIGIN else []:
        raise ValueError(f"{prefix}{absent[0]}: missing")


def check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError, naming the array, for other axes or kinds of numbers than expected, or ones that are not finite."""
    for name, array in arrays.items():
        if array.dtype.kind not in "uifb":
            raise ValueError(f"{name}: expected numbers, got {array.dtype}")
        axes, kinds = AXES.get(name, (array.ndim, array.dtype.kind))
        if array.ndim != axes or array.dtype.kind not in kinds:
            raise ValueError(f"{name}: expected {axes} axes, got {array.dtype} of shape {array.shape}")
        if array.size == 0 and name != "difference_maps":
            raise ValueError(f"{name}: expected numbers, got shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _check_masks(height: int, width: int, arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError for an image that is too large, and for masks of another size than it or with odd ids."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"origin.height: expected at most {MAX_PIXELS} pixels in all, got {height} rows")
    most = max(height * width, MOST_IDS)
    for name in ("segments", "refined"):
        if (masks := arrays.get(name)) is None:
            continue
        if masks.shape != (height, width):
            raise ValueError(f"{name}: expected {height}x{width}, got shape {masks.shape}")
        if masks.min() < 0 or masks.max() >= most:
            raise ValueError(f"{name}: expected ids from 0 to {most - 1}, got {masks.min()} to {masks.max()}")
        most = int(masks.max()) + 1  # refined masks are some of the segments
    if "refined" in arrays and "segments" not in arrays:
        raise ValueError("refined: expected beside segments")


def _check_regions(view: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError for region features that are missing, or do not fit the masks and the features."""
    segments, features = arrays.get("segments"), arrays["features"]
    if (regions := arrays.get("regions")) is None:
        named = view.get("regions", NEW_IN_VIEWS["regions"])
        if segments is not None and named != NEW_IN_VIEWS["regions"]:
            raise ValueError(f"regions: missing, expected those that origin.view names, {show(named)}")
        return
    wanted = (0 if segments is None else int(segments.max()) + 1, features.shape[0])
    if regions.shape != wanted:
        raise ValueError(f"regions: expected a row for each mask, {wanted[0]}x{wanted[1]}, got shape {regions.shape}")


def _check_evidence(arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError, naming the array, where what EmerDiff left does not fit together."""
    if (grid := arrays.get("low_resolution_masks")) is None:
        return
    if grid.min() < 0 or (int(grid.max()) + 1) * grid.size > MOST_MASKED:
        raise ValueError(f"low_resolution_masks: expected ids from 0 for {grid.size} cells, got up to {grid.max()}")
    if (queries := arrays.get("queries")) is not None and len(queries) != grid.size:
        raise ValueError(f"queries: expected {grid.size} rows, one a cell of low_resolution_masks, got {len(queries)}")
