"""Dense features against an independent computation from the last block's own weights, and sliding windows."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.towers.dense import cell_size, dense_features, view_features
from ovseg.towers.variants import VARIANTS, nearness
from ovseg.towers.view import View, window_starts

MIXING = [name for name, variant in VARIANTS.items() if variant.layers is None]  # others: test_layered.py


def seeded(tower: nn.Module) -> Any:
    """The tower in eval mode with every parameter moved, so that no bias is 0 and no norm is 1."""
    torch.manual_seed(0)
    for parameter in tower.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return tower.eval().requires_grad_(False)


def tiny_vit(**options: Any) -> Any:
    torch.manual_seed(1)
    arguments: dict[str, Any] = {"width": 24, "layers": 2, "heads": 3, "mlp_ratio": 2.0, "output_dim": 10}
    return seeded(VisionTransformer(32, 8, **(arguments | options)))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def last_block_input(tower: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens before the last block: patches cut and multiplied by hand, the earlier blocks as open_clip runs them."""
    size, (h, w) = tower.patch_size[0], (images.shape[2] // tower.patch_size[0], images.shape[3] // tower.patch_size[1])
    patches = F.unfold(images, size, stride=size).transpose(1, 2) @ tower.conv1.weight.flatten(1).T
    position = tower.positional_embedding
    if (h, w) != tower.grid_size:
        square = position[1:].T.reshape(1, -1, *tower.grid_size)
        patch_position = F.interpolate(square, (h, w), mode="bicubic")[0].reshape(-1, h * w).T
        position = torch.cat([position[:1], patch_position])
    tokens = torch.cat([tower.class_embedding.expand(len(images), 1, -1), patches], dim=1) + position
    for block in [tower.ln_pre, *tower.transformer.resblocks[:-1]]:
        tokens = block(tokens)
    return tokens


def norm(tokens: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def softmax(logits: Tensor) -> Tensor:
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def closeness(grid: tuple[int, int]) -> Tensor:
    """NACLIP's w, pair by pair; the class token, token 0, is close to nothing."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    w = torch.zeros(len(places) + 1, len(places) + 1)
    for i, (y, x) in enumerate(places, 1):
        w[i, 1:] = torch.tensor([((y - v) ** 2 + (x - u) ** 2) / -50 for v, u in places]).exp()
    return w


def one_head(query: Tensor, key: Tensor, value: Tensor, variant: str, grid: tuple[int, int]) -> Tensor:
    """The formulas as published, (B, 1+N, d) each."""
    s = query.shape[-1] ** -0.5
    like_queries, like_keys = s * query @ query.transpose(1, 2), s * key @ key.transpose(1, 2)
    match variant:
        case "maskclip" | "maskclip-plain":
            return value
        case "sclip":
            return (softmax(like_queries) + softmax(like_keys)) @ value
        case "clearclip":
            return softmax(like_queries) @ value
        case "naclip":
            return softmax(like_keys + closeness(grid)) @ value
    raise NotImplementedError(variant)


def oracle(tower: VisionTransformer, images: Tensor, variant: str) -> Tensor:
    """A variant of a ViT without attentional pool, from the last block's matrices."""
    tokens, block = last_block_input(tower, images), tower.transformer.resblocks[-1]
    h, w = images.shape[2] // tower.patch_size[0], images.shape[3] // tower.patch_size[1]
    width, d = tokens.shape[-1], tokens.shape[-1] // block.attn.num_heads
    projected = norm(tokens, block.ln_1) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    query, key, value = projected[..., :width], projected[..., width : 2 * width], projected[..., 2 * width :]
    heads = [slice(first, first + d) for first in range(0, width, d)]
    mixed = [one_head(query[..., one], key[..., one], value[..., one], variant, (h, w)) for one in heads]
    out = torch.cat(mixed, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    if variant in ("maskclip", "sclip"):
        out = tokens + out
        hidden = norm(out, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        out = out + block.mlp.gelu(hidden) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    out = norm(out, tower.ln_post) @ tower.proj
    return out[:, 1:].transpose(1, 2).reshape(len(images), -1, h, w)


@pytest.fixture(scope="module")
def vit_b16() -> Any:
    return seeded(VisionTransformer(224, 16, 768, 12, 12, 4.0, output_dim=512, act_layer=QuickGELU))


@pytest.mark.parametrize("variant", MIXING)
@pytest.mark.parametrize("size", [(224, 224), (64, 64), (48, 112)])
def test_vit_b16_equals_the_oracle(vit_b16: Any, size: tuple[int, int], variant: str) -> None:
    images = noise(1, 3, *size)
    with torch.inference_mode():
        features = dense_features(vit_b16, images, variant)
    assert features.shape == (1, 512, size[0] // 16, size[1] // 16)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, oracle(vit_b16, images, variant), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (64, 96)])
def test_rn50_equals_two_1x1_convolutions(size: tuple[int, int]) -> None:
    tower = seeded(ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32, image_size=224, width=64))
    images, pool = noise(1, 3, *size), tower.attnpool
    expected = tower.stem(images)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        expected = layer(expected)
    for linear in (pool.v_proj, pool.c_proj):
        expected = F.conv2d(expected, linear.weight[:, :, None, None], linear.bias)
    features = dense_features(tower, images)
    assert features.shape == (1, 1024, size[0] // 32, size[1] // 32)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", MIXING)
@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True, "patch_dropout": 0.9},
    ],
)
def test_other_pools_take_the_same_path(options: dict[str, Any], variant: str) -> None:
    tower, images = tiny_vit(**options), noise(2, 3, 24, 40)
    expected = oracle(tower, images, variant)
    torch.testing.assert_close(dense_features(tower, images, variant), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output_dim", [10, 24])  # 24 = width: PyTorch then packs q, k and v in one matrix
def test_attentional_pool_gives_its_value_path(output_dim: int) -> None:
    tower = tiny_vit(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=2, output_dim=output_dim)
    images, attention = noise(2, 3, 24, 40), tower.attn_pool.attn
    tokens = norm(tower.transformer.resblocks[-1](last_block_input(tower, images)), tower.attn_pool.ln_k)
    packed = attention.v_proj_weight is None
    value_weight = attention.in_proj_weight[2 * output_dim :] if packed else attention.v_proj_weight
    assert packed == (output_dim == 24)
    value = tokens @ value_weight.T + attention.in_proj_bias[2 * output_dim :]
    expected = norm(value @ attention.out_proj.weight.T + attention.out_proj.bias, tower.ln_post) @ tower.proj
    expected = expected[:, 1:].transpose(1, 2).reshape(2, -1, 3, 5)
    torch.testing.assert_close(dense_features(tower, images), expected, rtol=1e-4, atol=1e-5)


def test_attentional_pool_of_one_repeated_token_is_the_image_embedding() -> None:
    tower = tiny_vit(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=2)
    with torch.no_grad():  # no patch and no position tells tokens apart, so the pool mixes equals
        tower.conv1.weight.zero_()
        tower.positional_embedding.copy_(tower.positional_embedding[:1].expand_as(tower.positional_embedding))
        tower.positional_embedding[1:] += tower.class_embedding
    images = noise(1, 3, 32, 32)
    expected = tower(images)[:, :, None, None].expand(-1, -1, 4, 4)
    torch.testing.assert_close(dense_features(tower, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", MIXING)
def test_custom_blocks_with_query_norm_and_scales(variant: str) -> None:
    options = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "ls_init_value": 0.5}
    tower, images = tiny_vit(**options), noise(2, 3, 24, 40)
    tokens, block = last_block_input(tower, images), tower.transformer.resblocks[-1]
    attention, mixed = block.attn, []
    projected = norm(tokens, block.ln_1) @ attention.in_proj_weight.T + attention.in_proj_bias
    for head in range(3):
        query, key, value = (projected[..., start + 8 * head : start + 8 * head + 8] for start in (0, 24, 48))
        query, key = norm(query, attention.ln_q), norm(key, attention.ln_k)
        mixed.append(one_head(query, key, value, variant, (3, 5)) * attention.head_scale[head])
    out = norm(attention.out_proj(norm(torch.cat(mixed, dim=-1), attention.ln_inner)), block.ln_attn)
    out = block.ls_1.gamma * out
    if variant in ("maskclip", "sclip"):
        out = tokens + out
        out = out + block.ls_2.gamma * block.mlp(norm(out, block.ln_2))
    expected = (norm(out, tower.ln_post) @ tower.proj)[:, 1:].transpose(1, 2).reshape(2, -1, 3, 5)
    torch.testing.assert_close(dense_features(tower, images, variant), expected, rtol=1e-4, atol=1e-5)


def sharp_vit() -> Any:
    """A tiny ViT whose last block attends to few tokens instead of to all alike."""
    tower = tiny_vit()
    tower.transformer.resblocks[-1].attn.in_proj_weight[:48].mul_(6)
    return tower


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), batch=st.integers(1, 3), variant=st.sampled_from(MIXING))
@settings(max_examples=40)
def test_every_grid_equals_the_oracle(rows: int, columns: int, batch: int, variant: str) -> None:
    tower, images = sharp_vit(), noise(batch, 3, 8 * rows, 8 * columns)
    expected = oracle(tower, images, variant)
    torch.testing.assert_close(dense_features(tower, images, variant), expected, rtol=1e-4, atol=1e-4)


def test_nearness_by_hand() -> None:
    near = torch.tensor(-1 / 50).exp()
    torch.testing.assert_close(nearness((1, 2)), torch.tensor([[0, 0, 0], [0, 1, near], [0, near, 1]]))
    w = nearness((2, 4))
    assert w.shape == (9, 9)
    # From the upper left patch to the lower right one it is 1 down and 3 across, whichever way the grid is read.
    assert w[1, 8] == pytest.approx(torch.tensor(-10 / 50).exp().item())
    assert w[1, 4] == pytest.approx(torch.tensor(-9 / 50).exp().item())
    assert not w[0].any() and not w[:, 0].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_block_runs_at_most_once(variant: str) -> None:
    tower, calls = tiny_vit(layers=4), []
    for index, block in enumerate(tower.transformer.resblocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    dense_features(tower, noise(1, 3, 32, 32), variant)
    assert calls == [0, 1, 2]


@given(rows=st.integers(1, 7), columns=st.integers(1, 7), variant=st.sampled_from(list(VARIANTS)))
@settings(max_examples=10)
def test_any_grid_works_and_the_tower_stays_as_it_was(rows: int, columns: int, variant: str) -> None:
    tower, images = tiny_vit(), noise(2, 3, 8 * rows, 8 * columns)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    features = dense_features(tower, images, variant)
    assert features.shape == (2, 10, rows, columns)
    torch.testing.assert_close(features[1:], dense_features(tower, images[1:], variant), rtol=1e-4, atol=1e-5)
    assert before.keys() == tower.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(("one", "other"), list(combinations(VARIANTS, 2)))
def test_any_two_variants_differ(one: str, other: str) -> None:
    tower, images = sharp_vit(), noise(1, 3, 32, 32)
    a, b = (F.normalize(dense_features(tower, images, variant), dim=1) for variant in (one, other))
    assert (a * b).sum(dim=1).min() < 0.99


@pytest.mark.parametrize("variant", ["sclip", "clearclip", "naclip"])
def test_attention_pools_refuse_what_is_not_defined_for_them(variant: str) -> None:
    resnet = seeded(ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=32, width=4))
    pooled = tiny_vit(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=2)
    for tower, pool in ((resnet, "AttentionPool2d"), (pooled, "AttentionalPooler")):
        message = rf"'{variant}' changes .*{pool}.*only maskclip and maskclip-plain are defined"
        with pytest.raises(ValueError, match=message):
            dense_features(tower, noise(1, 3, 32, 32), variant)
        same = dense_features(tower, noise(1, 3, 32, 32), "maskclip")
        assert torch.equal(same, dense_features(tower, noise(1, 3, 32, 32), "maskclip-plain"))


def test_what_is_refused() -> None:
    tower, images = tiny_vit(), noise(1, 3, 32, 32)
    with pytest.raises(
        ValueError, match="dense: no variant 'clip', expected one of maskclip, maskclip-plain, sclip, clearclip"
    ):
        dense_features(tower, images, "clip")
    with pytest.raises(ValueError, match=r"H a multiple of 8 and W of 8, got \(1, 3, 32, 30\)"):
        dense_features(tower, images[..., :30])
    with pytest.raises(ValueError, match="eval mode"):
        dense_features(tower.train(), images)
    with pytest.raises(ValueError, match="got Linear"):
        dense_features(nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match="timm's ResNet"):
        cell_size(TimmModel("resnet10t", embed_dim=8))
    cascade = tiny_vit(attentional_pool="cascade", attn_pooler_queries=1, attn_pooler_heads=2)
    with pytest.raises(ValueError, match="single pooler.*got 'cascade'"):
        dense_features(cascade, images)


@pytest.mark.parametrize(
    "arguments", [(0, 0, 0), (32, -8, 8), (32, 16, 0), (32, 0, 8), (32, 16, 24), (32, 16, -8), (32, 0, 0, "clip")]
)
def test_a_view_checks_its_numbers(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="View|variant"):
        View(*arguments)


@pytest.mark.parametrize("long_side", [-1, 1, 31])
def test_the_long_side_is_not_under_the_short_one(long_side: int) -> None:
    with pytest.raises(ValueError, match=f"long_side={long_side}, short_side=32"):
        View(32, long_side=long_side)
    assert View(32, long_side=32).long_side == 32


def test_window_starts_by_hand() -> None:
    assert window_starts(336, 224, 112) == [0, 112]
    assert window_starts(352, 224, 112) == [0, 112, 128]
    assert window_starts(224, 224, 112) == [0]


@given(side=st.integers(1, 40), window=st.integers(1, 40), stride=st.integers(1, 40))
def test_windows_cover_the_side_and_stay_inside(side: int, window: int, stride: int) -> None:
    window = min(window, side)
    stride = min(stride, window)
    starts = window_starts(side, window, stride)
    assert sorted({pixel for start in starts for pixel in range(start, start + window)}) == list(range(side))
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("variant", ["maskclip", "naclip"])
def test_windows_are_averaged_cell_by_cell(variant: str) -> None:
    tower, image, view = tiny_vit(), noise(3, 40, 72), View(short_side=40, window=32, stride=16, variant=variant)
    corners = [(y, x) for y in (0, 8) for x in (0, 16, 32, 40)]
    cells: dict[tuple[int, int], list[Tensor]] = {}
    for y, x in corners:
        feature = F.normalize(dense_features(tower, image[None, :, y : y + 32, x : x + 32], variant)[0], dim=0)
        for row in range(4):
            for column in range(4):
                cells.setdefault((y // 8 + row, x // 8 + column), []).append(feature[:, row, column])
    features = view_features(tower, image, view)
    assert features.shape == (10, 5, 9)
    for (row, column), seen in cells.items():
        torch.testing.assert_close(features[:, row, column], torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)


def test_a_window_larger_than_the_image_is_the_whole_image() -> None:
    tower, image = tiny_vit(), noise(3, 24, 40)
    whole = view_features(tower, image, View(short_side=24))
    torch.testing.assert_close(whole.norm(dim=0), torch.ones(3, 5))
    assert torch.equal(view_features(tower, image, View(24, window=64, stride=8)), whole)


def test_windows_must_be_whole_cells() -> None:
    with pytest.raises(ValueError, match="multiples of the tower's cell size 8x8, got 20 and 8"):
        view_features(tiny_vit(), noise(3, 32, 32), View(32, window=20, stride=8))
