"""Masks on photographs, whoever made them: the tables of docs/RESULTS.md.

    python -m bench.photos COCO BSDS --images 16

COCO: a folder in the `custom` layout of `ovseg eval` (images/, labels/, classes.txt), of COCO or of CamVid. BSDS, if
given: images/ID.jpg, and in regions/ID.N.png each annotator's regions, 16 bit, ids from 1. Every source's masks take
the label that most of their pixels have. COCO: class mIoU over all photos; BSDS: mean IoU of the regions of half a
percent or more, the mean over annotators and photos; boundary F in both (`ovseg.eval.boundaries`). Leads are
EmerDiff's, with 95 % intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from emerdiff import EmerDiff, naive_segments
from ovseg.eval.boundaries import boundary_f
from ovseg.eval.confusion import best_labels, class_counts, confusion_matrix, interval, mean_interval, mean_iou
from ovseg.eval.difficulty import colour_clusters
from ovseg.images import read_image
from ovseg.masks import superpixels
from ovseg.pamr import refine_masks
from ovseg.presets import get_preset
from ovseg.setup import Setup

SMALL_SIDE = 128  # pixels of the photo's shorter side where its colours are clustered
LEAST = 0.005  # of the photo: smaller regions are not scored
ANNOTATORS = 3  # at most, of each photo

Segment = Callable[[np.ndarray], dict[str, np.ndarray]]


def segmenter(model: EmerDiff, masks: int | None) -> Segment:
    """What gives every source's masks of an image (H, W, 3) uint8: name -> (H, W) integers from 0."""
    options = get_preset("photo").options
    options = replace(options, masks=masks or options.masks)

    def segment(image: np.ndarray) -> dict[str, np.ndarray]:
        size, count = image.shape[:2], options.masks
        found = model.segment(image, options)
        height, width = (round(side * SMALL_SIDE / min(size)) for side in size)
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        clusters = Image.fromarray(colour_clusters(np.asarray(small), count).astype(np.uint16))
        quick = {by: model.segment(image, replace(options, upsampling=by)).labels for by in ("attention", "diffcut")}
        return {
            "EmerDiff": found.labels,
            "EmerDiff, PAMR": refine_masks(image, found.labels),
            "naive": naive_segments(found.low_resolution_masks, size),
            **quick,
            "SLIC": superpixels(image, count),
            "k-means": np.asarray(clusters.resize(size[::-1], Image.Resampling.NEAREST)),
        }

    return segment


def score_coco(segments: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """Class counts (L, 3) of the best labels, and boundary F in percent."""
    confusion = confusion_matrix(labels, best_labels(segments, labels, classes), classes)
    return class_counts(confusion), boundary_f(segments, labels)


def score_bsds(segments: np.ndarray, annotators: list[np.ndarray]) -> tuple[float, float]:
    """Mean IoU of the larger regions and boundary F, percent, the means over annotators."""
    scores = []
    for regions in annotators:
        count = int(regions.max()) + 1
        counts = class_counts(confusion_matrix(regions, best_labels(segments, regions, count, -1), count, -1))
        large = counts[:, 0] >= LEAST * regions.size
        scores.append((float(mean_iou(counts[large])), boundary_f(segments, regions, ignore=-1)))
    first, second = np.mean(scores, axis=0)
    return float(first), float(second)


def measure_coco(folder: Path, photos: slice, segment: Segment) -> None:
    """Print a line for each source on these photos of a `custom` folder, by name."""
    classes = len((folder / "classes.txt").read_text(encoding="utf-8").splitlines())
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for path in sorted((folder / "images").iterdir())[photos]:
        labels = np.asarray(Image.open(folder / "labels" / f"{path.stem}.png")).astype(np.int64)
        for name, segments in segment(read_image(path)).items():
            found.setdefault(name, []).append(score_coco(segments, labels, classes))
    counts = {name: np.stack([one for one, _ in scores]) for name, scores in found.items()}
    for name, scores in found.items():
        mean, lead = (float(mean_iou(counts[one].sum(axis=0))) for one in (name, "EmerDiff"))
        ends = interval(counts["EmerDiff"], counts[name])
        show("COCO", name, mean, lead - mean, ends, [f for _, f in scores], [f for _, f in found["EmerDiff"]])


def measure_bsds(folder: Path, photos: slice, segment: Segment) -> None:
    """Print a line for each source on these photos of a folder of region maps, by name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in sorted((folder / "images").iterdir())[photos]:
        files = sorted((folder / "regions").glob(f"{path.stem}.*.png"))[:ANNOTATORS]
        annotators = [np.asarray(Image.open(file)).astype(np.int64) for file in files]
        for name, segments in segment(read_image(path)).items():
            found.setdefault(name, []).append(score_bsds(segments, annotators))
    ours = [iou for iou, _ in found["EmerDiff"]]
    for name, scores in found.items():
        ious = [iou for iou, _ in scores]
        leads = np.subtract(ours, ious)
        rest = [f for _, f in scores], [f for _, f in found["EmerDiff"]]
        show("BSDS", name, float(np.mean(ious)), float(leads.mean()), mean_interval(leads), *rest)


def show(
    data: str,
    name: str,
    mean: float,
    lead: float,
    ends: tuple[float, float],
    boundaries: list[float],
    ours: list[float],
) -> None:
    """One line: best label and boundary F of a source, and EmerDiff's leads over it."""
    leads = np.subtract(ours, boundaries)
    leads = leads[~np.isnan(leads)]  # a photo without any boundary
    low, high = mean_interval(leads)
    print(
        f"{data} {name}: {mean:.1f} / {np.nanmean(boundaries):.1f}; EmerDiff's lead {lead:+.1f} "
        f"[{ends[0]:+.1f}, {ends[1]:+.1f}] / {leads.mean():+.1f} [{low:+.1f}, {high:+.1f}]",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path)
    parser.add_argument("bsds", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=16, help="photos of each set (%(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first of them, counted from 1 by name")
    parser.add_argument("--masks", type=int, help="K (the preset's)")
    given = parser.parse_args()
    if min(given.first, given.images) < 1:
        parser.error(f"--first {given.first} --images {given.images}: expected at least 1 of either")
    setup = Setup.of("photo", {})
    model = EmerDiff.from_pretrained(setup.preset.diffusion, device=setup.find_device())
    segment = segmenter(model, given.masks)
    photos = slice(given.first - 1, given.first - 1 + given.images)
    measure_coco(given.coco, photos, segment)
    if given.bsds:
        measure_bsds(given.bsds, photos, segment)


if __name__ == "__main__":
    main()
