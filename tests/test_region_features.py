"""Features of masks against the formulas patch by patch: values, the MLP, sums, the filter, soft masks, own heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from test_dense import last_block_input, noise, norm, seeded, softmax, tiny_vit
from torch.nn import functional as F

from ovseg.towers.dense import dense_features, view_features
from ovseg.towers.region_features import region_features
from ovseg.towers.region_kinds import REGIONS, check_regions
from ovseg.towers.regions import grid_weights, keep_own, merged, patch_masks, pool, soft_weights, upsampling
from ovseg.towers.scope import check_scope
from ovseg.towers.view import View
from ovseg.towers.vit import embed_patches

WHOLE = View(short_side=32)


def random_masks(height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """Blocks of random ids, of which each occurs."""
    rng = np.random.default_rng(seed)
    masks = np.kron(rng.integers(0, count, (4, 5)), np.ones((-(-height // 4), -(-width // 5)), int))[:height, :width]
    masks.ravel()[:count] = np.arange(count)
    return masks.astype(np.int32)


def values_of(tower: Any, image: torch.Tensor, mix: Any = None) -> np.ndarray:
    """(D, h, w) float32: out_proj of the last block's values, mixed by `mix`(head's q, k) if given."""
    block = tower.transformer.resblocks[-1]
    tokens = norm(last_block_input(tower, image[None]), block.ln_1)[0]
    width = tokens.shape[1]
    query, key, value = (
        tokens @ block.attn.in_proj_weight[part].T + block.attn.in_proj_bias[part]
        for part in (slice(0, width), slice(width, 2 * width), slice(2 * width, None))
    )
    mixed = value if mix is None else mix(query, key, value)
    out = mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    grid = image.shape[1] // 8, image.shape[2] // 8
    return out[1:].T.reshape(-1, *grid).numpy()


def finished(tower: Any, pooled: np.ndarray, mlp: bool) -> np.ndarray:
    """(K, D) by the MLP if asked for, the last norm and the projection."""
    tokens, block = torch.from_numpy(pooled).float(), tower.transformer.resblocks[-1]
    if mlp:
        tokens = tokens + block.mlp(norm(tokens, block.ln_2))
    return (norm(tokens, tower.ln_post) @ tower.proj).numpy()


def seen(tower: Any, image: torch.Tensor, kind: str, masks: np.ndarray, **more: Any) -> np.ndarray:
    with torch.inference_mode():
        return region_features(tower, image, View(short_side=32, regions=kind), masks, **more)


@pytest.mark.parametrize("kind", ["values", "values-mlp"])
def test_values_are_pooled_before_the_norm(kind: str) -> None:
    tower, image, masks = tiny_vit(), noise(3, 40, 56), random_masks(70, 90, 4)
    pooled = grid_weights(masks, (5, 7)).reshape(4, -1) @ values_of(tower, image).reshape(24, -1).T
    expected = finished(tower, pooled, mlp=kind == "values-mlp")
    np.testing.assert_allclose(seen(tower, image, kind, masks), expected, rtol=1e-4, atol=1e-5)


def test_a_mask_of_one_patch_has_the_papers_own_dense_feature() -> None:
    """Pooling one cell is reading it: values of a mask over the middle of a cell of an image of one cell."""
    tower, image = tiny_vit(), noise(3, 8, 8)
    dense = dense_features(tower, image[None], "maskclip-plain")[0, :, 0, 0].numpy()
    np.testing.assert_allclose(seen(tower, image, "values", np.zeros((6, 6), np.int32))[0], dense, rtol=1e-4, atol=1e-5)


def test_text_region_is_a_filtered_sum_and_the_mlp() -> None:
    tower, image, masks = tiny_vit(), noise(3, 40, 56), random_masks(40, 56, 3, seed=4)
    values = values_of(tower, image)
    unit = values.reshape(24, -1) / np.linalg.norm(values.reshape(24, -1), axis=0)
    cosines, weights = unit.T @ unit, grid_weights(masks, (5, 7)).reshape(3, -1)
    shares = weights * np.bincount(masks.ravel())[:, None] * 35 / masks.size  # of each cell in each mask
    kept = np.zeros_like(shares)
    for patch in range(35):
        likeness = np.array([(weights[mask] * cosines[patch]).sum() for mask in range(3)])
        mine = weights[:, patch] > 0
        if mine.all() or likeness[mine].mean() - likeness[~mine].mean() >= 0.07:
            kept[:, patch] = shares[:, patch]
    for mask in range(3):
        if not kept[mask].any():
            kept[mask] = shares[mask]
    assert 0 < (kept > 0).sum() < (shares > 0).sum()
    expected = finished(tower, kept @ values.reshape(24, -1).T, mlp=True)
    np.testing.assert_allclose(seen(tower, image, "text-region", masks), expected, rtol=1e-4, atol=1e-5)
    mean = kept / kept.sum(axis=1, keepdims=True)
    expected = finished(tower, mean @ values.reshape(24, -1).T, mlp=False)
    np.testing.assert_allclose(seen(tower, image, "values-filter", masks), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["values-whole", "text-region-whole"])
def test_the_whole_image_is_seen_at_the_towers_own_size_as_well(kind: str) -> None:
    """Its values, enlarged, are added to those of the view: a mask of all pixels, which no filter has a say in."""
    tower, image, masks = tiny_vit(), noise(3, 80, 112), np.zeros((70, 90), np.int32)
    small = F.interpolate(image[None], size=(32, 48), mode="bicubic", antialias=True)[0]
    rows, columns = upsampling(10, 4), upsampling(14, 6)
    both = values_of(tower, image) + np.einsum("dhw,yh,xw->dyx", values_of(tower, small), rows, columns)
    weights = grid_weights(masks, (10, 14)).reshape(1, -1) * (1 if kind == "values-whole" else 140)  # a mean, or a sum
    both = weights @ both.reshape(24, -1).T
    expected = finished(tower, both, mlp=kind == "text-region-whole")
    np.testing.assert_allclose(seen(tower, image, kind, masks), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (40, 56)])
def test_a_class_token_that_sees_all_is_the_towers_own_vector(size: tuple[int, int]) -> None:
    tower, image = tiny_vit(layers=3), noise(3, *size)
    found = seen(tower, image, "head", np.zeros(size, np.int32))[0]
    tokens = last_block_input(tower, image[None])
    with torch.inference_mode():
        tokens = tower.transformer.resblocks[-1](tokens)
    own = (norm(tokens[:, 0], tower.ln_post) @ tower.proj)[0].numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found), own / np.linalg.norm(own), atol=1e-5)


def test_class_tokens_of_masks_equal_a_tower_with_a_mask_of_attention() -> None:
    """All tokens and the copies through the blocks at once, with a table of who may see whom."""
    tower, image, cells = tiny_vit(layers=3), noise(3, 32, 40), np.arange(20).reshape(4, 5) % 3
    masks = np.kron(cells, np.ones((8, 8), int)).astype(np.int32)
    shares = (grid_weights(masks, (4, 5)) * np.bincount(masks.ravel())[:, None, None]).reshape(3, -1)
    shares = shares / shares.sum(axis=0)
    allowed = torch.full((24, 24), float("-inf"))  # the class token, 20 patches, 3 copies
    allowed[:21, :21] = 0
    allowed[21:, 0] = 0
    allowed[21:, 1:21] = torch.from_numpy(shares).log()
    tokens = embed_patches(tower, image[None])[0]
    tokens = torch.cat([tokens, tokens[:, :1].expand(-1, 3, -1)], dim=1)
    with torch.inference_mode():
        for block in tower.transformer.resblocks:
            tokens = block(tokens, attn_mask=allowed)
    expected = (norm(tokens[0, 21:], tower.ln_post) @ tower.proj).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = seen(tower, image, "head", masks)
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(ValueError, match="regions: .* ends in a class token, which this one does not"):
        seen(tiny_vit(pool_type="avg"), image, "head", masks)


def test_windows_average_values_before_pooling() -> None:
    tower, image, masks = tiny_vit(), noise(3, 32, 48), random_masks(32, 48, 3)
    left, right = values_of(tower, image[:, :, :32]), values_of(tower, image[:, :, 16:])
    whole = np.zeros((24, 4, 6), np.float32)
    whole[:, :, :4] += left
    whole[:, :, 2:] += right
    whole[:, :, 2:4] /= 2
    expected = finished(tower, grid_weights(masks, (4, 6)).reshape(3, -1) @ whole.reshape(24, -1).T, mlp=False)
    with torch.inference_mode():
        found = region_features(tower, image, View(32, 32, 16, regions="values"), masks)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_levels_of_elf_are_pooled_each_and_their_directions_averaged() -> None:
    tower, image, masks = tiny_vit(layers=3), noise(3, 32, 32), np.zeros((16, 16), np.int32)
    with torch.inference_mode():
        found = region_features(tower, image, View(32, variant="elf", regions="values"), masks)
    assert found.shape == (1, 10) and 0.3 < np.linalg.norm(found) <= 1


def test_resnets_pool_their_features_with_their_lengths() -> None:
    tower = seeded(ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=2, image_size=64, width=8))
    image, masks = noise(3, 64, 96), random_masks(64, 96, 3)
    dense = dense_features(tower, image[None])[0].numpy()
    np.testing.assert_allclose(
        seen(tower, image, "values", masks), pool(dense, masks, unit=False), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="regions: a ResNet has no MLP"):
        seen(tower, image, "values-mlp", masks)


def test_an_attentional_pool_has_values_and_no_mlp() -> None:
    tower = tiny_vit(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=2)
    image, masks = noise(3, 8, 8), np.zeros((5, 5), np.int32)
    dense = dense_features(tower, image[None])[0, :, 0, 0].numpy()
    np.testing.assert_allclose(seen(tower, image, "values", masks)[0], dense, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="regions: an attention pool has no MLP"):
        seen(tower, image, "values-mlp", masks)
    with pytest.raises(ValueError, match="known for towers of timm"):
        seen(tower, image, "head", masks)


def test_ids_without_pixels_have_zeros() -> None:
    masks = np.array([[0, 2], [2, 2]], np.int32)
    for kind in ("values", "values-mlp", "text-region"):
        found = seen(tiny_vit(), noise(3, 32, 32), kind, masks)
        assert found.shape == (3, 10) and not found[1].any() and found[0].any() and found.dtype == np.float32


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
@settings(max_examples=30)
def test_soft_weights_are_the_mean_over_pixels(count: int, height: int, width: int, h: int, w: int, seed: int) -> None:
    """Against shares of every place of the maps, each spread over the grid as bilinear upsampling takes it."""
    maps = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    squares = maps.astype(float) ** 2
    shares = squares / np.maximum(squares.sum(axis=0), 1e-12)
    grid = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    taken = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[:, 0].numpy()
    for mask, weights in enumerate(soft_weights(maps, (h, w), count)):
        expected = (taken * shares[mask]).sum(axis=(1, 2)).reshape(h, w)
        np.testing.assert_allclose(weights, expected / max(expected.sum(), 1e-12), atol=1e-12)


def test_soft_masks_that_are_hard_pool_as_hard_ones() -> None:
    masks, features = random_masks(24, 30, 4), np.random.default_rng(1).normal(size=(6, 3, 5)).astype(np.float32)
    maps = (np.arange(4)[:, None, None] == masks).astype(np.uint8) * 200
    np.testing.assert_allclose(pool(features, masks, maps=maps), pool(features, masks), atol=1e-6)
    with pytest.raises(ValueError, match="soft masks need EmerDiff's difference maps"):
        soft_weights(None, (3, 5), 4)


def test_the_filter_by_hand() -> None:
    """Two masks of two patches; the last patch is like the other mask and goes. A mask never loses all."""
    values = np.array([[[1.0, 1, 0, 1]], [[0.0, 0, 1, 0]]])
    weights = np.array([[[0.5, 0.5, 0, 0]], [[0, 0, 0.5, 0.5]]])
    assert keep_own(values, weights).tolist() == [[[0.5, 0.5, 0, 0]], [[0, 0, 0.5, 0]]]
    alike = np.ones((2, 1, 4))
    assert keep_own(alike, weights).tolist() == weights.tolist()


def test_upsampling_is_torchs() -> None:
    for pixels, cells in ((7, 3), (3, 7), (5, 5), (4, 1)):
        taken = F.interpolate(torch.eye(cells, dtype=torch.float64)[:, None], pixels, mode="linear")[:, 0].T
        np.testing.assert_allclose(upsampling(pixels, cells), taken.numpy(), atol=1e-12)


def scoped(tower: Any, image: torch.Tensor, scope: str, ids: np.ndarray, view: View | None = None) -> np.ndarray:
    with torch.inference_mode():
        return view_features(tower, image, view or View(short_side=32, scope=scope), ids).numpy()


def slow_scope(ids: np.ndarray, like: bool) -> Any:
    """A patch's attention within its mask, pair by pair; the class token alone with itself."""

    def mix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        own = [-1, *ids.ravel().tolist()]
        both = torch.cat([query, key], dim=1)
        logits = torch.full((len(own), len(own)), float("-inf"))
        for i, one in enumerate(own):
            for j, other in enumerate(own):
                if one == other:
                    logits[i, j] = 4 * F.cosine_similarity(both[i], both[j], dim=0) if like else 0
        return softmax(logits) @ value

    return mix


