"""Scores a run folder of `ovseg label` or `ovseg masks` against a folder of index maps.

    python -m eval.score RUN --labels scenes/labels --classes scenes/classes.txt
    python -m eval.score RUN --labels scenes/labels --classes scenes/classes.txt --best-label

Reads files alone, no model. Labels are compared at the truth's own resolution. `--best-label` gives every segment its
majority class first, so it measures masks, of any number and without names. Intervals are bootstrapped over images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.confusion import best_labels, confusion_matrix, scores
from ovseg.classes import read_classes
from ovseg.result import read_index_png

RESAMPLES = 1000  # of the bootstrap, over images


def undertaken(run: Path) -> list[str]:
    """The ids of a run folder; ValueError where one of them is not done."""
    ids = json.loads((run / "run.json").read_text(encoding="utf-8"))["ids"]
    unfinished = [one for one, entry in ids.items() if entry["state"] != "done"]
    if unfinished:
        raise ValueError(f"{run}: {len(unfinished)} of {len(ids)} images are not done, such as {unfinished[0]}")
    return sorted(ids)


def confusions(run: Path, labels: Path, classes: Sequence[str], best_label: bool) -> np.ndarray:
    """One confusion matrix an image, (images, L, L + 1) int64."""
    names = json.loads((run / "run.json").read_text(encoding="utf-8")).get("names")
    if not best_label and list(names or ()) != list(classes):
        raise ValueError(f"{run}/run.json: its names are not those of the class list, in its order")
    matrices = []
    for one in undertaken(run):
        truth, predicted = read_index_png(labels / f"{one}.png"), read_index_png(run / f"{one}.png")
        try:
            if best_label and truth.shape == predicted.shape:
                predicted = best_labels(predicted, truth, len(classes))
            matrices.append(confusion_matrix(truth, predicted, len(classes)))
        except ValueError as error:
            raise ValueError(f"{one}: {error}") from error
    return np.stack(matrices)


def interval(matrices: np.ndarray, baseline: np.ndarray | None = None, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mIoU, or of its lead over a baseline on the same images."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        picks = rng.integers(0, len(matrices), len(matrices))
        value = scores(matrices[picks].sum(0)).mIoU
        values.append(value - (scores(baseline[picks].sum(0)).mIoU if baseline is not None else 0.0))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.score", description="Score a run folder on exact labels.")
    parser.add_argument("run", type=Path, help="a folder written by `ovseg label` or `ovseg masks`")
    parser.add_argument("--labels", type=Path, required=True, help="index PNGs with the images' ids; 255 is ignored")
    parser.add_argument("--classes", type=Path, required=True, help="class list, in the order of the indices")
    parser.add_argument("--best-label", action="store_true", help="give every segment its majority class first")
    parser.add_argument("--against", type=Path, help="a second run folder, for the difference in mIoU")
    given = parser.parse_args()
    try:
        classes = read_classes(given.classes).names
        if given.against and undertaken(given.against) != undertaken(given.run):
            raise ValueError(f"{given.against} holds other images than {given.run}")
        matrices = confusions(given.run, given.labels, classes, given.best_label)
        other = confusions(given.against, given.labels, classes, given.best_label) if given.against else None
    except (OSError, ValueError, KeyError) as error:
        print(f"eval.score: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    result, (low, high) = scores(matrices.sum(0)), interval(matrices)
    print(f"{len(matrices)} images, {len(classes)} classes{', best label per segment' if given.best_label else ''}")
    print(f"mIoU {result.mIoU:.2f} [{low:.2f}, {high:.2f}]  pixel accuracy {result.pixel_accuracy:.2f}")
    if other is not None:
        low, high = interval(matrices, other)
        lead = result.mIoU - scores(other.sum(0)).mIoU
        print(f"mIoU lead over {given.against}: {lead:+.2f} [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
