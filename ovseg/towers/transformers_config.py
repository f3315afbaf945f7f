"""The JSON of a folder in transformers' layout of CLIP, SigLIP and SigLIP 2: checked, and put in open_clip's words.

Weights are `transformers_weights`'s matter; keys that would fetch code are `emerdiff.configs`'s.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

from emerdiff.configs import read_config
from emerdiff.settings import OBJECT, Table, choice, either, known_settings, listed, number, refusal, show, whole
from ovseg.towers.clip_config import (
    CLIP_CONFIG,
    MOST_CELLS,
    OPENAI_DEVIATION,
    OPENAI_MEAN,
    ClipConfig,
    read_clip_config,
)
from ovseg.towers.clip_tables import SIDES, WIDTH, optional

TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # one file, or several by an index
PREPROCESSOR = "preprocessor_config.json"
QUICK = "quick_gelu"
APPROXIMATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # torch's words for them
TOWER: Table = {
    "hidden_size": WIDTH,
    "intermediate_size": whole(1, 65536),
    "num_hidden_layers": whole(1, 64),
    "num_attention_heads": whole(1, 1024),
    "hidden_act": choice(QUICK, *APPROXIMATIONS),
    "layer_norm_eps": number(0, 1, above=True),
}
VISION: Table = {
    **TOWER,
    "num_channels": choice(3),
    "image_size": SIDES,
    "patch_size": SIDES,
    "num_patches": whole(1, MOST_CELLS),  # of SigLIP 2 in its own layout, "NaFlex"
    "vision_use_head": choice(True),
}
TEXT: Table = {
    **TOWER,
    "vocab_size": whole(1, 2_000_000),
    "max_position_embeddings": whole(2, 1024),
    "eos_token_id": optional(whole(0, 2**31 - 1)),
    "projection_size": optional(WIDTH),
}
WHOLE: Table = {
    "model_type": choice("clip", "siglip", "siglip2"),
    "projection_dim": optional(WIDTH),
    **dict.fromkeys(("text_config", "vision_config", "text_config_dict", "vision_config_dict"), optional(OBJECT)),
}
IMAGES: Table = {
    "image_mean": optional(listed(number(-1e3, 1e3), 3, 3)),
    "image_std": optional(listed(number(0, 1e3, above=True), 3, 3)),
    "do_normalize": optional(choice(True)),
    "do_rescale": optional(choice(True)),
    "rescale_factor": optional(either(number(1 / 255.1, 1 / 254.9))),
}
# What transformers takes where a config says nothing.
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
NARROW = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
CLIP_TOWER = {"hidden_act": QUICK, "layer_norm_eps": 1e-5}
SIGLIP_TOWER = BASE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
SIGLIP_TEXT = SIGLIP_TOWER | {"vocab_size": 32000, "max_position_embeddings": 64}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text": NARROW | CLIP_TOWER | {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
        "vision": BASE | CLIP_TOWER | {"image_size": 224, "patch_size": 32},
    },
    "siglip": {"text": SIGLIP_TEXT, "vision": SIGLIP_TOWER | {"image_size": 224, "patch_size": 16}},
    "siglip2": {"text": SIGLIP_TEXT, "vision": SIGLIP_TOWER | {"num_patches": 256, "patch_size": 16}},
}
HALF = (0.5, 0.5, 0.5)  # SigLIP's mean and deviation of RGB


def is_transformers(folder: Path) -> bool:
    """Whether a CLIP's folder is laid out as transformers' and not as open_clip's, which goes first."""
    return (folder / TRANSFORMERS_CONFIG).is_file() and not (folder / CLIP_CONFIG).is_file()


def read_layout(folder: Path) -> ClipConfig:
    """The config of a CLIP's folder: open_clip's, or transformers' if only that is there. Raises as both readers."""
    if is_transformers(folder):
        return read_transformers_config(folder)
    return read_clip_config(folder)


def read_transformers_config(folder: Path) -> ClipConfig:
    """config.json and preprocessor_config.json. Raises ValueError, naming file and key; FileNotFoundError."""
    path = folder / TRANSFORMERS_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; a CLIP folder in transformers' layout needs it")
    content = read_config(path)
    if "model_type" not in content:
        raise refusal(path, "model_type", WHOLE["model_type"].expected, None)
    settings = known_settings(path, content, WHOLE)
    kind = settings["model_type"]
    text, vision = (_read_tower(path, settings, kind, part) for part in ("text", "vision"))
    arguments = (_clip if kind == "clip" else _siglip)(path, settings, text, vision)
    mean, deviation = _read_preprocessor(folder, kind)
    return ClipConfig(arguments, mean, deviation, layout=kind, file=TRANSFORMERS_CONFIG)


def _read_tower(path: Path, settings: dict[str, Any], kind: str, part: str) -> dict[str, Any]:
    """The settings of one tower, as transformers completes them. Heads must share out the width, cells the image."""
    tower, table = dict(DEFAULTS[kind][part]), {"text": TEXT, "vision": VISION}[part]
    for key in (f"{part}_config", f"{part}_config_dict"):  # the second, of old files, has the last word
        given = known_settings(path, settings.get(key) or {}, table, f"{key}.")
        tower |= given if key.endswith("config") or settings.get(key) is None else DEFAULTS[kind][part] | given
    if tower["hidden_size"] % tower["num_attention_heads"]:
        expected = f"a divisor of hidden_size, {tower['hidden_size']}"
        raise refusal(path, f"{part}_config.num_attention_heads", expected, tower["num_attention_heads"])
    return _with_sides(path, tower) if part == "vision" else tower


