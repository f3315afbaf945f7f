"""Steps of a stranger's tokenizer.json: patterns that never end, texts that grow without end, tables that lie."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import string
import time
from pathlib import Path
from typing import Any

import pytest
from fuzzing import bounded_memory, check_one_line

from emerdiff.tokenizer_steps import ends
from ovseg.towers.clip import Clip

# Of CLIP, GPT-2, Llama 3, GPT-4o and SigLIP, in their tokenizers' own words, and smaller ones.
KNOWN = [
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s+",
    *(
        f"[{re.escape(string.punctuation)}]",
        r"[!\"#$%&'()*+,-./:;<=>?@[\\\]^_`{|}~]",
        r"\s+",
        r" {2,}",
        r"[一-龥]+",
        ".",
    ),
    *(r"(?:^|\s)\S+", r"\w+|[^\w\s]+", r"[[:punct:]]+", "", r"(?<=a)b"),
]
ENDLESS = [
    *(r"(a+)+$", r"(a|a)*c", r"(?:a|aa)+$", r"(.*)*\x00", r"(?>a+)+", r"a{1,50}+", r"(a{2,30}){2,30}", r"((a))"),
    *(r"\g<0>", r"(?<n>a\g<n>?\g<n>?)b", r"(a)\1", r"\k<n>", r"(?(1)a|b)", r"(?~a)", "[", "a" * 2001),
    *("a*a*a*a*b", "a{,9}a{,9}a{,9}a{,9}b", "(?:a|a)(?:a|a)(?:a|a)b", "a?" * 9, "[a]b]*c", "(?#a)"),
]


def test_patterns_of_known_tokenizers_are_read_and_endless_ones_are_not() -> None:
    for pattern in KNOWN:
        assert ends(pattern), pattern
    for pattern in ENDLESS:
        assert not ends(pattern), pattern


def test_whether_a_pattern_ends_is_known_soon() -> None:
    start, draw = time.process_time(), random.Random(0)
    for pattern in ("[" + "\\]" * 900, "(" * 2000, "(a" * 900, "[[:" * 600, "(?:" + "a?" * 900, "\\p{" + "a" * 1900):
        ends(pattern)
    for _ in range(300):
        ends("".join(draw.choice(r"ab\[](){}|*+?^-:,pwL1") for _ in range(draw.choice((10, 100, 1000)))))
    assert time.process_time() - start < 2


def test_what_is_let_through_does_not_keep_the_library_long() -> None:
    """Random patterns of few letters on texts on which nested repeats would take hours."""
    from tokenizers import Regex, pre_tokenizers

    tried, draw, texts = 0, random.Random(1), ("a" * 60 + "c", "ab" * 40, "a b " * 20)
    start = time.process_time()
    while tried < 150:
        pattern = "".join(draw.choice(("a", "b", ".", "[ab]", "*", "+", "?", "|", "(?:", ")", "$")) for _ in range(12))
        if not ends(pattern):
            continue
        try:
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
        except Exception:  # noqa: BLE001, S112 - the library's own, of no pattern
            continue
        for text in texts:
            split.pre_tokenize_str(text)
        tried += 1
    assert time.process_time() - start < 10


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: str, content: str = " ") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def table(*parts: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"".join(parts)).decode()}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ONE = {"id": "a", "ids": [1], "tokens": ["a"]}
TEMPLATE = {"type": "TemplateProcessing", "pair": []}
# step, what it says, what is said of it
WICKED: list[tuple[str, Any, str]] = [
    ("pre_tokenizer", split(r"(a+)+$"), "pre_tokenizer: expected a pattern without repeats inside repeats"),
    (
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [split("a"), split(r"(a|a)*$")]},
        "pre_tokenizer: expected",
    ),
    ("normalizer", replace(r"(a+)+$"), "normalizer: expected a pattern"),
    ("decoder", replace(r"(a+)+$"), "decoder: expected a pattern"),
    ("normalizer", {"type": "Sequence", "normalizers": [replace(".", "a" * 70)] * 3}, "normalizer: expected texts to"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES] * 30}, "pre_tokenizer: expected texts to grow"),
    (
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [split("a")] * 101},
        "at most 100, got one of 101",
    ),
    ("normalizer", {"a": [[{"type": "NFC"}] * 50] * 5}, "normalizer: expected at most 200 objects in it"),
    (
        "post_processor",
        TEMPLATE | {"single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 10**5, "special_tokens": {"a": ONE}},
        "post_processor: expected lists of at most 100",
    ),
    (
        "post_processor",
        TEMPLATE | {"single": [], "special_tokens": {"a": ONE | {"ids": [1] * 101}}},
        "post_processor: expected lists of at most 100",
    ),
    ("normalizer", table(b"\xff" * 5000), "precompiled_charsmap: expected a trie of at most 5000 bytes"),
    ("normalizer", table(b"\xfd\xff\xff\xff" + bytes(9)), "precompiled_charsmap: expected a trie of at most 13 bytes"),
    ("normalizer", table(b"\4\0\0\0", bytes(4), b"x" * 5000), "normalizer: expected texts to grow 4096 times at most"),
    ("normalizer", table(b"\0"), "precompiled_charsmap: expected a trie of at most 1 bytes"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "!"}, "precompiled_charsmap: expected base64"),
    ("normalizer", table(b"\4\0\0\0", b"\xff" * 4, b"a"), "not a tokenizer that can be read"),  # leads out of its trie
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}, "not a tokenizer that can be read"),
]


@pytest.fixture(scope="module")
def clip_folder(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP whose tokenizer.json is read as it is written, not by a class with steps of its own."""
    folder = Path(shutil.copytree(tiny_clip, tmp_path_factory.mktemp("tokenizers") / "clip"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.mark.parametrize(("step", "value", "said"), WICKED)
def test_wicked_steps_are_one_line_soon_and_in_little_memory(clip_folder, step, value, said, capfd) -> None:
    path = clip_folder / "tokenizer.json"
    sound = path.read_text()
    path.write_text(json.dumps(json.loads(sound) | {step: value}))
    start = time.process_time()
    try:
        with bounded_memory(2**31), pytest.raises(ValueError) as caught:
            Clip.from_pretrained(clip_folder)
        check_one_line(caught.value, str(clip_folder))
        assert said in str(caught.value) and time.process_time() - start < 5
    finally:
        path.write_text(sound)


def test_a_failure_of_the_library_at_work_names_the_folder(clip_folder: Path) -> None:
    """A pattern that the library itself gives up on: its panic is no Exception."""
    from tokenizers import Regex, pre_tokenizers

    clip = Clip.from_pretrained(clip_folder)
    clip.tokenizer.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    for work in (lambda: clip.encode_text(["a" * 40 + " b"], ["{}"]), lambda: clip.tokenizer(["a" * 40 + " b"])):
        with pytest.raises(ValueError, match="not a tokenizer that can be read .*retry-limit") as caught:
            work()
        check_one_line(caught.value, str(clip_folder))
