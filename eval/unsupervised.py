"""EmerDiff's evaluations without text: `ovseg eval unsupervised`. It reads kept analyses and labels, and runs no model.

Every mask has an embedding (see `embeddings`) and takes the nearest of as many concepts as there are classes, by
Euclidean distance. Two protocols (EmerDiff, arXiv 2401.11739) differ in what a concept is:

- traditional: a cluster of k-means over all masks of the data set, weighted by their pixels, labelled or not. Concepts
  are matched one to one with classes by the Hungarian method, such that most labelled pixels agree, as PiCIE
  (arXiv 2103.17070) and STEGO (arXiv 2203.08414) do it.
- modified: the mean embedding of the pixels that are of a class. It *reads the labels* of the images it is scored on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import gen_batches
from threadpoolctl import threadpool_limits

from ovseg.eval.datasets import Dataset
from ovseg.eval.embeddings import SOURCES, Masks, Outcome, assign, read_masks
from ovseg.eval.scoring import check_images, progress
from ovseg.eval.tables import PARTIAL_NOTE, Sheet, with_interval
from ovseg.files import json_bytes, write_atomically
from ovseg.run.folder import RunFolder, read_run

RESTARTS = 10  # of k-means
MOST_MASKS = 30_000  # for full k-means; with more, mini-batches are used
BATCH = 4096  # masks in a mini-batch

# mIoU in percent.
PUBLISHED: dict[tuple[str, str], dict[str, float]] = {
    ("traditional", "coco-stuff27"): {"STEGO": 26.8, "EmerDiff": 26.6},
    ("modified", "ade20k"): {"naive upsampling": 29.1, "EmerDiff": 33.1},
    ("modified", "coco-stuff171"): {"naive upsampling": 27.6, "EmerDiff": 30.5},
}
PUBLISHED_NOTE = "numbers of the EmerDiff paper, not ours, with masks out of Stable Diffusion"
CURATED_NOTE = (
    "STEGO, and with it the row of EmerDiff, takes a curated part of the images, and of each, resized to a shorter "
    "side of 320, the central 320 x 320 pixels: not to be compared with a run of whole images"
)


def traditional(masks: Masks, seed: int = 0) -> np.ndarray:
    """The class of every mask, (M,) int64, by the traditional protocol. Raises ValueError as `cluster`."""
    classes = masks.truth.shape[1]
    concepts = cluster(masks.embeddings, masks.pixels, classes, seed)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, concepts, masks.truth)
    return match(counts)[concepts]


def cluster(embeddings: np.ndarray, pixels: np.ndarray, concepts: int, seed: int = 0) -> np.ndarray:
    """The concept of every mask, (M,) int32, by k-means: k-means++, ten restarts, mini-batches for over `MOST_MASKS`.

    embeddings: (M, D) float32; pixels: (M,) int, their weights. Raises ValueError for fewer masks than concepts.
    """
    if concepts > len(embeddings):
        raise ValueError(f"the traditional protocol needs as many masks as classes, {concepts}; got {len(embeddings)}")
    if len(embeddings) > MOST_MASKS:
        kmeans = MiniBatchKMeans(concepts, n_init=RESTARTS, batch_size=BATCH, random_state=seed)
    else:
        kmeans = KMeans(concepts, n_init=RESTARTS, random_state=seed)
    # One thread: partial sums of several are added in the order they finish, so results would vary.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct masks than concepts leave some unused
        return kmeans.fit_predict(embeddings, sample_weight=pixels)


def match(counts: np.ndarray) -> np.ndarray:
    """The class of every concept, (N,) int64, one each, such that most pixels agree; counts (N concepts, N classes)."""
    return linear_sum_assignment(counts, maximize=True)[1]


def modified(masks: Masks, seed: int = 0) -> np.ndarray:
    """The class of every mask, (M,) int64, by the modified protocol, which does not depend on the seed.

    A class without any labelled pixel has no concept. Raises ValueError where no class has one.
    """
    pixels = masks.truth.sum(axis=0)
    present = np.flatnonzero(pixels)
    if not present.size:
        raise ValueError("the modified protocol needs labels, but no pixel of these images has one")
    sums = np.zeros((len(pixels), masks.embeddings.shape[1]))
    for part in gen_batches(len(masks.embeddings), BATCH):
        sums += masks.truth[part].T.astype(np.float64) @ masks.embeddings[part].astype(np.float64)
    concepts = (sums[present] / pixels[present, None]).astype(np.float32)
    return present[pairwise_distances_argmin(masks.embeddings, concepts)]


PROTOCOLS: dict[str, Callable[[Masks, int], np.ndarray]] = {"traditional": traditional, "modified": modified}


def unsupervised(
    dataset: Dataset,
    predictions: str | Path,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    *,
    seed: int = 0,
    out: str | Path | None = None,
) -> None:
    """Evaluate a run's kept analyses by these protocols, write unsupervised.json and .md, and show the table.

    seed: of k-means. out: a folder; None: the run's own. Raises ValueError and OSError for a run that cannot be
    evaluated so.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a number from 0 to {2**32 - 1}, got {seed}")
    folder = read_run(predictions)
    check_images(folder, dataset)
    out = Path(out or folder.home)
    if out.resolve() == folder.path.resolve() and "unsupervised" in folder.ids:
        raise ValueError(
            f"out: {out}/unsupervised.json is the file of an image called 'unsupervised'; choose another folder"
        )
    outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in protocols}
    for source in SOURCES:
        masks = read_masks(folder, dataset, source, progress(folder.path))
        for name, found in outcomes.items():
            found[source] = assign(masks, PROTOCOLS[name](masks, seed))
    shown = sheet(folder, dataset, outcomes)
    results = {
        "dataset": dataset.name,
        "run": str(folder.path),
        "counts": {"scored": len(folder.ids), "dataset": dataset.expected or len(dataset.ids)},
        "seed": seed,
        "protocols": {name: _results(name, found, dataset.names) for name, found in outcomes.items()},
        "notes": shown.notes,
        **{key: folder.facts.get(key) for key in ("models", "options")},
        "versions": folder.versions,
    }
    write_atomically(out / "unsupervised.json", json_bytes(results))
    write_atomically(out / "unsupervised.md", shown.markdown().encode())
    shown.show()


