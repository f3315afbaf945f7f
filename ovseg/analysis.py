"""The per-image work as a value: masks and dense features, kept so that other classes need no diffusion model.

It is saved as one safetensors file whose metadata says what it was made from; `check` refuses it for anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emerdiff.settings import NOTHING, Allowed, Table, either, listed, number, one_line, show, show_key, text, whole
from ovseg.compare import NEW_IN_VIEWS, differences
from ovseg.files import write_atomically
from ovseg.images import MAX_PIXELS

FORMAT = "ovseg analysis 2"
MOST_MASKED = 2**26  # masks times cells of `low_resolution_masks`; of EmerDiff's 256 masks and 64x64 cells it is 2**20
MOST_IDS = 2**17  # of segments in a small image, some of which may have no pixel; in a large one, as many as pixels
FORMER = "ovseg analysis 1"  # of EmerDiff's masks alone
MAP_SIDE = 128  # the longer side of kept difference maps is at most this, pixels
AXES = {  # of the arrays that readers rely on, and their kind of numbers: u unsigned, i signed, f floating point
    "segments": (2, "ui"),
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


class AnalysisMismatch(ValueError):
    """An analysis of another image, by other models, or with other settings; the message says which."""


@dataclass(frozen=True)
class Origin:
    """All that decides what an analysis holds. Two equal origins give equal analyses (on one kind of device)."""

    image_sha256: str  # of the pixels, see `image_sha256`
    height: int  # of the image, pixels
    width: int
    clip: str  # which weights, see `weights.identity`
    dtype: str  # in which the networks ran, such as "float32"
    view: Mapping[str, Any]  # ovseg.towers.view.View as a dict
    masks: Mapping[str, Any]  # the mask source's identity: "by", "options" and, with one, "diffusion"


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """One image's masks and CLIP features.

    segments: (H, W) int32 at the image's own size, ids 0..K-1; None where every pixel is by itself.
    features: (C, h, w) float16, dense CLIP features in the text space.
    origin: what it was made from.
    evidence: what the mask source left, by name; see `masks.Masks`. Of EmerDiff: "low_resolution_masks" (h', w') int32,
        the clusters the segments came from; "queries" (h'*w', D) float16, the query vectors that were clustered, row by
        row; "difference_maps" (K, h", w") uint8, small and on a common scale, to look at.
    facts: JSON values likewise. Of EmerDiff: "network_size", (H', W') of the image in the diffusion model, pixels;
        "layer_rms", RMS of the modulated layer's output, the unit of `strength`.
    regions: (K, C) float32, the feature of each mask by `origin.view["regions"]`: all that naming masks needs. None in
        files of before, where it is the mean of the features, and without masks.
    """

    segments: np.ndarray | None
    features: np.ndarray
    origin: Origin
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    regions: np.ndarray | None = None

    def __repr__(self) -> str:
        masks = "no masks" if self.segments is None else f"{int(self.segments.max()) + 1} masks"
        return f"Analysis({self.origin.height}x{self.origin.width}, {masks} by {self.origin.masks['by']})"

    def check(self, expected: Origin) -> None:
        """Raise `AnalysisMismatch`, naming every difference, unless this was made from what is expected."""
        if found := differences(asdict(self.origin), asdict(expected)):
            raise AnalysisMismatch(f"the kept analysis does not fit: {'; '.join(found)}")

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, whole or not at all."""
        arrays = {"features": self.features, **self.evidence}
        if self.regions is not None:
            arrays["regions"] = self.regions
        if self.segments is not None:  # in as few bytes as the numbers need
            arrays["segments"] = self.segments.astype(np.min_scalar_type(int(self.segments.max())))
        content = {"format": FORMAT, "origin": asdict(self.origin), "facts": dict(self.facts)}
        # One entry only: safetensors writes several in an order that changes from call to call.
        metadata = {"ovseg": json.dumps(content, sort_keys=True)}
        ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
        write_atomically(Path(path), save(ordered, metadata=metadata), sync=False)

    @classmethod
    def load(cls, path: str | Path) -> Analysis:
        """Read a saved analysis; nothing is compared yet, see `check`.

        Raises OSError if the file is not there, ValueError if it is damaged or something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                content = json.loads((file.metadata() or {}).get("ovseg", "{}"), parse_constant=_refuse)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if not isinstance(content, dict) or content.get("format") not in (FORMAT, FORMER):
                raise ValueError(f"expected the format {FORMAT!r}")
            _check_arrays(arrays)
            origin, facts = _upgraded(content) if content["format"] == FORMER else (content["origin"], content["facts"])
            _check_settings(origin, ORIGIN, "origin.")
            _check_settings(facts, FACTS, "facts.")
            segments, features = arrays.pop("segments", None), arrays.pop("features")
            regions = arrays.pop("regions", None)
            if arrays.get("difference_maps", np.ones(1)).shape[0] == 0:
                del arrays["difference_maps"]  # the former format's word for none
            _check_origin(Origin(**origin), segments)
            _check_regions(origin["view"], regions, segments, features)
            _check_evidence(arrays)
            return cls(
                segments=None if segments is None else segments.astype(np.int32),
                features=features,
                origin=Origin(**origin),
                evidence=arrays,
                facts=dict(facts),
                regions=regions,
            )
        except KeyError as error:
            raise ValueError(f"{path}: not a saved analysis ({error} is missing)") from error
        except (SafetensorError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: not a saved analysis ({one_line(error)})") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


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


def _check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
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


def _check_origin(origin: Origin, segments: np.ndarray | None) -> None:
    """ValueError for an image that is too large, and for segments of another size than it or with odd ids."""
    if origin.height * origin.width > MAX_PIXELS:
        raise ValueError(f"origin.height: expected at most {MAX_PIXELS} pixels in all, got {origin.height} rows")
    if segments is None:
        return
    if segments.shape != (origin.height, origin.width):
        raise ValueError(f"segments: expected {origin.height}x{origin.width}, got shape {segments.shape}")
    most = max(segments.size, MOST_IDS)
    if segments.min() < 0 or segments.max() >= most:
        raise ValueError(f"segments: expected ids from 0 to {most - 1}, got {segments.min()} to {segments.max()}")


def _check_regions(
    view: Mapping[str, Any], regions: np.ndarray | None, segments: np.ndarray | None, features: np.ndarray
) -> None:
    """ValueError for region features that are missing, or do not fit the masks and the features."""
    if regions is None:
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


def _upgraded(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Origin and facts of the former format, whose masks were always EmerDiff's."""
    origin = dict(content["origin"])
    options = origin.pop("options")
    by = "naive" if options["upsampling"] == "naive" else "emerdiff"
    masks = {"by": by, "options": options, "diffusion": origin.pop("diffusion")}
    return {**origin, "masks": masks}, {key: content[key] for key in ("network_size", "layer_rms")}


def small_maps(maps: np.ndarray) -> np.ndarray:
    """Difference maps (K, H', W') float as they are kept: uint8, the largest value 255, at most `MAP_SIDE` wide."""
    step = -(-max(maps.shape[1:]) // MAP_SIDE)
    kept = maps[:, ::step, ::step]
    return np.round(kept * (255 / max(float(kept.max()), 1e-12))).astype(np.uint8)


def image_sha256(image: np.ndarray) -> str:
    """Hex digest of an image's size and pixels, so that it does not depend on the file's format."""
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
