"""Small things with `--detail` and without it, by their size: the table of docs/RESULTS.md.

    python -m bench.detail --images 32

Things are the connected regions of object classes in scenes of the pocket world's tuning split, of `LEAST` pixels or
more; their size is in cells of the coarse map without `--detail`. Of each thing two figures, percent: the share of its
pixels whose mask, with the class of most of its pixels, has the thing's class; and the IoU of the mask that fits it
best. Each is averaged over the things of a scene and then over scenes; gains have 95 % intervals over scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.ndimage import label

from emerdiff import EmerDiff
from ovseg.eval.confusion import best_labels, mean_interval
from ovseg.pocket.world import NAMES, OBJECTS, Block
from ovseg.presets import get_preset

BLOCK = "world3/tuning/0"
LEAST = 8  # pixels: smaller ones are specks at an edge
BOUNDS = (0, 1, 2, 4, 8, float("inf"))  # cells of the coarse map, between which sizes are counted together

Scores = dict[int, np.ndarray]  # number of a size in BOUNDS -> mean share and IoU of a scene's things (2,)


def things(labels: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The things of a label map (H, W): where they are, (H, W) bool, and their class."""
    for kind in np.unique(labels):
        if kind < len(OBJECTS):
            numbers, count = label(labels == kind)
            for number in range(1, count + 1):
                if np.count_nonzero(place := numbers == number) >= LEAST:
                    yield place, int(kind)


def score(segments: np.ndarray, labels: np.ndarray, cell: float) -> Scores:
    """How masks (H, W) meet the things of a label map (H, W), by size. cell: pixels of a cell of the coarse map."""
    best = best_labels(segments, labels, len(NAMES))
    areas = np.bincount(segments.ravel())
    found: dict[int, list[tuple[float, float]]] = {}
    for place, kind in things(labels):
        area = np.count_nonzero(place)
        both = np.bincount(segments[place], minlength=len(areas))
        figures = 100 * float((best[place] == kind).mean()), 100 * float((both / (areas + area - both)).max())
        size = int(np.searchsorted(BOUNDS, area / cell, side="right")) - 1
        found.setdefault(size, []).append(figures)
    return {size: np.mean(figures, axis=0) for size, figures in found.items()}


def lines(plain: Iterable[Scores], detailed: Iterable[Scores]) -> Iterator[str]:
    """A line for each size, of the scenes' scores without `--detail` and with it."""
    pairs = list(zip(plain, detailed, strict=True))
    for size, (low, high) in enumerate(zip(BOUNDS, BOUNDS[1:], strict=False)):
        there = [(one[size], other[size]) for one, other in pairs if size in one]
        if not there:
            continue
        without, with_it = np.moveaxis(np.array(there), 1, 0)
        parts = []
        for name, before, after in zip(("pixels", "IoU"), without.T, with_it.T, strict=True):
            ends = mean_interval(after - before)
            gain = f"{(after - before).mean():+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"
            parts.append(f"{name} {before.mean():.1f} -> {after.mean():.1f}, {gain}")
        yield f"{low:g} to {high:g} cells, in {len(there)} scenes: {'; '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="scenes (%(default)s)")
    images = parser.parse_args().images
    if images < 1:
        parser.error(f"--images {images}: expected at least 1")
    preset = get_preset("pocket")
    model, block = EmerDiff.from_pretrained(preset.diffusion), Block.parse(BLOCK)
    scores: dict[bool, list[Scores]] = {False: [], True: []}
    seconds, cell = dict.fromkeys(scores, 0.0), 0.0
    for index in range(images):
        scene = block.scene(index)
        for detail, found in scores.items():
            start = time.perf_counter()
            segments = model.segment(scene.image, replace(preset.options, detail=detail))
            seconds[detail] += time.perf_counter() - start
            cell = cell or scene.labels.size / segments.low_resolution_masks.size  # the first is without
            found.append(score(segments.labels, scene.labels, cell))
    for line in lines(scores[False], scores[True]):
        print(line)
    print(f"seconds an image: {seconds[False] / images:.1f}, with detail {seconds[True] / images:.1f}")


if __name__ == "__main__":
    main()
