"""The steps of a tokenizer.json, which run on every text: few, of bounded growth, with patterns that come to an end.

The tokenizers library trusts what it reads: it follows patterns by backtracking, adds what a template says, and ends
the process where memory does not suffice. Tokenizers of CLIPs and their kin stay far below these bounds.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emerdiff.settings import refusal

STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
MOST_OBJECTS = 200  # of a step, in all its parts
MOST_ENTRIES = 100  # of each list in a step
GROWTH = 4096  # times that a step may lengthen a text, if each of its parts acts on all of it
BYTE_LEVEL = 2  # times that a part of this kind may: it writes bytes as letters of up to two

# A pattern in the syntax of Oniguruma, as far as it is read here: pieces, groups of them, and alternatives.
ESCAPE = r"\\(?:[pP]\{\^?\w{1,40}\}|[sSwWdDbBAzZtnrfv]|x[\da-fA-F]{2}|u[\da-fA-F]{4}|[^\w])"
SET = rf"\[\^?(?:{ESCAPE}|\[:\^?\w{{1,10}}:\]|[^\\\]])+\]"
PIECE = rf"(?:{ESCAPE}|{SET}|[^\\\[\](){{}}|*+?])(?:[*+?][?+]?|\{{\d{{0,3}},?\d{{0,3}}\}}\??)?"
GROUP = rf"\((?:\?(?:i:|:|!|=|>|<!|<=))?(?:{PIECE}|\|)*\)\??"
PART = re.compile(rf"(?P<piece>{PIECE})|(?P<group>{GROUP})|(?P<bar>\|)", re.DOTALL)
REPEATED = re.compile(rf"{ESCAPE}|{SET}|(?P<repeat>[*+]|\{{[\d,])|(?P<maybe>\?)", re.DOTALL)
LONGEST_PATTERN = 2000
MOST_REPEATS, MOST_GROUPS, MOST_OPTIONAL = 3, 2, 8  # of each alternative: so many ways there are through a text
SIMPLE = f"a pattern without repeats inside repeats, with at most {MOST_REPEATS} of them in a row"


def check_steps(path: Path, content: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the file and the step, for one that might not end, or make gigabytes of a word."""
    for step in STEPS:
        growth = 1
        for count, part in enumerate(_objects(path, step, content.get(step)), 1):
            pattern = part.get("Regex")
            if isinstance(pattern, str) and not ends(pattern):
                raise refusal(path, step, SIMPLE, pattern)
            growth *= _growth(path, step, part)
            if growth > GROWTH:
                raise ValueError(f"{path}: {step}: expected texts to grow {GROWTH} times at most, by what is inserted")
            if count > MOST_OBJECTS:
                raise ValueError(f"{path}: {step}: expected at most {MOST_OBJECTS} objects in it")


def _objects(path: Path, step: str, value: Any) -> Iterator[dict[str, Any]]:
    """The objects within a step, its own first. Raises ValueError for a list that is too long."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += one.values()
        elif isinstance(one, list):
            if len(one) > MOST_ENTRIES:
                raise ValueError(f"{path}: {step}: expected lists of at most {MOST_ENTRIES}, got one of {len(one)}")
            left += one


def _growth(path: Path, step: str, part: Mapping[str, Any]) -> int:
    """How many times a part may lengthen a text: by what it inserts for each letter."""
    if part.get("type") == "ByteLevel":
        return BYTE_LEVEL
    if isinstance(table := part.get("precompiled_charsmap"), str):
        return _longest_entry(path, step, table)
    inserted = part.get("content", part.get("prepend", ""))
    return max(1, len(inserted) if isinstance(inserted, str) else 1)


def _longest_entry(path: Path, step: str, table: str) -> int:
    """Bytes of the longest replacement in SentencePiece's table: the size of a trie (4 bytes), the trie, and texts that
    end in NUL. Raises ValueError where the size is beyond the table, for which memory would be taken."""
    try:
        data = base64.b64decode(table, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{path}: {step}.precompiled_charsmap: expected base64 ({error})") from error
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or 4 + size > len(data):
        raise ValueError(f"{path}: {step}.precompiled_charsmap: expected a trie of at most {len(data)} bytes")
    return max(1, *map(len, data[4 + size :].split(b"\0")))


def ends(pattern: str) -> bool:
    """Whether the ways in which a pattern can match a text of n letters are few: some n^3 of each beginning.

    Of nested repeats there are 2^n. Back references and recursion are not read.
    """
    if len(pattern) > LONGEST_PATTERN:
        return False
    place = repeats = groups = optional = 0
    while place < len(pattern):
        if (part := PART.match(pattern, place)) is None:
            return False
        place = part.end()
        if part["bar"]:
            repeats = groups = optional = 0
            continue
        groups += part["group"] is not None
        inside = part[0].removeprefix("(?")
        for found in REPEATED.finditer(inside):
            repeats += found["repeat"] is not None
            optional += found["maybe"] is not None
        if repeats > MOST_REPEATS or groups > MOST_GROUPS or optional > MOST_OPTIONAL:
            return False
    return True
