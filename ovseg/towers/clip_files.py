"""The files of a CLIP folder, by a config that was checked: its weights in open_clip's model, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import LayerNormFp32
from safetensors import SafetensorError, safe_open

from emerdiff.configs import read_json
from emerdiff.folder import Unfilled, len_of
from emerdiff.memory import check_room, is_out_of_memory
from emerdiff.settings import one_line
from emerdiff.tokenizer_files import failures_named, read_tokenizer
from ovseg.towers.clip_config import CLIP_WEIGHTS, OPENAI_VOCABULARY, ClipConfig
from ovseg.towers.transformers_config import TRANSFORMERS_WEIGHTS, is_transformers
from ovseg.towers.transformers_weights import build_siglip, check_stored, fill

FROM_FILES_ALONE = {"trust_remote_code": False, "local_files_only": True}  # for transformers' tokenizers
TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # of which transformers' layout has one
BIAS = "logit_bias"  # of CLIPs with a sigmoid
RESIZED = "positional_embedding"  # stored for another size of image or text, it is interpolated


def find_weights(folder: Path) -> Path:
    """The weights that are read, or the index of their shards. Raises FileNotFoundError, naming them, without any."""
    names = TRANSFORMERS_WEIGHTS if is_transformers(folder) else CLIP_WEIGHTS
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder / names[0]}: not there; CLIP weights are read from safetensors alone, "
        f"in a file named {' or '.join(names)}"
    )


def load_model(folder: Path, config: ClipConfig, weights: Path, device: str | torch.device, dtype: torch.dtype) -> Any:
    """open_clip's model of a config, with its weights; as OpenAI has it, norms stay in float32.

    It is sketched on torch's meta device first, so that no memory is taken for what the weights do not hold. Raises
    ValueError for a config that open_clip cannot build and for weights that are not finite, OSError for weights of
    another model.
    """
    with torch.device("meta"):
        sketch = _build(folder, config, dtype)
    if config.layout == "open_clip":
        check_held(sketch, weights, folder / config.file)
    else:
        check_stored(sketch, config, weights)
    count = sum(tensor.numel() for tensor in sketch.state_dict().values())
    check_room(count * torch.float32.itemsize, device, weights)
    try:
        model = _build(folder, config, dtype).to(torch.device(device))
        if dtype != torch.float32:
            _lower(model, dtype)
        if config.layout == "open_clip":
            open_clip.load_checkpoint(model, str(weights), device="cpu")
        else:
            fill(model, config, weights)
    except (RuntimeError, SafetensorError, AssertionError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise _misfit(weights, folder / config.file, one_line(error)) from error
    check_finite(model, weights)
    return model


def _lower(model: Any, dtype: torch.dtype) -> None:
    """All but open_clip's norms and the logits' scale and bias in `dtype`."""
    projection = getattr(getattr(model, "text", None), "text_projection", None)
    if not isinstance(model.visual, TimmModel) and not isinstance(projection, torch.nn.Linear):
        open_clip.convert_weights_to_lp(model, dtype)
        return
    model.to(dtype)  # timm's norms compute in the type of what they are given
    for module in model.modules():
        if isinstance(module, LayerNormFp32):
            module.float()
    for parameter in (model.logit_scale, model.logit_bias):
        if parameter is not None:
            parameter.data = parameter.data.float()


def _build(folder: Path, config: ClipConfig, dtype: torch.dtype) -> torch.nn.Module:
    settings = {key: value for key, value in config.model.items() if key != "custom_text"}
    custom = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    build: Callable[..., torch.nn.Module] = custom if config.model.get("custom_text") else open_clip.CLIP
    cast = None if dtype == torch.float32 else dtype
    try:
        with Unfilled():
            return (build_siglip if "trunk" in settings else build)(**settings, cast_dtype=cast)
    except (TypeError, KeyError, AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{folder / config.file}: open_clip cannot build this model ({one_line(error)})") from error


def check_held(sketch: torch.nn.Module, weights: Path, config: Path) -> None:
    """Raise OSError unless the weights hold as many numbers as the model has."""
    wanted = sum(tensor.numel() for name, tensor in sketch.state_dict().items() if not name.endswith(RESIZED))
    try:
        with safe_open(weights, framework="pt") as file:
            names = list(file.keys())
            held = sum(len_of(tuple(file.get_slice(name).get_shape())) for name in names)
    except SafetensorError as error:
        raise _misfit(weights, config, one_line(error)) from error
    if wanted > held:
        raise _misfit(weights, config, f"it asks for {wanted} numbers, the file holds {held}")
    if BIAS in sketch.state_dict() and BIAS not in names:
        raise _misfit(weights, config, f"{BIAS} is not in the file")  # open_clip would take 0 for it


def _misfit(weights: Path, config: Path, reason: str) -> OSError:
    return OSError(f"{weights}: not the weights that {config} describes ({reason})")


def check_finite(model: torch.nn.Module, weights: Path) -> None:
    """Raise ValueError, naming the first, where a number of the model is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
            raise ValueError(f"{weights}: {name}: expected finite numbers in {tensor.dtype}, got NaN or infinity")


