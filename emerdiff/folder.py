"""A diffusers folder: where it is, whether it is whole, and the networks in it. Only safetensors weights are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from emerdiff.configs import read_config
from emerdiff.memory import is_out_of_memory

WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
TOKENIZERS = (("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt"))
FETCHED = [*WEIGHTS, *CONFIGS, "tokenizer/*.json", "tokenizer/*.txt"]


def local_folder(id_or_folder: str | Path) -> Path:
    """The folder itself, or the local copy of a hub repository; OSError where one of its files is missing."""
    folder = Path(id_or_folder)
    if not folder.is_dir():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(id_or_folder)):
            raise FileNotFoundError(f"{id_or_folder}: no such folder (and not a hub id like owner/name)")
        folder = _snapshot(str(id_or_folder))
    missing = _missing(folder)
    if missing:
        raise FileNotFoundError(f"{folder}: not a diffusers folder with safetensors weights; missing: {missing}")
    return folder


def _snapshot(repository: str) -> Path:
    """Return the local copy of a hub repository, downloading it only where the cache does not hold it whole."""
    try:
        folder = Path(snapshot_download(repository, allow_patterns=FETCHED, local_files_only=True))
        if not _missing(folder):
            return folder
    except OSError:
        pass
    try:
        return Path(snapshot_download(repository, allow_patterns=FETCHED))
    except Exception as error:  # the hub client's network errors share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{repository}: no such folder, not in the local hub cache, and not available from the hub ({reason})"
        ) from error


def _missing(folder: Path) -> str:
    """Return the files that `folder` lacks, joined by commas."""
    missing = [name for name in (*CONFIGS, *WEIGHTS) if not (folder / name).is_file()]
    if not any(all((folder / name).is_file() for name in form) for form in TOKENIZERS):
        missing.append(" or ".join(" + ".join(form) for form in TOKENIZERS))
    return ", ".join(missing)


def check_class(path: Path, expected: str) -> None:
    """ValueError where a config.json is of another class."""
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
