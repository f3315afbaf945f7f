"""Point mode: the answers to points that were clicked, kept until they are named or others take their place."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from ovseg.app.models import Models
from ovseg.app.session import Session
from ovseg.images import read_image
from ovseg.report.image import LONGEST, pack, reduced_size, sampled

MOST_ANSWERS = 8  # that are kept; of a megapixel each a megabyte


class Answers:
    """The last answers by their key: how much every pixel answers, 0..255, (H, W) uint8."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self._number = 0

    def keep(self, id: str, strength: np.ndarray) -> str:
        """Keep one of an image; returns its key."""
        with self._lock:
            self._number += 1
            key = str(self._number)
            self._kept[key] = id, strength
            while len(self._kept) > MOST_ANSWERS:
                self._kept.popitem(last=False)
        return key

    def find(self, id: str, key: Any) -> np.ndarray:
        """An image's answer by its key. Raises ValueError where it is gone."""
        with self._lock:
            found = self._kept.get(key) if isinstance(key, str) else None
        if found is None or found[0] != id:
            raise ValueError("key: this answer is gone: click the point again")
        return found[1]


def point(session: Session, models: Models, answers: Answers, id: str, x: int, y: int) -> dict[str, Any]:
    """Nudge the cell under the pixel (x, y) of an image, as a task of the worker; what the page shows of the answer.

    Raises ValueError for a point outside it, an image that cannot be read, or models without a diffusion model.
    """
    from emerdiff.point import answer_to_point

    source = models.pointing()
    image = read_image(session.items[id].path)
    found = answer_to_point(source.model, image, (x, y), source.options, progress=lambda *_: session.worker.between())
    strength = np.round(found.strength * 255).astype(np.uint8)
    key = answers.keep(id, strength)
    height, width = strength.shape
    shown = sampled(strength, reduced_size(height, width, LONGEST))
    return {"key": key, "cell": list(found.cell), "grid": list(found.grid), "map": pack(shown)}
