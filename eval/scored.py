"""The result of scoring a run: its counts on a data set, and the metrics, intervals and leads computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ovseg.compare import NEW_IN_VIEWS
from ovseg.eval.confusion import Scores, interval, mean_interval, mean_iou, scores
from ovseg.run.folder import RunFolder


@dataclass(frozen=True, eq=False, repr=False)
class Scored:
    """A run's counts on a data set."""

    run: RunFolder
    dataset: str
    vocabulary: str  # the name of the data set's own class list
    names: tuple[str, ...]  # L class names
    images: int  # of the whole data set, by its official number where it has one
    ids: tuple[str, ...]  # n images that were undertaken, and scored, sorted
    best_label: bool
    confusion: np.ndarray  # (L, L + 1) int64
    image_counts: np.ndarray  # (n, L, 3) int64, class counts of each image
    boundaries: np.ndarray  # (L, 3) int64, class counts of boundary pixels
    image_boundary_f: np.ndarray  # (n,) float64, percent; NaN: no boundary, or not `best_label`
    corrected: int = 0  # images of which labels that a person corrected were scored

    def __repr__(self) -> str:
        best = ", best labels" if self.best_label else ""
        images = f"{len(self.ids)} of {self.images} images"
        return f"Scored({self.run.path}: {self.dataset}, {images}{best}, mIoU {self.scores.mIoU:.2f})"

    @property
    def reading(self) -> str:
        """How the run's masks were named where that is not the plain way: "regions values, refine pamr"."""
        facts, view = self.run.facts, self.run.facts.get("view") or {}
        told = {name: view.get(name) for name, plain in NEW_IN_VIEWS.items() if view.get(name, plain) != plain}
        told |= {name: facts.get(name) for name in ("vote", "refine") if facts.get(name)}
        return ", ".join(name if value is True else f"{name} {value}" for name, value in told.items())

    @property
    def scores(self) -> Scores:
        """mIoU and the other metrics."""
        return scores(self.confusion)

    @property
    def metrics(self) -> dict[str, float]:
        """Percent, NaN where undefined: mIoU, pixel_accuracy, mean_accuracy, fwIoU, boundary_IoU; with `best_label`
        also boundary_F, the mean over the images that have boundaries."""
        found = self.scores
        metrics = {name: getattr(found, name) for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU")}
        metrics["boundary_IoU"] = float(mean_iou(self.boundaries))
        if self.best_label:
            known = self.image_boundary_f[~np.isnan(self.image_boundary_f)]
            metrics["boundary_F"] = float(known.mean()) if known.size else math.nan
        return metrics

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mIoU, over images, in percent."""
        return interval(self.image_counts)

    def lead(self, baseline: Scored) -> tuple[float, float, float]:
        """The mIoU minus that of a baseline on the same images, and its 95 % interval (the same draws for both).

        Raises ValueError where the images are not the same.
        """
        self._check_same_images(baseline)
        return self.scores.mIoU - baseline.scores.mIoU, *interval(self.image_counts, baseline.image_counts)

    def boundary_lead(self, baseline: Scored) -> tuple[float, float, float]:
        """As `lead`, of boundary F: the mean difference over the images where both have one."""
        self._check_same_images(baseline)
        differences = self.image_boundary_f - baseline.image_boundary_f
        known = differences[~np.isnan(differences)]
        return float(known.mean()) if known.size else math.nan, *mean_interval(known)

    def _check_same_images(self, baseline: Scored) -> None:
        if self.ids != baseline.ids:
            raise ValueError(f"{self.run.path} and {baseline.run.path} hold different images")

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that are predicted, but in no label: their IoU is 0 in the mean, as mmsegmentation counts them."""
        predicted, true = self.confusion[:, :-1].sum(0), self.confusion.sum(1)
        return tuple(name for name, one, other in zip(self.names, predicted, true, strict=True) if one and not other)

    def results(self) -> dict[str, Any]:
        """What `results.json` holds; percent, None for what is undefined."""
        facts, found = self.run.facts, self.scores
        columns = (self.names, found.class_IoU, found.class_accuracy, self.confusion.sum(1))
        return {
            "dataset": self.dataset,
            "root": facts.get("root"),
            "by": facts.get("by"),
            "best_label": self.best_label,
            "protocol": facts.get("protocol"),
            "partial": bool(facts.get("partial")),
            "counts": {
                "scored": len(self.ids),
                "undertaken": len(self.run.ids),
                "dataset": self.images,
                "corrected": self.corrected,
            },
            "metrics": {name: json_number(value) for name, value in self.metrics.items()},
            "predicted_but_absent": list(self.absent),
            "mIoU_interval": [json_number(end) for end in self.interval],
            "classes": [
                {"name": name, "IoU": json_number(iou), "accuracy": json_number(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in zip(*columns, strict=True)
            ],
            "vocabulary": facts.get("vocabulary"),
            "vocabulary_sha256": facts.get("vocabulary_sha256"),
            "preset": facts.get("preset"),
            "models": facts.get("models"),
            "dtype": facts.get("dtype"),
            "options": facts.get("options"),
            "view": facts.get("view"),
            "versions": self.run.versions,
            "confusion": self.confusion.tolist(),
        }


def json_number(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)
