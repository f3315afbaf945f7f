"""Normalised cuts: a worked example, a slow oracle by the definition, and what must hold for any vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh

from emerdiff.cuts import POWER, SMALL, affinity, cut_vectors


def directions(*degrees: float) -> np.ndarray:
    """Unit vectors (N, 2) at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_two_bundles_are_two_groups_whatever_is_allowed() -> None:
    vectors = directions(0, 2, 90, 88, 1, 91)
    assert cut_vectors(vectors, 10).tolist() == [0, 0, 1, 1, 0, 1]
    assert cut_vectors(5 * vectors, 2).tolist() == [0, 0, 1, 1, 0, 1]  # lengths say nothing
    assert cut_vectors(vectors, 1).tolist() == [0] * 6


def test_equal_vectors_are_one_group() -> None:
    assert cut_vectors(np.ones((7, 3)), 5).tolist() == [0] * 7
    assert cut_vectors(np.ones((1, 3)), 5).tolist() == [0]


def test_the_cheapest_cut_of_all_comes_first() -> None:
    """Two far bundles, one of them of two near halves: with two groups allowed the far ones are parted."""
    vectors = np.concatenate([directions(0, 1, 25, 26), -directions(10, 11, 12, 13)])
    assert cut_vectors(vectors, 2, cheap=2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert cut_vectors(vectors, 3, cheap=2).tolist()[:4] in ([0, 0, 1, 1], [0, 0, 0, 0])


def slow_cut(weights: np.ndarray, part: list[int]) -> tuple[float, list[int], list[int]]:
    """The cheapest cut along the second eigenvector of (D - W) y = lambda D y, each cost summed pair by pair."""
    within = weights[np.ix_(part, part)]
    degrees = np.diag(within.sum(axis=1))
    vector = eigh(degrees - within, degrees)[1][:, 1]
    order = [part[index] for index in np.argsort(vector, kind="stable")]
    best: tuple[float, list[int], list[int]] = (np.inf, part, [])
    for size in range(1, len(part)):
        one, other = order[:size], order[size:]
        between = sum(weights[a, b] for a in one for b in other)
        cost = sum(between / sum(weights[a, b] for a in side for b in part) for side in (one, other))
        if cost < best[0] - 1e-12:
            best = cost, one, other
    return best


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(4, 14), masks=st.integers(1, 6))
def test_groups_are_those_of_the_definition(seed: int, count: int, masks: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(3, 4))[rng.integers(0, 3, count)] + 0.3 * rng.normal(size=(count, 4))
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    cosines = np.array([[float(a @ b) for b in unit] for a in unit])
    weights = ((cosines - cosines.min()) / (cosines.max() - cosines.min())) ** POWER
    np.testing.assert_allclose(affinity(vectors), weights, atol=1e-9)
    parts = [list(range(count))]
    while len(parts) < masks:
        cuts = [slow_cut(weights, part) if len(part) > 1 else (np.inf, part, []) for part in parts]
        best = min(range(len(parts)), key=lambda index: cuts[index][0])
        if cuts[best][0] > 0.5:
            break
        parts[best : best + 1] = cuts[best][1:]
    found = cut_vectors(vectors, masks)
    assert {frozenset(part) for part in parts} == {
        frozenset(np.flatnonzero(found == one).tolist()) for one in range(found.max() + 1)
    }


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, SMALL + 30), masks=st.integers(1, 9))
def test_ids_are_counted_from_the_first_vector_and_bounded(seed: int, count: int, masks: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    found = cut_vectors(vectors, masks, cheap=2)
    assert found.shape == (count,) and found.dtype == np.int32
    firsts = [int(np.flatnonzero(found == one)[0]) for one in range(found.max() + 1)]  # every id is in use
    assert firsts == sorted(firsts) and len(firsts) == min(masks, count)  # every cut costs 2 at most
    assert np.array_equal(found, cut_vectors(vectors, masks, cheap=2))


@pytest.mark.parametrize("count", [SMALL, SMALL + 1])
def test_many_vectors_are_cut_as_few_are(count: int) -> None:
    """Beyond SMALL one eigenvector is found by iteration: three bundles are found by both."""
    bundles = np.arange(count) % 3
    noise = 0.01 * np.random.default_rng(0).normal(size=(count, 3))
    assert cut_vectors(np.eye(3)[bundles] + noise, 9).tolist() == bundles.tolist()
