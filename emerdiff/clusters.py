"""Low-resolution masks: k-means over the query vectors of one attention layer (paper, section 3.1).

k-means++ with ten restarts and no normalisation of the queries; the paper does not state these, they are our choice.
The place of a cell can be joined to its query, which the paper does not do: on photographs it helps small models.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

RESTARTS = 10
MANY = 100  # masks, from which on one start is enough
FITTED = 2**14  # vectors at most that centres are found from; of more, evenly chosen ones
SAME_SCENE = 0.6  # of the vectors' variance: centres that leave more of it are those of another scene
LOOSER = 1.05  # times the squared distances of clusters begun anew: those that go on from a frame may have so much


def cluster_queries(queries: np.ndarray, masks: int, seed: int, start: np.ndarray | None = None) -> np.ndarray:
    """Group N query vectors into at most `masks` clusters.

    queries: (N, C) float. start: (masks, C), the `centres` of a video's frame before, whose clusters go on by their
    ids: as k-means leaves them that begins there, or where that is `LOOSER` than clusters begun anew, as these, matched
    with the centres before. Returns (N,) int32 cluster ids 0..K-1, every id in use; K < masks only where the queries
    hold fewer distinct vectors than `masks`. Raises ValueError where masks > N.
    """
    check_masks(masks, len(queries))
    some = queries[:: -(-len(queries) // FITTED)]
    best = _k_means(some, masks, seed)
    numbers = np.arange(masks)
    if start is not None:
        going_on = _k_means(some, masks, seed, start)
        if going_on.inertia_ <= LOOSER * best.inertia_:
            best = going_on
        else:
            numbers = matched(best.cluster_centers_, start)
    with threadpool_limits(limits=1):
        labels = best.labels_ if len(some) == len(queries) else best.predict(queries)
    return np.unique(numbers[labels], return_inverse=True)[1].astype(np.int32)


def _k_means(vectors: np.ndarray, masks: int, seed: int, start: np.ndarray | None = None) -> KMeans:
    kmeans = KMeans(n_clusters=masks, n_init=RESTARTS if masks < MANY else 1, random_state=seed)
    if start is not None:
        kmeans.set_params(init=start, n_init=1)
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Fewer distinct vectors than clusters is a flat image, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One thread: sklearn adds up the threads' partial sums in the order they finish, so results would vary.
        return kmeans.fit(vectors)


def centres(queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The mean of each cluster's queries (N, C), ids (N,) int 0..K-1, each in use: (K, C) float32."""
    members = ids == np.arange(ids.max() + 1)[:, None]
    return (members @ queries.astype(np.float64) / members.sum(axis=1, keepdims=True)).astype(np.float32)


def matched(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """For each of the centres now (K, C) the number of one before (K, C), (K,) int, each once: those matched one to one
    that are nearest to each other, by the sum of squared distances."""
    return linear_sum_assignment(_squared_distances(now, before))[1]


def fit(queries: np.ndarray, start: np.ndarray, masks: int) -> bool:
    """Whether centres of another image, the frame before, tell these queries (N, C) apart, as they do in one scene:
    they are (masks, C), and the mean squared distance to the nearest is at most `SAME_SCENE` of the variance."""
    if start.shape != (masks, queries.shape[1]):
        return False
    distances = _squared_distances(queries, start).min(axis=1)
    return bool(distances.mean() <= SAME_SCENE * queries.astype(np.float64).var(axis=0).sum())


def _squared_distances(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, K) float64, of vectors (N, C) and (K, C)."""
    one, other = vectors.astype(np.float64), others.astype(np.float64)
    return (one**2).sum(axis=1, keepdims=True) - 2 * one @ other.T + (other**2).sum(axis=1)


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
