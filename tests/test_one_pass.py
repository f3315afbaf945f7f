"""Masks of one evaluation: carried by self-attention, by likeness to a group's mean, and through the whole chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emerdiff import EmerDiff, Options, one_pass
from emerdiff.image import largest, to_tensor
from emerdiff.one_pass import LEAST, finest_self_attentions, likeness, one_hot, spread

OPTIONS = Options(masks=4, steps=10, base_size=32)


@pytest.fixture(scope="module")
def emerdiff(tiny_diffusion: Path) -> EmerDiff:
    return EmerDiff.from_pretrained(tiny_diffusion)


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    quarters = rng.integers(0, 200, (2, 2, 3)).repeat(20, axis=0).repeat(30, axis=1)
    return (quarters + rng.integers(0, 55, quarters.shape)).astype(np.uint8)


def slow_spread(maps: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """The product of all heads' matrices, each made entry by entry, times maps (K, N)."""
    product = np.eye(maps.shape[1])
    for head in weights:
        columns = head / head.max(axis=0)
        columns[columns < LEAST] = 0
        rows = columns.sum(axis=1, keepdims=True)
        product = product @ np.where(rows > 0, columns / np.where(rows > 0, rows, 1), np.eye(len(head)))
    return (product @ maps.T).T


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), band=st.sampled_from([7, 30, 10_000]))
def test_spreading_is_the_product_of_all_heads(seed: int, band: int) -> None:
    rng = np.random.default_rng(seed)
    positions, heads, width = 12, (1, 2), 3
    queries, keys = ([2 * rng.normal(size=(positions, width * n)) for n in heads] for _ in range(2))
    weights = []
    for query, key, count in zip(queries, keys, heads, strict=True):
        for head in range(count):
            part = slice(head * width, (head + 1) * width)
            scores = np.exp(query[:, part] @ key[:, part].T / width**0.5)
            weights.append(scores / scores.sum(axis=1, keepdims=True))
    maps = np.eye(4)[rng.integers(0, 4, positions)].T
    tensors = [[torch.from_numpy(one).float()[None] for one in some] for some in (queries, keys)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_pass, "MAP_ELEMENTS", band)  # whole, or in bands of some rows
        found = spread(torch.from_numpy(maps).float(), *tensors, heads)
    np.testing.assert_allclose(found.numpy(), slow_spread(maps, weights), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.sum(dim=0).numpy(), 1, rtol=1e-4)  # masks share every position
    assert found.min() >= 0


def test_a_position_that_attends_to_itself_keeps_its_mask() -> None:
    sharp = 30 * torch.eye(6)[None]
    maps = one_hot(np.array([[0, 1, 2], [2, 1, 0]]), (2, 3)).flatten(1)
    torch.testing.assert_close(spread(maps, [sharp], [sharp], [1]), maps)


def test_two_positions_that_attend_to_each_other_share_their_masks() -> None:
    key = 30 * torch.eye(3)[None]
    query = torch.tensor([[[30.0, 30, 0], [30, 30, 0], [0, 0, 30]]])
    found = spread(torch.eye(3), [query], [key], [1])
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))


def test_likeness_is_the_cosine_to_a_groups_mean() -> None:
    vectors = torch.tensor([[2.0, 0], [0, 3], [1, 1]])
    found = likeness(vectors, np.array([0, 1, 1]))
    mean = np.array([0.5**0.5, 1 + 0.5**0.5]) / 2
    unit = mean / np.linalg.norm(mean)
    expected = [[1, 0, 0.5**0.5], [unit[0], unit[1], unit.sum() * 0.5**0.5]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_the_finest_self_attentions_of_the_up_path_are_found(emerdiff: EmerDiff) -> None:
    expected = [f"up_blocks.2.attentions.{index}.transformer_blocks.0.attn1" for index in (0, 1)]
    assert finest_self_attentions(emerdiff.diffusion) == expected


@pytest.mark.parametrize("upsampling", ["attention", "diffcut"])
def test_one_evaluation_gives_masks_and_no_decode(emerdiff: EmerDiff, upsampling: str) -> None:
    seen: list[tuple[int, int]] = []
    options = replace(OPTIONS, upsampling=upsampling)
    found = emerdiff.segment(picture(), options, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)] and emerdiff.cost((40, 60), options).decodes == 0
    assert found.labels.shape == (40, 60) and found.labels.dtype == np.int32 and found.labels.max() < 4
    assert found.layer_rms is None and found.difference_maps is None
    again = emerdiff.segment(picture(), options)
    assert found.labels.tobytes() == again.labels.tobytes() and found.queries.tobytes() == again.queries.tobytes()
    with pytest.raises(ValueError, match=f"keep_difference_maps: {upsampling} has none"):
        replace(options, keep_difference_maps=True)


def test_attention_masks_are_the_spread_clusters(emerdiff: EmerDiff) -> None:
    """By hand: queries and keys from the layers' inputs times their weights, the naive masks' clusters, the argmax."""
    naive = emerdiff.segment(picture(), replace(OPTIONS, upsampling="naive"))
    found = emerdiff.segment(picture(), replace(OPTIONS, upsampling="attention"))
    assert np.array_equal(found.low_resolution_masks, naive.low_resolution_masks)
    diffusion, inputs = emerdiff.diffusion, []
    step = diffusion.grid(10)[-1]
    layers = [diffusion.attention(name) for name in finest_self_attentions(diffusion)]
    handles = [layer.register_forward_pre_hook(lambda _module, given: inputs.append(given[0])) for layer in layers]
    with torch.no_grad():
        x_0 = diffusion.encode(to_tensor(picture(), 32, 48))
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
        diffusion.predict_noise(step.alpha**0.5 * x_0 + (1 - step.alpha) ** 0.5 * noise, step)
        weights = []
        for layer, given in zip(layers, inputs, strict=True):
            query, key = (
                (given[0] @ part.weight.T).unflatten(1, (layer.heads, -1)) for part in (layer.to_q, layer.to_k)
            )
            for head in range(layer.heads):
                scores = query[:, head] @ key[:, head].T / query.shape[2] ** 0.5
                weights.append(scores.softmax(dim=1).double().numpy())
    for handle in handles:
        handle.remove()
    maps = slow_spread(one_hot(naive.low_resolution_masks, (16, 24)).flatten(1).numpy(), weights)
    expected = largest(torch.from_numpy(maps).float().unflatten(1, (16, 24)), (40, 60))
    assert (found.labels == expected).mean() > 0.99
    np.testing.assert_allclose(found.queries, naive.queries)