def _results(protocol: str, found: dict[str, Outcome], names: Sequence[str]) -> dict[str, Any]:
    """The results of one protocol, for JSON."""
    reads_labels = protocol == "modified"
    results: dict[str, Any] = {"reads_labels": reads_labels}
    for source, outcome in found.items():
        results[source] = {**outcome.results(), "class_IoU": outcome.class_results(names)}
    if reads_labels:
        lead, *ends = found["EmerDiff"].lead(found["naive upsampling"])
        results["lead"] = {"mIoU": lead, "interval": ends}
    return results


def sheet(folder: RunFolder, dataset: Dataset, outcomes: dict[str, dict[str, Outcome]]) -> Sheet:
    """The table: a row for each protocol and kind of masks, and published rows of the same data set."""
    total = dataset.expected or len(dataset.ids)
    rows, others = [], []
    for protocol, found in outcomes.items():
        for source, outcome in found.items():
            lead = ""
            if protocol == "modified" and source == "EmerDiff":
                lead = with_interval(*outcome.lead(found["naive upsampling"]), sign="+")
            value = with_interval(outcome.mIoU, *outcome.interval)
            rows.append([str(folder.path), protocol, source, f"{len(folder.ids)} of {total}", value, lead])
        published = PUBLISHED.get((protocol, dataset.name), {})
        others += [[protocol, source, f"{mean:.1f}"] for source, mean in published.items()]
    published_notes = [PUBLISHED_NOTE, *([CURATED_NOTE] if dataset.name == "coco-stuff27" else [])]
    return Sheet(
        title=f"{dataset.name}, {len(dataset.names)} classes, without text",
        header=["run", "protocol", "masks", "images", "mIoU", "lead over naive"],
        rows=rows,
        notes=_notes(list(outcomes), part=len(folder.ids) < total, partial=bool(folder.facts.get("partial"))),
        below=Sheet(f"{dataset.name}, published", ["protocol", "method", "mIoU"], others, published_notes)
        if others
        else None,
    )


def _notes(protocols: Sequence[str], *, part: bool, partial: bool) -> list[str]:
    notes = [
        "percent; mIoU with its 95 % bootstrap interval over images, concepts being the same in every draw",
        "embedding of a mask: the mean over its pixels of the bilinearly upsampled queries; distances are Euclidean",
    ]
    if "traditional" in protocols:
        notes.append(
            "traditional: k-means, as many concepts as classes, masks weighted by their pixels; the Hungarian matching "
            "maximises the labelled pixels that agree. The intervals do not show how results vary with the seed"
        )
    if "modified" in protocols:
        notes.append(
            "modified: reads labels. A class's concept is the mean embedding of its pixels in these very images, so "
            "this compares masks and features; it is not a result that is possible without labels"
        )
    if partial:
        notes.append(PARTIAL_NOTE)
    if part:
        notes.append("not all images of the data set were undertaken: not comparable to results on all of them")
    return notes
