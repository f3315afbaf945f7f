"""CLIP's image towers, by type: the size of a cell, and a feature in the text space for every cell.

Known are open_clip's VisionTransformer (class token, average pool, attentional pool), ModifiedResNet, and the trunks of
timm that `ovseg.timm_towers` knows. A new tower is two functions registered here, `cell_size` and `readout`; a third,
`pool_regions`, for a tower whose own head can pool a region.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.timm_towers import trunk_cell, trunk_pool, trunk_readout
from ovseg.variants import VARIANTS, own_value

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


@readout.register
def _(tower: VisionTransformer, images: Tensor, variant: str) -> Tensor:
    tokens, (h, w) = _embed_patches(tower, images)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    if tower.attn_pool is not None:
        # Here the pool, not the last block, is what mixes the image into one vector.
        _check_pool(tower.attn_pool, variant)
        tokens = tower.ln_post(_pool_value_path(tower, last(tokens)))
    else:
        # With final_ln_after_pool the tower norms the mean token; a patch standing for itself is its own mean.
        tokens = tower.ln_post(VARIANTS[variant].run(last, tokens, (h, w)))
    if tower.proj is not None:
        tokens = tokens @ tower.proj.to(tokens.dtype)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (h, w))


@readout.register
def _(tower: ModifiedResNet, images: Tensor, variant: str) -> Tensor:
    _check_pool(tower.attnpool, variant)
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

    Each region as the tower's own head would pool an image that is this region alone, see `timm_towers.trunk_pool`.
    Raises ValueError for a tower whose head cannot be told to leave out what is not in a region.
    """
    raise ValueError(
        "regions pooled by the tower's own head are known for towers of timm that end in an attention pool or an "
        f"average, got open_clip's {type(tower).__name__}"
    )


@pool_regions.register
def _(tower: TimmModel, images: Tensor, weights: Tensor) -> Tensor:
    pooled: Tensor = tower.head(trunk_pool(tower.trunk, images, weights))
    return pooled


def _embed_patches(tower: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Class token and patches with positional embeddings, (B, 1+N, D), and the grid (h, w). No patch dropout."""
    patches = tower.conv1(images.to(tower.conv1.weight.dtype))
    grid = (patches.shape[2], patches.shape[3])
    tokens = patches.flatten(2).transpose(1, 2)
    class_token = tower.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    positions = _positions(tower, grid).to(tokens.dtype)
    return tower.ln_pre(torch.cat([class_token, tokens], dim=1) + positions), grid


def _positions(tower: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    """The tower's positional embedding for another grid, (1+N, D) float32: bicubic, class token's own kept."""
    positions = tower.positional_embedding.float()
    if grid == tuple(tower.grid_size):
        return positions
    own, patches = positions[:1], positions[1:]
    square = patches.unflatten(0, tower.grid_size).permute(2, 0, 1)[None]
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([own, resized[0].flatten(1).T])


def _identity_attention(tokens: Tensor) -> Tensor:
    """Additive attention mask (N, N), 0 on the diagonal and -inf elsewhere. Float: open_clip adds a boolean as 0/1."""
    count = tokens.shape[1]
    mask = torch.full((count, count), float("-inf"), device=tokens.device, dtype=tokens.dtype)
    return mask.fill_diagonal_(0)


def _pool_value_path(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """Attentional pool with every token seen alone, out_proj(v_proj(ln_k(x))): (B, 1+N, D) -> (B, 1+N, C).

    The pool's query only decides how tokens are mixed, so it has no part in the result.
    """
    pool = tower.attn_pool
    if not isinstance(pool, AttentionalPooler) or tower.attn_pool_contrastive is not None:
        raise ValueError(
            "dense features of an attentional pool are known for open_clip's single pooler "
            f"(attentional_pool: true), got {tower.attn_pool_type or type(pool).__name__!r}"
        )
    normed = pool.ln_k(tokens)
    query = pool.ln_q(pool.query[:1]).to(normed.dtype).expand(normed.shape[0], normed.shape[1], -1)
    return pool.attn(query, normed, normed, need_weights=False, attn_mask=_identity_attention(normed))[0]


def _check_pool(pool: nn.Module, variant: str) -> None:
    """An attention pool has one query for the whole image: there is no self-attention among patches to change."""
    if VARIANTS[variant].mix is not own_value:
        known = " and ".join(name for name, one in VARIANTS.items() if one.mix is own_value)
        raise ValueError(
            f"dense variant {variant!r} changes the self-attention of a ViT's last block, but this tower ends in "
            f"an attention pool ({type(pool).__name__}), for which only {known} are defined"
        )
