"""One image of a run, read from its files: labels, masks, scores, confidence, maps of differences, photo.

A run folder holds for every id the files `<id>.png`, `<id>.json`, ...; their endings are the constants below. Scoring,
exports and reports read them here, and nowhere else: a damaged file is a ValueError that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from ovseg.files import read_index_png
from ovseg.json_files import read_json
from ovseg.run.corrections import CORRECTIONS, Corrections, check_indices, corrections
from ovseg.run.corrections import labels as corrected_labels
from ovseg.run.folder import RunFolder
from ovseg.run.legend import Legend as Legend
from ovseg.run.legend import read_legend as read_legend
from ovseg.run.pictures import FAR, picture_file, read_picture
from ovseg.run.schema import check_summary

if TYPE_CHECKING:
    from ovseg.analysis import Analysis

LABELS = ".png"  # indices into the run's names; mask numbers in a run of `ovseg masks`
MASKS = ".masks.png"  # mask numbers of a labelled image
SUMMARY = ".json"  # pixels, share and score of every class, and a row for every mask
OVERLAY = ".overlay.png"  # a picture to look at
ANALYSIS = ".safetensors"  # a kept analysis

MOST_SUMMARY = 1 << 26  # bytes of a summary: a row for each of 65536 masks and 65534 names takes some 15 MB


@dataclass(frozen=True)
class MaskScore:
    """One mask of an image: its number, its class (None without a label) and the score of that class, 0..1 or None."""

    mask: int
    index: int | None
    score: float | None


@dataclass(frozen=True)
class Summary:
    """The scores in an image's JSON. classes: index -> score in 0..1, of the classes that have pixels."""

    classes: dict[int, float]
    masks: tuple[MaskScore, ...]


