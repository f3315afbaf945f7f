"""open_clip's VisionTransformer up to its last norm: tokens by a dense variant, and from there to the text space."""

from __future__ import annotations

import torch
from open_clip.transformer import AttentionalPooler, VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from ovseg.towers.blocks import attended, projections
from ovseg.towers.variants import Variant


def token_levels(
    tower: VisionTransformer, images: Tensor, variant: Variant, branch: bool = False
) -> tuple[Tensor, tuple[int, int]]:
    """What stands before the last norm, and the grid (h, w): (levels, B, 1+N, D), the class token first.

    Most variants have one level, a layered one more, see `variants.Variant`. images: (B, 3, H, W), whole cells.
    branch: of the last block only what its attention adds, without the residual and the MLP.
    """
    tokens, grid = embed_patches(tower, images)
    return variant.levels(tower.transformer.resblocks, tokens, grid, branch), grid


def to_text_space(tower: VisionTransformer, levels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Levels (n, B, 1+N, D) by the last norm and the projection: (B, C, h, w), the mean of the levels' directions.

    A single level keeps its lengths. With final_ln_after_pool the tower norms the mean token; a patch standing for
    itself is its own mean.
    """
    features = mean_of_levels(normed_and_projected(tower, levels))
    return features[:, 1:].transpose(1, 2).unflatten(2, grid)


def normed_and_projected(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """Tokens (..., D) by the tower's last norm and projection, (..., C)."""
    tokens = tower.ln_post(tokens)
    return tokens if tower.proj is None else tokens @ tower.proj.to(tokens.dtype)


def class_tokens(tower: VisionTransformer, images: Tensor, shares: Tensor) -> Tensor:
    """A class token for each region, in the text space: images (B, 3, H, W), shares (K, N) -> (B, K, C).

    CorrCLIP's class-token branch (arXiv 2411.10086): in every block a copy of the class token attends to the class
    token itself and to the region's patches, each by its share in the region; neither of these sees the copies. A
    region that is the whole image has the tower's own vector of it. Raises ValueError for a tower that reads no class
    token.
    """
    if tower.attn_pool is not None or tower.pool_type != "tok":
        raise ValueError(
            "regions pooled by the tower's own head are known for towers of timm that end in an attention pool or an "
            "average, and for open_clip's ViT that ends in a class token, which this one does not"
        )
    tokens, _ = embed_patches(tower, images)
    copies, seen = tokens[:, :1].expand(-1, len(shares), -1), F.pad(shares, (1, 0), value=1).log().to(tokens.dtype)
    for block in tower.transformer.resblocks:
        query = projections(block, block.ln_1(copies))[0]
        _, key, value = projections(block, block.ln_1(tokens))
        copies = copies + attended(block, F.scaled_dot_product_attention(query, key, value, attn_mask=seen))
        copies = copies + block.ls_2(block.mlp(block.ln_2(copies)))
        tokens = block(tokens)
    return normed_and_projected(tower, copies)


def mean_of_levels(features: Tensor) -> Tensor:
    """(n, ..., C) -> (..., C): of several levels the mean of their directions, of one itself."""
    return features[0] if len(features) == 1 else F.normalize(features, dim=-1).mean(dim=0)


def embed_patches(tower: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
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


def pool_values(tower: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Attentional pool with every token seen alone, out_proj(v_proj(ln_k(x))): (B, 1+N, D), and the grid (h, w).

    The pool's query only decides how tokens are mixed, so it has no part in the result.
    """
    pool = tower.attn_pool
    if not isinstance(pool, AttentionalPooler) or tower.attn_pool_contrastive is not None:
        raise ValueError(
            "dense features of an attentional pool are known for open_clip's single pooler "
            f"(attentional_pool: true), got {tower.attn_pool_type or type(pool).__name__!r}"
        )
    tokens, grid = embed_patches(tower, images)
    for block in tower.transformer.resblocks:
        tokens = block(tokens)
    normed = pool.ln_k(tokens)
    query = pool.ln_q(pool.query[:1]).to(normed.dtype).expand(normed.shape[0], normed.shape[1], -1)
    return pool.attn(query, normed, normed, need_weights=False, attn_mask=_identity_attention(normed))[0], grid
