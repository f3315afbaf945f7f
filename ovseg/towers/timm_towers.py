"""timm's image towers in open_clip's `TimmModel`: a cell's size, dense features, and regions pooled by a tower's head.

How the tower was trained to make one vector of an image says what one position means:

    class token     EVA01/02, MobileCLIP's ViTs  last block by a dense variant, norm, head (`variants`)
    attention pool  SigLIP, SigLIP 2, PE-Core    the head with one visible position, whose softmax is 1
    average         ViTamin, ConvNeXt, FastViT   norm and head at every position (FC-CLIP, arXiv 2308.02487)

All run at any size: absolute positions are interpolated as timm does it for another size, rotary ones computed for the
grid. A trunk is known by its type; a new one is an entry in the three functions here.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.towers.timm_blocks import before_last_block, last_block, run_block
from ovseg.towers.variants import VARIANTS, Variant, own_value


class OwnTrunk(TimmModel):
    """A trunk of any settings, with its own head, where open_clip's class makes one by a name of timm's list."""

    def __init__(self, trunk: nn.Module, image_size: tuple[int, int]) -> None:
        nn.Module.__init__(self)
        self.trunk, self.image_size, self.head = trunk, image_size, nn.Sequential()


@singledispatch
def trunk_cell(trunk: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels of one cell of the trunk's grid. Raises ValueError for a trunk that is not known."""
    raise ValueError(
        f"this CLIP's image tower is timm's {type(trunk).__name__}; dense features are known for timm's "
        "VisionTransformer, Eva, ConvNeXt and FastVit"
    )


@trunk_cell.register(VisionTransformer)
@trunk_cell.register(Eva)
def _(trunk: Any) -> tuple[int, int]:
    _pooling(trunk)
    height, width = trunk.patch_embed.feat_ratio(as_scalar=False)
    return int(height), int(width)


@trunk_cell.register(ConvNeXt)
@trunk_cell.register(FastVit)
def _(trunk: Any) -> tuple[int, int]:
    if trunk.head.global_pool.pool_type != "avg":
        raise ValueError(
            f"timm_pool: expected avg for {type(trunk).__name__}, got {trunk.head.global_pool.pool_type!r}"
        )
    stride = int(trunk.feature_info[-1]["reduction"])
    return stride, stride


@singledispatch
def trunk_readout(trunk: nn.Module, images: Tensor, variant: str) -> Tensor:
    """Images (B, 3, H, W) -> (B, h, w, C), features at every position, before the head that open_clip adds.

    Raises ValueError for a dense variant that the trunk cannot follow.
    """
    raise NotImplementedError(type(trunk).__name__)


@trunk_readout.register(VisionTransformer)
@trunk_readout.register(Eva)
def _(trunk: Any, images: Tensor, variant: str) -> Tensor:
    check_trunk(trunk, variant)
    pooling, prefix = _pooling(trunk), trunk.num_prefix_tokens
    if pooling == "token":
        return trunk_tokens(trunk, images, VARIANTS[variant])
    tokens, rope, grid = before_last_block(trunk, images)
    tokens = trunk.norm(run_block(trunk.blocks[-1], tokens, rope))
    if pooling == "map":
        tokens = _alone_in_pool(trunk.attn_pool, tokens, VARIANTS[variant].residual)
    return trunk.head(trunk.fc_norm(tokens[:, prefix:])).unflatten(1, grid)


@trunk_readout.register(ConvNeXt)
@trunk_readout.register(FastVit)
def _(trunk: Any, images: Tensor, variant: str) -> Tensor:
    check_trunk(trunk, variant)
    return _convolutional_head(trunk, _feature_map(trunk, images).permute(0, 2, 3, 1))


def trunk_tokens(trunk: Any, images: Tensor, block: Variant) -> Tensor:
    """As `trunk_readout`, with any last block, such as one that attends within masks.

    Raises ValueError for a trunk that does not end in a block that a class token reads.
    """
    if not isinstance(trunk, VisionTransformer | Eva) or _pooling(trunk) != "token":
        raise ValueError(
            "scope: attention within masks is known for image towers that end in a transformer block, "
            f"not for timm's {type(trunk).__name__} with an attention pool or an average"
        )
    tokens, rope, grid = before_last_block(trunk, images)
    tokens = trunk.norm(last_block(trunk, tokens, rope, grid, block))
    return trunk.head(trunk.fc_norm(tokens[:, trunk.num_prefix_tokens :])).unflatten(1, grid)


