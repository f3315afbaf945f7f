"""The files of a CLIP folder, by a config that was checked: its weights in open_clip's model, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from safetensors import SafetensorError, safe_open

from emerdiff.folder import Unfilled, len_of
from emerdiff.memory import check_room, is_out_of_memory
from emerdiff.settings import one_line
from emerdiff.tokenizer_files import read_tokenizer
from ovseg.clip_config import CLIP_CONFIG, CLIP_WEIGHTS, OPENAI_VOCABULARY, ClipConfig

FROM_FILES_ALONE = {"trust_remote_code": False, "local_files_only": True}  # for transformers' tokenizers
RESIZED = "positional_embedding"  # stored for another size of image or text, it is interpolated


def find_weights(folder: Path) -> Path:
    """The weights that are read. Raises FileNotFoundError, naming them, where there are none."""
    for name in CLIP_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder / CLIP_WEIGHTS[0]}: not there; CLIP weights are read from safetensors alone, "
        f"in a file named {' or '.join(CLIP_WEIGHTS)}"
    )


def load_model(folder: Path, config: ClipConfig, weights: Path, device: str | torch.device, dtype: torch.dtype) -> Any:
    """open_clip's model of a config, with its weights; as OpenAI has it, norms stay in float32.

    It is sketched on torch's meta device first, so that no memory is taken for what the weights do not hold. Raises
    ValueError for a config that open_clip cannot build and for weights that are not finite, OSError for weights of
    another model.
    """
    with torch.device("meta"):
        sketch = _build(folder, config, dtype)
    check_held(sketch, weights, folder, device)
    try:
        model = _build(folder, config, dtype).to(torch.device(device))
        if dtype != torch.float32:
            open_clip.convert_weights_to_lp(model, dtype)
        open_clip.load_checkpoint(model, str(weights), device="cpu")
    except (RuntimeError, SafetensorError, AssertionError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise _misfit(weights, folder, one_line(error)) from error
    check_finite(model, weights)
    return model


def _build(folder: Path, config: ClipConfig, dtype: torch.dtype) -> torch.nn.Module:
    settings = {key: value for key, value in config.model.items() if key != "custom_text"}
    custom = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    build: Callable[..., torch.nn.Module] = custom if config.model.get("custom_text") else open_clip.CLIP
    try:
        with Unfilled():
            return build(**settings, cast_dtype=None if dtype == torch.float32 else dtype)
    except (TypeError, KeyError, AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{folder / CLIP_CONFIG}: open_clip cannot build this model ({one_line(error)})") from error


def check_held(sketch: torch.nn.Module, weights: Path, folder: Path, device: str | torch.device) -> None:
    """Raise OSError unless the weights hold as many numbers as the model has, ValueError where there is no room."""
    wanted = sum(tensor.numel() for name, tensor in sketch.state_dict().items() if not name.endswith(RESIZED))
    try:
        with safe_open(weights, framework="pt") as file:
            held = sum(len_of(tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise _misfit(weights, folder, one_line(error)) from error
    if wanted > held:
        raise _misfit(weights, folder, f"it asks for {wanted} numbers, the file holds {held}")
    whole = sum(tensor.numel() for tensor in sketch.state_dict().values())
    check_room(whole * torch.float32.itemsize, device, weights)


def _misfit(weights: Path, folder: Path, reason: str) -> OSError:
    return OSError(f"{weights}: not the weights that {folder / CLIP_CONFIG} describes ({reason})")


def check_finite(model: torch.nn.Module, weights: Path) -> None:
    """Raise ValueError, naming the first, where a number of the model is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
            raise ValueError(f"{weights}: {name}: expected finite numbers in {tensor.dtype}, got NaN or infinity")


def read_clip_tokenizer(folder: Path, config: ClipConfig) -> Any:
    """The folder's own tokenizer, or the one that open_clip carries with it. Raises ValueError for one that is none."""
    tower = config.text
    settings = {"context_length": tower.get("context_length", 77), **tower.get("tokenizer_kwargs", {})}
    if not tower.get("hf_tokenizer_name"):
        settings.pop("strip_sep_token", None)
        return SimpleTokenizer(**settings)

    def read(copy: Path) -> Any:
        tokenizer = HFTokenizer(copy, tokenizer_mode=tower.get("tokenizer_mode"), **settings, **FROM_FILES_ALONE)
        tokenizer(["a"])  # it may lack the token that short texts are filled with
        return tokenizer

    tokenizer = read_tokenizer(folder, read)
    check_tokenizer(tokenizer, config, folder)
    return tokenizer


def check_tokenizer(tokenizer: Any, config: ClipConfig, folder: Path) -> None:
    """A tokenizer read from the folder must fit the text tower: ids in range, end of text the highest."""
    inner, tower = tokenizer.tokenizer, config.text
    size = tower.get("vocab_size", OPENAI_VOCABULARY)
    if len(inner) > size:
        raise ValueError(f"{folder}: the tokenizer has {len(inner)} entries, text_cfg.vocab_size is {size}")
    if (highest := max(inner.get_vocab().values(), default=0)) >= size:
        raise ValueError(f"{folder}: the tokenizer has an entry {highest}, beyond text_cfg.vocab_size, {size}")
    if tower.get("pool_type", "argmax") == "argmax" and inner.eos_token_id != len(inner) - 1:
        raise ValueError(
            f"{folder}: the text is read at its highest token id, so end-of-text must be entry {len(inner) - 1}, "
            f"the tokenizer has it at {inner.eos_token_id}"
        )
