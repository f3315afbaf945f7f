"""Videos: masks carried from frame to frame, and names averaged over time, against frame by frame.

    python -m bench.videos --clips 12 --frames 12          # the table of docs/RESULTS.md

Made clips with exact labels: a camera pans by 3 pixels of 128 a frame over two pocket scenes side by side, and a thing
of a third crosses them. Consistency is the share of the points seen in two neighbouring frames that keep their mask's
number, and their label; mIoU is over all frames. Leads are over frame by frame, with 95 % intervals over clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from emerdiff.clusters import matched
from ovseg.analysis import Analysis
from ovseg.eval.confusion import class_counts, confusion_matrix, interval, mean_interval, mean_iou
from ovseg.masks import DiffusionSource
from ovseg.pocket.scene import NAMES, OBJECTS, SIZE
from ovseg.pocket.world import scene
from ovseg.result import Segmentation
from ovseg.run.video import Carried, averaged, centres_of
from ovseg.segmenter import Segmenter, Text

STEP = 3  # pixels of the pan a frame
FASTER = 5  # pixels of the thing that moves
MOST_FRAMES = SIZE // STEP
ALONE, CARRIED, AVERAGED, BOTH = "frame by frame", "carried alone", "averaged alone", "both, as `ovseg label`"

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


def moving_scene(first: int, frames: int, split: str = "tuning") -> list[Frame]:
    """(image (128, 128, 3) uint8, labels (128, 128) uint8, place (128, 128) int32) of each of at most 42 frames.

    place: which point of the scene a pixel shows, so that points can be followed; those of the thing that moves are its
    own. Scenes `first` and `first + 1` are the ground, the first object of `first + 2` is the thing.
    """
    left, right, other = (scene(split, 0, first + number) for number in range(3))
    ground = np.concatenate([left.image, right.image], axis=1)
    labels = np.concatenate([left.labels, right.labels], axis=1)
    place = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    objects = [index for index in np.unique(other.labels) if NAMES[index] in OBJECTS]
    rows, columns = np.nonzero(other.labels == objects[0]) if objects else (np.array([], int),) * 2
    made = []
    for number in range(frames):
        image, truth, point = ground.copy(), labels.copy(), place.copy()
        across = np.clip(columns + FASTER * number, 0, 2 * SIZE - 1)
        image[rows, across] = other.image[rows, columns]
        truth[rows, across] = other.labels[rows, columns]
        point[rows, across] = labels.size + np.arange(len(rows))
        window = slice(STEP * number, STEP * number + SIZE)
        made.append((image[:, window], truth[:, window], point[:, window]))
    return made


def labelled(segmenter: Segmenter, text: Text, clip: list[Frame]) -> Iterator[dict[str, Segmentation]]:
    """Each frame's result by each way."""
    alone: Carried | None = None
    going_on: Carried | None = None
    assert isinstance(segmenter.source, DiffusionSource)
    for image, _, _ in clip:
        source = replace(segmenter.source, start=going_on.centres if going_on else None)
        own, carried = segmenter.analyze(image), replace(segmenter, source=source).analyze(image)
        if alone:
            own = renumbered(own, alone.centres)
        results = {ALONE: segmenter.label_analysis(own, text), CARRIED: segmenter.label_analysis(carried, text)}
        averages = partial(averaged, vocabulary=text.vocabulary, by_vote=segmenter.vote)
        results[AVERAGED], alone = averages(results[ALONE], own, alone)
        results[BOTH], going_on = averages(results[CARRIED], carried, going_on)
        yield results


def renumbered(analysis: Analysis, before: np.ndarray) -> Analysis:
    """A frame's own clusters with the numbers of those of the frame before, by its centres (K, C), that are nearest."""
    assert analysis.segments is not None and analysis.regions is not None
    numbers = matched(centres_of(analysis), before).astype(np.int32)
    regions = np.zeros((len(numbers), analysis.regions.shape[1]), np.float32)
    regions[numbers[: len(analysis.regions)]] = analysis.regions
    evidence = {**analysis.evidence, "low_resolution_masks": numbers[analysis.evidence["low_resolution_masks"]]}
    facts = {**analysis.facts, "carried": True}
    return replace(analysis, segments=numbers[analysis.segments], regions=regions, evidence=evidence, facts=facts)


