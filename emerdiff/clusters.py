"""Low-resolution masks: k-means over the query vectors of one attention layer (paper, section 3.1).

k-means++ with ten restarts and no normalisation of the queries; the paper does not state these, they are our choice.
The place of a cell can be joined to its query, which the paper does not do: on photographs it helps small models.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

RESTARTS = 10
MANY = 100  # masks, from which on one start is enough
FITTED = 2**14  # vectors at most that centres are found from; of more, evenly chosen ones
SAME_SCENE = 0.6  # of the vectors' variance: centres that leave more of it are those of another scene


def cluster_queries(queries: np.ndarray, masks: int, seed: int, start: np.ndarray | None = None) -> np.ndarray:
    """Group N query vectors into at most `masks` clusters.

    queries: (N, C) float. start: (masks, C) centres to begin at, once, as the last frame's of a video: cluster k is
    what becomes of centre k. Returns (N,) int32 cluster ids 0..K-1, every id in use; K < masks only where the queries
    hold fewer distinct vectors than `masks`. Raises ValueError where masks > N.
    """
    check_masks(masks, len(queries))
    kmeans = KMeans(n_clusters=masks, n_init=RESTARTS if masks < MANY else 1, random_state=seed)
    if start is not None:
        kmeans.set_params(init=start, n_init=1)
    some = queries[:: -(-len(queries) // FITTED)]
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Fewer distinct vectors than clusters is a flat image, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One thread: sklearn adds up the threads' partial sums in the order they finish, so results would vary.
        labels = kmeans.fit_predict(some) if len(some) == len(queries) else kmeans.fit(some).predict(queries)
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def centres(queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The mean of each cluster's queries (N, C), ids (N,) int 0..K-1, each in use: (K, C) float32."""
    members = ids == np.arange(ids.max() + 1)[:, None]
    return (members @ queries.astype(np.float64) / members.sum(axis=1, keepdims=True)).astype(np.float32)


def fit(queries: np.ndarray, start: np.ndarray, masks: int) -> bool:
    """Whether centres of another image, the frame before, tell these queries (N, C) apart, as they do in one scene:
    they are (masks, C), and the mean squared distance to the nearest is at most `SAME_SCENE` of the variance."""
    if start.shape != (masks, queries.shape[1]):
        return False
    wide = queries.astype(np.float64)
    distances = (wide**2).sum(axis=1, keepdims=True) - 2 * wide @ start.T + (start.astype(np.float64) ** 2).sum(axis=1)
    return bool(distances.min(axis=1).mean() <= SAME_SCENE * wide.var(axis=0).sum())


def with_place(queries: np.ndarray, grid: tuple[int, int], weight: float) -> np.ndarray:
    """Queries (N, C) of a grid's N = h * w cells, row by row, with the cells' places joined, see `join_places`."""
    return join_places(queries, np.indices(grid).reshape(2, -1).T, weight)


def join_places(queries: np.ndarray, places: np.ndarray, weight: float, unit: float | None = None) -> np.ndarray:
    """Queries (N, C) with their places (N, 2) joined: (N, C + 2) float32.

    Queries and places are each centred and scaled to a total variance of 1, and places then by sqrt(weight): with
    weight 1, distance in the image counts as much as distance between queries. unit: of the places, their standard
    deviation where it is not to be their own. Weight 0 returns the queries as given.
    """
    if weight == 0:
        return queries
    placed = _standard(places) if unit is None else (places - places.mean(axis=0)) / max(unit, 1e-12)
    return np.concatenate([_standard(queries), weight**0.5 * placed], axis=1).astype(np.float32)


def _standard(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, C), float64, with a mean of 0 and a total variance of 1; all 0 where they are all the same."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return centred / max(float((centred**2).sum(axis=1).mean()) ** 0.5, 1e-12)


def check_masks(masks: int, positions: int) -> None:
    """Raise ValueError for more masks than the feature layer's grid has positions."""
    if masks > positions:
        raise ValueError(f"masks: at most {positions} (the positions of the feature layer's grid), got {masks}")
