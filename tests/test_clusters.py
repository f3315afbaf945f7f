"""Clusters of query vectors, and their naive upsampling."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emerdiff.clusters import cluster_queries, upsample_naively


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


def test_naive_upsampling_is_bilinear():
    ids = np.random.default_rng(0).integers(0, 3, (4, 5))
    masks = torch.from_numpy(ids == np.arange(3)[:, None, None])
    # Pillow's bilinear filter is another implementation of the same when enlarging.
    planes = [
        Image.fromarray(mask.astype(np.float32)).resize((40, 32), Image.Resampling.BILINEAR) for mask in masks.numpy()
    ]
    expected = np.stack([np.asarray(plane) for plane in planes])
    top, second = np.sort(expected, axis=0)[-1], np.sort(expected, axis=0)[-2]
    clear = top - second > 1e-5
    assert clear.mean() > 0.9
    assert np.array_equal(upsample_naively(masks, (32, 40))[clear], expected.argmax(axis=0)[clear])
