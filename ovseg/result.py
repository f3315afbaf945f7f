"""What one labelled image is: how it is asked, shown and converted, and its files in a run folder.

Files are the index PNG, the mask numbers, the per-image JSON and the overlay. Nothing here depends on the clock: the
same segmentation gives the same bytes. What was run, and for how long, stands in `run.json` (`run.record`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovseg import draw
from ovseg.classes import BACKGROUND, MOST_NAMES
from ovseg.files import index_png, json_bytes, png_bytes, write_atomically
from ovseg.images import ImageLike, as_image, check_array

if TYPE_CHECKING:
    from supervision import Detections

MOST_NAMES_8_BIT = 254  # 255 is "no label" in an 8-bit map; more names need 16 bits, where it is 65535
_write = partial(write_atomically, sync=False)  # `ovseg.run.record` waits for the disk, for many files at once
SHOWN_SIDE = 1024  # pixels of a picture's longer side in a notebook, which keeps the picture in its own file
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
    names: L different names in the class list's order; "background", where there is one, is in front.
    colours: L colours (R, G, B), 0..255.
    masks: (H, W) int32, the class-agnostic masks, ids 0..K-1; None where every pixel was labelled by itself.
    mask_scores: (K, L) float32, each mask's probability per name, in 0..1; None with `masks`.
    pixel_scores: (H, W) float32, the probability of each pixel's label, in 0..1; given instead of the two above.
    image: (H, W, 3) uint8, what was labelled, to draw on; None where it was not kept.
    notes: lines to tell the user, such as background words that were left out because they are classes.

    `result["cat"]` is the cat's pixels, (H, W) bool; `"cat" in result` and `list(result)` are about the names.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    colours: tuple[draw.Colour, ...]
    masks: np.ndarray | None
    mask_scores: np.ndarray | None
    _: KW_ONLY
    pixel_scores: np.ndarray | None = None
    image: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = (self.masks is not None, self.mask_scores is not None, self.pixel_scores is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("expected masks and mask_scores, or pixel_scores alone")
        planes = {"masks": self.masks, "pixel_scores": self.pixel_scores}
        if self.image is not None:
            check_array(self.image)
            planes["image"] = self.image[..., 0]
        for name, plane in planes.items():
            if plane is not None and plane.shape != self.labels.shape:
                raise ValueError(f"labels {self.labels.shape} and {name} {plane.shape} differ in size")
        if len(self.colours) != len(self.names):
            raise ValueError(f"{len(self.names)} names, but {len(self.colours)} colours")
        if self.mask_scores is not None and self.mask_scores.shape[1:] != (len(self.names),):
            raise ValueError(f"{len(self.names)} names, but mask_scores of shape {self.mask_scores.shape}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: {max(self.names, key=self.names.count)!r} is there twice")

    def __getitem__(self, name: str) -> np.ndarray:
        """(H, W) bool: the pixels labelled `name`. Raises ValueError, with the names there are, for another."""
        return self.labels == self._index(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        (height, width), count = self.labels.shape, len(self.names)
        shares = draw.share_text(self.labels, self.names)
        return f"Segmentation({height}x{width}, {count} name{'' if count == 1 else 's'}: {shares})"

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"no class {name!r} here; the names are {', '.join(self.names)}")
        return self.names.index(name)

    @property
    def confidence(self) -> np.ndarray:
        """(H, W) float32 in 0..1: the probability of the label each pixel got; 0 where there is no label."""
        labelled = self.labels != no_label(len(self.names))
        if self.pixel_scores is not None:
            return np.where(labelled, self.pixel_scores, np.float32(0))
        assert self.masks is not None and self.mask_scores is not None  # as __post_init__ demands
        index = np.where(labelled, self.labels, 0)
        return np.where(labelled, self.mask_scores[self.masks, index], np.float32(0))

    def class_scores(self, name: str) -> np.ndarray:
        """(H, W) float32 in 0..1: the probability of `name` at each pixel, that of its mask.

        Raises ValueError for a name that is not here, and without masks: then only each pixel's own label has one.
        """
        index = self._index(name)
        if self.masks is None or self.mask_scores is None:
            raise ValueError("class_scores needs masks, and here every pixel was labelled by itself: see confidence")
        return self.mask_scores[:, index][self.masks]

    def summary(self) -> list[dict[str, Any]]:
        """One row per name, in order: index, name, pixels, share of the image (0..1), score (mean probability over
        those pixels; None where the name got no pixel)."""
        rows = []
        labels, most = self.labels.ravel(), len(self.names)
        counts, totals = np.bincount(labels, minlength=most), np.bincount(labels, self.confidence.ravel(), most)
        for index, name in enumerate(self.names):
            pixels = int(counts[index])
            score = round(float(totals[index]) / pixels, 6) if pixels else None
            share = round(pixels / labels.size, 6)
            rows.append({"index": index, "name": name, "pixels": pixels, "share": share, "score": score})
        return rows

    def mask_rows(self) -> list[dict[str, Any]]:
        """One row per mask in use: mask (its id in `masks`), class (index into names; None where a pixel of it has no
        label), score (probability of that class, 0..1; None likewise), pixels. Without masks there are none."""
        if self.masks is None or self.mask_scores is None:
            return []
        ids, first, pixels = np.unique(self.masks, return_index=True, return_counts=True)
        rows = []
        for mask, position, count in zip(ids.tolist(), first, pixels.tolist(), strict=True):
            index = int(self.labels.flat[position])
            known = index < len(self.names)
            score = round(float(self.mask_scores[mask, index]), 6) if known else None
            rows.append({"mask": mask, "class": index if known else None, "score": score, "pixels": count})
        return rows

    def overlay(self, image: ImageLike | None = None) -> Image.Image:
        """The labels' colours over the image, with a legend; see `draw.overlay`. image: anything `images.as_image`
        takes, of the labels' size; by default this result's own, or the colours alone where it has none."""
        photo = self.image if image is None else as_image(image)
        return draw.overlay(photo, self.labels, self.names, self.colours)

    def show(self) -> None:
        """Show the overlay, in a notebook or the system's picture viewer; RuntimeError where there is neither."""
        draw.show(self.overlay())

    def _repr_png_(self) -> bytes:
        """The overlay as PNG, for notebooks."""
        return png_bytes(draw.overlay(self.image, self.labels, self.names, self.colours, SHOWN_SIDE))

    def _repr_html_(self) -> str:
        """The painted image and a table of the names that occur, for notebooks."""
        picture = png_bytes(draw.paint(self.image, self.labels, self.colours, SHOWN_SIDE))
        scores = [row["score"] for row in self.summary()]
        legend = draw.legend_html(self.labels, self.names, self.colours, scores)
        source = f"data:image/png;base64,{b64encode(picture).decode()}"
        return f'<div><img src="{source}" style="max-width:100%">{legend}</div>'

    def to_rgba(self, alpha: int = 160) -> np.ndarray:
        """(H, W, 4) uint8: each label's colour with this alpha (0..255), to lay over the image; background and no
        label have alpha 0."""
        if not 0 <= alpha <= 255:
            raise ValueError(f"alpha: expected 0..255, got {alpha}")
        opacity = [0 if name == BACKGROUND else alpha for name in self.names] + [0]
        table = np.column_stack([(*self.colours, draw.NO_LABEL_COLOUR), opacity]).astype(np.uint8)
        return table[np.minimum(self.labels.astype(np.int64), len(self.names))]

    def to_detections(self) -> Detections:
        """The same as `supervision.Detections`: one for each class that has pixels, without the background.

        mask (n, H, W) bool; xyxy (n, 4), its box by `supervision.mask_to_xyxy`; confidence (n,) float32, the mean over
        the mask; class_id (n,), index into `names`; data["class_name"] (n,).
        Raises ImportError where supervision is not installed.
        """
        try:
            supervision = import_module("supervision")
        except ModuleNotFoundError as error:
            if error.name != "supervision":  # installed, but something that it needs is not
                raise
            raise ImportError("to_detections needs supervision, not installed here: pip install supervision") from None
        rows = [row for row in self.summary() if row["pixels"] and row["name"] != BACKGROUND]
        masks = np.zeros((len(rows), *self.labels.shape), bool)
        for mask, row in zip(masks, rows, strict=True):
            mask[:] = self.labels == row["index"]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=np.array([row["score"] for row in rows], np.float32),
            class_id=np.array([row["index"] for row in rows], int),
            data={"class_name": np.array([row["name"] for row in rows], str)},
        )

    def save(self, folder: str | Path, id: str, image: ImageLike | None = None) -> None:
        """Write `<id>.png` (exact indices), `<id>.masks.png` (mask numbers, where there are masks), `<id>.json` (size,
        a row per class, a row per mask) into `folder`; with an image, its own or this one, `<id>.overlay.png` too."""
        folder = Path(folder)
        overlay = None if self.image is None and image is None else self.overlay(image)
        facts = {
            "id": id,
            "width": self.labels.shape[1],
            "height": self.labels.shape[0],
            "no_label_pixels": int((self.labels == no_label(len(self.names))).sum()),
            "classes": self.summary(),
            "masks": self.mask_rows(),
        }
        _write(folder / f"{id}.png", index_png(self.labels, self.colours))
        if self.masks is None:  # what an earlier result of this id may have left would contradict the JSON
            (folder / f"{id}.masks.png").unlink(missing_ok=True)
        else:
            _write(folder / f"{id}.masks.png", masks_png(self.masks))
        _write(folder / f"{id}.json", json_bytes(facts))
        if overlay is not None:
            _write(folder / f"{id}.overlay.png", png_bytes(overlay, OVERLAY_COMPRESSION))


def save_masks(folder: str | Path, id: str, image: np.ndarray, segments: np.ndarray) -> int:
    """Write class-agnostic masks: `<id>.png` (mask numbers, 16-bit where there are over 254) and `<id>.overlay.png`.

    image: (H, W, 3) uint8; segments: (H, W) int, ids from 0. Returns the number of masks.
    """
    colours = draw.distinct_colours(int(segments.max()) + 1)
    overlay = png_bytes(draw.paint(image, segments, colours), OVERLAY_COMPRESSION)
    _write(Path(folder) / f"{id}.overlay.png", overlay)
    _write(Path(folder) / f"{id}.png", masks_png(segments))
    return int(np.unique(segments).size)


def masks_png(segments: np.ndarray) -> bytes:
    """Mask numbers (H, W) from 0 as PNG bytes, exact: 8-bit with a palette, 16-bit where there are over 254."""
    highest = int(segments.max())
    if highest > 65535:
        raise ValueError(f"masks: at most 65536 numbers fit into a map, got {highest + 1}")
    index_type = np.uint8 if highest < MOST_NAMES_8_BIT else np.uint16
    return index_png(segments.astype(index_type), draw.distinct_colours(highest + 1))