@singledispatch
def trunk_pool(trunk: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Images (B, 3, H, W), weights (K, h, w) float >= 0 -> (B, K, C): each region pooled as the trunk pools images.

    A weight is the share of a position that belongs to a region: 0 hides it, and 1 everywhere gives the trunk's own
    vector of the image (but for PE-Core's class token, which no region has). An attention pool keeps its query; its
    softmax is over the region, each position counting by its share. A region without any weight is not defined.
    """
    raise ValueError(
        f"regions pooled by the tower's own head are known for towers that end in an attention pool or an average, "
        f"got {type(trunk).__name__}"
    )


@trunk_pool.register(VisionTransformer)
@trunk_pool.register(Eva)
def _(trunk: Any, images: Tensor, weights: Tensor) -> Tensor:
    pooling, prefix = _pooling(trunk), trunk.num_prefix_tokens
    if pooling == "token":
        raise ValueError(
            "regions pooled by the tower's own head are known for towers that end in an attention pool or an average; "
            f"this {type(trunk).__name__} reads its class token"
        )
    tokens, rope, _ = before_last_block(trunk, images)
    tokens = trunk.norm(run_block(trunk.blocks[-1], tokens, rope))[:, prefix:]
    shares = weights.flatten(1).to(tokens)
    pooled = _weighted_mean(tokens, shares) if pooling == "avg" else _masked_pool(trunk.attn_pool, tokens, shares)
    return trunk.head(trunk.fc_norm(pooled))


@trunk_pool.register(ConvNeXt)
@trunk_pool.register(FastVit)
def _(trunk: Any, images: Tensor, weights: Tensor) -> Tensor:
    features = _feature_map(trunk, images)
    means = _weighted_mean(features.flatten(2).mT, weights.flatten(1).to(features))
    return _convolutional_head(trunk, means[:, None])[:, 0]


def _pooling(trunk: Any) -> str:
    """How tokens become one vector: "token", "map" or "avg". Raises ValueError for others."""
    pooling = "map" if trunk.attn_pool is not None else trunk.global_pool
    if pooling not in ("token", "map", "avg") or trunk.num_prefix_tokens > 1:
        raise ValueError(
            f"timm_pool: expected token, map or avg and at most one class token for {type(trunk).__name__}, "
            f"got {trunk.global_pool!r} and {trunk.num_prefix_tokens}"
        )
    return pooling


def _alone_in_pool(pool: Any, tokens: Tensor, with_mlp: bool) -> Tensor:
    """What an attention pool gives for each token if it sees no other: (B, N, D) -> (B, N, D).

    Its query decides how tokens are mixed, so it has no part in this.
    """
    values = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    return values + pool.mlp(pool.norm(values)) if with_mlp and pool.mlp is not None else values


def _masked_pool(pool: Any, tokens: Tensor, shares: Tensor) -> Tensor:
    """An attention pool over each of K regions, tokens (B, N, D), shares (K, N) -> (B, K, D)."""
    query = pool.q(pool.latent).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
    key, value = pool.kv(tokens).unflatten(2, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query = pool.q_norm(query).expand(len(tokens), -1, len(shares), -1)
    mixed = F.scaled_dot_product_attention(query, pool.k_norm(key), value, attn_mask=shares.log()[None, None])
    pooled = pool.proj(mixed.transpose(1, 2).flatten(2))
    return pooled if pool.mlp is None else pooled + pool.mlp(pool.norm(pooled))


def _weighted_mean(tokens: Tensor, shares: Tensor) -> Tensor:
    """Tokens (B, N, D), shares (K, N) -> (B, K, D)."""
    return (shares / shares.sum(dim=1, keepdim=True)) @ tokens


def _feature_map(trunk: Any, images: Tensor) -> Tensor:
    features: Tensor = trunk.forward_features(images.to(next(trunk.parameters()).dtype))
    return features


def _convolutional_head(trunk: Any, features: Tensor) -> Tensor:
    """A convolutional network's head without its pooling, (B, h, w, D) -> (B, h, w, C)."""
    head = trunk.head
    if isinstance(trunk, ConvNeXt):
        features = head.pre_logits(head.norm(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    result: Tensor = head.fc(features)
    return result


def check_trunk(trunk: Any, variant: str) -> None:
    """Raise ValueError for a dense variant that the trunk cannot follow.

    Where no class token is read, there is no attention to change: a position is taken as it is.
    """
    chosen, pooling = VARIANTS[variant], _pooling(trunk) if isinstance(trunk, VisionTransformer | Eva) else "avg"
    if pooling == "token" and chosen.layers is not None:
        raise ValueError(
            f"dense variant {variant!r} reads all blocks of open_clip's own ViT, "
            f"this image tower is timm's {type(trunk).__name__}"
        )
    if pooling != "token" and chosen.mix is not own_value:
        known = " and ".join(name for name, one in VARIANTS.items() if one.mix is own_value)
        end = "attention pool" if pooling == "map" else "average"
        raise ValueError(
            f"dense variant {variant!r} changes the self-attention of a ViT's last block that a class token reads, "
            f"but this tower ends in an {end}, for which only {known} are defined"
        )
