"""Dense CLIP features in the text space, without training: MaskCLIP (arXiv 2112.01071) and what followed it.

The tower runs as it is up to its last block. What takes that block's place keeps patches apart instead of mixing them
over the image (see `ovseg.variants`); the final norm and projection then put each patch where the text embeddings are.
With MaskCLIP a ResNet's attention pool becomes two 1x1 convolutions.

`dense_features` knows open_clip's VisionTransformer (class token, average pool, attentional pool) and ModifiedResNet at
any size. It does not resize or normalise images (see `ovseg.clip`), does not smooth keys and does not denoise prompts
(both optional in the paper), and never changes the tower: no hook stays, no weight is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.variants import VARIANTS, own_value

RESNET_STRIDE = 32  # pixels per cell of ModifiedResNet's last feature map
WINDOW_BATCH = 8  # windows per forward pass; fixed, so that results on the CPU are bit-equal


@dataclass(frozen=True)
class View:
    """How an image is shown to the CLIP tower. Lengths are pixels of the resized image.

    The aspect ratio is kept: the scale is short_side / the image's shorter side, or long_side / its longer side where
    that is less (mmcv's rule). Unlike there, both sides are then rounded to whole cells.
    window and stride must be multiples of the tower's cell (patch) size; `ovseg.clip.Clip.dense_features` checks it.
    """

    short_side: int  # the image's shorter side is resized to about this
    window: int = 0  # side of the square sliding windows; 0 = the whole image at once
    stride: int = 0  # step between windows; 0 where there are none
    variant: str = "maskclip"  # a name in VARIANTS
    long_side: int = 0  # the longer side is resized to at most about this; 0 = no limit

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise ValueError(f"View.short_side must be at least 1 pixel, got {self.short_side}")
        if self.window < 0 or (self.window == 0) != (self.stride == 0) or not 0 <= self.stride <= self.window:
            raise ValueError(
                "View needs 0 < stride <= window, or both 0 for the whole image at once, "
                f"got window={self.window}, stride={self.stride}"
            )
        if self.long_side < 0 or 0 < self.long_side < self.short_side:
            raise ValueError(
                "View.long_side must be at least short_side, or 0 for no limit, "
                f"got long_side={self.long_side}, short_side={self.short_side}"
            )
        _check_variant(self.variant)


def dense_features(tower: nn.Module, images: Tensor, variant: str = "maskclip") -> Tensor:
    """A feature vector in CLIP's text space for every patch of every image.

    Args:
        tower: `model.visual` of an open_clip model, in eval mode.
        images: (B, 3, H, W) float, normalised with the model's mean and deviation, on the tower's device.
            H and W are any multiples of `cell_size(tower)`.
        variant: a name in `VARIANTS`. Where the last layer is an attention pool (ResNet, attentional pool) only
            MaskCLIP's two are defined; without residual and MLP they are the same.
    Returns:
        (B, C, h, w) float32, not L2-normalised; h, w = H, W divided by the cell size. Gradients flow if enabled.
    Raises:
        ValueError: unknown variant or one that the tower cannot do, unsupported tower, tower in training mode, wrong
            shape or size of `images`.
    """
    _check_variant(variant)
    height, width = cell_size(tower)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % height or images.shape[3] % width:
        raise ValueError(
            f"images must be (B, 3, H, W) with H a multiple of {height} and W of {width}, got {tuple(images.shape)}"
        )
    if tower.training:
        raise ValueError("dense_features needs the tower in eval mode (call .eval()): batch norms must not be updated")
    return _features(tower, images, variant).float()


def view_features(tower: nn.Module, image: Tensor, view: View) -> Tensor:
    """Dense features of one image, seen as `view` says (whole, or in sliding windows averaged on the common grid).

    Args:
        image: (3, H, W) float, normalised, on the tower's device; already resized, H and W multiples of the cell size.
    Returns:
        (C, h, w) float32. Features are L2-normalised in each window before the average, so the dot product with a text
        embedding is the mean of the windows' cosine maps (as SCLIP and its successors average them); lengths are <= 1.
    Raises:
        ValueError: as `dense_features`; a window or stride that is not a multiple of the cell size.
    """
    cells = cell_size(tower)
    if any(length % cell for length in (view.window, view.stride) for cell in cells):
        raise ValueError(
            f"View.window and View.stride must be multiples of the tower's cell size {cells[0]}x{cells[1]}, "
            f"got {view.window} and {view.stride}"
        )
    sides = image.shape[1], image.shape[2]
    window = [min(view.window or side, side) for side in sides]
    tops, lefts = (window_starts(side, size, view.stride or side) for side, size in zip(sides, window, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    total, count = torch.zeros(()), torch.zeros(sides[0] // cells[0], sides[1] // cells[1], device=image.device)
    for first in range(0, len(corners), WINDOW_BATCH):
        chunk = corners[first : first + WINDOW_BATCH]
        crops = torch.stack([image[:, y : y + window[0], x : x + window[1]] for y, x in chunk])
        features = F.normalize(dense_features(tower, crops, view.variant), dim=1)
        if first == 0:
            total = features.new_zeros(features.shape[1], *count.shape)
        for (y, x), feature in zip(chunk, features, strict=True):
            rows = slice(y // cells[0], y // cells[0] + feature.shape[1])
            columns = slice(x // cells[1], x // cells[1] + feature.shape[2])
            total[:, rows, columns] += feature
            count[rows, columns] += 1
    return total / count


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride`, the last one shifted back inside. All in the same unit."""
    starts = list(range(0, max(side - window, 0) + 1, stride))
    if starts[-1] + window < side:
        starts.append(side - window)
    return starts


@singledispatch
def cell_size(tower: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels of one cell of the tower's feature grid: the patch size, or a ResNet's stride."""
    raise ValueError(
        f"dense features are known for open_clip's VisionTransformer and ModifiedResNet, got {type(tower).__name__}"
    )


@cell_size.register
def _(tower: VisionTransformer) -> tuple[int, int]:
    return tower.patch_size


@cell_size.register
def _(tower: ModifiedResNet) -> tuple[int, int]:
    return RESNET_STRIDE, RESNET_STRIDE


@cell_size.register
def _(tower: TimmModel) -> tuple[int, int]:
    raise ValueError(
        f"this CLIP's image tower is timm's {type(tower.trunk).__name__}; dense features are implemented for "
        "open_clip's own ViT and ResNet towers: choose a CLIP whose open_clip_config.json has no timm_model_name"
    )


@singledispatch
def _features(tower: nn.Module, images: Tensor, variant: str) -> Tensor:
    """Image -> dense features by tower type; arguments were checked by the caller."""
    raise NotImplementedError(type(tower).__name__)


@_features.register
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


@_features.register
def _(tower: ModifiedResNet, images: Tensor, variant: str) -> Tensor:
    _check_pool(tower.attnpool, variant)
    x = tower.stem(images.to(tower.conv1.weight.dtype))
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    pool = tower.attnpool  # its positional embedding belongs to queries and keys: the paper leaves it out
    return pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


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


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"unknown dense variant {variant!r}, expected one of {', '.join(VARIANTS)}")


def _check_pool(pool: nn.Module, variant: str) -> None:
    """An attention pool has one query for the whole image: there is no self-attention among patches to change."""
    if VARIANTS[variant].mix is not own_value:
        known = " and ".join(name for name, one in VARIANTS.items() if one.mix is own_value)
        raise ValueError(
            f"dense variant {variant!r} changes the self-attention of a ViT's last block, but this tower ends in "
            f"an attention pool ({type(pool).__name__}), for which only {known} are defined"
        )