@dataclass
class Tally:
    """What one way gave on one clip."""

    confusion: np.ndarray = field(default_factory=lambda: np.zeros((len(NAMES), len(NAMES) + 1), np.int64))
    kept: list[np.ndarray] = field(default_factory=list)  # (2,) each: shares of points that keep mask and label
    last: np.ndarray | None = None  # (2, points) mask and label of each point of the scene, -1 unseen

    def add(self, result: Segmentation, truth: np.ndarray, place: np.ndarray) -> None:
        """Count a frame."""
        assert result.masks is not None
        self.confusion += confusion_matrix(truth, result.labels, len(NAMES))
        now = np.stack([result.masks.ravel(), result.labels.ravel()]).astype(np.int64)
        if self.last is not None:
            before = self.last[:, place.ravel()]
            seen = before[0] >= 0
            self.kept.append((before == now)[:, seen].mean(axis=1))
        self.last = np.full((2, 4 * SIZE * SIZE), -1)
        self.last[:, place.ravel()] = now

    @property
    def consistency(self) -> np.ndarray:
        """Percent of points that keep their mask's number, and their label."""
        return 100 * np.mean(self.kept, axis=0)


def measure(segmenter: Segmenter, firsts: Sequence[int], frames: int, split: str) -> dict[str, list[Tally]]:
    """The tallies of each way, one a clip."""
    text, found = (
        segmenter.encode(list(NAMES), "none"),
        {way: list[Tally]() for way in (ALONE, CARRIED, AVERAGED, BOTH)},
    )
    for first in firsts:
        clip = moving_scene(first, frames, split)
        tallies = {way: Tally() for way in found}
        for results, (_, truth, place) in zip(labelled(segmenter, text, clip), clip, strict=True):
            for way, result in results.items():
                tallies[way].add(result, truth, place)
        for way, tally in tallies.items():
            found[way].append(tally)
    return found


def show(found: dict[str, list[Tally]]) -> None:
    """A line of a table for each way."""
    counts = {way: np.stack([class_counts(tally.confusion) for tally in tallies]) for way, tallies in found.items()}
    kept = {way: np.stack([tally.consistency for tally in tallies]) for way, tallies in found.items()}
    first = float(mean_iou(counts[ALONE].sum(axis=0)))
    print("| | mask's number | label | lead | mIoU | lead |\n|---|---|---|---|---|---|")
    for way in found:
        numbers, labels = kept[way].mean(axis=0)
        steadier = labels - kept[ALONE][:, 1].mean()
        low, high = mean_interval(kept[way][:, 1] - kept[ALONE][:, 1])
        value = float(mean_iou(counts[way].sum(axis=0)))
        worst, best = interval(counts[way], counts[ALONE])
        print(
            f"| {way} | {numbers:.1f} | {labels:.1f} | {steadier:+.1f} [{low:+.1f}, {high:+.1f}] | {value:.1f} "
            f"| {value - first:+.1f} [{worst:+.1f}, {best:+.1f}] |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12, help="how many")
    parser.add_argument("--frames", type=int, default=12, help=f"of each, {MOST_FRAMES} at most")
    parser.add_argument("--split", default="evaluation", help="of the pocket world's scenes")
    parser.add_argument("--by", default="naive", help="mask source: naive, emerdiff or attention")
    given = parser.parse_args()
    segmenter = Segmenter.from_preset("pocket", by=given.by, device="cpu", refine="none")
    show(measure(segmenter, range(100, 100 * given.clips + 1, 100), min(given.frames, MOST_FRAMES), given.split))


if __name__ == "__main__":
    main()
