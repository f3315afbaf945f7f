"""What takes the place of a CLIP ViT's last block, so that every patch keeps a meaning of its own.

A published variant is a choice of two things: what a token attends to in the block's self-attention, and whether the
rest of the block (the residual and the MLP) is kept. The blocks before it run as trained, so each costs one forward
pass. Q, K and V are the block's own projections of its normed input, s = 1/sqrt(d) with d the channels of one head:

    maskclip        V                                          kept      MaskCLIP, the authors' code (arXiv 2112.01071)
    maskclip-plain  V                                          dropped   MaskCLIP, the paper's formula
    sclip           [softmax(s QQ^T) + softmax(s KK^T)] V      kept      SCLIP (arXiv 2312.01597)
    clearclip       softmax(s QQ^T) V                          dropped   ClearCLIP (arXiv 2407.12442)
    naclip          softmax(s KK^T + w) V                      dropped   NACLIP (arXiv 2404.08181)

Two read the blocks before the last as well (`layered`):

    elf             the blocks' attention, on every block's input        CLIPer (arXiv 2411.13836)
    sc-clip         likeness in a middle block, outliers replaced        SC-CLIP (arXiv 2411.15869)

`scope` has what attends within an image's masks.

Knows open_clip's two kinds of block; which towers can use a variant is `readout`' matter. Importing it loads no
torch, so that the command line knows the names. A new variant is a function and an entry in `VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovseg.towers import layered
from ovseg.towers.blocks import attended, projections

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURHOOD = 5.0  # patches: standard deviation of NACLIP's Gaussian

Mix = Callable[["Tensor", "Tensor", "Tensor", tuple[int, int]], "Tensor"]


@dataclass(frozen=True)
class Variant:
    """A last block by its mixing of tokens and by what else of it is kept; or more of the tower than that.

    layers: reads all blocks, see `layered`; it takes the place of `mix`, which then refuses.
    """

    mix: Mix  # (queries, keys, values, grid) -> mixed values; all (B, heads, 1+N, d), grid (h, w) of the N patches
    residual: bool  # add the block's input and run its MLP, as trained; else the attention's output alone
    layers: Callable[[Sequence[Any], Tensor, tuple[int, int]], Tensor] | None = None

    def run(self, block: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The block's output, (B, 1+N, D) -> (B, 1+N, D); the class token comes first, then N = h * w patches."""
        branch = self.branch(block, tokens, grid)
        if not self.residual:
            return branch
        tokens = tokens + branch
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))

    def branch(self, block: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The block's attention alone, as it would be added to the residual."""
        query, key, value = projections(block, block.ln_1(tokens))
        return attended(block, self.mix(query, key, value, grid))

    def levels(self, blocks: Sequence[Any], tokens: Tensor, grid: tuple[int, int], branch: bool = False) -> Tensor:
        """Tokens (B, 1+N, D) through all blocks, the last as the variant has it: (levels, B, 1+N, D).

        There is one level but for `elf`, which has one a block. branch: of the last block its attention alone.
        """
        if self.layers is not None:
            return self.layers(blocks, tokens, grid)
        *earlier, last = blocks
        for block in earlier:
            tokens = block(tokens)
        return (self.branch if branch else self.run)(last, tokens, grid)[None]


def own_value(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Every token attends to itself alone."""
    return value


def like_queries_and_keys(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """To tokens with a like query, and to tokens with a like key; the two sums are added, not averaged."""
    return _attention(query, query, value) + _attention(key, key, value)


def like_queries(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """To tokens with a like query."""
    return _attention(query, query, value)


def like_keys_nearby(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """To tokens with a like key, near ones before others."""
    return _attention(key, key, value, nearness(grid).to(key))


def reads_all_blocks(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Of a variant that is more than a last block."""
    raise ValueError(
        "dense: elf and sc-clip read all blocks of a ViT, known for open_clip's own VisionTransformer alone"
    )


VARIANTS: dict[str, Variant] = {
    "maskclip": Variant(own_value, residual=True),
    "maskclip-plain": Variant(own_value, residual=False),
    "sclip": Variant(like_queries_and_keys, residual=True),
    "clearclip": Variant(like_queries, residual=False),
    "naclip": Variant(like_keys_nearby, residual=False),
    "elf": Variant(reads_all_blocks, residual=False, layers=layered.elf),
    "sc-clip": Variant(reads_all_blocks, residual=False, layers=layered.sc_clip),
}


def check_variant(name: str) -> None:
    """Raise ValueError for a name that is not in `VARIANTS`."""
    if name not in VARIANTS:
        raise ValueError(f"dense: no variant {name!r}, expected one of {', '.join(VARIANTS)}")


def nearness(grid: tuple[int, int]) -> Tensor:
    """NACLIP's w, (1+N, 1+N) float32: exp(-distance^2 / (2 * 5^2)) between patches of the grid, row by row.

    Distances are in patches. The class token has no place on the grid: its row and column are 0.
    """
    import torch
    from torch.nn import functional

    rows, columns = (torch.arange(length, dtype=torch.float32) for length in grid)
    down, across = (torch.exp(-(place[:, None] - place).square() / (2 * NEIGHBOURHOOD**2)) for place in (rows, columns))
    return functional.pad(torch.kron(down, across), (1, 0, 1, 0))


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    from torch.nn import functional

    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
