"""The one mask source that reads labels: `--by truth`. Only evaluation may read labels, so it is not in `masks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovseg.masks import PlainSource
from ovseg.sources import SOURCES

if TYPE_CHECKING:
    from ovseg.eval.datasets import Dataset

TRUTH = "truth"  # its name for --by
BY = (*SOURCES, TRUTH)  # the sources that evaluation has


def true_masks(dataset: Dataset) -> PlainSource:
    """A mask for every class that an image's labels have, and one for what is not scored; ids 0..K-1 by class index."""

    def masks(_image: np.ndarray, id: str) -> np.ndarray:
        truth = dataset.truth(id)
        return np.unique(truth, return_inverse=True)[1].reshape(truth.shape).astype(np.int32)

    return PlainSource(TRUTH, masks)


def check_source(by: str) -> str:
    """The name of a mask source, unchanged. Raises ValueError for an unknown one."""
    if by not in BY:
        raise ValueError(f"by: no mask source {by!r}, expected one of {', '.join(BY)}")
    return by
