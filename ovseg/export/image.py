"""The labelled images of a run folder, read one at a time: what every export format is written from.

It needs neither the networks nor the original images: sizes come from the label maps. Pixels with a confidence under
`unsure` count as pixels without a label, in every format alike. An image whose files are damaged is left out, and named
in `problems`; of original images only what can be read as one, of the labels' size, is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ovseg.draw import Colour
from ovseg.files import named, png_bytes
from ovseg.images import IMAGE_SUFFIXES
from ovseg.run.folder import RunFolder, read_run
from ovseg.run.images import MASKS, SUMMARY, RunImage, read_legend


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of one class in an image, or one connected part of them."""

    index: int  # of the class
    mask: np.ndarray  # (H, W) bool
    score: float | None  # mean confidence of its pixels, 0..1; None where the run has none


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image of a run.

    labels: (H, W) uint8, or uint16 for over 254 names; indices into `names`, or `no_label`.
    confidence: (H, W) float32 in 0..1, the score that each pixel's mask has for its class, 0 without a label; None
        where the run kept no masks, or masks without scores (`ovseg eval predict`).
    source: the image's file as the run was given it; it may be gone, or relative to where the run was started.
    """

    id: str
    source: str
    labels: np.ndarray
    confidence: np.ndarray | None
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    no_label: int

    @property
    def file_name(self) -> str:
        """The image's name in an export, its id with the source's ending: "sub/a.jpg"; ".png" where it has none.

        An id that has its ending already, as those of `a.jpg` beside `a.png` have, is the name itself.
        """
        return self.id if self.id.endswith(f".{Path(self.source).suffix[1:]}") else self.paired_name

    @property
    def paired_name(self) -> str:
        """The name for readers who find an image's labels by its name without the ending: `<id>.jpg` for any id."""
        suffix = Path(self.source).suffix
        return self.id + (suffix if suffix.lower() in IMAGE_SUFFIXES else ".png")

    def regions(self, *, components: bool = False, background: bool = True) -> Iterator[Region]:
        """One region a class that occurs, by index; with `components` one for each of its 4-connected parts.

        The background is never divided, and left out without `background`. Pixels without a label are in no region.
        """
        for index in np.unique(self.labels).tolist():
            is_background = has_background(self.names) and index == 0
            if index == self.no_label or (is_background and not background):
                continue
            mask = self.labels == index
            if not components or is_background:
                yield Region(index, mask, self._score(mask))
                continue
            parts, count = ndimage.label(mask)
            for part in range(1, count + 1):
                here = parts == part
                yield Region(index, here, self._score(here))

    def _score(self, mask: np.ndarray) -> float | None:
        return None if self.confidence is None else round(float(self.confidence[mask].mean(dtype=np.float64)), 6)


@dataclass(frozen=True)
class ImageSet:
    """The finished images of a run, and what was asked of the export. Iterating reads one image after the other.

    names, colours, no_label: the run's; see `ovseg.result.Segmentation`.
    unsure: a pixel with a confidence under it (0..1) has no label; None: all keep theirs.
    components: one region for each connected part of a class, in formats that tell regions apart.
    background: whether COCO's formats have the background as a category. outlines: COCO's regions as polygons, not as
        run-length masks. category_ids: name -> COCO's category id; None: as `ovseg.export.categories` numbers them.
    images: what to put where the format has a place for the original images: "none", "copy", or "link" (symbolic).
    uncorrected: the run's own labels, also where a person corrected them.
    problems: id -> why it is left out, as damaged; not_copied: id -> why its original is not copied; lowest: with
        `unsure`, id -> the lowest score that a labelled pixel has, 0..1. All of them are known when it was iterated.
    """

    run: RunFolder
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    no_label: int
    unsure: float | None = None
    components: bool = False
    background: bool = True
    outlines: bool = False
    category_ids: Mapping[str, int] | None = None
    images: str = "none"
    uncorrected: bool = False
    problems: dict[str, str] = field(default_factory=dict)
    not_copied: dict[str, str] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[LabelledImage]:
        some = False
        for id in self.run.done:
            image = RunImage(self.run, id, self.uncorrected)
            try:
                labels = image.index_map()
                confidence = image.confidence(labels)
            except (ValueError, OSError) as error:
                self.problems[id] = str(error)
                continue
            some = True
            yield self._sure(image, labels, confidence)
        if not some:
            first = next(iter(self.problems.values()))
            raise ValueError(f"{self.run.path}: no image can be exported; the first: {first}")
        if self.lowest and len(self.names) == 1 and min(self.lowest.values()) == 1:
            raise ValueError(
                f"unsure: {self.unsure:g} can never act: of one name alone every score is 1; label with more names of "
                "what is in the pictures, or let background words compete (--background words)"
            )

    def _sure(self, image: RunImage, labels: np.ndarray, confidence: np.ndarray | None) -> LabelledImage:
        if self.unsure is not None:
            if confidence is None:
                missing = [path for path in map(image.file, (MASKS, SUMMARY)) if not path.exists()]
                raise ValueError(f"unsure: needs {missing[0]}, which this run did not write")
            if (scores := confidence[labels != self.no_label]).size:
                self.lowest[image.id] = float(scores.min())
            labels = np.where(confidence < self.unsure, self.no_label, labels).astype(labels.dtype)
            confidence = np.where(labels == self.no_label, np.float32(0), confidence)
        return LabelledImage(image.id, image.source, labels, confidence, self.names, self.colours, self.no_label)

    def original(self, image: LabelledImage) -> Path | None:
        """The original file, if it is to be put along, and is an image of the labels' size; else None, and where it
        should be, `not_copied` says why."""
        if self.images == "none":
            return None
        original = RunImage(self.run, image.id)
        try:
            path = original.photo_file()
            if path is None:
                raise ValueError(f"{image.source}: is no file")
            original.photo(image.labels.shape)
        except ValueError as error:
            self.not_copied[image.id] = str(error)
            return None
        return path

    def place(self, image: LabelledImage, target: Path) -> bool:
        """Copy or link the original file to `target`, if it is to be put along and can be; whether it is there."""
        if (path := self.original(image)) is None:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with named(target):
            if self.images == "link":
                target.symlink_to(path.resolve())
            else:
                shutil.copyfile(path, target)
        return True


def open_images(folder: str | Path, *, unsure: float | None = None, **options: Any) -> ImageSet:
    """The images of a run folder. options: fields of `ImageSet` that say what is asked of the export.

    Raises ValueError for a folder that holds no run, a run without class names, one with no finished image, or an
    `unsure` outside 0..1.
    """
    run = read_run(folder)
    legend = read_legend(run)
    if legend is None:
        command = run.facts.get("command", "?")
        raise ValueError(f"{folder}: a run of `ovseg {command}` without names; expected `ovseg label`'s")
    if not run.done:
        raise ValueError(f"{folder}: none of the run's {len(run.ids)} images is done, there is nothing to export")
    if unsure is not None and not 0 <= unsure <= 1:
        raise ValueError(f"unsure: expected a score from 0 to 1, got {unsure:g}")
    damaged = {id: entry["error"] for id, entry in run.ids.items() if entry["state"] == "damaged"}
    return ImageSet(run, legend.names, legend.colours, legend.no_label, unsure=unsure, problems=damaged, **options)


def grey_png(indices: np.ndarray) -> bytes:
    """An index map (H, W) uint8 or uint16 as a PNG without a palette, which some readers would turn into colours."""
    return png_bytes(Image.fromarray(indices))


def has_background(names: Sequence[str]) -> bool:
    """Whether index 0 is the background, as a run's names have it in front."""
    return len(names) > 0 and names[0] == "background"
