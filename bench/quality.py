"""The quality of the engines' masks on scenes with known labels, and the agreement of two engines.

Masks are judged twice, by `eval`'s own rules: every mask with the class of most of its pixels (which reads the labels,
and measures the masks alone), and every mask with the class that CLIP's dense features give it among all names of the
world, as `ovseg label` does. Intervals are bootstrap intervals over scenes, and paired for differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.engine import EXACT, FAST, OTHER_SEED, REFERENCE, pocket_scene
from bench.reference import Reference
from emerdiff import Segments, naive_segments
from ovseg.eval.confusion import best_labels, class_counts, confusion_matrix
from ovseg.eval.embeddings import Outcome
from ovseg.pocket.world import NAMES
from ovseg.segmenter import Segmenter

NAIVE = "naive upsampling"
RULES = ("best label", "labelling")
PAIRS = ((EXACT, REFERENCE), (FAST, REFERENCE), (FAST, EXACT), (OTHER_SEED, EXACT))


def quality(found: dict[str, list[Segments | Reference]], segmenter: Segmenter) -> dict[str, Any]:
    """Agreement and mIoU of the engines' masks on the first pocket scenes, for JSON; percent.

    found: by engine, the scenes' masks in their order; every engine but the reference has all scenes. segmenter: its
    CLIP gives the masks their classes.
    """
    masks = {name: [one.labels for one in given if one.labels is not None] for name, given in found.items()}
    if EXACT in found:
        masks[NAIVE] = [_naive(one) for one in found[EXACT] if isinstance(one, Segments)]
    labels, outcomes = _judge(masks, segmenter)
    agreement = [
        {"masks": [one, other], "scenes": min(len(masks[one]), len(masks[other]))}
        | _agreement(masks[one], masks[other], one == OTHER_SEED)
        | {"equal_labels": _equal(labels[one], labels[other])}
        for one, other in PAIRS
        if masks.get(one) and masks.get(other)
    ]
    scenes = max(map(len, masks.values()))
    return {"scenes": scenes, "agreement": agreement, **{rule: _mious(outcomes[rule], scenes) for rule in RULES}}


def _judge(
    masks: dict[str, list[np.ndarray]], segmenter: Segmenter
) -> tuple[dict[str, list[np.ndarray]], dict[str, dict[str, Outcome]]]:
    """The pixels' classes as CLIP names them, by engine, and the outcomes by rule and engine."""
    text = segmenter.encode(NAMES, "none")
    labels: dict[str, list[np.ndarray]] = {name: [] for name in masks}
    counts: dict[str, dict[str, list[np.ndarray]]] = {rule: {name: [] for name in masks} for rule in RULES}
    for number in range(max(map(len, masks.values()))):
        scene = pocket_scene(number)
        features = segmenter.clip.dense_features(scene.image, segmenter.view)
        for name, given in masks.items():
            if number >= len(given):
                continue
            labels[name].append(segmenter.label_segments(given[number], features, text).labels)
            best = best_labels(given[number], scene.labels, len(NAMES))
            for rule, predicted in zip(RULES, (best, labels[name][-1]), strict=True):
                counts[rule][name].append(class_counts(confusion_matrix(scene.labels, predicted, len(NAMES))))
    return labels, {
        rule: {name: Outcome(np.stack(parts)) for name, parts in by_name.items() if parts}
        for rule, by_name in counts.items()
    }


def _mious(outcomes: dict[str, Outcome], scenes: int) -> dict[str, Any]:
    """mIoU of every engine that has all scenes, and the lead of fast over exact."""
    rows = {name: outcome.results() for name, outcome in outcomes.items() if len(outcome.counts) == scenes}
    if FAST in outcomes and EXACT in outcomes:
        lead, *ends = outcomes[FAST].lead(outcomes[EXACT])
        rows[f"{FAST} - {EXACT}"] = {"mIoU": lead, "interval": ends}
    return rows


def _agreement(some: Sequence[np.ndarray], others: Sequence[np.ndarray], matched: bool) -> dict[str, Any]:
    """Share of pixels with equal mask numbers, percent; where numbers are arbitrary, masks are matched by overlap."""
    if matched:
        others = [_renumbered(one, other) for one, other in zip(some, others, strict=True)]
    return {"matched": matched, "equal_pixels": _equal(some, others), "least_equal_pixels": min(_shares(some, others))}


def _equal(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    return float(np.mean(_shares(some, others)))


def _shares(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[float]:
    return [100 * float(np.mean(one == other)) for one, other in zip(some, others, strict=False)]


def _renumbered(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The second map with the numbers under which it overlaps the first one most (one to one; -1 for the rest)."""
    shape = int(masks.max()) + 1, int(others.max()) + 1
    overlaps = np.bincount(masks.ravel() * shape[1] + others.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    numbers = np.full(shape[1], -1)
    numbers[columns] = rows
    return numbers[others]


def _naive(one: Segments) -> np.ndarray:
    height, width = one.labels.shape
    return naive_segments(one.low_resolution_masks, (height, width))
