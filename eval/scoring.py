"""Scores run folders against a data set: `ovseg eval score`. It reads files alone, no model.

Labels are compared at the truth's own resolution, over the images that the run's record says were undertaken, one image
after the other; only counts are kept of an image. With `best_label` the masks are scored instead: each takes the
class that most of its valid pixels have, so this *reads labels* and measures masks alone, of any number, without names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track as rich_track

from ovseg.classes import ClassList
from ovseg.eval.boundaries import boundary_counts, boundary_f
from ovseg.eval.confusion import best_labels, class_counts, confusion_matrix
from ovseg.eval.datasets import Dataset, open_dataset
from ovseg.eval.errors import check_reports, write_reports
from ovseg.eval.latex import latex
from ovseg.eval.plain import Predictions, read_predictions
from ovseg.eval.scored import Scored
from ovseg.eval.spreadsheets import classes_csv, images_csv
from ovseg.eval.tables import Sheet, run_sheet
from ovseg.files import json_bytes, write_atomically
from ovseg.run.corrections import corrections
from ovseg.run.folder import RunFolder, read_run, record_files
from ovseg.run.images import MASKS, RunImage
from ovseg.run.terminal import is_terminal

Track = Callable[[Sequence[str]], Iterable[str]]


def score_run(
    run: str | Path | RunFolder,
    dataset: Dataset,
    best_label: bool = False,
    *,
    uncorrected: bool = False,
    track: Track = iter,
) -> Scored:
    """Score a run folder of `ovseg label`, `ovseg masks` (with `best_label`) or `ovseg eval predict`, or `Predictions`.

    uncorrected: the run's own labels, also where a person corrected them. track: wraps the iteration over ids, to show
    progress.
    Raises ValueError, naming the folder or file: an image that is not done or not of the data set, names that are not
    the data set's, a prediction that is missing, unreadable, of the wrong size, or with indices out of range; OSError
    and ValueError as `read_run` and the data set.
    """
    folder = run if isinstance(run, RunFolder) else read_run(run)
    check_images(folder, dataset)
    if not best_label:
        _check_names(folder, dataset)
    classes = len(dataset.names)
    confusion = np.zeros((classes, classes + 1), np.int64)
    boundaries = np.zeros((classes, 3), np.int64)
    image_counts, boundary_fs = [], []
    for id in track(sorted(folder.ids)):
        truth = dataset.truth(id)
        predicted = _read(RunImage(folder, id, uncorrected), truth.shape, best_label)
        if best_label:
            boundary_fs.append(boundary_f(predicted, truth))
            predicted = best_labels(predicted, truth, classes)
        one = confusion_matrix(truth, predicted, classes)
        confusion += one
        image_counts.append(class_counts(one))
        boundaries += boundary_counts(truth, predicted, classes)
    return Scored(
        run=folder,
        dataset=dataset.name,
        vocabulary=dataset.vocabulary,
        names=tuple(dataset.names),
        images=dataset.expected or len(dataset.ids),
        ids=tuple(sorted(folder.ids)),
        best_label=best_label,
        confusion=confusion,
        image_counts=np.stack(image_counts),
        boundaries=boundaries,
        corrected=0 if uncorrected or best_label else sum(corrections(folder, id).stands > 0 for id in folder.ids),
        image_boundary_f=np.array(boundary_fs if best_label else [math.nan] * len(image_counts)),
    )


def read_runs(runs: Sequence[str | Path | RunFolder]) -> list[RunFolder]:
    """The records of run folders. Raises ValueError where there is no run, and as `read_run`."""
    if not runs:
        raise ValueError("runs: none given, expected one run folder or more")
    return [run if isinstance(run, RunFolder) else read_run(run) for run in runs]


def read_all(
    folders: Sequence[str | Path | RunFolder],
    name: str,
    root: str | Path | None,
    ignore: int | None = None,
    names: ClassList | None = None,
) -> tuple[list[RunFolder], Dataset]:
    """Run folders, or folders of anyone's predictions (see `plain`), and the data set that they are measured on.

    names: what indices of predictions without a record mean. Raises ValueError and OSError as `read_run`,
    `read_predictions` and `open_dataset`.
    """
    if not folders:
        raise ValueError("runs: none given, expected one run folder or more")
    runs = {
        place: one if isinstance(one, RunFolder) else read_run(one)
        for place, one in enumerate(folders)
        if isinstance(one, RunFolder) or record_files(Path(one)) or not Path(one).is_dir()
    }
    dataset = dataset_of(list(runs.values()), name, root, ignore)
    if names is not None and len(runs) == len(folders):
        raise ValueError(f"names: are for predictions without a record; {folders[0]} is a run and has its own")
    found = [
        one if isinstance(one, RunFolder) else runs.get(place) or read_predictions(one, dataset, names)
        for place, one in enumerate(folders)
    ]
    return found, dataset


def dataset_of(runs: Sequence[RunFolder], name: str, root: str | Path | None, ignore: int | None = None) -> Dataset:
    """The data set that runs are measured on, or the part of it that is on this disk; a tree that is not whole is taken
    where one of the runs was made with --partial. Raises ValueError and OSError as `open_dataset`."""
    partial = any(run.facts.get("partial") for run in runs)
    return open_dataset(name, root, ignore=ignore, part=True, partial=partial)


def score_and_show(
    dataset: Dataset,
    runs: Sequence[str | Path | RunFolder],
    out: str | Path | None = None,
    best_label: bool = False,
    uncorrected: bool = False,
    report: bool = False,
) -> None:
    """Score run folders, write results, classes and the table, and show the table: `ovseg eval score`.

    out: as in `write_results`. report: write the runs' reports as well. Raises as `score_run` and `write_results`.
    """
    folders = read_runs(runs)
    targets = out_folders(folders, out, best_label)  # so that a mistake in it is reported before scoring
    if report:
        check_reports(folders, not (best_label or uncorrected))
    own = {"best_label": best_label, "uncorrected": uncorrected}
    found = [score_run(folder, dataset, **own, track=progress(folder.path)) for folder in folders]
    write_results(found, out).show()
    if report:
        write_reports(folders, targets, dataset)


def write_results(found: Sequence[Scored], out: str | Path | None = None) -> Sheet:
    """Write results.json, classes.csv and images.csv of every run, and the table of all, which is returned, as
    table.md and, for LaTeX, table.tex.

    out: the folder for all of it; None: each run's own, and the table in the first. With best labels the files are
    called best-label.json, best-label-classes.csv, ...
    Raises ValueError, before anything is written, for an `out` that cannot take the results.
    """
    folders, best_label = [scored.run for scored in found], found[0].best_label
    targets = out_folders(folders, out, best_label)
    prefix = "best-label-" if best_label else ""
    table = run_sheet(found)
    for scored, target in zip(found, targets, strict=True):
        results = scored.results()
        write_atomically(target / f"{_stem(best_label)}.json", json_bytes(results))
        write_atomically(target / f"{prefix}classes.csv", classes_csv(results["classes"]).encode())
        write_atomically(target / f"{prefix}images.csv", images_csv(scored).encode())
    table_folder = folders[0].path if out is None else Path(out)
    write_atomically(table_folder / f"{prefix}table.md", table.markdown().encode())
    write_atomically(table_folder / f"{prefix}table.tex", latex(table).encode())
    return table


def check_images(folder: RunFolder, dataset: Dataset) -> None:
    """Raise ValueError unless a run has images, all of them done and all of the data set."""
    unfinished = sorted(set(folder.ids) - set(folder.done))
    if unfinished:
        entry = folder.ids[unfinished[0]]
        said = f"{entry['state']}: {entry['error']}" if entry.get("error") else entry["state"]
        share = f"{len(unfinished)} of {len(folder.ids)}"
        raise ValueError(f"{folder.path}: {share} images are not done, such as {unfinished[0]} ({said})")
    if not folder.ids:
        raise ValueError(f"{folder.path}: no image was undertaken in this run, nothing can be scored")
    strangers = sorted(set(folder.ids) - set(dataset.ids))
    if strangers:
        raise ValueError(f"{folder.path}: {strangers[0]} is no image of {dataset.name} at {dataset.root}")


def _check_names(folder: RunFolder, dataset: Dataset) -> None:
    """Raise ValueError unless a run's names are the data set's."""
    names, expected = folder.facts.get("names"), list(dataset.names)
    if names is None:
        raise ValueError(f"best_label: needed, because {folder.path} holds masks without names")
    if len(names) != len(expected):
        raise ValueError(f"{folder.path}: has {len(names)} names, {dataset.name} has {len(expected)}")
    for index, (name, wanted) in enumerate(zip(names, expected, strict=True)):
        if name != wanted:
            raise ValueError(f"{folder.path}: its name {index} is {name!r}, that of {dataset.name} is {wanted!r}")


def _read(image: RunImage, size: tuple[int, ...], best_label: bool) -> np.ndarray:
    """An image's labels, or its masks with `best_label`, (H, W), checked against the truth's size."""
    if isinstance(image.run, Predictions):
        return image.run.labels(image.id, size, best_label)
    predicted = image.masks(size) if best_label else image.index_map(size)
    if predicted is None:
        raise ValueError(f"best_label: needs masks, and this run kept none: {image.file(MASKS)} is missing")
    return predicted


def out_folders(runs: Sequence[RunFolder], out: str | Path | None, best_label: bool = False) -> list[Path]:
    """The folder of each run's results: into the run, into `out`, or, several runs, into a folder of `out` each.

    Raises ValueError for an `out` that is a file, for two runs of one name, and where a result would be the file of an
    image.
    """
    if out is None:
        targets = [run.home for run in runs]
    elif Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out: {out}: is a file, expected a folder for the results")
    elif len(runs) == 1:
        targets = [Path(out)]
    else:
        names = [run.path.resolve().name for run in runs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"out: {out}: two runs are called {twice[0]!r}, their results would be one folder's")
        targets = [Path(out) / name for name in names]
    stem = _stem(best_label)
    for run, target in zip(runs, targets, strict=True):
        if target.resolve() == run.path.resolve() and stem in run.ids:
            raise ValueError(
                f"out: {target / stem}.json is the file of an image called {stem!r}; choose another folder"
            )
    return targets


def _stem(best_label: bool) -> str:
    return "best-label" if best_label else "results"


def progress(folder: Path) -> Track:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    return lambda ids: rich_track(
        ids, f"scoring {folder}", console=console, transient=True, disable=not is_terminal(sys.stderr)
    )
