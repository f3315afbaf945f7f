"""The pocket models' tokenizer: CLIP's byte-pair encoding, cut to its commonest merges."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import open_clip
from transformers import CLIPTokenizer

MERGES = 4000  # of CLIP's 48,894
CONTEXT = 24  # tokens


def build() -> CLIPTokenizer:
    """All 256 bytes and their word-final forms stay, so any text can be spelled; `<|endoftext|>` has the highest id."""
    table = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")
    merges: Any = [(first, second) for first, second in (line.split() for line in lines[1 : 1 + MERGES])]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = letters + [f"{letter}</w>" for letter in letters] + [a + b for a, b in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
