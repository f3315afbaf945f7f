"""Weights that make an ordinary ViT's attention local, so that a patch's feature says what is at the patch.

In so small a CLIP, trained on whole pictures, every patch comes to carry the whole caption, which ruins dense
features. Here
the residual stream reserves channels that hold a patch's row and column as one-hot vectors; in every head, queries
copy them and keys answer them with a large negative number wherever rows or columns lie further apart than `RADIUS`.
Nothing else reads or writes these channels. The result is a plain open_clip ViT: no mask and no code of its own is
needed to run it.

Position is all that tells one neighbour from another, and patches that cannot tell left from right know no shapes. So
each of a block's three heads prefers one direction: the row above, the same, or the one below, and in every other block
columns likewise, so that two blocks can see their 3x3 as a convolution does; content weighs in, and in the shipped
CLIP's later blocks more than that. At the edge of a picture, where there is no such row, a head looks at the others.

Layer norm shares its scale with the other channels, and activations grow in training. So the positions are large from
the start, and layer norm's gains for the others make up for it. Where single patches grow as large, a feature may still
reach further: in the shipped CLIP a changed patch moves about one in fifty of those out of its sight.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

RADIUS = 1  # patches: a block looks at 3x3 of them
HEIGHT = 100.0  # of the one-hot vectors in the residual stream, whose other channels start near 1
# Of queries and keys. With HEIGHT it puts far patches hundreds below near ones before the softmax, so that their
# weights are exact zeros; numbers that are merely tiny would be denormal, and slow on a CPU.
GAIN = 10.0
PREFERENCE = 1 / 64  # for keys in a head's direction, in parts of what keeps it from far ones: 6 before the softmax


def reserved(tower: VisionTransformer) -> int:
    """How many channels, the last ones of the residual stream, tell the position: rows, columns, class token."""
    return sum(tower.grid_size) + 1


def positions(tower: VisionTransformer) -> Tensor:
    """The positional embedding (1 + N, D): one-hot row and column of every patch, a channel of its own for the rest."""
    rows, columns = tower.grid_size
    embedding = torch.zeros(1 + rows * columns, tower.positional_embedding.shape[1])
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    first = embedding.shape[1] - reserved(tower)
    patches = 1 + torch.arange(rows * columns)
    embedding[patches, first + y.flatten()] = HEIGHT
    embedding[patches, first + rows + x.flatten()] = HEIGHT
    embedding[0, -1] = HEIGHT
    embedding[patches, -1] = -2 * HEIGHT  # so that positions add nothing to layer norm's mean
    return embedding


@torch.no_grad()
def level(tower: VisionTransformer) -> None:
    """Lets an untrained tower's layer norms undo, for the other channels, what the positions do to the scale."""
    width, count = tower.positional_embedding.shape[1], reserved(tower)
    deviation = HEIGHT * math.sqrt(6 / width)  # of a patch's residual stream by its positions alone
    norms = [norm for block in tower.transformer.resblocks for norm in (block.ln_1, block.ln_2)]
    for norm in (*norms, tower.ln_post):
        norm.weight[:-count] = deviation


@torch.no_grad()
def impose(tower: VisionTransformer) -> None:
    """Writes the fixed entries into the tower's weights: after it is built, and again after every optimiser step."""
    count = reserved(tower)
    tower.positional_embedding.copy_(positions(tower))
    tower.class_embedding[-count:] = 0
    tower.conv1.weight[-count:] = 0
    far = _far(tower).to(tower.proj.device)
    for number, block in enumerate(tower.transformer.resblocks):
        block.ln_1.weight[-count:] = 1
        block.ln_1.bias[-count:] = 0
        queries, keys, _ = block.attn.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = block.attn.in_proj_bias.chunk(3)
        block.attn.in_proj_weight[:, -count:] = 0
        for head in range(block.attn.num_heads):
            end = (head + 1) * block.attn.head_dim
            rows = slice(end - count, end)
            sight = PREFERENCE * _toward(tower, number % 2, head - 1).to(far.device) - far
            for weight, bias, answer in ((queries, query_bias, torch.eye(count)), (keys, key_bias, sight)):
                weight[rows] = 0
                weight[rows, -count:] = GAIN * answer.to(weight.device)
                bias[rows] = 0
        for written in (block.attn.out_proj, block.mlp.c_proj):
            written.weight[-count:] = 0
            written.bias[-count:] = 0
        block.mlp.c_fc.weight[:, -count:] = 0
    tower.proj[-count:] = 0


def shield(tower: VisionTransformer) -> None:
    """Keeps gradients from the fixed entries, for optimisers that look at a matrix as a whole."""
    blank = copy.deepcopy(tower)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.fill_(torch.nan)
    impose(blank)
    for parameter, written in zip(tower.parameters(), blank.parameters(), strict=True):
        free = written.isnan()
        if not free.all():
            parameter.register_hook(partial(torch.mul, free))


def _toward(tower: VisionTransformer, axis: int, offset: int) -> Tensor:
    """(query's channel, key's channel) float: 1 where the key lies `offset` rows (or columns) further on."""
    rows, columns = tower.grid_size
    first, side = (0, rows) if axis == 0 else (rows, columns)
    toward = torch.zeros(reserved(tower), reserved(tower))
    toward[first : first + side, first : first + side] = torch.eye(side).roll(offset, 1).tril(1).triu(-1)
    return toward


def _far(tower: VisionTransformer) -> Tensor:
    """(query's channel, key's channel) float: 1 where the two positions are further apart than `RADIUS`."""
    rows, columns = tower.grid_size
    far = torch.zeros(reserved(tower), reserved(tower))
    for first, side in ((0, rows), (rows, columns)):
        apart = (torch.arange(side)[:, None] - torch.arange(side)[None]).abs() > RADIUS
        far[first : first + side, first : first + side] = apart.float()
    far[:-1, -1] = 1  # no patch looks at the class token
    return far
