"""One table over data sets out of runs that were scored: `ovseg eval table`. It reads `results.json` alone.

runs/naclip/voc21/results.json, runs/naclip/ade20k/results.json, ... -- read_results --> a row of the table
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emerdiff.settings import OBJECT, Allowed, Table, choice, either, number, text, whole
from ovseg.classes import BACKGROUND
from ovseg.eval.layouts import LAYOUTS
from ovseg.eval.published import followed, published
from ovseg.eval.tables import PUBLISHED_NOTE, Sheet, named_protocol
from ovseg.eval.tables import number as shown
from ovseg.json_files import read_json
from ovseg.run.schema import OBJECTS, PROTOCOL, TEXT, check_fields

RESULTS_FILE = "results.json"
NOTHING_FOLLOWED = "published rows stand beside whole sets run by exactly their rules (--pixel-exact) alone"
ORDER = ("voc21", "context60", "coco-object", "voc20", "context59", "coco-stuff171", "cityscapes", "ade20k")

COUNT = whole(0, 10**9)
RESULTS: Table = {
    "dataset": text(r"[^\0]+", 100),
    "best_label": choice(False),
    "metrics": OBJECT,
    "counts": OBJECT,
    "protocol": either(PROTOCOL, Allowed("null", lambda value: value is None)),
    "view": OBJECTS,
    "by": TEXT,
    "vocabulary": TEXT,
}
NEEDED = ("dataset", "metrics", "counts", "protocol")


@dataclass(frozen=True)
class Result:
    """What `results.json` says of one data set. mIoU: percent, NaN where undefined; facts: all of it."""

    dataset: str
    mIoU: float
    scored: int  # images
    images: int  # of the whole data set
    facts: dict[str, Any]

    @property
    def whole(self) -> bool:
        return self.scored == self.images and not self.facts.get("partial")

    @property
    def has_background(self) -> bool:
        """Whether its first class is the background."""
        classes = self.facts.get("classes")
        first = classes[0] if isinstance(classes, list) and classes else None
        return isinstance(first, dict) and first.get("name") == BACKGROUND

    @property
    def cell(self) -> str:
        """The mIoU, with the number of images where they are not the whole data set."""
        return shown(self.mIoU) + ("" if self.whole else f" ({self.scored} of {self.images})")


def joint_table(folders: Sequence[str | Path]) -> Sheet:
    """A row for each folder: a scored run, or a folder of scored runs, one for each data set.

    Raises ValueError, naming the folder or file, for one without results, two results of one data set, results of
    best labels, and a file that is damaged.
    """
    rows = {str(folder): read_results(Path(folder)) for folder in folders}
    sets = sorted({name for results in rows.values() for name in results}, key=_order)
    header = ["run", "masks", "dense CLIP", "protocol", *_columns(sets)]
    cells = [_row(folder, results, sets) for folder, results in rows.items()]
    notes = ["mIoU, percent; each run's own results.json has its interval and all else"]
    if any(not result.whole for results in rows.values() for result in results.values()):
        notes.append("(n of m): a part of the data set, not comparable to results on all of it")
    below = _published(rows.values(), sets)
    if below is None:
        notes.append(NOTHING_FOLLOWED)
    return Sheet("mIoU over data sets", header, cells, notes, below)


def read_results(folder: Path) -> dict[str, Result]:
    """The results in a folder, or in the folders in it, by data set. Raises ValueError as `joint_table`, OSError."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    own = folder / RESULTS_FILE
    files = [own] if own.is_file() else sorted(folder.glob(f"*/{RESULTS_FILE}"))
    if not files:
        raise ValueError(f"{folder}: no {RESULTS_FILE} in it or one folder below; `ovseg eval score` writes it")
    found: dict[str, Result] = {}
    for file in files:
        result = _read(file)
        if result.dataset in found:
            raise ValueError(f"{file}: a second result of {result.dataset} in {folder}; give each of them by itself")
        found[result.dataset] = result
    return found


def _read(path: Path) -> Result:
    facts = read_json(path)
    try:
        if not isinstance(facts, dict):
            raise ValueError("expected an object")
        check_fields(facts, RESULTS, NEEDED, "")
        check_fields(facts["counts"], dict.fromkeys(("scored", "dataset"), COUNT), ("scored", "dataset"), "counts.")
        mean = either(number(0, 100), Allowed("null", lambda value: value is None))
        check_fields(facts["metrics"], {"mIoU": mean}, ("mIoU",), "metrics.")
    except ValueError as error:
        raise ValueError(f"{path}: not the results of a run: {error}") from error
    mIoU, counts = facts["metrics"]["mIoU"], facts["counts"]
    return Result(facts["dataset"], math.nan if mIoU is None else mIoU, counts["scored"], counts["dataset"], facts)


def _row(folder: str, results: dict[str, Result], sets: Sequence[str]) -> list[str]:
    found = list(results.values())
    how = [
        [str(one.facts.get("by") or "") for one in found],
        [str((one.facts.get("view") or {}).get("variant", "")) for one in found],
        [named_protocol(one.facts.get("protocol"), one.dataset, one.has_background) for one in found],
    ]
    cells = [results[name].cell if name in results else "" for name in sets]
    mean = _mean({name: one.mIoU for name, one in results.items()}, sets)
    return [folder, *("; ".join(dict.fromkeys(values)) for values in how), *cells, *mean]


def _published(rows: Iterable[dict[str, Result]], sets: Sequence[str]) -> Sheet | None:
    """The published rows by exactly the rules of a run on a whole data set; None where there are none."""
    rules: dict[str, set[str]] = {}
    for results in rows:
        for one in results.values():
            own = LAYOUTS[one.dataset].vocabulary if one.dataset in LAYOUTS else None
            if one.whole and (name := followed(one.facts, one.dataset, own)):
                rules.setdefault(one.dataset, set()).add(name)
    values: dict[tuple[str, str], dict[str, float]] = {}
    for name, protocols in rules.items():
        for row in published(name, protocols)[0]:
            values.setdefault((row.method, str(row.protocol)), {})[name] = row.mIoU
    if not values:
        return None
    table = []
    for key, found in values.items():
        cells = [shown(found[name]) if name in found else "" for name in sets]
        table.append([*key, *cells, *_mean(found, sets)])
    return Sheet("published", ["method", "protocol", *_columns(sets)], table, [PUBLISHED_NOTE])


def _columns(sets: Sequence[str]) -> list[str]:
    return [*sets, *(["mean"] if len(sets) > 1 else [])]


def _mean(values: dict[str, float], sets: Sequence[str]) -> list[str]:
    """The cell of the mean over all data sets, empty where one is missing; no cell where there is one data set."""
    if len(sets) == 1:
        return []
    return [shown(sum(values.values()) / len(values)) if len(values) == len(sets) else ""]


def _order(dataset: str) -> tuple[int, str]:
    """The benchmarks in the papers' order, others behind them by name."""
    return (ORDER.index(dataset) if dataset in ORDER else len(ORDER), dataset)