@pytest.mark.parametrize("scope", ["uniform", "like"])
def test_patches_attend_within_their_mask(scope: str) -> None:
    tower, image = tiny_vit(), noise(3, 32, 40)
    ids = np.random.default_rng(0).integers(0, 3, (4, 5))
    values = values_of(tower, image, slow_scope(ids, scope == "like"))
    expected = finished(tower, values.reshape(24, -1).T, mlp=False).T.reshape(10, 4, 5)
    expected /= np.linalg.norm(expected, axis=0)
    np.testing.assert_allclose(scoped(tower, image, scope, ids), expected, rtol=1e-3, atol=1e-5)
    masks = np.kron(ids, np.ones((8, 8), int)).astype(np.int32)
    pooled = grid_weights(masks, (4, 5)).reshape(3, -1) @ values.reshape(24, -1).T
    with torch.inference_mode():
        found = region_features(tower, image, View(32, regions="values", scope=scope), masks, scope=ids)
    np.testing.assert_allclose(found, finished(tower, pooled, mlp=False), rtol=1e-3, atol=1e-5)


def test_a_uniform_scope_makes_a_masks_patches_equal_and_one_mask_all_of_them() -> None:
    tower, image = tiny_vit(), noise(3, 32, 40)
    ids = np.zeros((4, 5), int)
    ids[2:] = 1
    features = scoped(tower, image, "uniform", ids)
    for mask in (0, 1):
        inside = features[:, ids == mask]
        np.testing.assert_allclose(inside, np.tile(inside[:, :1], inside.shape[1]), atol=1e-6)
    assert np.abs(features[:, 0, 0] - features[:, 3, 0]).max() > 1e-3
    alone = scoped(tower, image, "uniform", np.arange(20).reshape(4, 5))
    plain = view_features(tower, image, View(32, variant="maskclip-plain")).numpy()
    np.testing.assert_allclose(alone, plain, atol=1e-5)  # every patch by itself has its own value


