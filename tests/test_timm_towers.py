"""timm's towers against timm's own forward, wherever the maths says that both agree, at several sizes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower
from open_clip.timm_model import TimmModel
from timm.models.swin_transformer import SwinTransformer
from timm_trunks import CELLS, ENDS, TRUNKS, make_tower
from torch import Tensor, nn

from ovseg.towers.dense import dense_features, native_view, view_features
from ovseg.towers.families import FAMILIES, is_known_to_timm
from ovseg.towers.readout import cell_size, pool_regions, scoped_readout
from ovseg.towers.scope import SCOPES
from ovseg.towers.timm_towers import OwnTrunk
from ovseg.towers.variants import VARIANTS, Variant, own_value
from ovseg.towers.view import View

SIZES = {8: [(32, 32), (40, 24), (8, 72)], 16: [(32, 32), (64, 32)], 32: [(64, 64), (32, 96)]}
ALONE = [name for name, one in VARIANTS.items() if one.mix is own_value]


def of_end(*ends: str) -> list[str]:
    return [name for name in TRUNKS if ENDS[name] in ends]


def images_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def for_size(tower: TimmModel, size: tuple[int, int]) -> TimmModel:
    """A copy that timm itself has prepared for images of another size."""
    tower = deepcopy(tower)
    if hasattr(tower.trunk, "set_input_size"):
        tower.trunk.set_input_size(size)
    return tower


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)
    assert expected.abs().max() > 10 * atol


def sizes(names: list[str]) -> list[Any]:
    return [(name, size) for name in names for size in SIZES[CELLS.get(name, 8)]]


@pytest.mark.parametrize("name", TRUNKS)
def test_cells_and_shapes(name: str) -> None:
    tower = make_tower(name)
    cell = CELLS.get(name, 8)
    assert cell_size(tower) == (cell, cell)
    assert native_view(tower) == View(48, 32, 32 if cell == 32 else 16)
    features = dense_features(tower, images_of((2 * cell, 3 * cell)))
    assert features.shape[0] == 2 and features.shape[2:] == (2, 3) and features.dtype == torch.float32
    assert (features[:, :, 0, 0] - features[:, :, 1, 2]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=f"H a multiple of {cell}"):
        dense_features(tower, images_of((cell + 1, cell)))


def test_a_native_size_that_is_not_whole_cells_is_seen_in_windows_that_are() -> None:
    """SigLIP's so400m: 384 pixels, cells of 14; its own grid leaves the rest out."""
    tower = make_tower("siglip")
    tower.image_size = (36, 36)
    assert native_view(tower) == View(54, 32, 16)
    assert view_features(tower, images_of((48, 56), 1)[0], native_view(tower)).shape == (32, 6, 7)


@pytest.mark.parametrize(("name", "size"), sizes(of_end("token", "map") + ["vitamin", "vit-gap"]))
def test_positions_are_those_that_timm_makes_for_a_size(name: str, size: tuple[int, int]) -> None:
    tower, images = make_tower(name), images_of(size)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    close(dense_features(tower, images), dense_features(for_size(tower, size), images))
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())


@pytest.mark.parametrize("name", [name for name in of_end("map", "avg") if name != "pe-core"])
def test_an_image_of_one_cell_is_its_own_pooled_vector(name: str) -> None:
    tower, cell = make_tower(name), CELLS.get(name, 8)
    images = images_of((cell, cell))
    close(dense_features(tower, images)[:, :, 0, 0], for_size(tower, (cell, cell))(images))


@pytest.mark.parametrize(("name", "size"), sizes([name for name in of_end("map", "avg") if name != "pe-core"]))
def test_pooling_over_everything_is_the_tower_s_own(name: str, size: tuple[int, int]) -> None:
    tower, images, cell = make_tower(name), images_of(size), CELLS.get(name, 8)
    pooled = pool_regions(tower, images, torch.ones(1, size[0] // cell, size[1] // cell))
    close(pooled[:, 0], for_size(tower, size)(images))


@pytest.mark.parametrize("name", ["fastvit", "vit-gap"])
def test_the_mean_of_dense_features_is_the_tower_s_own(name: str) -> None:
    tower, images = make_tower(name), images_of((64, 96))
    close(dense_features(tower, images).mean(dim=(2, 3)), for_size(tower, (64, 96))(images))


@pytest.mark.parametrize("name", of_end("map", "avg"))
def test_a_region_of_one_cell_is_its_dense_feature(name: str) -> None:
    tower, cell = make_tower(name), CELLS.get(name, 8)
    images = images_of((2 * cell, 3 * cell))
    pooled = pool_regions(tower, images, torch.eye(6).unflatten(1, (2, 3)))
    close(pooled, dense_features(tower, images).flatten(2).mT)


@pytest.mark.parametrize("name", of_end("map"))
def test_regions_are_timm_s_own_pool_with_a_mask(name: str) -> None:
    """Also that of PE-Core, whose class token no region has."""
    tower, images = make_tower(name), images_of((32, 32), batch=1)
    trunk, prefix = tower.trunk, tower.trunk.num_prefix_tokens
    regions = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    regions[0] = True
    tokens = trunk.forward_features(images)
    for region, found in zip(regions, pool_regions(tower, images, regions.float())[0], strict=True):
        mask = torch.cat([torch.zeros(prefix, dtype=torch.bool), region.flatten()])[None, None, None]
        close(found[None], trunk.head(trunk.fc_norm(trunk.attn_pool(tokens, attn_mask=mask))))
    # A position that counts half is half of two that are alike: shares are weights of the softmax.
    double, single = pool_regions(tower, images, torch.stack([2.0 * regions[1], 1.0 * regions[1]]))[0]
    close(double, single)


@pytest.mark.parametrize("name", ["vitamin", "convnext"])
def test_regions_of_averaged_towers_are_the_head_of_their_mean(name: str) -> None:
    tower, cell = make_tower(name), CELLS[name]
    images = images_of((2 * cell, 3 * cell), batch=1)
    shares = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(2))
    trunk = for_size(tower, (2 * cell, 3 * cell)).trunk
    features = trunk.forward_features(images)
    flat = features[0].flatten(1).T if name == "convnext" else features[0]
    for share, found in zip(shares, pool_regions(tower, images, shares)[0], strict=True):
        mean = (share.flatten()[:, None] * flat).sum(dim=0) / share.sum()
        normed = trunk.head.norm(mean[None, :, None, None])[:, :, 0, 0] if name == "convnext" else trunk.fc_norm(mean)
        close(found, tower.head(normed).flatten())


def last_input(trunk: Any, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What timm's own forward gives to its last block: tokens, and rotary positions where it has some."""
    seen: list[Any] = []
    hook = trunk.blocks[-1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs)), with_kwargs=True
    )
    trunk.forward_features(images)
    hook.remove()
    tokens, settings = seen[0]
    return tokens, {"rope": settings["rope"]} if settings.get("rope") is not None else {}


def with_keys_as_queries(block: nn.Module) -> Any:
    """A copy of a block whose attention compares queries with queries."""
    block = deepcopy(block)
    attention: Any = block.attn
    if attention.qkv is None:
        attention.k_proj = attention.q_proj
        return block
    width = attention.qkv.weight.shape[0] // 3
    attention.qkv.weight[width : 2 * width] = attention.qkv.weight[:width]
    if attention.qkv.bias is not None:
        attention.qkv.bias[width : 2 * width] = attention.qkv.bias[:width]
    else:
        attention.k_bias.copy_(attention.q_bias)
    return block