class FolderTokenizer(HFTokenizer):
    """open_clip's tokenizer of a folder. Raises ValueError, naming the folder, for texts on which the library fails."""

    folder = Path()

    def __call__(self, texts: Any, context_length: int | None = None) -> torch.Tensor:
        """Texts -> (n, context length) int64."""
        with failures_named(self.folder):
            return super().__call__(texts, context_length)

    def count(self, text: str) -> int:
        """The tokens of a text, start and end included, before anything is cut."""
        with failures_named(self.folder):
            return len(self.tokenizer(self.clean_fn(text), verbose=False).input_ids)


def read_clip_tokenizer(folder: Path, config: ClipConfig) -> Any:
    """The folder's own tokenizer, or the one that open_clip carries with it. Raises ValueError for one that is none."""
    tower = config.text
    settings = {"context_length": tower.get("context_length", 77), **tower.get("tokenizer_kwargs", {})}
    if not tower.get("hf_tokenizer_name"):
        settings.pop("strip_sep_token", None)
        return SimpleTokenizer(**settings)

    def read(copy: Path) -> Any:
        _as_stored(copy / "tokenizer_config.json")
        tokenizer = FolderTokenizer(copy, tokenizer_mode=tower.get("tokenizer_mode"), **settings, **FROM_FILES_ALONE)
        if config.layout != "open_clip":
            tokenizer.clean_fn = str  # transformers gives texts to its tokenizers as they are
        tokenizer.folder = folder
        tokenizer(["a"])  # it may lack the token that short texts are filled with
        return tokenizer

    check_tokenizer_files(folder, config)
    tokenizer = read_tokenizer(folder, read)
    check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _as_stored(path: Path) -> None:
    """Have SigLIP's tokenizer read from tokenizer.json as any other, not by a class that asks for SentencePiece."""
    if path.is_file() and (settings := read_json(path)).get("tokenizer_class") == "SiglipTokenizer":
        path.write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")


def check_tokenizer_files(folder: Path, config: ClipConfig) -> None:
    """Raise FileNotFoundError where a tokenizer in transformers' layout has no file that is read."""
    if config.layout != "open_clip" and not any(
        all((folder / name).is_file() for name in form) for form in TOKENIZER_FORMS
    ):
        raise FileNotFoundError(
            f"{folder / 'tokenizer.json'}: not there, nor vocab.json with merges.txt; a tokenizer is read from these "
            "alone (transformers' save_pretrained writes them), and never fetched"
        )


def check_tokenizer(tokenizer: Any, config: ClipConfig, folder: Path) -> None:
    """A tokenizer read from the folder must fit the text tower: ids in range, end of text the highest."""
    inner, tower = tokenizer.tokenizer, config.text
    size = tower.get("vocab_size", OPENAI_VOCABULARY)
    key = "text_cfg.vocab_size" if config.layout == "open_clip" else "text_config.vocab_size"
    if len(inner) > size:
        raise ValueError(f"{folder}: the tokenizer has {len(inner)} entries, {key} is {size}")
    if (highest := max(inner.get_vocab().values(), default=0)) >= size:
        raise ValueError(f"{folder}: the tokenizer has an entry {highest}, beyond {key}, {size}")
    if tower.get("pool_type") == "eos" and inner.eos_token_id != tower.get("eos_id", 2):
        raise ValueError(
            f"{folder}: the text is read at token {tower.get('eos_id', 2)}, as its config says, but the tokenizer's "
            f"end-of-text is entry {inner.eos_token_id}"
        )
    if tower.get("pool_type", "argmax") == "argmax" and inner.eos_token_id != len(inner) - 1:
        raise ValueError(
            f"{folder}: the text is read at its highest token id, so end-of-text must be entry {len(inner) - 1}, "
            f"the tokenizer has it at {inner.eos_token_id}"
        )
