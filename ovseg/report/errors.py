"""Where a run's labels are wrong: what a report shows of images whose true labels are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.files import read_index_png
from ovseg.report.image import ReportImage, pack, sampled
from ovseg.run.corrections import check_indices
from ovseg.run.images import RunImage

# The true labels (H, W) of an image by its id: indices of the run's names, and its "no label" where nothing is known.
# Raises FileNotFoundError where there are none.
Truth = Callable[[str], np.ndarray]


def truth_in(folder: str | Path) -> Truth:
    """True labels as index PNGs in a folder, ID.png. Raises ValueError where there is no such folder."""
    if not Path(folder).is_dir():
        raise ValueError(f"truth: {folder}: no such folder")
    return partial(_read, Path(folder))


def _read(folder: Path, id: str) -> np.ndarray:
    return read_index_png(folder / f"{id}.png")


def judged(found: ReportImage, image: RunImage, truth: Truth) -> ReportImage:
    """An image of a report with its truth: `maps` get it, `row` how much is right, see `scores`; as it is, where there
    is none. Raises ValueError for true labels that are damaged, of another size, or none of the run's; OSError."""
    labels, legend = image.index_map(), image.legend
    assert legend is not None  # `check_named` is asked before
    try:
        true = truth(image.id)
    except FileNotFoundError:
        return found
    if true.shape != labels.shape:
        sizes = [f"{width} x {height}" for height, width in (true.shape, labels.shape)]
        raise ValueError(f"truth of {image.id}: is of {sizes[0]} pixels, the labels of {sizes[1]}")
    check_indices(true, legend, f"truth of {image.id}")
    known = true != legend.no_label
    row = {**found.row, **scores(labels[known], true[known], len(legend.names))}
    shown = found.row["shown"][1], found.row["shown"][0]
    maps = {**found.maps, "truth": pack(sampled(true.astype(labels.dtype), shown))}
    return ReportImage(row, maps, found.files)


def scores(labels: np.ndarray, truth: np.ndarray, names: int) -> dict[str, Any]:
    """Of labels (n,) where the truth (n,) is known: `known`, how many; `right`, the share that is; `mIoU`, over the
    classes in either; both 0..1, None where nothing is known. Pixels without a label are wrong."""
    if not truth.size:
        return {"known": 0, "right": None, "mIoU": None}
    both, true, found = (
        np.bincount(some[some < names].astype(np.int64), minlength=names)
        for some in (truth[labels == truth], truth, labels)
    )
    either = true + found - both
    ious = both[either > 0] / either[either > 0]
    return {"known": truth.size, "right": round(both.sum() / truth.size, 6), "mIoU": round(float(ious.mean()), 6)}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the line under the title says of all images: the share of their pixels that is right."""
    rated = [row for row in rows if row.get("right") is not None]
    if not rated:
        return []
    share = sum(row["known"] * row["right"] for row in rated) / sum(row["known"] for row in rated)
    return [f"{100 * share:.1f} % of pixels right"]
