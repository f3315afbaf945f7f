"""The attention of open_clip's two kinds of transformer block, taken apart: projections in, attended tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def projections(block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens (B, T, D) after the block's first norm: (B, heads, T, d) each."""
    from open_clip.transformer import ResidualAttentionBlock
    from torch.nn import functional

    attention = block.attn
    projected = functional.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if not isinstance(block, ResidualAttentionBlock):
        query, key = attention.ln_q(query), attention.ln_k(key)
    return query, key, value


def attended(block: Any, mixed: Tensor) -> Tensor:
    """Mixed values (B, heads, T, d) by the output projection, (B, T, D): what the block would add to its input."""
    from open_clip.transformer import ResidualAttentionBlock

    attention = block.attn
    if isinstance(block, ResidualAttentionBlock):
        return block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    if attention.head_scale is not None:
        mixed = mixed * attention.head_scale
    return block.ls_1(block.ln_attn(attention.out_proj(attention.ln_inner(mixed.transpose(1, 2).flatten(2)))))


def attention_weights(block: Any, tokens: Tensor) -> Tensor:
    """The softmax by which the block, as trained, mixes its input (B, T, D): (B, heads, T, T)."""
    query, key, _ = projections(block, block.ln_1(tokens))
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
