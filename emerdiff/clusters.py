"""Low-resolution masks: k-means over the query vectors of one attention layer (paper, section 3.1).

Also their naive upsampling, the baseline that the paper compares its masks with.
k-means++ with ten restarts and no normalisation of the queries; the paper does not state these, they are our choice.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

RESTARTS = 10


def cluster_queries(queries: np.ndarray, masks: int, seed: int) -> np.ndarray:
    """Group N query vectors into at most `masks` clusters.

    queries: (N, C) float. Returns (N,) int32 cluster ids 0..K-1, every id in use; K < masks only where the queries
    hold fewer distinct vectors than `masks`. Raises ValueError where masks > N.
    """
    check_masks(masks, len(queries))
    kmeans = KMeans(n_clusters=masks, n_init=RESTARTS, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Fewer distinct vectors than clusters is a flat image, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One thread: sklearn adds up the threads' partial sums in the order they finish, so results would vary.
        labels = kmeans.fit_predict(queries)
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def check_masks(masks: int, positions: int) -> None:
    """Raise ValueError for more masks than the feature layer's grid has positions."""
    if masks > positions:
        raise ValueError(f"masks: at most {positions} (the positions of the feature layer's grid), got {masks}")


def upsample_naively(masks: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) int64 ids of the largest bilinearly upsampled mask; masks (K, h, w) bool."""
    upsampled = functional.interpolate(masks[None].float(), size=size, mode="bilinear", align_corners=False)
    return upsampled[0].argmax(dim=0).numpy()