def _with_sides(path: Path, tower: dict[str, Any]) -> dict[str, Any]:
    """An image tower's settings with its image's side, which SigLIP 2 states by the number of patches."""
    for key in ("image_size", "patch_size"):
        if isinstance(side := tower.get(key), list):
            if side[0] != side[1]:
                raise refusal(path, f"vision_config.{key}", "the same height and width", side)
            tower[key] = side[0]
    if "num_patches" in tower and "image_size" not in tower:
        if isqrt(tower["num_patches"]) ** 2 != tower["num_patches"]:
            raise refusal(path, "vision_config.num_patches", "the square of a whole number", tower["num_patches"])
        tower["image_size"] = isqrt(tower["num_patches"]) * tower["patch_size"]
    if not 1 <= (tower["image_size"] // tower["patch_size"]) ** 2 <= MOST_CELLS:
        expected = f"1 to {MOST_CELLS} cells of an image of {tower['image_size']}"
        raise refusal(path, "vision_config.patch_size", expected, tower["patch_size"])
    return tower


def _shape(tower: dict[str, Any]) -> dict[str, Any]:
    """What open_clip calls the settings that both towers have; the half makes its rounding give the very width."""
    width = tower["hidden_size"]
    shape = {"width": width, "layers": tower["num_hidden_layers"], "norm_kwargs": {"eps": tower["layer_norm_eps"]}}
    if tower["hidden_act"] != QUICK:
        shape["act_kwargs"] = {"approximate": APPROXIMATIONS[tower["hidden_act"]]}
    return shape | {"mlp_ratio": (tower["intermediate_size"] + 0.5) / width}


def _words(tower: dict[str, Any]) -> dict[str, Any]:
    """open_clip's settings of a text tower whose tokenizer is the folder's."""
    return _shape(tower) | {
        "heads": tower["num_attention_heads"],
        "vocab_size": tower["vocab_size"],
        "context_length": tower["max_position_embeddings"],
        "hf_tokenizer_name": "the folder's own",
    }


def _clip(path: Path, settings: dict[str, Any], text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """The arguments of open_clip's CLIP."""
    if (text["hidden_act"] == QUICK) != (vision["hidden_act"] == QUICK):
        raise refusal(path, "text_config.hidden_act", f"the image tower's, {vision['hidden_act']}", text["hidden_act"])
    end = text["eos_token_id"]
    if end is None:
        raise refusal(path, "text_config.eos_token_id", "a whole number", None)
    # Files of before transformers 4.31 say 2, whatever the tokenizer's: then the highest number is the end of the text.
    pool = {"pool_type": "argmax"} if end == 2 else {"pool_type": "eos", "eos_id": end}
    image = {name: vision[name] for name in ("image_size", "patch_size")}
    head = {"head_width": vision["hidden_size"] // vision["num_attention_heads"]}
    return {
        "embed_dim": settings.get("projection_dim") or 512,
        "quick_gelu": vision["hidden_act"] == QUICK,
        "vision_cfg": _shape(vision) | image | head,
        "text_cfg": _words(text) | pool,
    }


def _siglip(path: Path, settings: dict[str, Any], text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """The arguments of open_clip's CustomTextCLIP; "trunk" are those of the image tower, timm's VisionTransformer."""
    for part, tower in (("text", text), ("vision", vision)):
        if tower["hidden_act"] == QUICK:
            raise refusal(path, f"{part}_config.hidden_act", " or ".join(APPROXIMATIONS), QUICK)
    width = text.get("projection_size") or text["hidden_size"]
    if width != vision["hidden_size"]:
        expected = f"the image tower's hidden_size, {vision['hidden_size']}"
        raise ValueError(f"{path}: text_config.projection_size: expected {expected}, got {show(width)}")
    shape = _shape(vision)
    trunk = {
        "img_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embed_dim": shape["width"],
        "depth": shape["layers"],
        "num_heads": vision["num_attention_heads"],
        "mlp_ratio": shape["mlp_ratio"],
        "approximate": shape["act_kwargs"]["approximate"],
        "eps": vision["layer_norm_eps"],
    }
    ends = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    return {
        "embed_dim": width,
        "custom_text": True,
        "init_logit_bias": 0.0,
        "trunk": trunk,
        "text_cfg": _words(text) | ends,
    }


def _read_preprocessor(folder: Path, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB in 0..1."""
    path = folder / PREPROCESSOR
    found = known_settings(path, read_config(path), IMAGES) if path.is_file() else {}
    usual = (OPENAI_MEAN, OPENAI_DEVIATION) if kind == "clip" else (HALF, HALF)
    mean, deviation = (found.get(name) or one for name, one in zip(("image_mean", "image_std"), usual, strict=True))
    return tuple(mean), tuple(deviation)
