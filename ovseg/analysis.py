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

from emerdiff.settings import one_line
from ovseg.analysis_checks import check_arrays, check_content
from ovseg.compare import differences
from ovseg.files import write_atomically

FORMAT = "ovseg analysis 2"
FORMER = "ovseg analysis 1"  # of EmerDiff's masks alone
MASKS = "segments", "refined"  # maps of mask numbers
MAP_SIDE = 128  # the longer side of kept difference maps is at most this, pixels


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
    refined: (H, W) int32, the segments as they follow the image's edges, see `ovseg.pamr`; None where that was not
        asked for.
    image: (H, W, 3) uint8, the image itself, which is not saved; None for an analysis that was loaded.
    """

    segments: np.ndarray | None
    features: np.ndarray
    origin: Origin
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    regions: np.ndarray | None = None
    refined: np.ndarray | None = None
    image: np.ndarray | None = None

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
        for name in MASKS:  # in as few bytes as the numbers need
            if (masks := getattr(self, name)) is not None:
                arrays[name] = masks.astype(np.min_scalar_type(int(masks.max())))
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
            check_arrays(arrays)
            origin, facts = _upgraded(content) if content["format"] == FORMER else (content["origin"], content["facts"])
            if arrays.get("difference_maps", np.ones(1)).shape[0] == 0:
                del arrays["difference_maps"]  # the former format's word for none
            check_content(origin, facts, arrays)
            masks = {name: arrays.pop(name).astype(np.int32) for name in MASKS if name in arrays}
            return cls(
                segments=masks.get("segments"),
                features=arrays.pop("features"),
                regions=arrays.pop("regions", None),
                refined=masks.get("refined"),
                origin=Origin(**origin),
                evidence=arrays,
                facts=dict(facts),
            )
        except KeyError as error:
            raise ValueError(f"{path}: not a saved analysis ({error} is missing)") from error
        except (SafetensorError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: not a saved analysis ({one_line(error)})") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


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
