"""open_clip's JSON, read once and checked before open_clip sees any of it: what it may say, and what would mislead it.

Weights are `ovseg.clip`'s matter; keys that would fetch code are `emerdiff.configs`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emerdiff.configs import read_config
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
    refusal,
    show,
    show_key,
    text,
    whole,
)

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # in open_clip's own order
OPENAI_VOCABULARY = 49408  # entries of the tokenizer that open_clip carries with it
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1, over the images that OpenAI trained on
OPENAI_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
MOST_CELLS = 2**14  # of the image tower's grid; at 336 pixels and a patch of 14 there are 576


def optional(kind: Allowed) -> Allowed:
    """As allowed, or null, which is as if the key were not there."""
    return either(kind, NOTHING)


SWITCH, WIDTH, HEADS = optional(FLAG), whole(1, 8192), whole(1, 1024)
# What an open_clip config may say; whatever else is there is refused, because open_clip would act on it.
BLOCK: Table = {
    "layers": whole(1, 64),
    "width": WIDTH,
    "mlp_ratio": number(0, 64, above=True),
    "ls_init_value": optional(number(-1e3, 1e3)),
    "act_kwargs": optional(OBJECT),
    "norm_kwargs": optional(OBJECT),
    "block_type": optional(choice("default", "custom")),
    **dict.fromkeys(
        (
            *("final_ln_after_pool", "output_tokens", "qk_norm", "scaled_cosine_attn"),
            *("scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
        ),
        SWITCH,
    ),
}
SIDES = either(whole(1, 4096), listed(whole(1, 4096), 2, 2))
VISION: Table = {
    **BLOCK,
    "layers": either(whole(1, 64), listed(whole(1, 64), 4, 4)),  # four of a ResNet
    "pool_type": choice("tok", "avg", "none"),
    "image_size": SIDES,
    "patch_size": optional(SIDES),
    "head_width": WIDTH,
    "patch_dropout": number(0, 0.99),
    "no_ln_pre": SWITCH,
    "pos_embed_type": choice("learnable", "sin_cos_2d"),
    "attentional_pool": optional(either(FLAG, choice("parallel", "cascade"))),
    "attn_pooler_queries": whole(1, 8192),
    "attn_pooler_heads": HEADS,
}
TOKEN = whole(0, 2**31 - 1)
TEXT: Table = {
    **BLOCK,
    "pool_type": choice("first", "last", "argmax", "eos", "none"),
    "context_length": whole(2, 1024),
    "vocab_size": whole(1, 2_000_000),
    "hf_tokenizer_name": optional(text()),
    "tokenizer_mode": optional(choice("", "clips")),
    "tokenizer_kwargs": optional(OBJECT),
    "heads": HEADS,
    "embed_cls": SWITCH,
    "pad_id": TOKEN,
    "eos_id": TOKEN,
    "no_causal_mask": SWITCH,
    "proj_bias": SWITCH,
    "proj_type": choice("linear", "none"),
}
POOLER: Table = {"dim_head": WIDTH, "n_queries": whole(1, 8192), "attn_pooler_heads": HEADS}  # of a multimodal tower
MODEL: Table = {
    "embed_dim": WIDTH,
    "vision_cfg": OBJECT,
    "text_cfg": OBJECT,
    "quick_gelu": SWITCH,
    "init_logit_scale": number(-1e3, 1e3),
    "init_logit_bias": optional(number(-1e6, 1e6)),
    "nonscalar_logit_scale": SWITCH,
    "custom_text": SWITCH,
    "multimodal_cfg": OBJECT,
    "output_dict": SWITCH,
}
INNER: dict[str, Table] = {  # of those that are objects
    "tokenizer_kwargs": {  # of open_clip's own wrapper; others would reach transformers
        "clean": choice("canonicalize", "lower", "whitespace"),
        "strip_sep_token": SWITCH,
    },
    "act_kwargs": {"approximate": choice("none", "tanh"), "inplace": SWITCH},
    "norm_kwargs": {"eps": number(0, 1, above=True), "elementwise_affine": SWITCH, "bias": SWITCH},
}
PREPROCESSING: Table = {
    "mean": optional(listed(number(-1e3, 1e3), 3, 3)),
    "std": optional(listed(number(0, 1e3, above=True), 3, 3)),
}


@dataclass(frozen=True)
class ClipConfig:
    """What a CLIP is built from.

    model: the arguments of open_clip's CLIP, and "custom_text". mean, deviation: of RGB in 0..1, for normalisation.
    """

    model: dict[str, Any]
    mean: tuple[float, ...] = OPENAI_MEAN
    deviation: tuple[float, ...] = OPENAI_DEVIATION

    @property
    def text(self) -> dict[str, Any]:
        """The text tower's."""
        return dict(self.model["text_cfg"])


