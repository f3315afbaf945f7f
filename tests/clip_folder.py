"""Builder of a tiny open_clip folder with random weights: a ViT, a small text tower, and a tokenizer of bytes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

TINY_CELL = 8  # pixels per patch of the tiny ViT
TINY_CHANNELS = 16  # of its text space


def tiny_config(**vision: Any) -> dict[str, Any]:
    """The `model_cfg` of the tiny CLIP: 32x32 pixels, patch 8; `vision` overrides entries of its vision_cfg."""
    tower = {"image_size": 32, "patch_size": TINY_CELL, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 514, "width": 16, "heads": 2, "layers": 1}
    return {
        "embed_dim": TINY_CHANNELS,
        "quick_gelu": True,
        "vision_cfg": tower | vision,
        "text_cfg": text | {"hf_tokenizer_name": "tiny"},
    }


def save_tiny_clip(folder: Path, seed: int = 0, **vision: Any) -> Path:
    """Save open_clip_config.json, open_clip_model.safetensors and tokenizer files (all 256 bytes, no merges)."""
    config = tiny_config(**vision)
    save_tokenizer(folder)
    torch.manual_seed(seed)
    arguments = {key: value for key, value in config.items() if key != "text_cfg"}
    text = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    model = open_clip.CLIP(**arguments, text_cfg=text)
    for parameter in model.visual.parameters():  # zero biases and unit norms would hide mistakes
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    return folder


def save_tokenizer(folder: Path) -> None:
    """CLIP's scheme: each byte alone and at a word's end, then start of text, then end of text with the highest id."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
