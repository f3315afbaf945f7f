"""What the models say of names: every mask's best names with their scores, without masks being made again.

A name counts as doubtful where the one behind it is more than half as probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ovseg.naming import NamingModel

BEST = 5  # names of a mask that are shown
DOUBT = 0.5  # of the best name's probability; a runner-up above it makes the name doubtful
MOST_KNOWN = 20_000  # prompts whose embeddings are remembered; of 512 numbers each, 40 MB


@dataclass(eq=False)
class RememberingModel:
    """A naming model that embeds every prompt once, so that other names cost only those that are new.

    In float32 its embeddings are those of the model to the last bits that a matrix product's grouping may change.
    """

    model: NamingModel
    _known: dict[tuple[str, tuple[str, ...]], np.ndarray] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """(P, C) float32, as the model gives it."""
        key = tuple(templates)
        if new := [prompt for prompt in dict.fromkeys(prompts) if (prompt, key) not in self._known]:
            if len(self._known) + len(new) > MOST_KNOWN:
                self._known.clear()
                new = list(dict.fromkeys(prompts))
            for prompt, row in zip(new, self.model.encode_text(new, templates), strict=True):
                self._known[prompt, key] = row
        return np.stack([self._known[prompt, key] for prompt in prompts])


def best_names(scores: np.ndarray, count: int = BEST) -> tuple[np.ndarray, np.ndarray]:
    """The names of each mask with the highest scores, best first; of equal ones the first.

    scores: (K, L) in 0..1. Returns indices (K, n) and scores (K, n), n = min(count, L).
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(scores, order, axis=1)


def doubtful(scores: np.ndarray) -> bool:
    """Whether the second of these scores, best first, is more than `DOUBT` of the first."""
    return len(scores) > 1 and float(scores[1]) > DOUBT * float(scores[0])
