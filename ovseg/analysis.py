"""The per-image work as a value: masks and dense features, kept so that other classes need no diffusion model.

It is saved as one safetensors file whose metadata says what it was made from; `check` refuses it for anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ovseg.files import write_atomically

FORMAT = "ovseg analysis 1"
ARRAYS = {
    "segments": ("int32", 2),  # in the file as few bytes as the numbers need
    "low_resolution_masks": ("int32", 2),
    "queries": ("float16", 2),
    "features": ("float16", 3),
    "difference_maps": ("uint8", 3),
}
MAP_SIDE = 128  # the longer side of kept difference maps is at most this, pixels


class AnalysisMismatch(ValueError):
    """An analysis of another image, by other models, or with other settings; the message says which."""


@dataclass(frozen=True)
class Origin:
    """All that decides what an analysis holds. Two equal origins give equal analyses (on one kind of device)."""

    image_sha256: str  # of the pixels, see `image_sha256`
    height: int  # of the image, pixels
    width: int
    diffusion: str  # which weights, see `presets.identity`
    clip: str
    dtype: str  # in which the networks ran, such as "float32"
    options: Mapping[str, Any]  # emerdiff.Options as a dict, with the timesteps of the grid that were used
    view: Mapping[str, Any]  # ovseg.dense.View as a dict


@dataclass(frozen=True, eq=False)
class Analysis:
    """One image's masks and CLIP features.

    segments: (H, W) int32 at the image's own size, ids 0..K-1.
    low_resolution_masks: (h', w') int32, the clusters the segments came from.
    queries: (h'*w', D) float16, the diffusion model's query vectors that were clustered, row by row.
    features: (C, h, w) float16, dense CLIP features in the text space.
    difference_maps: (K, h", w") uint8, small and on a common scale, to look at; K = 0 with naive upsampling.
    network_size: (H', W') of the image in the diffusion model, pixels.
    layer_rms: RMS of the modulated layer's output, the unit of `strength`; None with naive upsampling.
    origin: what it was made from.
    """

    segments: np.ndarray
    low_resolution_masks: np.ndarray
    queries: np.ndarray
    features: np.ndarray
    difference_maps: np.ndarray
    network_size: tuple[int, int]
    layer_rms: float | None
    origin: Origin

    def check(self, expected: Origin) -> None:
        """Raise `AnalysisMismatch`, naming every difference, unless this was made from what is expected."""
        differences = []
        for field in fields(Origin):
            mine, theirs = getattr(self.origin, field.name), getattr(expected, field.name)
            if isinstance(mine, Mapping):
                differences += [
                    f"{field.name}.{key} {mine.get(key)!r} instead of {theirs.get(key)!r}"
                    for key in sorted({*mine, *theirs})
                    if mine.get(key) != theirs.get(key)
                ]
            elif mine != theirs:
                differences.append(f"{field.name} {mine!r} instead of {theirs!r}")
        if differences:
            raise AnalysisMismatch(f"the kept analysis does not fit: {'; '.join(differences)}")

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, whole or not at all."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        arrays["segments"] = arrays["segments"].astype(np.min_scalar_type(int(self.segments.max())))
        facts = {
            "format": FORMAT,
            "network_size": self.network_size,
            "layer_rms": self.layer_rms,
            "origin": asdict(self.origin),
        }
        content = json.dumps(facts, sort_keys=True)
        # One entry only: safetensors writes several in an order that changes from call to call.
        write_atomically(Path(path), save(arrays, metadata={"ovseg": content}))

    @classmethod
    def load(cls, path: str | Path) -> Analysis:
        """Read a saved analysis; nothing is compared yet, see `check`.

        Raises OSError if the file is not there, ValueError if it is damaged or something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {}).get("ovseg", "{}"))
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"expected the format {FORMAT!r}, got {metadata.get('format')!r}")
                arrays = {name: file.get_tensor(name) for name in ARRAYS}
                if arrays["segments"].dtype.kind == "u":
                    arrays["segments"] = arrays["segments"].astype(np.int32)
                layer_rms, origin = metadata["layer_rms"], Origin(**metadata["origin"])
                height, width = metadata["network_size"]
            for name, (dtype, axes) in ARRAYS.items():
                if arrays[name].dtype != dtype or arrays[name].ndim != axes:
                    raise ValueError(f"{name}: expected {axes} axes of {dtype}, got {arrays[name].dtype}")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a saved analysis ({error})") from error
        return cls(**arrays, network_size=(height, width), layer_rms=layer_rms, origin=origin)


def small_maps(maps: np.ndarray | None) -> np.ndarray:
    """Difference maps (K, H', W') float as they are kept: uint8, the largest value 255, at most `MAP_SIDE` wide.

    None (naive upsampling has none) gives (0, 1, 1).
    """
    if maps is None:
        return np.zeros((0, 1, 1), np.uint8)
    step = -(-max(maps.shape[1:]) // MAP_SIDE)
    kept = maps[:, ::step, ::step]
    return np.round(kept * (255 / max(float(kept.max()), 1e-12))).astype(np.uint8)


def image_sha256(image: np.ndarray) -> str:
    """Hex digest of an image's size and pixels, so that it does not depend on the file's format."""
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
