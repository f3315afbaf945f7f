"""How a naming model's features and text become probabilities: as cosines or as memberships, by softmax or sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scoring:
    """How a model's features become probabilities: what it was trained with.

    reading: a name in `READINGS`; rule: a name in `RULES`; scale, bias: logit = scale * what is read + bias. doubt:
    what only looks like a name weighs so many times as much as all names together; it holds every probability under
    1 / (1 + doubt). Raises ValueError for numbers that would make every label the first.
    """

    scale: float
    bias: float = 0.0
    rule: str = "softmax"
    reading: str = "cosine"
    doubt: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"logit scale: expected a finite number above 0, got {self.scale}")
        if not math.isfinite(self.bias):
            raise ValueError(f"logit bias: expected a finite number, got {self.bias}")
        if not 0 <= self.doubt < math.inf:
            raise ValueError(f"doubt: expected a finite number from 0, got {self.doubt}")
        if self.rule not in RULES:
            raise ValueError(f"rule: no scoring rule {self.rule!r}, expected one of {', '.join(RULES)}")
        if self.reading not in READINGS:
            raise ValueError(f"reading: no reading {self.reading!r}, expected one of {', '.join(READINGS)}")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits (P, ...), scaled and with the bias -> the prompts' probabilities, in the same shape."""
        found = RULES[self.rule](logits)
        return found / (1 + self.doubt * found.sum(axis=0)) if self.doubt else found


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (P, ...) float64 -> probabilities that add up to 1 over the first axis."""
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits (P, ...) float64 -> a probability each, as CLIPs with a pairwise loss have it (arXiv 2303.15343)."""
    return np.exp(-np.logaddexp(0, -logits))


def softmax_or_none(logits: np.ndarray) -> np.ndarray:
    """Logits (P, ...) float64 -> softmax over these and one of 0, "none of them": a single name may be improbable."""
    return softmax(np.concatenate([logits, np.zeros_like(logits[:1])]))[:-1]


def given(probabilities: np.ndarray) -> np.ndarray:
    """What are probabilities already."""
    return probabilities


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "given": given,
    "softmax-or-none": softmax_or_none,
}


@dataclass(frozen=True)
class Reading:
    """How features and text become logits, scaled and without a bias. All arrays are float64.

    masks: text (P, C), features of masks (K, C), scale -> (P, K). cells: text (P, C), features (C, h, w), scale ->
    (P, h, w). unit: whether features are brought to length 1 where they are pooled.
    """

    masks: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    cells: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    unit: bool


def mask_cosines(text: np.ndarray, features: np.ndarray, scale: float) -> np.ndarray:
    """Cosines of masks with text of length 1; features have any length."""
    return scale * text @ (features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)).T


def cell_cosines(text: np.ndarray, features: np.ndarray, scale: float) -> np.ndarray:
    """Cosines of positions: features of length 1, or shorter where they are means of windows that overlap."""
    return scale * np.einsum("pc,chw->phw", text, features, optimize=True)


def memberships(text: np.ndarray, features: np.ndarray, scale: float) -> np.ndarray:
    """log(text . softmax(features)), scaled; features are logits of C classes (C, ...), text a name in them."""
    evidence = np.tensordot(text, softmax(features), axes=1)
    return scale * np.log(np.maximum(evidence, np.finfo(np.float64).tiny))


READINGS: dict[str, Reading] = {
    "cosine": Reading(mask_cosines, cell_cosines, unit=True),
    "membership": Reading(lambda text, features, scale: memberships(text, features.T, scale), memberships, unit=False),
}
