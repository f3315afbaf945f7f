"""What one labelled image is, and its files: the index PNG, the per-image JSON and the overlay of a run folder.

Files are written under a temporary name and renamed, so that a reader never meets half a file. Nothing here depends on
the clock: the same segmentation gives the same bytes. What was run, and for how long, stands in `run.json` (`batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg import draw
from ovseg.files import index_png, json_bytes, png_bytes, write_atomically

MOST_NAMES_8_BIT = 254  # 255 is "no label" in an 8-bit map; more names need 16 bits, where it is 65535
MOST_NAMES = 65534
OVERLAY_COMPRESSION = 1  # zlib's level: a sixth larger than at its usual 6, and some six times as quick


def no_label(names: int) -> int:
    """The index that means "no label" in a map over so many names. Raises ValueError for more than 65534."""
    if names > MOST_NAMES:
        raise ValueError(f"classes: at most {MOST_NAMES} names fit into a label map, got {names}")
    return 255 if names <= MOST_NAMES_8_BIT else 65535


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One image, labelled.

    labels: (H, W) uint8 at the image's own size, indices into `names`, 255 = no label (over 254 names: uint16, 65535).
    names: L names in the class list's order; "background", where there is one, is in front.
    colours: L colours (R, G, B), 0..255.
    segments: (H, W) int32, the class-agnostic masks, ids 0..K-1.
    mask_scores: (K, L) float32, each mask's probability per name, in 0..1.
    notes: lines to tell the user, such as background words that were left out because they are classes.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    colours: tuple[draw.Colour, ...]
    segments: np.ndarray
    mask_scores: np.ndarray
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels.shape != self.segments.shape:
            raise ValueError(f"labels {self.labels.shape} and segments {self.segments.shape} differ in size")
        if self.mask_scores.shape[1:] != (len(self.names),) or len(self.colours) != len(self.names):
            raise ValueError(
                f"{len(self.names)} names, but {len(self.colours)} colours and scores of shape {self.mask_scores.shape}"
            )

    @property
    def scores(self) -> np.ndarray:
        """(H, W) float32 in 0..1: the probability of the label each pixel got; 0 where there is no label."""
        labelled = self.labels != no_label(len(self.names))
        index = np.where(labelled, self.labels, 0)
        return np.where(labelled, self.mask_scores[self.segments, index], np.float32(0))

    def class_scores(self, name: str) -> np.ndarray:
        """(H, W) float32 in 0..1: the probability of `name` at each pixel."""
        if name not in self.names:
            raise ValueError(f"no class {name!r} here; the names are {', '.join(self.names)}")
        return self.mask_scores[:, self.names.index(name)][self.segments]

    def summary(self) -> list[dict[str, Any]]:
        """One row per name, in order: index, name, pixels, share of the image (0..1), score (mean probability over
        those pixels; None where the name got no pixel)."""
        rows = []
        labels, most = self.labels.ravel(), len(self.names)
        counts, totals = np.bincount(labels, minlength=most), np.bincount(labels, self.scores.ravel(), most)
        for index, name in enumerate(self.names):
            pixels = int(counts[index])
            score = round(float(totals[index]) / pixels, 6) if pixels else None
            share = round(pixels / labels.size, 6)
            rows.append({"index": index, "name": name, "pixels": pixels, "share": share, "score": score})
        return rows

    def mask_rows(self) -> list[dict[str, Any]]:
        """One row per mask in use: mask (its id in `segments`), class (index into names; None where a pixel of it has
        no label), score (probability of that class, 0..1; None likewise), pixels."""
        ids, first, pixels = np.unique(self.segments, return_index=True, return_counts=True)
        rows = []
        for mask, position, count in zip(ids.tolist(), first, pixels.tolist(), strict=True):
            index = int(self.labels.flat[position])
            known = index < len(self.names)
            score = round(float(self.mask_scores[mask, index]), 6) if known else None
            rows.append({"mask": mask, "class": index if known else None, "score": score, "pixels": count})
        return rows

    def overlay(self, image: np.ndarray) -> Image.Image:
        """`image` (H, W, 3) uint8 under the coloured labels, with a legend; see `draw.overlay`."""
        return draw.overlay(image, self.labels, self.names, self.colours)

    def save(self, folder: str | Path, id: str, image: np.ndarray | None = None) -> None:
        """Write `<id>.png` (exact indices), `<id>.masks.png` (mask numbers) and `<id>.json` (size, a row per class, a
        row per mask) into `folder`; given the image, (H, W, 3) uint8, `<id>.overlay.png` too."""
        folder = Path(folder)
        height, width = self.labels.shape
        facts = {
            "id": id,
            "width": width,
            "height": height,
            "no_label_pixels": int((self.labels == no_label(len(self.names))).sum()),
            "classes": self.summary(),
            "masks": self.mask_rows(),
        }
        write_atomically(folder / f"{id}.png", index_png(self.labels, self.colours))
        write_atomically(folder / f"{id}.masks.png", masks_png(self.segments))
        write_atomically(folder / f"{id}.json", json_bytes(facts))
        if image is not None:
            write_atomically(folder / f"{id}.overlay.png", png_bytes(self.overlay(image), OVERLAY_COMPRESSION))


def save_masks(folder: str | Path, id: str, image: np.ndarray, segments: np.ndarray) -> int:
    """Write class-agnostic masks: `<id>.png` (mask numbers, 16-bit where there are over 254) and `<id>.overlay.png`.

    image: (H, W, 3) uint8; segments: (H, W) int, ids from 0. Returns the number of masks.
    """
    colours = draw.distinct_colours(int(segments.max()) + 1)
    overlay = png_bytes(draw.paint(image, segments, colours), OVERLAY_COMPRESSION)
    write_atomically(Path(folder) / f"{id}.overlay.png", overlay)
    write_atomically(Path(folder) / f"{id}.png", masks_png(segments))
    return int(np.unique(segments).size)


def masks_png(segments: np.ndarray) -> bytes:
    """Mask numbers (H, W) from 0 as PNG bytes, exact: 8-bit with a palette, 16-bit where there are over 254."""
    highest = int(segments.max())
    index_type = np.uint8 if highest < MOST_NAMES_8_BIT else np.uint16
    return index_png(segments.astype(index_type), draw.distinct_colours(highest + 1))
