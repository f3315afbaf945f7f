"""A scene of the pocket worlds: its class names, its arrays, and its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = 128  # pixels, both sides of a scene
GLYPH_FOLDER = Path(__file__).parent / "glyphs"

OBJECTS = (
    "airplane", "apple", "ball", "banana", "bear", "bee", "bicycle", "bird", "boat", "book", "bread", "bus",
    "butterfly", "cactus", "cake", "car", "castle", "cat", "chair", "clock", "cow", "dog", "duck", "elephant",
    "fish", "flower", "frog", "guitar", "hat", "horse", "house", "key", "lamp", "lion", "mushroom", "pig",
    "pizza", "rabbit", "robot", "rocket", "shoe", "snail", "strawberry", "train", "tree", "truck", "turtle", "umbrella",
)  # fmt: skip
BACKGROUNDS = ("brick", "grass", "lava", "night", "sand", "sky", "snow", "stone", "water", "wood")
NAMES = OBJECTS + BACKGROUNDS


@dataclass(frozen=True)
class Scene:
    """image: (128, 128, 3) uint8. labels: (128, 128) uint8, indices into `NAMES`. objects, backgrounds: names."""

    image: np.ndarray
    labels: np.ndarray
    objects: tuple[str, ...]
    backgrounds: tuple[str, ...]

    @property
    def caption(self) -> str:
        """'a photo of a cat and a car on grass and sky'."""
        return caption(self.objects + self.backgrounds)


def caption(names: Sequence[str]) -> str:
    """A sentence that names every object and every background among `names`, in their order."""
    things = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names if name in OBJECTS]
    grounds = [name for name in names if name in BACKGROUNDS]
    return "a photo of " + " on ".join(" and ".join(part) for part in (things, grounds) if part)
