"""Groups of feature vectors by recursive normalised cuts (Shi and Malik, PAMI 2000), as DiffCut uses them.

DiffCut (Couairon, Shukor, Haugeard, Cord, Thome; NeurIPS 2024, arXiv 2406.02842) cuts the graph of a diffusion model's
features in two, again and again, until no cut is cheap enough. The number of groups follows from the image; here the
cheapest cut of all groups is made first, so that it can be bounded as well.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

POWER = 10  # of the affinities, DiffCut's
CHEAP = 0.5  # the largest normalised cut that is made, DiffCut's
SMALL = 64  # vectors, of which all eigenvectors are found at once


def cut_vectors(vectors: np.ndarray, masks: int, cheap: float = CHEAP) -> np.ndarray:
    """Group N vectors into at most `masks` groups by cuts of a cost up to `cheap`, 0..2.

    vectors: (N, C) float. Returns (N,) int32, ids 0..K-1 in the order of their first vectors.
    """
    weights = affinity(vectors)
    with threadpool_limits(limits=1):  # so that sums are added up in one order
        parts = [np.arange(len(vectors))]
        cuts = [_cut(weights, parts[0])]
        while len(parts) < masks:
            best = min(range(len(parts)), key=lambda part: cuts[part][0])
            if cuts[best][0] > cheap:
                break
            halves = cuts[best][1:]
            parts[best : best + 1], cuts[best : best + 1] = halves, [_cut(weights, half) for half in halves]
    ids = np.empty(len(vectors), np.int64)
    for number, part in enumerate(sorted(parts, key=lambda part: int(part.min()))):
        ids[part] = number
    return ids.astype(np.int32)


def affinity(vectors: np.ndarray) -> np.ndarray:
    """(N, N) float64: cosines of vectors (N, C), stretched over 0..1, to the tenth power; all 1 where all are equal."""
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    low, high = cosines.min(), cosines.max()
    if high - low < 1e-9:
        return np.ones_like(cosines)
    return np.asarray(((cosines - low) / (high - low)) ** POWER)


def _cut(weights: np.ndarray, part: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The cheapest cut of a part along its second eigenvector: cost (infinite for a part of one) and both halves.

    The cost is cut(A, B) / assoc(A) + cut(A, B) / assoc(B), where assoc is to all of the part; all places along the
    eigenvector are tried.
    """
    if len(part) < 2:
        return np.inf, part, part[:0]
    within = weights[np.ix_(part, part)]
    degrees = within.sum(axis=1)
    order = np.argsort(_second_eigenvector(within, degrees), kind="stable")
    sorted_weights, sorted_degrees = within[np.ix_(order, order)], degrees[order]
    # One vector more in A: its edges to B are cut, those to A no longer.
    to_earlier = np.tril(sorted_weights, -1).sum(axis=1)
    cut = np.cumsum(sorted_degrees - sorted_weights.diagonal() - 2 * to_earlier)[:-1]
    first = np.cumsum(sorted_degrees)[:-1]
    costs = cut / first + cut / (sorted_degrees.sum() - first)
    place = int(costs.argmin())
    return float(costs[place]), np.sort(part[order[: place + 1]]), np.sort(part[order[place + 1 :]])


def _second_eigenvector(weights: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """The y of (D - W) y = lambda D y with the second smallest lambda, up to scale."""
    root = np.sqrt(degrees)
    symmetric = weights / np.outer(root, root)
    if len(weights) <= SMALL:
        return np.asarray(eigh(symmetric)[1][:, -2] / root)
    first = root / np.linalg.norm(root)  # of the eigenvalue 1; without it the largest one left is the second
    start = np.random.default_rng(0).standard_normal(len(weights))
    return np.asarray(eigsh(symmetric - np.outer(first, first), k=1, which="LA", v0=start)[1][:, 0] / root)
