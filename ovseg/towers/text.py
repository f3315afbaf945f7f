"""Sentences through a CLIP's text tower, without the padding behind them."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn


def embed(model: Any, tokens: Tensor) -> Tensor:
    """Embeddings (n, C) of tokens (n, L) int64, as open_clip's `encode_text` has them but for rounding.

    A causal tower that is read at the end of text takes no notice of what stands behind it, so positions behind the
    last end are left out: of CLIP's 77, its templates take some 20. Any other tower reads all.
    """
    if not (isinstance(model, CLIP) and model.text_pool_type in ("argmax", "eos") and model.attn_mask is not None):
        embeddings: Tensor = model.encode_text(tokens)
        return embeddings
    # The end of text has the highest number, or one of its own.
    ends = (tokens if model.text_pool_type == "argmax" else (tokens == model.text_eos_id).int()).argmax(dim=1)
    length = int(ends.max()) + 1
    dtype = model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens[:, :length]).to(dtype) + model.positional_embedding[:length].to(dtype)
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = states[torch.arange(len(states), device=states.device), ends]
    projection = model.text_projection
    if projection is None:
        return pooled
    projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected
