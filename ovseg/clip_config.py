"""open_clip's JSON, checked before open_clip sees it: what it may say, and what would give wrong features.

Weights are `ovseg.clip`'s matter; keys that would fetch code are `emerdiff.configs`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emerdiff.configs import read_config

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # in open_clip's own order
OPENAI_VOCABULARY = 49408  # entries of the tokenizer that open_clip carries with it
# What an open_clip config may say; whatever else is there is refused, because open_clip would act on it.
BLOCK_KEYS = {
    *("layers", "width", "mlp_ratio", "ls_init_value", "pool_type", "final_ln_after_pool", "output_tokens"),
    *("act_kwargs", "norm_kwargs", "block_type", "qk_norm", "scaled_cosine_attn"),
    *("scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
}
VISION_KEYS = BLOCK_KEYS | {
    *("image_size", "patch_size", "head_width", "patch_dropout", "no_ln_pre", "pos_embed_type"),
    *("attentional_pool", "attn_pooler_queries", "attn_pooler_heads"),
}
TEXT_KEYS = BLOCK_KEYS | {
    *("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "heads"),
    *("embed_cls", "pad_id", "eos_id", "no_causal_mask", "proj_bias", "proj_type"),
}
MODEL_KEYS = {
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias"),
    *("nonscalar_logit_scale", "custom_text", "multimodal_cfg", "output_dict"),
}
POOLER_KEYS = {"dim_head", "n_queries", "attn_pooler_heads"}  # of a multimodal tower, beside a text tower's
TOKENIZER_KEYS = {"clean", "strip_sep_token"}  # of open_clip's own wrapper; others would reach transformers


def read_clip_config(folder: Path) -> dict[str, Any]:
    """The `model_cfg` of the folder's config, refused where open_clip would go on with wrong features."""
    path = folder / CLIP_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; a CLIP folder needs open_clip's config beside its weights")
    whole = read_config(path)
    try:
        config = whole["model_cfg"]
        text, image = config["text_cfg"], config["vision_cfg"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected open_clip's JSON with model_cfg, its text_cfg and vision_cfg ({error!r})"
        ) from error
    if not (isinstance(text, dict) and isinstance(image, dict)):
        raise ValueError(f"{path}: expected text_cfg and vision_cfg to be objects, got {text!r} and {image!r}")
    _check_keys(path, config)
    if _is_openai(folder) and not config.get("quick_gelu", False):
        raise ValueError(
            f'{path}: OpenAI\'s weights were trained with QuickGELU; set "quick_gelu": true in model_cfg '
            "(open_clip's ...-quickgelu models), otherwise every feature is wrong"
        )
    has_files = any(folder.glob("tokenizer*.json")) or (folder / "vocab.json").is_file()
    if text.get("hf_tokenizer_name") and not has_files:
        raise FileNotFoundError(f"{folder / 'tokenizer.json'}: not there; {CLIP_CONFIG} names a tokenizer of its own")
    if not text.get("hf_tokenizer_name") and text.get("vocab_size", OPENAI_VOCABULARY) != OPENAI_VOCABULARY:
        raise ValueError(
            f"{path}: a vocabulary of {text['vocab_size']} needs its own tokenizer: set text_cfg.hf_tokenizer_name "
            f"and put the tokenizer's files in the folder; otherwise the {OPENAI_VOCABULARY}-token one is used"
        )
    return config


def _is_openai(folder: Path) -> bool:
    """Whether a folder, or the repository of a hub's cache that it is a copy of, is named after OpenAI."""
    repository = folder.parent.parent.name
    return "openai" in (repository if repository.startswith("models--") else folder.name).lower()


def _check_keys(path: Path, config: dict[str, Any]) -> None:
    """ValueError, naming the key, for a setting that open_clip would act on in a way that is not known here."""
    if config["vision_cfg"].get("timm_model_name"):
        raise ValueError(
            f"{path}: vision_cfg.timm_model_name: this CLIP's image tower is timm's; dense features are implemented "
            "for open_clip's own ViT and ResNet towers: choose a CLIP without that key"
        )
    if config["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"{path}: text_cfg.hf_model_name: this CLIP's text tower would be taken from another repository; "
            "choose a CLIP whose text tower is open_clip's own"
        )
    parts = {"": (config, MODEL_KEYS), "vision_cfg.": (config["vision_cfg"], VISION_KEYS)}
    parts["text_cfg."] = config["text_cfg"], TEXT_KEYS
    parts["text_cfg.tokenizer_kwargs."] = config["text_cfg"].get("tokenizer_kwargs") or {}, TOKENIZER_KEYS
    parts["multimodal_cfg."] = config.get("multimodal_cfg") or {}, TEXT_KEYS | POOLER_KEYS
    for prefix, (settings, known) in parts.items():
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: model_cfg.{prefix[:-1]}: expected an object, got {settings!r}")
        if unknown := sorted(key for key in settings if key not in known and settings[key] not in (None, False)):
            raise ValueError(f"{path}: model_cfg.{prefix}{unknown[0]}: not a setting that is read here")


def check_tokenizer(tokenizer: Any, config: dict[str, Any], folder: Path) -> None:
    """A tokenizer read from the folder must fit the text tower: ids in range, end of text the highest."""
    inner, text = getattr(tokenizer, "tokenizer", None), config["text_cfg"]
    if inner is None:  # open_clip's own tokenizer
        return
    size = text.get("vocab_size", OPENAI_VOCABULARY)
    if len(inner) > size:
        raise ValueError(f"{folder}: the tokenizer has {len(inner)} entries, text_cfg.vocab_size is {size}")
    if text.get("pool_type", "argmax") == "argmax" and inner.eos_token_id != len(inner) - 1:
        raise ValueError(
            f"{folder}: the text is read at its highest token id, so end-of-text must be entry {len(inner) - 1}, "
            f"the tokenizer has it at {inner.eos_token_id}"
        )
