"""Attention within masks: in a CLIP ViT's last block a patch attends only to patches of its own mask.

CorrCLIP's scope (arXiv 2411.10086) with the masks at hand in place of SAM's, and CLIP's own queries and keys in place
of another network's. Like there the residual and the MLP are dropped. Masks with like features can be one for this
(`regions.merged`), so that what the masks split is still seen as a whole. Importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SHARPNESS = 4.0  # of attention by likeness: the factor of the cosines

Mix = Callable[["Tensor", "Tensor", "Tensor", tuple[int, int]], "Tensor"]


def alike(masks: Tensor) -> Mix:
    """Attention to all patches of the same mask, equally. masks (B, N) int64: which mask each patch is of."""

    def mix(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        inside = _inside(masks)[:, None].to(value)
        return (inside / inside.sum(dim=-1, keepdim=True)) @ value

    return mix


def by_likeness(masks: Tensor) -> Mix:
    """Attention to patches of the same mask, by softmax(4 cos) of queries and keys of all heads, put end to end."""

    def mix(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        import torch
        from torch.nn import functional

        both = torch.cat([query, key], dim=-1).transpose(1, 2).flatten(2)
        unit = functional.normalize(both, dim=-1)
        logits = SHARPNESS * unit @ unit.transpose(1, 2)
        weights = logits.masked_fill(~_inside(masks), float("-inf")).softmax(dim=-1)
        return weights[:, None] @ value

    return mix


def _inside(masks: Tensor) -> Tensor:
    """(B, 1+N, 1+N) bool: whether two tokens are of one mask; the class token is by itself."""
    from torch.nn import functional

    ids = functional.pad(masks, (1, 0), value=-1)
    return ids[:, :, None] == ids[:, None]


SCOPES: dict[str, Callable[[Tensor], Mix]] = {"uniform": alike, "like": by_likeness}
NO_SCOPE = "none"


def check_scope(name: str) -> None:
    """Raise ValueError for a name that is neither in `SCOPES` nor "none"."""
    if name not in (NO_SCOPE, *SCOPES):
        raise ValueError(f"scope: no scope {name!r}, expected one of {', '.join((NO_SCOPE, *SCOPES))}")
