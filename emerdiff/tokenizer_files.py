"""The files of a tokenizer: JSON and text alone, checked, and laid into a folder of their own for transformers to read.

The copy holds known settings only, so nothing else in a model's folder reaches transformers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from emerdiff.configs import read_config, read_json
from emerdiff.settings import (
    FLAG,
    NOTHING,
    OBJECT,
    Allowed,
    Table,
    choice,
    either,
    known_settings,
    listed,
    number,
    one_line,
    refusal,
    text,
    whole,
)
from emerdiff.tokenizer_steps import check_steps

Result = TypeVar("Result")
LARGEST = 2**28  # bytes of a vocabulary
ENTRIES = 4_000_000  # of a vocabulary
WORD = text(most=500)
ENTRY = Allowed("an object with content", lambda value: isinstance(value, dict) and WORD.fits(value.get("content")))
TOKEN = either(WORD, ENTRY, NOTHING)
ADDED = Allowed(
    "an object of added tokens by their numbers",
    lambda value: isinstance(value, dict) and all(key.isdecimal() and TOKEN.fits(one) for key, one in value.items()),
)
NAMED = Allowed(
    "an object of tokens", lambda value: isinstance(value, dict) and all(TOKEN.fits(one) for one in value.values())
)
TOKENS: Table = {
    **dict.fromkeys((f"{name}_token" for name in ("bos", "eos", "unk", "pad", "cls", "sep", "mask")), TOKEN),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"), either(listed(TOKEN, 0, 2000), NAMED, NOTHING)
    ),
}
TOKENIZER: Table = {
    **TOKENS,
    "added_tokens_decoder": ADDED,
    "tokenizer_class": text(r"[A-Za-z]\w*", most=100),
    "model_max_length": either(number(1, 1e31), NOTHING),
    "errors": choice("replace", "strict", "ignore"),
    "padding_side": choice("left", "right"),
    "truncation_side": choice("left", "right"),
    "extra_ids": whole(0, 1000),
    **dict.fromkeys(
        (
            *("add_prefix_space", "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "do_lower_case"),
            *("do_basic_tokenize", "keep_accents", "legacy", "remove_space", "split_special_tokens", "strip_accents"),
            *("tokenize_chinese_chars", "trim_offsets"),
        ),
        either(FLAG, NOTHING),
    ),
}
MODEL: Table = {name: text(r"[A-Za-z][\w-]*", most=100) for name in ("model_type", "tokenizer_class")}
NUMBERS = Allowed(
    f"an object of words and their numbers from 0 to {ENTRIES - 1}",
    lambda value: isinstance(value, dict) and all(type(one) is int and 0 <= one < ENTRIES for one in value.values()),
)
# Of tokenizer.json: what is looked at before the tokenizers library reads the file.
WHOLE: Table = {"model": OBJECT, "added_tokens": either(listed(ENTRY, 0, ENTRIES), NOTHING)}
VOCABULARY: Table = {"vocab": either(NUMBERS, Allowed("a list", lambda value: isinstance(value, list)))}


def read_tokenizer(folder: Path, read: Callable[[Path], Result]) -> Result:
    """What `read` makes of the tokenizer in a folder; it is given another folder, of checked files.

    Raises ValueError, naming a file and its key, or the folder where `read` fails.
    """
    with TemporaryDirectory(prefix="ovseg-tokenizer-") as place:
        copy = Path(place)
        _copy_settings(folder, copy)
        _copy_vocabularies(folder, copy)
        with failures_named(folder, place):
            return read(copy)


@contextmanager
def failures_named(folder: Path, place: str = "") -> Iterator[None]:
    """A block in which whatever the tokenizers library raises is a ValueError that names the tokenizer's folder.

    place: where a copy of it lies, for messages that name that.
    """
    try:
        yield
    except BaseException as error:  # the library raises plain Exception, and panics as BaseException
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        reason = one_line(error).replace(place or str(folder), str(folder))
        raise ValueError(f"{folder}: not a tokenizer that can be read ({reason})") from error


def _copy_settings(folder: Path, copy: Path) -> None:
    """Known settings of those files that are there."""
    tables = {"tokenizer_config.json": TOKENIZER, "special_tokens_map.json": TOKENS, "config.json": MODEL}
    for name, known in tables.items():
        if (folder / name).is_file():
            settings = known_settings(folder / name, read_config(folder / name), known)
            (copy / name).write_text(json.dumps(settings), encoding="utf-8")


def _copy_vocabularies(folder: Path, copy: Path) -> None:
    """The files of words, as they are: they may be large, so they are linked where the system has links."""
    for name in ("vocab.json", "added_tokens.json", "tokenizer.json"):
        if not (path := folder / name).is_file():
            continue
        content = read_json(path, LARGEST)
        if name == "tokenizer.json":
            known_settings(path, content, WHOLE)
            known_settings(path, content.get("model"), VOCABULARY, "model.")
            check_steps(path, content)
        elif not NUMBERS.fits(content):
            raise refusal(path, "the file", NUMBERS.expected, content)
        _link(path, copy / name)
    for name in ("merges.txt", "vocab.txt"):
        if (path := folder / name).is_file():
            if (size := path.stat().st_size) > LARGEST:
                raise ValueError(f"{path}: expected at most {LARGEST} bytes, got {size}")
            _link(path, copy / name)


def _link(path: Path, copy: Path) -> None:
    try:
        os.symlink(path.absolute(), copy)
    except (OSError, NotImplementedError):
        shutil.copyfile(path, copy)
