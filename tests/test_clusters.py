"""Clusters of query vectors, alone and with their places."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emerdiff.clusters import cluster_queries, with_place


def test_separated_groups_are_found():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2, 3], 25)
    queries = (10 * np.eye(4, 8)[truth] + random.normal(size=(100, 8))).astype(np.float32)
    found = cluster_queries(queries, masks=4, seed=0)
    assert len({(a, b) for a, b in zip(truth, found, strict=True)}) == 4  # one name each, whatever the order
    assert found.dtype == np.int32


@settings(max_examples=10)
@given(count=st.integers(1, 40), masks=st.integers(1, 40), distinct=st.integers(1, 40), seed=st.integers(0, 1000))
def test_ids_are_compact(count: int, masks: int, distinct: int, seed: int):
    if masks > count:
        return
    random = np.random.default_rng(seed)
    queries = random.normal(size=(distinct, 3)).astype(np.float32)[random.integers(distinct, size=count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cluster_queries(queries, masks, seed)
    used = np.unique(found)
    assert np.array_equal(used, np.arange(len(used)))
    assert len(used) == min(masks, len(np.unique(queries, axis=0)))


def test_flat_queries_are_one_mask():
    assert cluster_queries(np.ones((64, 5), np.float32), masks=8, seed=0).tolist() == [0] * 64


def test_same_seed_same_clusters():
    queries = np.random.default_rng(1).normal(size=(600, 16)).astype(np.float32)
    assert np.array_equal(cluster_queries(queries, 20, seed=3), cluster_queries(queries, 20, seed=3))


def test_more_masks_than_positions_are_refused():
    with pytest.raises(ValueError, match="masks: at most 16 .* got 17"):
        cluster_queries(np.zeros((16, 2), np.float32), masks=17, seed=0)


def test_without_weight_the_queries_are_as_they_are():
    queries = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    assert with_place(queries, (3, 4), 0) is queries


def test_place_counts_by_its_weight():
    """On a row of four cells, where two kinds of query alternate, much weight of place makes neighbours one mask."""
    queries = np.array([[0, 0], [9, 9], [0, 0], [9, 9]], np.float32)
    assert cluster_queries(with_place(queries, (1, 4), 0.1), 2, seed=0).tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert cluster_queries(with_place(queries, (1, 4), 10), 2, seed=0).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_place_does_not_depend_on_the_queries_scale_or_mean(factor: float):
    queries = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    joined = with_place(queries, (4, 5), 0.5)
    assert joined.shape == (20, 8) and joined.dtype == np.float32
    assert np.allclose(with_place(factor * (queries + 3), (4, 5), 0.5), joined, atol=1e-3)
    assert np.isclose((joined[:, :6] ** 2).sum(1).mean(), 1) and np.isclose((joined[:, 6:] ** 2).sum(1).mean(), 0.5)


def test_a_flat_image_is_parted_by_place_alone():
    joined = with_place(np.ones((16, 3), np.float32), (4, 4), 0.5)
    assert np.isfinite(joined).all() and len(np.unique(cluster_queries(joined, 4, seed=0))) == 4