@dataclass(frozen=True)
class RunImage:
    """One image of a run, by its id. Every method reads its file anew; arrays have the image's own size (H, W)."""

    run: RunFolder
    id: str
    uncorrected: bool = False  # whether `index_map` gives the run's own answer where a person corrected it

    def file(self, ending: str) -> Path:
        """The file with this ending, one of the constants above."""
        return self.run.file(self.id, ending)

    @cached_property
    def legend(self) -> Legend | None:
        """What the indices mean; see `read_legend`."""
        return read_legend(self.run)

    @property
    def source(self) -> str:
        """The image's file as the run was given it, or "pocket:world3/evaluation/0/17"."""
        return str(self.run.ids[self.id]["file"])

    def index_map(self, size: tuple[int, ...] | None = None) -> np.ndarray:
        """(H, W) uint8 or uint16: the labels, as a person corrected them (see `corrections`) unless `uncorrected`; or
        the mask numbers of a run without names.

        size: (H, W) of labels that it must have. Raises ValueError, naming the file, where it is missing, damaged, of
        another size, or holds an index that is none of the names'.
        """
        indices = self._read_map(LABELS, size)
        if self.legend is None:
            return indices
        check_indices(indices, self.legend, str(self.file(LABELS)))
        corrected = None if self.uncorrected else corrected_labels(self.run, self.id)
        if corrected is None:
            return indices
        _check_size(self.file(CORRECTIONS), corrected.shape, indices.shape)
        return corrected

    @property
    def corrections(self) -> Corrections:
        """What a person corrected of it, and whether it was reviewed. Raises ValueError for a damaged file."""
        return corrections(self.run, self.id)

    def masks(self, size: tuple[int, ...]) -> np.ndarray | None:
        """(H, W) uint8 or uint16: the mask of each pixel, numbers from 0; None where the run kept no masks.

        size: (H, W) of the labels. Raises ValueError, naming the file, where it is damaged or of another size.
        """
        if self.legend is None or self.run.facts.get("command") == "masks":
            return self._read_map(LABELS, size)
        return self._read_map(MASKS, size) if self.file(MASKS).is_file() else None

    def summary(self) -> Summary | None:
        """The scores of classes and masks; None where the run wrote none, as `ovseg eval predict` does not.

        Raises ValueError, naming the file, where it is damaged.
        """
        path = self.file(SUMMARY)
        if not path.is_file():
            return None
        summary, most = _read_summary(path), len(self.legend.names) if self.legend else 0
        for index in (*summary.classes, *(row.index for row in summary.masks if row.index is not None)):
            if index >= most:
                raise ValueError(f"{path}: names class {index}, the run has {most}")
        return summary

    def confidence(self, labels: np.ndarray) -> np.ndarray | None:
        """(H, W) float32 in 0..1: the score that each pixel's mask has for its class, 0 without a label, 1 where a
        person gave another label than the run's.

        labels: the image's, (H, W). None where the run kept no masks or no scores. Raises ValueError, naming the file,
        where masks or scores are damaged, or a mask has no score.
        """
        summary = self.summary()
        masks = None if summary is None else self.masks(labels.shape)
        if summary is None or masks is None or self.legend is None:
            return None
        scores = {row.mask: row.score for row in summary.masks}
        table = np.array([scores.get(mask) for mask in range(int(masks.max()) + 1)], np.float32)  # None: nan
        by_hand = labels != self._read_map(LABELS, labels.shape)
        confidence = np.where(by_hand, np.float32(1), table[masks])
        confidence[labels == self.legend.no_label] = 0
        if (missing := masks[np.isnan(confidence)]).size:
            raise ValueError(f"{self.file(SUMMARY)}: no score for mask {missing[0]} of {self.file(MASKS).name}")
        return confidence

    def difference_maps(self) -> np.ndarray | None:
        """(K, h, w) uint8, row k that of mask k, from a kept analysis of these masks; None where there is none.

        Raises ValueError, naming the file, for a damaged analysis.
        """
        path = self.file(ANALYSIS)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in {"difference_maps", "segments"} & {*file.keys()}}
        except (SafetensorError, TypeError, ValueError) as error:  # the latter of numbers that NumPy has not
            raise ValueError(f"{path}: not a saved analysis ({error})") from error
        maps, segments = arrays.get("difference_maps"), arrays.get("segments")
        if maps is None or segments is None or maps.dtype != np.uint8 or maps.ndim != 3 or not len(maps):
            return None
        masks = self.masks(segments.shape)
        return maps if masks is not None and np.array_equal(segments, masks) else None

    def analysis(self, size: tuple[int, ...]) -> Analysis:
        """The kept analysis. size: (H, W) of the labels.

        Raises FileNotFoundError where none was kept; ValueError where it is damaged or of another size.
        """
        from ovseg.analysis import Analysis

        path = self.file(ANALYSIS)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no kept analysis; expected a run made with --keep-analysis")
        analysis = Analysis.load(path)
        if analysis.segments is not None:
            _check_size(path, analysis.segments.shape, size)
        return analysis

    def photo(self, size: tuple[int, ...]) -> np.ndarray:
        """(H, W, 3) uint8: the image itself. A file is looked for where the run found it, below the data set's root and
        below the run folder. A record may be anyone's, so that nothing is fetched from a network that it names.

        size: (H, W) of the labels. Raises ValueError where it is gone, cannot be read, or has another size now.
        """
        if (scheme := self.source.partition(":")[0]) in FAR:
            raise ValueError(f"{self.source}: lies in a store ({scheme}), from where nothing is fetched for a record")
        try:
            photo = read_picture(self.source, self._folders)
        except (ValueError, OSError) as error:
            raise ValueError(f"the image could not be read ({error})") from error
        if photo.shape[:2] != tuple(size):
            raise ValueError(f"{self.source}: has another size now, {photo.shape[1]} x {photo.shape[0]} pixels")
        return photo

    def photo_file(self) -> Path | None:
        """The file of the photo, found as `photo` finds it; None for a picture that is made, as the pocket scenes."""
        return picture_file(self.source, self._folders)

    @property
    def _folders(self) -> tuple[str | Path, ...]:
        return "", self.run.facts.get("root") or "", self.run.path

    def _read_map(self, ending: str, size: tuple[int, ...] | None) -> np.ndarray:
        path = self.file(ending)
        if not path.is_file():
            raise ValueError(f"{path}: missing, though the run's record says that it is done")
        indices = read_index_png(path)
        _check_size(path, indices.shape, size)
        return indices


def _read_summary(path: Path) -> Summary:
    content = read_json(path, MOST_SUMMARY)
    try:
        check_summary(content)
    except ValueError as error:
        raise ValueError(f"{path}: not the summary of an image ({error})") from error
    classes = {row["index"]: row["score"] for row in content["classes"] if row["score"] is not None}
    return Summary(classes, tuple(MaskScore(row["mask"], row["class"], row["score"]) for row in content["masks"]))


def _check_size(path: Path, found: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    if expected is not None and tuple(found) != tuple(expected):
        (height, width), (rows, columns) = found, expected
        raise ValueError(f"{path}: is of {width}x{height} pixels, the labels of this image are {columns}x{rows}")
