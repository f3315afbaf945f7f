"""The empty prompt, encoded: what a model is conditioned on, for no text is ever given to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from emerdiff.folder import Stored, read_weights, sketch_network
from emerdiff.settings import refusal
from emerdiff.tokenizer_files import read_tokenizer


class TextEncoders(Protocol):
    """The text encoders of a model on disk, by their names: "text_encoder", "text_encoder_2"."""

    def where(self, part: str) -> Path:
        """The file that states a part's settings."""

    def text_encoder(self, part: str) -> dict[str, Any]:
        """The arguments of CLIPTextConfig; ValueError."""

    def tokens(self, part: str, config: Any) -> Tensor:
        """The empty prompt's tokens (1, S) int64; ValueError."""

    def weights(self, part: str) -> Stored:
        """A part's weights."""


def encode(parts: TextEncoders, part: str, dtype: torch.dtype, *, projected: bool = False) -> Any:
    """What a text encoder makes of the empty prompt, padded as the tokenizer says.

    The result has last_hidden_state (1, S, D), hidden_states, and of a `projected` encoder text_embeds (1, E).
    """
    sketch = sketch_text_encoder(parts, part, projected=projected)
    tokens = parts.tokens(part, sketch.config)
    weights = read_weights(sketch, parts.weights(part), dtype)
    with _no_progress_bar():
        encoder = _kind(projected).from_pretrained(None, config=sketch.config, state_dict=weights, dtype=dtype).eval()
    with torch.inference_mode():
        return encoder(tokens, output_hidden_states=True)


def sketch_text_encoder(parts: TextEncoders, part: str, *, projected: bool = False) -> Any:
    """A text encoder on torch's meta device."""
    settings, path = parts.text_encoder(part), parts.where(part)
    if projected and not settings.get("projection_dim"):
        raise refusal(path, "projection_dim", "a whole number, for a pooled embedding", settings.get("projection_dim"))
    return sketch_network(lambda: _kind(projected)(CLIPTextConfig(**settings)), path)


def _kind(projected: bool) -> Any:
    return CLIPTextModelWithProjection if projected else CLIPTextModel


def tokenize_nothing(place: Path, config: Any) -> Tensor:
    """The empty prompt's tokens (1, S) int64 by the tokenizer in a folder.

    config: of the text encoder; ValueError for tokens that it does not know.
    """
    length = config.max_position_embeddings

    def tokenize(copy: Path) -> Tensor:
        tokenizer = CLIPTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
        settings: Any = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        tokens: Tensor = tokenizer("", **settings).input_ids
        return tokens

    tokens = read_tokenizer(place, tokenize)
    if tokens.shape != (1, length):
        raise ValueError(f"{place}: expected {length} tokens of no text, got {tokens.numel()}")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < config.vocab_size:
        raise ValueError(f"{place}: expected tokens below vocab_size, {config.vocab_size}, got {int(tokens.max())}")
    return tokens


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over the second that loading from a disk takes."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