def text_space(trunk: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return trunk.head(trunk.fc_norm(trunk.norm(tokens)))[:, 1:].mT.unflatten(2, grid)


@pytest.mark.parametrize(("name", "size"), sizes(of_end("token")))
def test_maskclip_is_timm_s_own_block_in_which_a_token_sees_itself(name: str, size: tuple[int, int]) -> None:
    tower, images, cell = make_tower(name), images_of(size), CELLS.get(name, 8)
    trunk = for_size(tower, size).trunk
    tokens, rope = last_input(trunk, images)
    alone = torch.eye(tokens.shape[1], dtype=torch.bool)
    expected = trunk.blocks[-1](tokens, attn_mask=alone, **rope)
    close(dense_features(tower, images), text_space(trunk, expected, (size[0] // cell, size[1] // cell)))


@pytest.mark.parametrize(("name", "size"), sizes(of_end("token")))
def test_clearclip_is_timm_s_own_attention_with_queries_for_keys(name: str, size: tuple[int, int]) -> None:
    tower, images, cell = make_tower(name), images_of(size), CELLS.get(name, 8)
    trunk = for_size(tower, size).trunk
    tokens, rope = last_input(trunk, images)
    block = with_keys_as_queries(trunk.blocks[-1])
    if name == "eva02-e":
        branch = block.norm1(block.attn(tokens, **rope))
    else:
        branch = block.attn(block.norm1(tokens), **rope)
        scale = block.ls1 if hasattr(block, "ls1") else nn.Identity() if block.gamma_1 is None else block.gamma_1.mul
        branch = scale(branch)
    grid = size[0] // cell, size[1] // cell
    close(dense_features(tower, images, "clearclip"), text_space(trunk, branch, grid))


@pytest.mark.parametrize("name", of_end("token"))
def test_the_other_variants_run_and_differ(name: str) -> None:
    tower, images = make_tower(name), images_of((48, 32))
    known = [variant for variant, one in VARIANTS.items() if one.layers is None]
    found = [dense_features(tower, images, variant) for variant in known]
    for index, one in enumerate(found):
        assert one.isfinite().all() and all((one - other).abs().max() > 1e-3 for other in found[:index])
    for variant in VARIANTS.keys() - set(known):
        with pytest.raises(
            ValueError,
            match=f"'{variant}' reads all blocks of open_clip's own ViT, this .* is timm's",
        ):
            dense_features(tower, images, variant)


@pytest.mark.parametrize("name", of_end("token"))
@pytest.mark.parametrize("scope", SCOPES)
def test_attention_within_masks_of_one_cell_is_the_paper_s_maskclip(name: str, scope: str) -> None:
    tower, images, cell = make_tower(name), images_of((48, 32)), CELLS.get(name, 8)
    cells = torch.arange(48 * 32 // cell**2).expand(2, -1)
    alone = scoped_readout(tower, images, Variant(SCOPES[scope](cells), residual=False))
    close(alone, dense_features(tower, images, "maskclip-plain"))
    joined = scoped_readout(tower, images, Variant(SCOPES[scope](cells // 4), residual=False))
    assert (joined - alone).abs().max() > 1e-3


@pytest.mark.parametrize("name", of_end("map", "avg"))
def test_attention_within_masks_is_refused_where_no_class_token_reads_it(name: str) -> None:
    block = Variant(SCOPES["uniform"](torch.zeros(1, 4, dtype=torch.int64)), residual=False)
    with pytest.raises(ValueError, match="scope: attention within masks is known for image towers that end in a tr"):
        scoped_readout(make_tower(name), images_of((64, 64), 1), block)


@pytest.mark.parametrize("name", of_end("map"))
def test_maskclip_plain_leaves_the_pool_s_mlp_out(name: str) -> None:
    tower, images = make_tower(name), images_of((32, 32))
    tower.trunk.attn_pool.mlp = None
    without = dense_features(tower, images)
    close(dense_features(make_tower(name), images, "maskclip-plain"), without)
    assert (dense_features(make_tower(name), images) - without).abs().max() > 1e-3


@pytest.mark.parametrize("name", of_end("map", "avg"))
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ALONE])
def test_variants_of_self_attention_are_refused_where_no_class_token_reads_it(name: str, variant: str) -> None:
    with pytest.raises(ValueError, match=f"'{variant}' changes the self-attention .* only maskclip and maskclip-plain"):
        dense_features(make_tower(name), images_of((64, 64)), variant)


def test_towers_that_are_not_known_are_refused() -> None:
    swin = SwinTransformer(img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 1))
    with pytest.raises(ValueError, match="timm's SwinTransformer; dense features are known for timm's Vision"):
        cell_size(OwnTrunk(swin, (32, 32)))
    tower = make_tower("siglip")
    tower.trunk.attn_pool, tower.trunk.global_pool = None, "max"
    with pytest.raises(ValueError, match="timm_pool: expected token, map or avg .* got 'max' and 0"):
        cell_size(tower)
    for name in ("convnext", "fastvit"):
        tower = make_tower(name)
        tower.trunk.head.global_pool.pool_type = "max"
        with pytest.raises(ValueError, match="timm_pool: expected avg for .*, got 'max'"):
            cell_size(tower)
    tower = make_tower("convnext")
    tower.head = nn.Sequential()
    tower.head.add_module("pool", nn.Identity())
    with pytest.raises(ValueError, match="not known for open_clip's abs_attn and rot_attn"):
        cell_size(tower)


@pytest.mark.parametrize("name", of_end("token"))
def test_regions_of_towers_with_a_class_token_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="regions pooled by the tower's own head .* reads its class token"):
        pool_regions(make_tower(name), images_of((32, 32)), torch.ones(1, 2, 2))


@pytest.mark.parametrize("name", ["siglip", "eva02", "convnext", "fastvit"])
def test_windows_and_half_precision(name: str) -> None:
    tower, image = make_tower(name), images_of((64, 96), 1)[0]
    view = View(64, 32, 32)
    full = view_features(tower, image, view)
    half = view_features(tower.to(torch.bfloat16), image, view)
    cell = CELLS.get(name, 8)
    assert full.shape[1:] == (64 // cell, 96 // cell) and half.dtype == torch.float32
    assert (full * half).sum(dim=0).min() > 0.98


def test_every_timm_tower_of_open_clip_s_list_is_known_or_left_out_on_purpose() -> None:
    configs = {name: open_clip.get_model_config(name)["vision_cfg"] for name in open_clip.list_models()}
    names = {name: config["timm_model_name"] for name, config in configs.items() if "timm_model_name" in config}
    assert len(names) > 60
    unknown = {name for name, timm in names.items() if not is_known_to_timm(timm)}
    assert unknown == {"swin_base_patch4_window7_224", "vit_relpos_medium_patch16_cls_224"}
    for wrong in ("hf-hub:owner/vit_base_patch16_siglip_224", "vit_base_patch16_siglip_224/x", "resnet50", "", "../x"):
        assert not is_known_to_timm(wrong)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_documentation_says_of_each_family_what_the_command_line_says() -> None:
    written = (Path(__file__).parent.parent / "docs/MODELS.md").read_text(encoding="utf-8")
    for one in FAMILIES:
        row = (one.name, one.cell, one.native, one.end, one.dense, one.regions, one.scoring)
        assert f"| {' | '.join(row)} |" in written


FULL = {  # open_clip's name -> pixels of a cell
    "ViT-B-16-SigLIP": 16,
    "ViT-B-32-SigLIP2-256": 32,
    "PE-Core-B-16": 16,
    "PE-Core-S-16-384": 16,
    "EVA02-B-16": 16,
    "MobileCLIP-B": 16,
    "MobileCLIP2-S0": 32,
    "MobileCLIP2-S3": 64,
    "ViTamin-S": 16,
    "convnext_base": 32,
    "convnext_large_d": 32,
    "vit_medium_patch16_gap_256": 16,
}


@pytest.mark.full_size
@pytest.mark.parametrize("name", FULL)
@torch.inference_mode()
def test_towers_at_full_size_are_timm_s_own(name: str) -> None:
    """Random weights, square and not; by the class token's last block, one cell, the mean, or all of the image."""
    config = open_clip.get_model_config(name)
    torch.manual_seed(0)
    tower: Any = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False)).eval()
    cell = FULL[name]
    assert cell_size(tower) == (cell, cell)
    for size in ((config["vision_cfg"]["image_size"],) * 2, (4 * cell, 7 * cell), (cell, cell)):
        images, own = images_of(size, 1), for_size(tower, size)
        grid = size[0] // cell, size[1] // cell
        dense = dense_features(tower, images)
        trunk, scale = own.trunk, float(own(images).abs().max())
        if getattr(trunk, "cls_token", None) is not None and trunk.attn_pool is None:
            tokens, rope = last_input(trunk, images)
            alone = torch.eye(tokens.shape[1], dtype=torch.bool)
            expected = text_space(trunk, trunk.blocks[-1](tokens, attn_mask=alone, **rope), grid)
            torch.testing.assert_close(dense, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
            continue
        if getattr(trunk, "cls_token", None) is not None:  # PE-Core: no region has its class token
            tokens = trunk.forward_features(images)
            mask = (torch.arange(tokens.shape[1]) > 0)[None, None, None]
            expected = trunk.head(trunk.fc_norm(trunk.attn_pool(tokens, attn_mask=mask)))
        else:
            expected = own(images)
        pooled = pool_regions(tower, images, torch.ones(1, *grid))[:, 0]
        torch.testing.assert_close(pooled, expected, atol=1e-5 * scale, rtol=1e-5)
        if grid == (1, 1):
            torch.testing.assert_close(dense[:, :, 0, 0], expected, atol=1e-5 * scale, rtol=1e-5)
