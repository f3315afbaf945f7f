"""CLIPer's and SC-CLIP's readouts against their formulas, worked out in float64, head by head and patch by patch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from test_dense import last_block_input, noise, seeded, tiny_vit

from ovseg.towers.dense import dense_features
from ovseg.towers.layered import _regular
from ovseg.towers.variants import VARIANTS


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(rows: np.ndarray) -> np.ndarray:
    weights = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def norm(rows: np.ndarray, layer: Any) -> np.ndarray:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.numpy() + layer.bias.numpy()


def heads_of(block: Any, normed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Query, key and value of each head, (T, d) each, of one image's normed tokens (T, D)."""
    projected = normed @ block.attn.in_proj_weight.numpy().T + block.attn.in_proj_bias.numpy()
    query, key, value = np.split(projected, 3, axis=1)
    split = [np.split(part, block.attn.num_heads, axis=1) for part in (query, key, value)]
    return list(zip(*split, strict=True))


def out(block: Any, mixed: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(mixed, axis=1)
    return joined @ block.attn.out_proj.weight.numpy().T + block.attn.out_proj.bias.numpy()


def inputs_of(tower: VisionTransformer, image: torch.Tensor) -> list[np.ndarray]:
    """Tokens (T, D) before each block, in float64."""
    shallow = deepcopy(tower)
    shallow.transformer.resblocks = shallow.transformer.resblocks[:1]
    tokens, states = last_block_input(shallow, image), []
    for block in tower.transformer.resblocks:
        states.append(tokens[0].numpy())
        tokens = block(tokens)
    return states


def text_space(tower: VisionTransformer, tokens: np.ndarray) -> np.ndarray:
    return norm(tokens, tower.ln_post) @ tower.proj.numpy()


def slow_elf(tower: VisionTransformer, states: list[np.ndarray]) -> np.ndarray:
    blocks = list(tower.transformer.resblocks)
    last, count = blocks[-1], blocks[-1].attn.num_heads
    mixing = []
    for head in range(count):
        total = np.zeros((len(states[0]), len(states[0])))
        for block, tokens in zip(blocks[:-1], states, strict=False):
            query, key, _ = heads_of(block, norm(tokens, block.ln_1))[head]
            total += softmax(query @ key.T / np.sqrt(query.shape[1]))
        total /= total.sum(axis=0)  # by queries
        total /= total.sum(axis=1, keepdims=True)  # by keys
        total = (total + total.T) / 2
        total = np.maximum(0, total - total.mean(axis=0))
        mixing.append(total / total.sum(axis=1, keepdims=True))
    levels = []
    for number, tokens in enumerate(states):
        entered = tokens if number == len(blocks) - 1 else norm(tokens, blocks[number].ln_1)
        values = [value for _, _, value in heads_of(last, norm(entered, last.ln_1))]
        attended = out(last, [weights @ value for weights, value in zip(mixing, values, strict=True)])
        levels.append(unit(text_space(tower, attended)))
    return np.mean(levels, axis=0)[1:]


def slow_outliers(patches: np.ndarray) -> list[int]:
    """Numbers of the patches whose local outlier factor is above the 95th percentile."""
    distances = np.array([[((one - other) ** 2).sum() for other in patches] for one in patches])
    order = np.argsort(distances, axis=1, kind="stable")[:, : min(30, len(patches) - 1) + 1]
    farthest = np.array([distances[place, row[-1]] for place, row in enumerate(order)])
    factors = [np.mean([farthest[place] / farthest[other] for other in row[1:]]) for place, row in enumerate(order)]
    return [place for place, factor in enumerate(factors) if factor > np.quantile(factors, 0.95) * (1 + 1e-5)]


def slow_repair(patches: np.ndarray, outliers: list[int], grid: tuple[int, int]) -> np.ndarray:
    repaired = patches.copy()
    for place in outliers:
        row, column = divmod(place, grid[1])
        around = [
            (row + down) * grid[1] + column + across
            for down in (-1, 0, 1)
            for across in (-1, 0, 1)
            if (down or across) and 0 <= row + down < grid[0] and 0 <= column + across < grid[1]
        ]
        if regular := [other for other in around if other not in outliers]:
            repaired[place] = patches[regular].mean(axis=0)
    return repaired


def slow_sc_clip(tower: VisionTransformer, states: list[np.ndarray], grid: tuple[int, int]) -> np.ndarray:
    """With the blocks' numbers of a tower of 12; `states[n + 1]` is the output of block n."""
    last = tower.transformer.resblocks[-1]
    depth = len(states)

    def output(number: int) -> np.ndarray:
        return states[min(max((number + 1) * depth // 12, 1), depth - 1)]

    outliers = slow_outliers(states[-1][1:])
    middle = unit(slow_repair(output(8)[1:], outliers, grid))
    likeness = middle @ middle.T
    early = unit(output(3)[1:])

    def average(cosines: np.ndarray, patches: np.ndarray) -> np.ndarray:
        weights = np.where(cosines < 0.4, 0, cosines)
        return weights @ patches / (weights.sum(axis=1, keepdims=True) + 1e-6)

    def last_block(class_token: np.ndarray, patches: np.ndarray) -> np.ndarray:
        logits = 3 * (likeness - likeness.mean())
        by_likeness = softmax(np.where(logits < 0, -np.inf, logits))
        mixed = [
            (by_likeness + softmax(key @ key.T / np.sqrt(key.shape[1]))) / 2 @ value
            for _, key, value in heads_of(last, norm(patches, last.ln_1))
        ]
        return average(early @ early.T, out(last, mixed) + 0.3 * class_token)

    levels = sum(output(number) for number in range(3, 10))
    patches = average(likeness, slow_repair(states[-1][1:], outliers, grid))
    return text_space(tower, last_block(states[-1][0], patches) + last_block(levels[0], levels[1:]))


def slow(tower: VisionTransformer, image: torch.Tensor, variant: str) -> np.ndarray:
    """(C, h, w) float64."""
    exact = deepcopy(tower).double()
    grid = image.shape[2] // tower.patch_size[0], image.shape[3] // tower.patch_size[1]
    states = inputs_of(exact, image.double())
    rows = slow_elf(exact, states) if variant == "elf" else slow_sc_clip(exact, states, grid)
    return rows.T.reshape(-1, *grid)


def check(tower: VisionTransformer, images: torch.Tensor, variant: str) -> None:
    with torch.inference_mode():
        features = dense_features(tower, images, variant).numpy()
    for image, found in zip(images, features, strict=True):
        expected = slow(tower, image[None], variant)
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("variant", ["elf", "sc-clip"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (8, 40)])
@pytest.mark.parametrize("layers", [2, 12])
def test_equal_to_the_formulas(size: tuple[int, int], layers: int, variant: str) -> None:
    check(tiny_vit(layers=layers), noise(2, 3, *size), variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["elf", "sc-clip"])
@pytest.mark.parametrize("size", [(224, 224), (160, 304)])
def test_equal_to_the_formulas_at_full_size(size: tuple[int, int], variant: str) -> None:
    check(
        seeded(VisionTransformer(224, 16, 768, 12, 12, 4.0, output_dim=512, act_layer=QuickGELU)),
        noise(1, 3, *size),
        variant,
    )


def test_outliers_by_hand() -> None:
    """One patch far from 39 near ones; and none among few."""
    patches = torch.rand(1, 40, 3, generator=torch.Generator().manual_seed(0))
    patches[0, 7] += 20
    regular = _regular(patches)
    assert not regular[0, 7] and regular.sum() == 38  # the 95th percentile of 40 leaves two above it
    assert sorted(np.flatnonzero(~regular[0].numpy())) == slow_outliers(patches[0].double().numpy())
    assert _regular(torch.zeros(1, 1, 3)).all() and _regular(torch.zeros(1, 5, 3)).all()


def test_towers_that_have_no_earlier_block() -> None:
    tower = tiny_vit(layers=1)
    with pytest.raises(ValueError, match="elf needs a ViT with two blocks at least"):
        dense_features(tower, noise(1, 3, 32, 32), "elf")
    assert dense_features(tower, noise(1, 3, 32, 32), "sc-clip").isfinite().all()


def test_a_flat_image_has_finite_features() -> None:
    for variant in ("elf", "sc-clip"):
        assert dense_features(tiny_vit(layers=3), torch.zeros(1, 3, 32, 32), variant).isfinite().all()


def test_attention_so_sharp_that_nobody_sees_some_patches_is_finite() -> None:
    tower = tiny_vit(layers=3)
    for block in tower.transformer.resblocks:
        block.attn.in_proj_weight[:48].mul_(300)
    images = noise(2, 3, 48, 48)
    for variant in ("elf", "sc-clip"):
        assert dense_features(tower, images, variant).isfinite().all()


def test_the_layered_refuse_to_be_a_last_block_alone() -> None:
    token = torch.zeros(1, 1, 2, 2)
    for variant in ("elf", "sc-clip"):
        with pytest.raises(ValueError, match="read all blocks of a ViT"):
            VARIANTS[variant].mix(token, token, token, (1, 1))