def test_scopes_hold_in_windows() -> None:
    tower, image, ids = tiny_vit(), noise(3, 32, 48), np.arange(24).reshape(4, 6)
    found = scoped(tower, image, "like", ids, View(32, 32, 16, scope="like"))
    plain = view_features(tower, image, View(32, 32, 16, variant="maskclip-plain")).numpy()
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_scopes_are_for_vits_that_end_in_a_block() -> None:
    tower = tiny_vit(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=2)
    with pytest.raises(ValueError, match="scope: .* got VisionTransformer with an attention pool"):
        scoped(tower, noise(3, 32, 32), "uniform", np.zeros((4, 4), int))


def test_patches_take_the_mask_that_has_most_of_them() -> None:
    masks = np.zeros((8, 16), np.int32)
    masks[:, 9:] = 1
    assert patch_masks(masks, (1, 2)).tolist() == [[0, 1]]
    assert patch_masks(masks, (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_masks_are_joined_by_connected_components() -> None:
    """0 - 1 - 2 hang together link by link, though 0 and 2 alone would not; 3 is apart."""
    angles = np.radians([0, 20, 40, 120])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1], [5], [2], [1]])
    segments = np.array([[0, 1], [2, 3]], np.int32)
    assert merged(segments, features, np.cos(np.radians(21))).tolist() == [[0, 0], [0, 1]]
    assert merged(segments, features, np.cos(np.radians(19))).tolist() == segments.tolist()
    assert merged(segments, features, 1.0) is segments


def test_wrong_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no region feature 'means', expected one of {', '.join(REGIONS)}"):
        check_regions("means")
    with pytest.raises(ValueError, match="no scope 'all', expected one of none, uniform, like"):
        check_scope("all")
    with pytest.raises(ValueError, match="merge: expected a cosine up to 1 beside a scope"):
        View(32, merge=0.5)
