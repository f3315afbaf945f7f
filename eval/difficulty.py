"""How far colour alone gets in a world: superpixels and colour clusters against the exact labels, and statistics.

    python -m ovseg.eval.difficulty --world 3 --split tuning --count 100

Every segment gets the class that most of its pixels have, so a figure is the most that any classifier of these segments
could reach: mIoU over the 58 names, pixels of all scenes counted together. It takes scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from ovseg.eval.confusion import best_labels, class_counts, confusion_matrix, mean_iou
from ovseg.masks import superpixels
from ovseg.pocket.scene import BACKGROUNDS, NAMES, OBJECTS, Scene
from ovseg.pocket.world import WORLD_VERSION, WORLDS, scene

SEGMENTS = 20
COMPACTNESS = (3.0, 10.0, 30.0)  # SLIC's weight of position against colour


def colour_clusters(image: np.ndarray, count: int) -> np.ndarray:
    """k-means of CIELAB colour and position: (H, W) int32 from 0. Position has as much variance as colour."""
    from skimage.color import rgb2lab
    from sklearn.cluster import KMeans

    colour = rgb2lab(image).reshape(-1, 3)
    position = np.indices(image.shape[:2]).reshape(2, -1).T.astype(np.float64)
    features = np.concatenate([_scaled(colour), _scaled(position)], axis=1)
    return KMeans(count, n_init=1, max_iter=50, random_state=0).fit_predict(features).reshape(image.shape[:2])


def _scaled(features: np.ndarray) -> np.ndarray:
    """Features (n, d) with a mean of 0 and a total variance of 1."""
    centred = features - features.mean(0)
    return centred / np.sqrt((centred**2).sum(1).mean() + 1e-9)


def blocks(image: np.ndarray, side: int = 8) -> np.ndarray:
    """Squares of `side` pixels: what masks at an eighth of the resolution could say, (H, W) int64."""
    y, x = np.indices(image.shape[:2]) // side
    return y * (image.shape[1] // side) + x


def best_label_counts(segments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class counts (58, 3) int64 of the best label of each segment; segments, labels: (H, W) integers."""
    best = best_labels(segments, labels, len(NAMES))
    return class_counts(confusion_matrix(labels, best, len(NAMES)))


def contents(scenes: list[Scene]) -> str:
    """What the scenes hold, in lines: share of objects, their sizes, and how often each name is seen."""
    areas = np.stack([np.bincount(one.labels.ravel(), minlength=len(NAMES)) for one in scenes])
    things, grounds = areas[:, : len(OBJECTS)], areas[:, len(OBJECTS) :]
    sizes = np.sqrt(things[things > 0])
    quartiles = " ".join(f"{size:.0f}" for size in np.percentile(sizes, [25, 50, 75]))
    lines = [
        f"pixels of objects: {100 * things.sum() / areas.sum():.1f} %",
        f"names a scene: {(things > 0).sum(1).mean():.2f} objects, {(grounds > 0).sum(1).mean():.2f} backgrounds",
        f"size of an object (root of its visible pixels): mean {sizes.mean():.1f}, quartiles {quartiles}",
    ]
    for names, part in ((OBJECTS, things), (BACKGROUNDS, grounds)):
        seen, share = 100 * (part > 0).mean(0), 100 * part.sum(0) / areas.sum()
        rare, often = seen.argmin(), seen.argmax()
        lines.append(
            f"share of scenes from {names[rare]} {seen[rare]:.1f} % to {names[often]} {seen[often]:.1f} %, "
            f"share of pixels from {share.min():.2f} to {share.max():.2f} %"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ovseg.eval.difficulty", description="How far colour alone gets.")
    parser.add_argument("--world", type=int, choices=WORLDS, default=WORLD_VERSION)
    parser.add_argument("--split", default="tuning")
    parser.add_argument("--count", type=int, default=100, help="scenes of block 0 (default 100)")
    given = parser.parse_args()
    if given.split not in WORLDS[given.world] or given.count < 1:
        parser.error(f"--split is one of {', '.join(WORLDS[given.world])}, and --count 1 or more")
    scenes = [scene(given.split, 0, index, given.world) for index in range(given.count)]
    print(contents(scenes))
    segmentations: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"SLIC, compactness {value:g}": partial(superpixels, count=SEGMENTS, compactness=value) for value in COMPACTNESS
    }
    segmentations["k-means, colour and position"] = partial(colour_clusters, count=SEGMENTS)
    segmentations["squares of 8 pixels"] = blocks
    for name, segment in segmentations.items():
        segments = [segment(scene.image) for scene in scenes]
        counts = sum(best_label_counts(ids, scene.labels) for ids, scene in zip(segments, scenes, strict=True))
        number = np.mean([len(np.unique(ids)) for ids in segments])
        print(f"{name}: best-label mIoU {float(mean_iou(np.asarray(counts))):.1f} ({number:.1f} segments)")


if __name__ == "__main__":
    main()
