"""The results of an ablation: its run folders measured, a table for each setting, one plot.

Measured are the labels (`scoring`) and, for EmerDiff's masks and the naively upsampled ones of the same clusters, three
things without names: the best label per mask and the modified protocol (`unsupervised`), which read the labels of the
images, and how well boundaries are met (`boundaries`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.eval.boundaries import boundary_f
from ovseg.eval.embeddings import SOURCES, Outcome, assign, best_label, read_analyses, read_masks
from ovseg.eval.scored import json_number
from ovseg.eval.scoring import progress, score_run
from ovseg.eval.tables import PARTIAL_NOTE, Sheet, number, with_interval
from ovseg.eval.unsupervised import modified
from ovseg.run.folder import RunFolder, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ovseg.eval.datasets import Dataset

EMERDIFF, NAIVE = SOURCES
COLUMNS = ["strength / RMS", "labels", "best label, EmerDiff", "best label, naive", "lead"]
COLUMNS += ["boundary F, EmerDiff", "boundary F, naive", "modified, EmerDiff", "modified, naive", "lead"]
SPREAD = 0.03  # between the lines of a panel, so that their intervals stand apart; values are 1 apart
NOTES = (
    "percent; mIoU with its 95 % bootstrap interval over images; lead: of EmerDiff over naive upsampling of the same "
    "low-resolution masks, with its interval over pairs of the same images; with few images intervals are biased low, "
    "as draws leave classes out",
    "reads labels: best label (every mask takes the class of most of its pixels) and modified (every mask takes the "
    "class whose pixels' mean embedding in these very images is nearest); both compare masks, without names",
    "boundary F: mean over images, boundaries matched within 0.75 % of the image's diagonal",
    "strength / RMS: in units of the modulated layer's output, by its root mean square, the mean over images",
)


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of one value's run."""

    run: RunFolder
    labels: Outcome
    best_label: Mapping[str, Outcome]  # by source of masks, see `embeddings.SOURCES`; the next two likewise
    modified: Mapping[str, Outcome]
    boundary_f: Mapping[str, float]  # percent, mean over the images that have boundaries; NaN without any
    layer_rms: float  # of the modulated layer's output, mean over images

    @property
    def relative_strength(self) -> float:
        """The strength in units of the modulated layer's RMS."""
        return float(self.run.facts["options"]["strength"]) / self.layer_rms

    def results(self) -> dict[str, Any]:
        """For JSON: percent, None for what is undefined."""
        found: dict[str, Any] = {"layer_rms": json_number(self.layer_rms)}
        found["relative_strength"] = json_number(self.relative_strength)
        found["labels"] = self.labels.results()
        for name in ("best_label", "modified"):
            outcomes = getattr(self, name)
            lead, *ends = outcomes[EMERDIFF].lead(outcomes[NAIVE])
            found[name] = {source: outcome.results() for source, outcome in outcomes.items()}
            found[name]["lead"] = {"mIoU": lead, "interval": ends}
        found["boundary_F"] = {source: json_number(value) for source, value in self.boundary_f.items()}
        return {**found, "options": self.run.facts["options"]}


@dataclass(frozen=True, eq=False)
class Row:
    """One value of a setting."""

    value: str
    default: bool  # whether it is the default
    measured: Measured


def measure(folder: Path, dataset: Dataset) -> Measured:
    """Measure a run folder with kept analyses. Raises ValueError and OSError as `score_run` and `read_analyses`."""
    track, run = progress(folder), read_run(folder)
    labels = Outcome(score_run(folder, dataset, track=track).image_counts)
    best, nearest = {}, {}
    for source in SOURCES:
        masks = read_masks(run, dataset, source, track)
        best[source], nearest[source] = assign(masks, best_label(masks)), assign(masks, modified(masks))
    strengths, scores = [], []
    for analysis, truth in read_analyses(run, dataset, track):
        strengths.append(analysis.facts["layer_rms"] or np.nan)
        scores.append([boundary_f(segments(analysis), truth) for segments in SOURCES.values()])
    columns = [np.array(column)[~np.isnan(column)] for column in zip(*scores, strict=True)]
    means = [float(column.mean()) if column.size else float("nan") for column in columns]
    return Measured(run, labels, best, nearest, dict(zip(SOURCES, means, strict=True)), float(np.mean(strengths)))


def sheet(dataset: Dataset, settings: dict[str, list[Row]]) -> Sheet:
    """A table for each setting, one below the other, and the notes under the last."""
    shown: Sheet | None = None
    for setting, rows in reversed(list(settings.items())):
        images = f"{len(rows[0].measured.run.ids)} of {dataset.expected or len(dataset.ids)} images"
        title = f"{setting}: {dataset.name}, {len(dataset.names)} classes, {images}"
        partial = (PARTIAL_NOTE,) if rows[0].measured.run.facts.get("partial") else ()
        notes = () if shown else (*NOTES, *partial)
        shown = Sheet(title, [setting, *COLUMNS], [_cells(row) for row in rows], notes, below=shown)
    if shown is None:
        raise ValueError("an ablation needs a setting")
    return shown


def _cells(row: Row) -> list[str]:
    measured = row.measured
    cells = [f"{row.value} (default)" if row.default else row.value, f"{measured.relative_strength:.3g}"]
    cells += [with_interval(measured.labels.mIoU, *measured.labels.interval), *_compared(measured.best_label)]
    cells += [number(measured.boundary_f[source]) for source in SOURCES]
    return cells + _compared(measured.modified)


def _compared(outcomes: Mapping[str, Outcome]) -> list[str]:
    cells = [with_interval(outcomes[source].mIoU, *outcomes[source].interval) for source in SOURCES]
    return [*cells, with_interval(*outcomes[EMERDIFF].lead(outcomes[NAIVE]), sign="+")]


def plot(settings: dict[str, list[Row]]) -> bytes:
    """A PNG with a panel for each setting: the mIoUs by value, their intervals as bars."""
    from matplotlib.figure import Figure  # here, because only this needs it

    figure = Figure(figsize=(max(8, 4.5 * len(settings)), 4.5), layout="constrained")
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for panel, (setting, rows) in zip(panels, settings.items(), strict=True):
        _draw(panel, rows)
        panel.set_xlabel(setting)
    panels[0].set_ylabel("mIoU (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(panel: Axes, rows: Sequence[Row]) -> None:
    """One line for each mIoU; values are equally spaced, in the order given."""
    runs = [row.measured for row in rows]
    lines = [("labels", [run.labels for run in runs], "C0", "-")]
    for name, colour, by_source in (
        ("best label", "C1", [run.best_label for run in runs]),
        ("modified", "C2", [run.modified for run in runs]),
    ):
        for source, style in zip(SOURCES, ("-", "--"), strict=True):
            lines.append((f"{name}, {source}", [outcomes[source] for outcomes in by_source], colour, style))
    for index, (label, outcomes, colour, style) in enumerate(lines):
        positions = np.arange(len(rows)) + SPREAD * (index - (len(lines) - 1) / 2)
        means = [outcome.mIoU for outcome in outcomes]
        panel.plot(positions, means, style, color=colour, marker="o", markersize=4, label=label)
        low, high = np.array([outcome.interval for outcome in outcomes]).T
        panel.vlines(positions, low, high, colour)
    panel.set_xticks(range(len(rows)), [row.value for row in rows])
    panel.grid(alpha=0.3)
