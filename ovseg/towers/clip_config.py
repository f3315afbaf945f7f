"""open_clip's JSON, read once and checked before open_clip sees any of it: what it may say, and what would mislead it.

Weights are `clip`'s matter; keys that would fetch code are `emerdiff.configs`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emerdiff.configs import read_config
from emerdiff.settings import Table, known_settings, refusal, show, show_key
from ovseg.towers.clip_tables import INNER, MODEL, POOLER, PREPROCESSING, TEXT, TIMM_VISION, VISION

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # in open_clip's own order
OPENAI_VOCABULARY = 49408  # entries of the tokenizer that open_clip carries with it
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1, over the images that OpenAI trained on
OPENAI_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
MOST_CELLS = 2**14  # of the image tower's grid; at 336 pixels and a patch of 14 there are 576


@dataclass(frozen=True)
class ClipConfig:
    """What a CLIP is built from.

    model: the arguments of open_clip's CLIP, and "custom_text"; "trunk" in place of "vision_cfg" for an image tower
    that `transformers_weights` builds. mean, deviation: of RGB in 0..1, for normalisation. layout: of the folder,
    "open_clip" or transformers' "clip", "siglip", "siglip2". file: the config's name in it.
    """

    model: dict[str, Any]
    mean: tuple[float, ...] = OPENAI_MEAN
    deviation: tuple[float, ...] = OPENAI_DEVIATION
    layout: str = "open_clip"
    file: str = CLIP_CONFIG

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
    if isinstance(config["text_cfg"], dict) and config["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"{path}: text_cfg.hf_model_name: this CLIP's text tower would be fetched from another repository, and "
            "only this folder is read; choose a CLIP whose text tower is open_clip's own"
        )
    model = _checked_model(path, config)
    if "timm_model_name" not in model["vision_cfg"]:
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
    if isinstance(model["vision_cfg"], dict) and model["vision_cfg"].get("timm_model_name"):
        towers["vision_cfg"] = TIMM_VISION
    for part, known in towers.items():
        if part not in model:  # the last
            continue
        tower = _checked(path, f"model_cfg.{part}.", model[part], known)
        for key in tower.keys() & INNER.keys():
            tower[key] = _checked(path, f"model_cfg.{part}.{key}.", tower[key], INNER[key])
        model[part] = tower
    if config["vision_cfg"].get("timm_proj", "") is None:
        model["vision_cfg"]["timm_proj"] = ""  # without the key open_clip would add a projection
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
