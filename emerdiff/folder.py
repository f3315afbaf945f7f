"""A diffusers folder: whether it is complete, and the networks in it. Only safetensors weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from emerdiff.configs import CONFIGS, TOKENIZERS, WEIGHTS, read_config
from emerdiff.memory import is_out_of_memory


def check_whole(folder: Path) -> None:
    """Raise FileNotFoundError where the folder, or a file that a model needs, is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    missing = [name for name in (*CONFIGS, *WEIGHTS) if not (folder / name).is_file()]
    if not any(all((folder / name).is_file() for name in form) for form in TOKENIZERS):
        missing.append(" or ".join(" + ".join(form) for form in TOKENIZERS))
    if missing:
        raise FileNotFoundError(
            f"{folder}: not a diffusers folder with safetensors weights; missing: {', '.join(missing)}"
        )


def check_class(path: Path, expected: str) -> None:
    """Raise ValueError where a config.json is of another class."""
    name = read_config(path).get("_class_name", expected)
    if name != expected:
        raise ValueError(f"{path}: _class_name: expected {expected}, got {name!r}")


def load_network(model_class: Any, folder: Path, part: str, **settings: Any) -> Any:
    """Load one network of the folder, refusing weights that leave a parameter at its random start."""
    try:
        model, report = model_class.from_pretrained(
            folder / part, use_safetensors=True, local_files_only=True, output_loading_info=True, **settings
        )
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{folder}/{part}: weights do not fit config.json ({error})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{folder}/{part}: {len(missing)} parameters are not in the weights, such as {missing[0]}")
    return model


def sketch_network(model_class: Any, folder: Path, part: str) -> Any:
    """A diffusers network of the folder on torch's meta device: shapes without values, from config.json alone."""
    try:
        with torch.device("meta"):
            return model_class.from_config(read_config(folder / part / "config.json"))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/{part}/config.json: no network can be built from it ({error})") from error
