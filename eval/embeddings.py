"""Masks as the evaluations without text see them: an embedding, a number of pixels, and how many are of each class.

The embedding of a mask is the mean, over its pixels in the image, of the diffusion model's queries upsampled bilinearly
to the image (`grid_weights` of `ovseg.towers.regions`); every pixel has its mask's embedding. EmerDiff's masks and the
naively upsampled ones get theirs in the same way from the same kept analysis; no model is run.

As the pixels of a mask share its fate, nothing else is kept of an image: 30 masks with the queries of Stable Diffusion
1.x and 171 classes take 170 kB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from emerdiff import naive_segments
from ovseg.analysis import Analysis
from ovseg.compare import differences
from ovseg.eval.confusion import class_iou, interval, mean_iou
from ovseg.eval.scored import json_number
from ovseg.eval.scoring import Track
from ovseg.run.folder import RunFolder
from ovseg.run.images import ANALYSIS, RunImage
from ovseg.towers.regions import grid_weights

if TYPE_CHECKING:
    from ovseg.eval.datasets import Dataset


@dataclass(frozen=True, eq=False)
class Masks:
    """All masks of some images that have pixels, M of them, image after image."""

    embeddings: np.ndarray  # (M, D) float32
    pixels: np.ndarray  # (M,) int64, labelled or not
    truth: np.ndarray  # (M, L) int32, how many of the pixels are of each class
    image: np.ndarray  # (M,) int64, the image's number, from 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of giving every mask a class."""

    counts: np.ndarray  # (images, L, 3) int64, class counts (see `ovseg.eval.confusion`) of every image

    @cached_property
    def mIoU(self) -> float:  # noqa: N802 - the field's spelling
        """In percent; NaN without any labelled pixel."""
        return float(mean_iou(self.counts.sum(axis=0)))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mIoU, over images, in percent."""
        return interval(self.counts)

    def lead(self, baseline: Outcome) -> tuple[float, float, float]:
        """The mIoU minus that of a baseline on the same images, and its 95 % interval (pairs of images are drawn)."""
        return self.mIoU - baseline.mIoU, *interval(self.counts, baseline.counts)

    def results(self) -> dict[str, Any]:
        """The mIoU and its interval for JSON: None for what is undefined."""
        return {"mIoU": json_number(self.mIoU), "interval": [json_number(end) for end in self.interval]}

    def class_results(self, names: Sequence[str]) -> dict[str, float | None]:
        """The IoU of every class in percent, for JSON likewise."""
        ious = class_iou(self.counts.sum(axis=0))
        return {name: json_number(float(iou)) for name, iou in zip(names, ious, strict=True)}


def assign(masks: Masks, assigned: np.ndarray) -> Outcome:
    """The outcome where every mask has the class that `assigned`, (M,) int, says."""
    counts = np.zeros((int(masks.image[-1]) + 1, masks.truth.shape[1], 3), np.int64)
    np.add.at(counts[..., 0], masks.image, masks.truth)
    np.add.at(counts[..., 1], (masks.image, assigned), masks.truth.sum(axis=1))
    np.add.at(counts[..., 2], (masks.image, assigned), masks.truth[np.arange(len(assigned)), assigned])
    return Outcome(counts)


def best_label(masks: Masks) -> np.ndarray:
    """The class that most labelled pixels of a mask have, (M,) int64: an oracle that measures the masks alone."""
    return masks.truth.argmax(axis=1)


def emerdiff_segments(analysis: Analysis) -> np.ndarray:
    """EmerDiff's masks, (H, W) int32."""
    assert analysis.segments is not None  # `read_analyses` lets none pass
    return analysis.segments


def upsampled_naively(analysis: Analysis) -> np.ndarray:
    """The low-resolution masks, bilinearly upsampled, (H, W) int32."""
    size = (analysis.origin.height, analysis.origin.width)
    return naive_segments(analysis.evidence["low_resolution_masks"], size)


EVIDENCE = ("low_resolution_masks", "queries")  # what embeddings and naive upsampling are made of
SOURCES: dict[str, Callable[[Analysis], np.ndarray]] = {
    "EmerDiff": emerdiff_segments,
    "naive upsampling": upsampled_naively,
}


def image_masks(analysis: Analysis, segments: np.ndarray, truth: np.ndarray, classes: int, number: int = 0) -> Masks:
    """The masks of one image, its `number`: segments (H, W) int and truth (H, W) uint8, 255 where there is no label."""
    height, width = analysis.evidence["low_resolution_masks"].shape
    weights = grid_weights(segments, (height, width)).reshape(-1, height * width)
    labelled = truth != 255
    pairs = segments[labelled].astype(np.int64) * classes + truth[labelled]
    counts = np.bincount(pairs, minlength=len(weights) * classes).reshape(-1, classes)
    pixels = np.bincount(segments.ravel(), minlength=len(weights))
    used = np.flatnonzero(pixels)
    return Masks(
        embeddings=(weights[used] @ analysis.evidence["queries"].astype(np.float64)).astype(np.float32),
        pixels=pixels[used],
        truth=counts[used].astype(np.int32),
        image=np.full(len(used), number),
    )


def read_masks(run: RunFolder, dataset: Dataset, source: str, track: Track = iter) -> Masks:
    """All masks of a run's images, sorted by id, from one of `SOURCES`. track, errors: as `read_analyses`."""
    found = [
        image_masks(analysis, SOURCES[source](analysis), truth, len(dataset.names), number)
        for number, (analysis, truth) in enumerate(read_analyses(run, dataset, track))
    ]
    columns = {field.name: [getattr(masks, field.name) for masks in found] for field in fields(Masks)}
    return Masks(**{name: np.concatenate(parts) for name, parts in columns.items()})


def read_analyses(run: RunFolder, dataset: Dataset, track: Track = iter) -> Iterator[tuple[Analysis, np.ndarray]]:
    """The kept analyses of a run's images with their truth maps (H, W) uint8, sorted by id.

    track: wraps the ids that are gone through, to show progress.
    Raises ValueError or OSError naming the file: an analysis that is missing, without the queries that embeddings are
    made of, of naively upsampled masks, made with other settings or models than the run's, or of another image size;
    labels that cannot be read.
    """
    for id in track(sorted(run.ids)):
        image, truth = RunImage(run, id), dataset.truth(id)
        path, analysis = image.file(ANALYSIS), image.analysis(truth.shape)
        masks = analysis.origin.masks
        if missing := [name for name in EVIDENCE if name not in analysis.evidence]:
            named = " and ".join(missing)
            raise ValueError(f"{path}: masks by {masks['by']} leave no {named}, expected those of EmerDiff")
        if masks["by"] != "emerdiff":
            raise ValueError(f"{path}: holds masks by {masks['by']}, expected those of EmerDiff")
        options = masks["options"]
        recorded = {**(run.facts.get("options") or {}), "upsampling": options["upsampling"]}
        if found := differences(recorded, options, words="and"):
            raise ValueError(f"{path}: was kept by a run with other settings ({'; '.join(found)})")
        made_with = {"diffusion": masks["diffusion"], "clip": analysis.origin.clip}
        if found := differences(run.facts.get("models") or made_with, made_with, words="and"):
            raise ValueError(f"{path}: was kept by a run with other models ({'; '.join(found)})")
        yield analysis, truth
