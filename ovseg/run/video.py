"""Labelling the frames of videos one after the other: masks keep their ids, and names are steady over time.

Clusters go on from the centres of the frame before (`emerdiff.clusters`); where those do not fit, as after a scene cut,
they begin anew. A mask's scores are the running mean of its id's: `DECAY` of those before and the rest of the frame's
own. What is carried lies beside the results of each frame, so that a run that is stopped goes on with the same bytes.
"""

from __future__ import annotations

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
from ovseg.run.frames import digits, place_of
from ovseg.run.inputs import Item
from ovseg.run.pictures import read_item
from ovseg.run.work import LabelJob, LabelWorker, shares
from ovseg.sources import SOURCES

DECAY = 0.5  # share of the scores before in a mask's, see docs/RESULTS.md
CARRIED = ".carried.safetensors"  # the ending of the file with what the next frame goes on from


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
    """A started `FramesJob`. Holds no state: what is carried is read from the file of the frame before."""

    def __call__(self, item: Item, progress: Progress | None = None) -> str:
        assert isinstance(self.job, FramesJob) and isinstance(self.source, DiffusionSource)
        image, out = read_item(item.path), self.job.out
        before = carried_before(out, item, self.job.every, len(self.text.vocabulary.names))
        source = replace(self.source, start=before.centres if before else None)
        analysis = replace(self.segmenter, source=source).analyze(image, id=item.id, progress=progress)
        result = self.segmenter.label_analysis(analysis, self.text, image)
        result, carried = averaged(result, analysis, before, self.text.vocabulary, by_vote=self.segmenter.vote)
        carried.save(out, item.id)
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
    def read(cls, path: Path, names: int) -> Carried:
        """What a frame left, for so many names. Raises ValueError, naming the file, for damage."""
        try:
            arrays = load(path.read_bytes())
            carried = cls(arrays["centres"], arrays["scores"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); remove it, and the frame is done again") from error
        sound = carried.centres.ndim == 2 and carried.scores.shape == (len(carried.centres), names)
        sound = sound and {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
        if not sound or not np.isfinite(carried.centres).all() or not _are_shares(carried.scores):
            raise ValueError(f"{path}: not what a frame of this run left; remove it, and the frame is done again")
        return carried


def _are_shares(scores: np.ndarray) -> bool:
    """Whether all are in 0..1, as they were rounded, or NaN."""
    known = scores[~np.isnan(scores)]
    return bool((known >= -1e-3).all() and (known <= 1 + 1e-3).all())


def carried_before(out: Path, item: Item, every: int, names: int) -> Carried | None:
    """What the last frame left that is done before this one; None for a video's first. Raises as `Carried.read`."""
    clip = item.id.rpartition("/")[0]
    for number in range(place_of(item)[1] - every, -1, -every):
        if (path := out / f"{clip}/{digits(number)}{CARRIED}").is_file():
            return Carried.read(path, names)
    return None


def averaged(
    result: Segmentation, analysis: Analysis, before: Carried | None, vocabulary: Vocabulary, *, by_vote: bool
) -> tuple[Segmentation, Carried]:
    """A frame's result with names by the mean of scores over time, and what it leaves.

    before: what the frame before left; its scores count where the analysis' clusters go on from its. by_vote: scores
    are shares of votes, in which the background's rule has had its say already.
    """
    means = centres_of(analysis)
    scores = rows_by_mask(result, len(means))
    if before and analysis.facts.get("carried") and len(means) == len(before.centres):
        scores = running_mean(before.scores, scores)
        result = renamed(result, scores, vocabulary, by_vote=by_vote)
    return result, Carried(means, scores)


def centres_of(analysis: Analysis) -> np.ndarray:
    """(K, C) float32: the centres of an analysis' clusters, as those of the next frame may begin at."""
    cells, place = analysis.evidence["low_resolution_masks"], analysis.origin.masks["options"]["place"]
    queries = analysis.evidence["queries"].astype(np.float32)
    return centres(with_place(queries, (cells.shape[0], cells.shape[1]), place), cells.ravel())


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
    """A result whose masks take the best names of other scores (K, L) float32; by_vote: as `averaged` has it."""
    assert result.masks is not None and result.mask_scores is not None
    known = np.nan_to_num(scores[: len(result.mask_scores)])
    best = known.argmax(axis=1) if by_vote else best_names(known.T.copy(), vocabulary)
    return replace(result, labels=best[result.masks].astype(result.labels.dtype), mask_scores=known)
