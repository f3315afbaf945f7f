"""The blocks of timm's ViTs and Evas, run one by one at any size, and the last of them as a dense variant has it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from timm.layers import PatchEmbed, apply_rot_embed_cat, resample_abs_pos_embed
from timm.models.eva import EvaBlockPostNorm
from torch import Tensor
from torch.nn import functional as F

from ovseg.towers.variants import Variant

Grid = tuple[int, int]


def before_last_block(trunk: Any, images: Tensor) -> tuple[Tensor, Tensor | None, Grid]:
    """Tokens (B, prefix + N, D) that enter the last block, rotary positions (N, 2d) or None, grid (h, w)."""
    embed = trunk.patch_embed
    images = images.to(next(embed.parameters()).dtype)
    # PatchEmbed itself would refuse other sizes than its own; an embedding by convolutions does not.
    patches = embed.norm(embed.proj(images).flatten(2).mT) if isinstance(embed, PatchEmbed) else embed(images)
    height, width = embed.feat_ratio(as_scalar=False)
    grid = images.shape[2] // height, images.shape[3] // width
    tokens = trunk.norm_pre(_with_positions(trunk, patches, grid))
    rope = _rotary(trunk, grid)
    for block in trunk.blocks[:-1]:
        tokens = run_block(block, tokens, rope)
    return tokens, rope, grid


def _with_positions(trunk: Any, patches: Tensor, grid: Grid) -> Tensor:
    """Patches (B, N, D) with absolute positions, behind the class token where there is one."""
    prefix = [] if trunk.cls_token is None else [trunk.cls_token.expand(len(patches), -1, -1)]
    if trunk.pos_embed is None:
        return torch.cat([*prefix, patches], dim=1)
    apart = trunk.no_embed_class or not prefix  # positions are those of patches alone
    positions = resample_abs_pos_embed(
        trunk.pos_embed, list(grid), list(trunk.patch_embed.grid_size), num_prefix_tokens=0 if apart else 1
    )
    if apart:
        return torch.cat([*prefix, patches + positions], dim=1)
    return torch.cat([*prefix, patches], dim=1) + positions


def _rotary(trunk: Any, grid: Grid) -> Tensor | None:
    if getattr(trunk, "rope", None) is None:
        return None
    rope = deepcopy(trunk.rope)  # it keeps what it last computed
    rope.update_feat_shape(list(grid))
    return rope.get_embed()


def run_block(block: Any, tokens: Tensor, rope: Tensor | None) -> Tensor:
    return block(tokens) if rope is None else block(tokens, rope=rope)


def last_block(trunk: Any, tokens: Tensor, rope: Tensor | None, grid: Grid, chosen: Variant) -> Tensor:
    """The last block as a dense variant, or attention within masks, has it; see `variants`."""
    block = trunk.blocks[-1]
    post = isinstance(block, EvaBlockPostNorm)
    query, key, value = _projections(block.attn, tokens if post else block.norm1(tokens), rope, trunk.num_prefix_tokens)
    mixed = chosen.mix(query, key, value, grid).transpose(1, 2).flatten(2)
    attended = block.attn.proj(block.attn.norm(mixed))
    attended = block.norm1(attended) if post else _scaled(block, 1, attended)
    if not chosen.residual:
        return attended
    tokens = tokens + attended
    return tokens + (block.norm2(block.mlp(tokens)) if post else _scaled(block, 2, block.mlp(block.norm2(tokens))))


def _scaled(block: Any, number: int, branch: Tensor) -> Tensor:
    """A branch of a block by its layer scale: a module in timm's ViT, a parameter or nothing in Eva."""
    if hasattr(block, f"ls{number}"):
        return getattr(block, f"ls{number}")(branch)
    scale = getattr(block, f"gamma_{number}")
    return branch if scale is None else scale * branch


def _projections(attention: Any, normed: Tensor, rope: Tensor | None, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, heads, prefix + N, d) each; patches' queries and keys turned by their place."""
    if getattr(attention, "gate", None) is not None or getattr(attention, "num_kv_groups", 1) > 1:
        raise ValueError("dense variants are not known for timm's gated or grouped attention")
    if attention.qkv is None:
        parts = [projection(normed) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    else:
        biases: Any = [getattr(attention, f"{name}_bias", None) for name in "qkv"]
        bias = attention.qkv.bias if biases[0] is None else torch.cat(biases)
        parts = list(F.linear(normed, attention.qkv.weight, bias).chunk(3, dim=-1))
    query, key, value = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    query, key = attention.q_norm(query), attention.k_norm(key)
    if rope is not None:
        half = getattr(attention, "rotate_half", False)
        query, key = (
            torch.cat([one[:, :, :prefix], apply_rot_embed_cat(one[:, :, prefix:], rope, half=half)], 2).to(value)
            for one in (query, key)
        )
    return query, key, value
