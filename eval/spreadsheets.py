"""Scores as CSV: a row a class, and a row an image."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovseg.eval.confusion import mean_iou
from ovseg.eval.scored import Scored


def classes_csv(classes: Sequence[Mapping[str, Any]]) -> str:
    """The rows `classes` of `Scored.results` (name, IoU, accuracy, pixels; empty where undefined) as CSV text; names
    that a spreadsheet would take for formulas behind an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "IoU", "accuracy", "pixels"])
    for row in classes:
        writer.writerow([no_formula(row["name"]), _cell(row["IoU"]), _cell(row["accuracy"]), row["pixels"]])
    return text.getvalue()


def images_csv(scored: Scored) -> str:
    """A row an image as CSV text: id, scored pixels, mIoU over the classes in it, pixel accuracy, and with best labels
    boundary F; percent, empty where undefined. Ids that a spreadsheet would take for formulas stand behind an
    apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "pixels", "mIoU", "pixel_accuracy", *(["boundary_F"] if scored.best_label else [])])
    true, right = (scored.image_counts[:, :, column].sum(1) for column in (0, 2))
    accuracy = 100 * right / np.where(true, true, np.nan)
    columns = [mean_iou(scored.image_counts), accuracy, *([scored.image_boundary_f] if scored.best_label else [])]
    for id, pixels, *values in zip(scored.ids, true, *columns, strict=True):
        shown = no_formula(id.encode("utf-8", "backslashreplace").decode())
        writer.writerow([shown, int(pixels), *("" if np.isnan(value) else f"{value:.4f}" for value in values)])
    return text.getvalue()


def no_formula(name: str) -> str:
    """A name as a spreadsheet's text, behind an apostrophe where it would be taken for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
