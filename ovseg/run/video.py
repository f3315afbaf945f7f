"""Labelling the frames of videos one after the other: masks keep their ids, and names are steady over time.

k-means begins at the centres of the frame before, so that cluster k goes on as cluster k; where those centres do not
fit, as after a scene cut, it begins anew. A mask's scores are the running mean of its id's: `DECAY` of those before and
the rest of the frame's own. What is carried lies beside the results of each frame, so that a run that is stopped goes
on with the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from emerdiff.clusters import centres, with_place
from ovseg.analysis import Analysis
from ovseg.classes import Vocabulary
from ovseg.files import write_atomically
from ovseg.labels import best_names
from ovseg.masks import DiffusionSource, Progress
from ovseg.result import Segmentation
from ovseg.run.frames import DIGITS, split_name
from ovseg.run.inputs import Item
from ovseg.run.pictures import read_item
from ovseg.run.work import LabelJob, LabelWorker, shares
from ovseg.sources import SOURCES

DECAY = 0.5  # share of the scores before in a mask's; 0.8 made names steadier, and wronger where clusters drift
CARRIED = ".carried.safetensors"  # the ending of the file with what the next frame goes on from


def is_frame(item: Item) -> bool:
    """Whether an item is a frame of a video."""
    return not item.path.is_absolute() and str(item.path).startswith("video:")


def file_of(item: Item) -> Path:
    """The video that a frame is of."""
    return split_name(str(item.path).partition(":")[2])[0]


def carries(job: LabelJob) -> bool:
    """Whether a job's masks are clusters that can go on from frame to frame."""
    return SOURCES[job.setup.by].clusters and job.setup.options(None).tile is None


@dataclass(frozen=True)
class FramesJob(LabelJob):
    """As `LabelJob`, for frames of videos in their order, every `every`-th; for a job that `carries`."""

    every: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return (CARRIED, *super().files)

    @classmethod
    def of(cls, job: LabelJob, every: int) -> FramesJob:
        """A job's own settings, for frames."""
        return cls(**{field.name: getattr(job, field.name) for field in fields(LabelJob)}, every=every)

    def start_with(self, segmenter: Any) -> FramesWorker:
        plain = super().start_with(segmenter)
        facts = {**plain.facts, "video": {"every": self.every, "decay": DECAY}}
        return FramesWorker(self, plain.segmenter, plain.text, facts)


@dataclass(frozen=True)
class FramesWorker(LabelWorker):
    """A started `FramesJob`. Holds no state: what is carried is read from the frame before's file."""

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        assert isinstance(self.job, FramesJob) and isinstance(self.source, DiffusionSource)
        image, out = read_item(item.path), self.job.out
        before = Carried.read(out, before_id(item, self.job.every), len(self.text.vocabulary.names))
        source = replace(self.source, start=before.centres if before else None)
        segmenter = replace(self.segmenter, source=source)
        analysis = segmenter.analyze(image, id=item.id, progress=progress)
        result = segmenter.label_analysis(analysis, self.text, image)
        means = _centres(analysis, source)
        scores = rows_by_mask(result, len(means))
        if before and analysis.facts["carried"] and len(means) == len(before.centres):
            scores = running_mean(before.scores, scores)
            result = renamed(result, scores, self.text.vocabulary, by_vote=segmenter.vote)
        Carried(means, scores).save(out, item.id)
        result.save(out, item.id)
        return shares(result.labels, result.names)


@dataclass(frozen=True, eq=False)
class Carried:
    """What a frame leaves for the next. centres: (K, C) float32, of the clusters; scores: (K, L) float32 in 0..1, each
    mask's mean so far, NaN for one that has had no pixel."""

    centres: np.ndarray
    scores: np.ndarray

    def save(self, out: Path, id: str) -> None:
        """Write it as a frame's file."""
        write_atomically(out / f"{id}{CARRIED}", save(asdict(self)), sync=False)

    @classmethod
    def read(cls, out: Path, id: str | None, names: int) -> Carried | None:
        """What the frame `id` left; None where there is no such frame, or it failed. Raises ValueError for damage."""
        if id is None or not (path := out / f"{id}{CARRIED}").is_file():
            return None
        try:
            arrays = load(path.read_bytes())
            carried = cls(arrays["centres"], arrays["scores"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); remove it, and the frame is done again") from error
        sound = carried.centres.ndim == 2 and carried.scores.shape == (len(carried.centres), names)
        if not sound or {array.dtype for array in arrays.values()} != {np.dtype(np.float32)}:
            raise ValueError(f"{path}: not what a frame of this run left; remove it, and the frame is done again")
        return carried


def before_id(item: Item, every: int) -> str | None:
    """The id of the frame before; None for a video's first."""
    number = split_name(str(item.path))[1] - every
    return None if number < 0 else f"{item.id.rpartition('/')[0]}/{number:0{DIGITS}}"


def _centres(analysis: Analysis, source: DiffusionSource) -> np.ndarray:
    grid = analysis.evidence["low_resolution_masks"]
    queries = analysis.evidence["queries"].astype(np.float32)
    return centres(with_place(queries, (grid.shape[0], grid.shape[1]), source.options.place), grid.ravel())


def rows_by_mask(result: Segmentation, masks: int) -> np.ndarray:
    """(masks, L) float32: each mask's scores, NaN for those without pixels."""
    assert result.masks is not None and result.mask_scores is not None
    scores = np.full((masks, len(result.names)), np.nan, np.float32)
    seen = np.unique(result.masks)
    scores[seen] = result.mask_scores[seen]
    return scores


def running_mean(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """`DECAY` of the scores before and the rest of the scores now, (K, L) float32; where one is NaN, the other."""
    mixed = DECAY * before + (1 - DECAY) * now
    return np.where(np.isnan(mixed), np.where(np.isnan(now), before, now), mixed).astype(np.float32)


def renamed(result: Segmentation, scores: np.ndarray, vocabulary: Vocabulary, *, by_vote: bool) -> Segmentation:
    """A result whose masks take the best names of other scores (K, L) float32. by_vote: scores are shares of votes, in
    which the background's rule has had its say already."""
    assert result.masks is not None and result.mask_scores is not None
    known = np.nan_to_num(scores[: len(result.mask_scores)])
    best = known.argmax(axis=1) if by_vote else best_names(known.T.copy(), vocabulary)
    return replace(result, labels=best[result.masks].astype(result.labels.dtype), mask_scores=known)


def clips(items: Sequence[Item]) -> dict[Path, list[Item]]:
    """Frames by their video."""
    found: dict[Path, list[Item]] = {}
    for item in items:
        found.setdefault(file_of(item), []).append(item)
    return found
