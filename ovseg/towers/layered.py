"""Dense variants of a CLIP ViT that read more than its last block: CLIPer's early layers, and SC-CLIP.

Each takes the tower's blocks, its tokens (B, 1+N, D) before the first of them, class token first, and the grid (h, w)
of the N patches, and gives (levels, B, 1+N, D) before the last norm. Notation of `variants`. Blocks are counted
from 0; numbers of blocks are those of a tower of 12, and taken in proportion in others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovseg.towers.blocks import attended, attention_weights, projections

if TYPE_CHECKING:
    from torch import Tensor

DEPTH = 12  # blocks of the towers that the numbers below were chosen for
MIDDLE, EARLY, LEVELS = 8, 3, range(3, 10)  # blocks whose outputs SC-CLIP reads
LIKE = 0.4  # cosine under which SC-CLIP lets patches have no part in each other
SHARPNESS = 3.0  # of SC-CLIP's attention by likeness
CLASS_SHARE = 0.3  # of the class token that SC-CLIP adds to every patch
NEIGHBOURS = 30  # of a patch, by which SC-CLIP tells outliers
REGULAR = 0.95  # the share of patches that are no outliers
LEAST_SUM = 1e-30  # that CLIPer's weights are divided by
SMALL = 1e-6  # what SC-CLIP's code adds to the sums it divides by


def elf(blocks: Sequence[Any], tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """CLIPer's early-layer fusion: every block's normed input through the last block's values, one level each.

    What a token attends to is, for each head, the attention of all blocks before the last: their sum, divided by the
    sums of its columns and then of its rows, made symmetric, what is above the mean of its column, rows adding up to 1.
    The last block's residual and MLP are dropped. CLIPer makes a softmax of each level's cosines and averages those;
    averaged here are the levels' directions, so that one feature map serves all words.
    Raises ValueError for a tower with a single block.
    """
    import torch

    *earlier, last = blocks
    if not earlier:
        raise ValueError("dense: elf needs a ViT with two blocks at least, got 1")
    inputs, weights = [], torch.zeros(())
    for block in earlier:
        inputs.append(block.ln_1(tokens))
        weights = weights + attention_weights(block, tokens)
        tokens = block(tokens)
    mixing = _sharpened(weights)
    return torch.stack([attended(last, mixing @ projections(last, last.ln_1(one))[2]) for one in [*inputs, tokens]])


def sc_clip(blocks: Sequence[Any], tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """SC-CLIP, as its code has it: outliers replaced, patches averaged with like ones, attention by likeness and keys.

    Outliers of the input of the last block are replaced by their regular neighbours. Likeness is the cosine in a middle
    block. The result is the sum of that input and of the sum of several blocks' outputs, each by the same last block
    without residual and MLP, with a share of the class token, and averaged over patches that are alike early on.
    """
    import torch

    *earlier, last = blocks
    outputs = [tokens := block(tokens) for block in earlier] or [tokens]
    regular = _regular(tokens[:, 1:])
    likeness = _cosines(_repaired(_output(outputs, MIDDLE, len(blocks))[:, 1:], regular, grid))
    alike_early = _averaging(_cosines(_output(outputs, EARLY, len(blocks))[:, 1:]))

    def through_last_block(class_token: Tensor, patches: Tensor) -> Tensor:
        _, key, value = projections(last, last.ln_1(patches))
        by_key = (key @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(dim=-1)
        mixing = (by_key + _by_likeness(likeness)[:, None]) / 2
        return alike_early @ (attended(last, mixing @ value) + CLASS_SHARE * class_token)

    patches = _averaging(likeness) @ _repaired(tokens[:, 1:], regular, grid)
    levels = torch.stack([_output(outputs, number, len(blocks)) for number in LEVELS]).sum(dim=0)
    result = through_last_block(tokens[:, :1], patches) + through_last_block(levels[:, :1], levels[:, 1:])
    return torch.cat([tokens[:, :1], result], dim=1)[None]


def _sharpened(weights: Tensor) -> Tensor:
    """CLIPer's mixing out of summed attention, (B, heads, T, T) both."""
    for axis in (-2, -1):  # a token that nobody attends to has a sum of 0
        weights = weights / weights.sum(dim=axis, keepdim=True).clamp_min(LEAST_SUM)
    weights = (weights + weights.transpose(-1, -2)) / 2
    weights = (weights - weights.mean(dim=-2, keepdim=True)).clamp_min(0)
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(LEAST_SUM)


def _output(outputs: list[Tensor], number: int, depth: int) -> Tensor:
    """The output of a block, by its number in a tower of 12; of the blocks before the last."""
    return outputs[min(max((number + 1) * depth // DEPTH - 1, 0), len(outputs) - 1)]


def _regular(patches: Tensor) -> Tensor:
    """(B, N) bool: patches (B, N, D) that are no outliers, by SC-CLIP's local outlier factor.

    A patch's factor is the mean, over its nearest neighbours, of how much farther its own farthest neighbour is than
    theirs, in squared distances. Outliers are those above the quantile.
    """
    import torch

    count = min(NEIGHBOURS, patches.shape[1] - 1)
    if count < 1:
        return torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(patches.float(), patches.float(), compute_mode=exact).square()
    nearest, indices = distances.topk(count + 1, largest=False)
    farthest = nearest[..., -1].clamp_min(1e-12)
    theirs = farthest.gather(1, indices[..., 1:].flatten(1)).unflatten(1, indices[..., 1:].shape[1:])
    factor = (farthest[..., None] / theirs).mean(dim=-1)
    # On small grids factors are equal but for rounding, which is to decide nothing.
    return factor <= factor.quantile(REGULAR, dim=1, keepdim=True) * (1 + 1e-5)


def _repaired(patches: Tensor, regular: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, N, D) with outliers replaced by the mean of their regular ones among the eight neighbours, if any."""
    from torch.nn import functional

    maps = patches.transpose(1, 2).unflatten(2, grid)
    kept = regular.unflatten(1, grid)[:, None].to(patches)
    ones = patches.new_ones(1, 1, 3, 3)
    ones[..., 1, 1] = 0
    counts = functional.conv2d(kept, ones, padding=1)
    sums = functional.conv2d((maps * kept).flatten(0, 1)[:, None], ones, padding=1)[:, 0].unflatten(0, maps.shape[:2])
    replaced = (kept == 0) & (counts > 0)
    return (sums / counts.clamp_min(1)).where(replaced, maps).flatten(2).transpose(1, 2)


def _cosines(patches: Tensor) -> Tensor:
    """(B, N, D) -> (B, N, N)."""
    from torch.nn import functional

    unit = functional.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


def _averaging(cosines: Tensor) -> Tensor:
    """Weights by which patches are averaged with those like them, rows adding up to 1."""
    weights = cosines.where(cosines >= LIKE, 0)
    return weights / (weights.sum(dim=-1, keepdim=True) + SMALL)


def _by_likeness(cosines: Tensor) -> Tensor:
    """Attention to patches that are more alike than the image's patches are on the whole."""
    logits = SHARPNESS * (cosines - cosines.mean(dim=(1, 2), keepdim=True))
    return logits.where(logits >= 0, float("-inf")).softmax(dim=-1)
