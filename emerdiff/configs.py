"""JSON of model folders, which is untrusted: no setting in it may import, download or run code.

`check_configs` looks at every setting before a library does. It refuses, by name, the keys by which diffusers,
transformers, open_clip and timm fetch code or other repositories. Weights are not checked here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emerdiff.settings import check_regular, refusal, show, show_key

# Vocabularies, whose keys are words, and tables of weights; no library takes a setting from them.
TABLES = re.compile(r"vocab\.json|tokenizer\.json|added_tokens\.json|.*\.index(\.\w+)?\.json")
# Keys of transformers and similar libraries that name code, or a repository to fetch something from.
CODE = re.compile(
    r"auto_?map|custom_.*|.*remote.*|.*kernel.*|.*code_revision|.*quantization_config|base_model_name_or_path"
)
PLAIN = {"custom_text", "conv_in_kernel", "conv_out_kernel"}  # numbers and switches that CODE would match
ATTENTION = re.compile(r"_?(attn|experts)_implementation.*")  # may name a kernel to download
BUILT_IN = (None, "eager", "sdpa")
WORDS = "label2id"  # its keys are words, in any script
DEEPEST = 50  # levels of nesting
LONGEST = 2**24  # bytes of a file of settings


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file's settings, checked. Raises ValueError, naming the file and the key, as `check_configs`."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object of settings, got {show(config)}")
    for keys, value in _settings(config, path):
        _check_setting(path, keys, value)
    return config


def read_json(path: Path, longest: int = LONGEST) -> Any:
    """What a JSON file of at most `longest` bytes holds. Raises ValueError, naming the file, for any other file."""
    check_regular(path)
    if (size := path.stat().st_size) > longest:
        raise ValueError(f"{path}: expected at most {longest} bytes, got {size}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def check_configs(*folders: Path) -> None:
    """Refuse folders whose JSON files ask for code, for another repository, or for a kernel.

    Raises ValueError, naming the file and the key, also for a file that is no JSON object.
    """
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            if not TABLES.fullmatch(path.name):
                read_config(path)


def _check_setting(path: Path, keys: tuple[str, ...], value: Any) -> None:
    name, dotted = unicodedata.normalize("NFKC", keys[-1]).casefold().replace("-", "_"), ".".join(keys)
    if value is None or value is False:
        return
    if not keys[-1].isascii() and not CODE.fullmatch(name) and WORDS not in keys[:-1]:
        raise ValueError(f"{path}: {ascii(dotted)}: expected a key of plain letters; this one only looks like another")
    if ATTENTION.fullmatch(name):
        if value not in BUILT_IN:
            raise refusal(path, dotted, "eager or sdpa, for kernels are never downloaded", value)
    elif CODE.fullmatch(name) and name not in PLAIN:
        raise ValueError(
            f"{path}: {show_key(dotted)}: this setting takes code or a model from elsewhere, and only weights and "
            "plain settings are read; choose another model, or take the key out if you trust the rest"
        )


def _settings(config: Any, path: Path, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every (path of keys, value) in nested settings, outermost first."""
    if len(keys) > DEEPEST:
        raise ValueError(f"{path}: {show_key('.'.join(keys[:3]))}: nested more than {DEEPEST} levels deep")
    if isinstance(config, list):
        for index, value in enumerate(config):
            yield from _settings(value, path, (*keys, str(index)))
    elif isinstance(config, dict):
        for key, value in config.items():
            yield (*keys, key), value
            yield from _settings(value, path, (*keys, key))
