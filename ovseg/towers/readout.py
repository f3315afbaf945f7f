"""CLIP's image towers, by type: the size of a cell, and a feature in the text space for every cell.

Known are open_clip's VisionTransformer (class token, average pool, attentional pool), ModifiedResNet, and the trunks of
timm that `timm_towers` knows. A new tower is two functions registered here, `cell_size` and `readout`; a third,
`pool_regions`, for a tower whose own head can pool a region.
"""

from __future__ import annotations

from functools import singledispatch

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg.towers.timm_towers import check_trunk, trunk_cell, trunk_pool, trunk_readout, trunk_tokens
from ovseg.towers.variants import VARIANTS, Variant, own_value
from ovseg.towers.vit import class_tokens, pool_values, to_text_space, token_levels

RESNET_STRIDE = 32  # pixels per cell of ModifiedResNet's last feature map


@singledispatch
def cell_size(tower: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels of one cell of the tower's feature grid: the patch size, or a ResNet's stride."""
    raise ValueError(
        "dense features are known for open_clip's VisionTransformer, ModifiedResNet and TimmModel, "
        f"got {type(tower).__name__}"
    )


@cell_size.register
def _(tower: VisionTransformer) -> tuple[int, int]:
    return tower.patch_size


@cell_size.register
def _(tower: ModifiedResNet) -> tuple[int, int]:
    return RESNET_STRIDE, RESNET_STRIDE


@cell_size.register
def _(tower: TimmModel) -> tuple[int, int]:
    if hasattr(tower.head, "pool"):
        raise ValueError("timm_pool: dense features are not known for open_clip's abs_attn and rot_attn")
    return trunk_cell(tower.trunk)


@singledispatch
def readout(tower: nn.Module, images: Tensor, variant: str) -> Tensor:
    """Image -> dense features by tower type; arguments were checked by the caller."""
    raise NotImplementedError(type(tower).__name__)


@singledispatch
def check_dense(tower: nn.Module, variant: str) -> None:
    """Raise ValueError for a dense variant that the tower cannot follow; one of one's own follows all."""


@check_dense.register
def _(tower: VisionTransformer, variant: str) -> None:
    if tower.attn_pool is not None:
        _check_pool(tower.attn_pool, variant)


@check_dense.register
def _(tower: ModifiedResNet, variant: str) -> None:
    _check_pool(tower.attnpool, variant)


@check_dense.register
def _(tower: TimmModel, variant: str) -> None:
    check_trunk(tower.trunk, variant)


@readout.register
def _(tower: VisionTransformer, images: Tensor, variant: str) -> Tensor:
    if tower.attn_pool is not None:
        # Here the pool, not the last block, is what mixes the image into one vector.
        check_dense(tower, variant)
        tokens, grid = pool_values(tower, images)
        return to_text_space(tower, tokens[None], grid)
    levels, grid = token_levels(tower, images, VARIANTS[variant])
    return to_text_space(tower, levels, grid)


def scoped_readout(tower: nn.Module, images: Tensor, block: Variant) -> Tensor:
    """As `readout`, with any last block (see `variants.Variant`), such as one that attends within masks.

    Raises ValueError for a tower other than a ViT that ends in a transformer block.
    """
    if isinstance(tower, TimmModel):
        features: Tensor = tower.head(trunk_tokens(tower.trunk, images, block))
        return features.permute(0, 3, 1, 2)
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None:
        raise ValueError(
            "scope: attention within masks is known for ViTs that end in a transformer block, "
            f"got {type(tower).__name__}{' with an attention pool' if isinstance(tower, VisionTransformer) else ''}"
        )
    levels, grid = token_levels(tower, images, block)
    return to_text_space(tower, levels, grid)


@readout.register
def _(tower: ModifiedResNet, images: Tensor, variant: str) -> Tensor:
    check_dense(tower, variant)
    x = tower.stem(images.to(tower.conv1.weight.dtype))
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    pool = tower.attnpool  # its positional embedding belongs to queries and keys: the paper leaves it out
    return pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@readout.register
def _(tower: TimmModel, images: Tensor, variant: str) -> Tensor:
    features: Tensor = tower.head(trunk_readout(tower.trunk, images, variant))
    return features.permute(0, 3, 1, 2)


@singledispatch
def pool_regions(tower: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Images (B, 3, H, W), weights (K, h, w) float >= 0 on the grid of cells -> (B, K, C) in the text space.

    Each region as the tower's own head would pool an image that is this region alone, see `timm_towers.trunk_pool` and
    `vit.class_tokens`.
    Raises ValueError for a tower whose head cannot be told to leave out what is not in a region.
    """
    raise ValueError(
        "regions pooled by the tower's own head are known for towers of timm that end in an attention pool or an "
        f"average, and for open_clip's ViT that ends in a class token, got {type(tower).__name__}"
    )


@pool_regions.register
def _(tower: VisionTransformer, images: Tensor, weights: Tensor) -> Tensor:
    return class_tokens(tower, images, weights.flatten(1))


@pool_regions.register
def _(tower: TimmModel, images: Tensor, weights: Tensor) -> Tensor:
    pooled: Tensor = tower.head(trunk_pool(tower.trunk, images, weights))
    return pooled


def _check_pool(pool: nn.Module, variant: str) -> None:
    """An attention pool has one query for the whole image: there is no self-attention among patches to change."""
    if VARIANTS[variant].mix is not own_value:
        known = " and ".join(name for name, one in VARIANTS.items() if one.mix is own_value)
        raise ValueError(
            f"dense variant {variant!r} changes the self-attention of a ViT's last block, but this tower ends in "
            f"an attention pool ({type(pool).__name__}), for which only {known} are defined"
        )