def read_clip_config(folder: Path) -> ClipConfig:
    """The folder's config, refused where open_clip could not build it or would go on with wrong features."""
    path = folder / CLIP_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; a CLIP folder needs open_clip's config beside its weights")
    whole_file = read_config(path)
    config = whole_file.get("model_cfg")
    if not isinstance(config, dict) or not {"text_cfg", "vision_cfg"} <= config.keys():
        raise refusal(path, "model_cfg", "open_clip's JSON, with text_cfg and vision_cfg", config)
    for part, key, where in (("vision_cfg", "timm_model_name", "image"), ("text_cfg", "hf_model_name", "text")):
        if isinstance(config[part], dict) and config[part].get(key):
            raise ValueError(
                f"{path}: {part}.{key}: this CLIP's {where} tower is taken from elsewhere, by timm or transformers; "
                f"choose a CLIP whose {where} tower is open_clip's own"
            )
    model = _checked_model(path, config)
    _check_vision(path, model["vision_cfg"])
    _check_text(path, model["text_cfg"])
    _check_meaning(folder, model)
    found = known_settings(path, whole_file.get("preprocess_cfg") or {}, PREPROCESSING, "preprocess_cfg.")
    mean, deviation = found.get("mean") or OPENAI_MEAN, found.get("std") or OPENAI_DEVIATION
    return ClipConfig(model, tuple(mean), tuple(deviation))


def _checked_model(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    model = _checked(path, "model_cfg.", config, MODEL)
    if "embed_dim" not in model:
        raise ValueError(f"{path}: model_cfg.embed_dim: missing; expected {MODEL['embed_dim'].expected}")
    towers: dict[str, Table] = {"vision_cfg": VISION, "text_cfg": TEXT, "multimodal_cfg": {**TEXT, **POOLER}}
    for part, known in towers.items():
        if part not in model:  # the last
            continue
        tower = _checked(path, f"model_cfg.{part}.", model[part], known)
        for key in tower.keys() & INNER.keys():
            tower[key] = _checked(path, f"model_cfg.{part}.{key}.", tower[key], INNER[key])
        model[part] = tower
    if "multimodal_cfg" in model and not model.get("custom_text"):
        raise refusal(path, "model_cfg.custom_text", "true, as a multimodal_cfg needs it", model.get("custom_text"))
    return model


def _checked(path: Path, prefix: str, settings: Any, known: Table) -> dict[str, Any]:
    """Known settings but for nulls; ValueError, naming the key, for one that open_clip might act on unseen."""
    found = known_settings(path, settings, known, prefix)
    if unknown := sorted(key for key in settings if key not in known and settings[key] not in (None, False)):
        raise ValueError(f"{path}: {show_key(prefix + unknown[0])}: not a setting that is read here")
    return {key: value for key, value in found.items() if value is not None}


def _check_vision(path: Path, tower: Mapping[str, Any]) -> None:
    """Heads must share out the width, and cells the image. Lists of layers are a ResNet's."""
    key, width = "model_cfg.vision_cfg", tower.get("width", 768)
    resnet = isinstance(tower.get("layers"), list)
    heads = width * (32 if resnet else 1) // tower.get("head_width", 64)
    if not heads or width * (32 if resnet else 1) % heads:
        raise refusal(path, f"{key}.head_width", f"a width that divides the tower's {width}", tower.get("head_width"))
    sides, patch = (_two(tower.get(name, default)) for name, default in (("image_size", 224), ("patch_size", 16)))
    cells = [side // (32 if resnet else cell) for side, cell in zip(sides, patch, strict=True)]
    if not 1 <= cells[0] * cells[1] <= MOST_CELLS:
        raise ValueError(
            f"{path}: {key}.patch_size: expected 1 to {MOST_CELLS} cells of an image of {sides[0]}x{sides[1]}, "
            f"got {cells[0] * cells[1]} with {'a ResNet' if resnet else show(tower.get('patch_size', 16))}"
        )


def _check_text(path: Path, tower: Mapping[str, Any]) -> None:
    width, heads = tower.get("width", 512), tower.get("heads", 8)
    if width % heads:
        raise refusal(path, "model_cfg.text_cfg.heads", f"a divisor of width, {width}", heads)


def _two(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, list) else (value, value)


def _check_meaning(folder: Path, model: dict[str, Any]) -> None:
    """Raise for what open_clip would build, and compute wrong features with: activation and tokenizer."""
    path, tower = folder / CLIP_CONFIG, model["text_cfg"]
    if _is_openai(folder) and not model.get("quick_gelu", False):
        raise ValueError(
            f'{path}: OpenAI\'s weights were trained with QuickGELU; set "quick_gelu": true in model_cfg '
            "(open_clip's ...-quickgelu models), otherwise every feature is wrong"
        )
    has_files = any(folder.glob("tokenizer*.json")) or (folder / "vocab.json").is_file()
    if tower.get("hf_tokenizer_name") and not has_files:
        raise FileNotFoundError(f"{folder / 'tokenizer.json'}: not there; {CLIP_CONFIG} names a tokenizer of its own")
    if not tower.get("hf_tokenizer_name") and tower.get("vocab_size", OPENAI_VOCABULARY) != OPENAI_VOCABULARY:
        raise ValueError(
            f"{path}: a vocabulary of {tower['vocab_size']} needs its own tokenizer: set text_cfg.hf_tokenizer_name "
            f"and put the tokenizer's files in the folder; otherwise the {OPENAI_VOCABULARY}-token one is used"
        )


def _is_openai(folder: Path) -> bool:
    """Whether a folder, or the repository of a hub's cache that it is a copy of, is named after OpenAI."""
    repository = folder.parent.parent.name
    return "openai" in (repository if repository.startswith("models--") else folder.name).lower()
