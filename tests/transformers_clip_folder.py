"""Builder of tiny folders in transformers' layout of CLIP and SigLIP: random weights, a tokenizer of single letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from clip_folder import save_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

TOWER = {"hidden_size": 32, "intermediate_size": 65, "num_hidden_layers": 2, "num_attention_heads": 2}
CLASSES: dict[str, Any] = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
}


def save_transformers_clip(
    folder: Path, kind: str = "clip", seed: int = 0, text: dict[str, Any] | None = None, **vision: Any
) -> Path:
    """Save config.json, model.safetensors, preprocessor_config.json and a tokenizer; kind: "clip", "siglip", "siglip2".

    text, vision: override settings of the towers. Images are 32 pixels, patches 8.
    """
    config_class, model_class = CLASSES[kind]
    words: dict[str, Any] = TOWER | {"hidden_size": 16, "vocab_size": 514, "num_hidden_layers": 1}
    if kind == "clip":
        words |= {"eos_token_id": 513, "bos_token_id": 512, "pad_token_id": 513}
        save_tokenizer(folder)
    else:
        words |= {"projection_size": 32, "vocab_size": 64, "max_position_embeddings": 16}
        _save_letters(folder)
    side = {"num_patches": 16} if kind == "siglip2" else {"image_size": 32}
    config = config_class(
        text_config=words | (text or {}),
        vision_config=TOWER | side | {"patch_size": 8} | vision,
        **({"projection_dim": 24} if kind == "clip" else {}),
    )
    torch.manual_seed(seed)
    model = model_class(config).eval()
    for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    if kind != "clip":
        model.logit_scale.data.fill_(2.5)
        model.logit_bias.data.fill_(-6.5)
    model.save_pretrained(folder)
    images = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def _save_letters(folder: Path) -> None:
    """SigLIP's form: lower case, no punctuation, an end of text that short texts are filled with; a token a letter."""
    letters = {letter: index + 2 for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789 ")}
    tokenizer = Tokenizer(models.BPE(vocab={"<unk>": 0, "</s>": 1} | letters, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(".", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="</s>", model_max_length=16
    ).save_pretrained(folder)
