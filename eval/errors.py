"""Reports of runs with a data set's labels, which show where labels are wrong: `ovseg eval score --report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg.eval.datasets import Dataset
from ovseg.eval.label_rules import IGNORED
from ovseg.eval.plain import Predictions
from ovseg.report import write_report
from ovseg.report.errors import Truth
from ovseg.run.folder import RunFolder
from ovseg.run.images import read_legend
from ovseg.run.terminal import show


def check_reports(runs: Sequence[RunFolder], own_labels: bool) -> None:
    """Raise ValueError where there is nothing to report. own_labels: the labels scored are those that reports show."""
    if plain := next((run for run in runs if isinstance(run, Predictions)), None):
        raise ValueError(f"report: {plain.path} holds index maps alone, expected a run with its record")
    if not own_labels:
        raise ValueError("report: shows a run's labels as corrected, so without --best-label and --uncorrected")


def write_reports(runs: Sequence[RunFolder], folders: Sequence[Path], dataset: Dataset) -> None:
    """Write each run's report.html to its folder, in place of an earlier one. Raises as `write_report`."""
    for run, folder in zip(runs, folders, strict=True):
        page = write_report(run.path, folder / "report.html", overwrite=True, truth=true_labels(run, dataset))
        show(f"{page.file}: where labels are wrong")


def true_labels(run: RunFolder, dataset: Dataset) -> Truth:
    """A data set's labels as a run's report takes them."""
    legend = read_legend(run)
    assert legend is not None  # scoring checks that it has the data set's names

    def truth(id: str) -> np.ndarray:
        labels = dataset.truth(id)
        return np.where(labels == IGNORED, legend.no_label, labels)

    return truth
