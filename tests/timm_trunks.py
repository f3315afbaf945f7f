"""Tiny trunks of timm of every design that is known, with random weights, and their open_clip towers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from clip_folder import save_tokenizer
from open_clip.timm_model import TimmModel
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models import _registry
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import GeGluMlp, MbConvStages, VitCfg
from torch import nn

from ovseg.towers.timm_towers import OwnTrunk

SIDE, CHANNELS = 32, 12  # pixels of images, and of the text space
VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def _convolutional_stem() -> ConvStem:
    return ConvStem(
        channels=(8, 16, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, in_chans=3, act_layer=nn.GELU
    )


def _vitamin() -> VisionTransformer:
    stages = MbConvStages(VitCfg(embed_dim=(8, 16, 32), depths=(1, 1, 1), stem_width=8))
    embed = partial(HybridEmbed, backbone=stages, proj=False)
    settings = VIT | {"patch_size": 1, "embed_layer": embed, "mlp_layer": GeGluMlp, "mlp_ratio": 2.0}
    return VisionTransformer(**settings, class_token=False, global_pool="avg", num_classes=0)


PE = {"attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True, "rope_grid_indexing": "xy"}
PE |= {"ref_feat_shape": (4, 4), "attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 4.0, "global_pool": "map"}
EVA02 = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True}
TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "siglip": lambda: VisionTransformer(**VIT, class_token=False, global_pool="map", num_classes=0),
    "pe-core": lambda: Eva(**VIT | PE, rope_grid_offset=1.0, num_classes=CHANNELS),
    "pe-core-bigg": lambda: Eva(**VIT | PE, class_token=False, num_classes=CHANNELS),
    "eva01": lambda: Eva(**VIT, global_pool="token", num_classes=CHANNELS, init_values=0.5),
    "eva02": lambda: Eva(**VIT | EVA02, ref_feat_shape=(3, 3), global_pool="token", num_classes=CHANNELS),
    "eva02-e": lambda: Eva(**VIT, use_post_norm=True, global_pool="token", num_classes=CHANNELS),
    "mobileclip-b": lambda: VisionTransformer(
        **VIT | {"patch_size": 1, "embed_layer": partial(HybridEmbed, backbone=_convolutional_stem(), proj=False)},
        no_embed_class=True,
        num_classes=CHANNELS,
    ),
    "mobileclip2-l": lambda: VisionTransformer(**VIT, pre_norm=True, num_classes=CHANNELS, init_values=0.5),
    "vitamin": _vitamin,
    "vit-gap": lambda: VisionTransformer(**VIT, class_token=False, global_pool="avg", fc_norm=False, num_classes=0),
    "convnext": lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0),
    "fastvit": lambda: FastVit(
        layers=(1, 1, 1, 1),
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(2, 2, 2, 2),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        num_classes=CHANNELS,
    ),
}
ENDS = {
    **dict.fromkeys(("siglip", "pe-core", "pe-core-bigg"), "map"),
    **dict.fromkeys(("eva01", "eva02", "eva02-e", "mobileclip-b", "mobileclip2-l"), "token"),
    **dict.fromkeys(("vitamin", "vit-gap", "convnext", "fastvit"), "avg"),
}
PROJECTED = ("vitamin", "vit-gap", "convnext")  # by a layer that open_clip adds
CELLS = {"mobileclip-b": 16, "vitamin": 16, "convnext": 32, "fastvit": 32}


def make_tower(name: str) -> TimmModel:
    """A tower in eval mode; its weights, norms and biases included, are random and the same every time."""
    torch.manual_seed(0)
    tower = OwnTrunk(TRUNKS[name](), (SIDE, SIDE))
    if name in PROJECTED:
        tower.head = nn.Sequential(nn.Linear(32, CHANNELS, bias=False))
    for parameter in tower.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))
    return tower.eval().requires_grad_(False)


# Names that a config may say, of no tower that timm has: timm is told that they are these.
NAMES = {
    "vit_base_patch16_siglip_001": "siglip",
    "vit_pe_core_tiny_patch16_001": "pe-core",
    "eva02_base_patch16_clip_001": "eva02",
    "vitamin_small_001": "vitamin",
}


def register_tiny_towers() -> None:
    """Have timm make the tiny trunks by their names, in this process."""
    for name, design in NAMES.items():

        def make(design: str = design, **_settings: Any) -> nn.Module:
            trunk: Any = TRUNKS[design]()
            trunk.default_cfg = {}
            return trunk

        make.__name__ = name
        _registry._model_entrypoints[name] = make


def save_timm_clip(folder: Path, name: str, **vision: Any) -> Path:
    """An open_clip folder whose image tower is one of `NAMES`; its text tower has the tiny tokenizer."""
    register_tiny_towers()
    design = NAMES[name]
    width = 32 if design == "siglip" else CHANNELS
    ends = {"map": "map", "token": "token", "avg": ""}[ENDS[design]]
    projection = "none" if design == "siglip" else "linear" if design in PROJECTED else None
    tower = {"timm_model_name": name, "timm_pool": ends, "timm_proj": projection, "image_size": SIDE} | vision
    text = {"context_length": 77, "vocab_size": 514, "width": 16, "heads": 2, "layers": 1}
    config: dict[str, Any] = {"embed_dim": width, "custom_text": True, "vision_cfg": tower}
    if design == "siglip":
        text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
        config["init_logit_bias"] = -10
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(width, dict(tower), dict(text), init_logit_bias=config.get("init_logit_bias"))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_tokenizer(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    text |= {"hf_tokenizer_name": "tiny", "tokenizer_kwargs": {"clean": "canonicalize"}}
    content = {"model_cfg": config | {"text_cfg": text}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
