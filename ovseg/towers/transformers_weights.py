"""Weights in transformers' layout of CLIP, SigLIP and SigLIP 2, put into open_clip's model key by key.

A rule says which stored tensors make one of the model's. Nothing is left as it was drawn: a tensor that is missing, not
expected or of another shape is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from emerdiff.folder import opened
from emerdiff.layout import shards
from emerdiff.settings import show_key
from ovseg.towers.clip_config import ClipConfig
from ovseg.towers.timm_towers import OwnTrunk

Join = Callable[..., Tensor]
Rule = tuple[tuple[str, ...], Join]  # names of stored tensors, and what makes one of them
# open_clip builds an image tower before it can be given another.
STAND_IN = {"layers": 1, "width": 64, "head_width": 64, "image_size": 16, "patch_size": 16}
UNUSED = re.compile(r"(text|vision)_model\.embeddings\.position_ids")  # 0, 1, 2, ... in files of before 2024


def build_siglip(trunk: dict[str, Any], **settings: Any) -> nn.Module:
    """open_clip's CustomTextCLIP with timm's VisionTransformer of the config's own sizes as image tower."""
    trunk = dict(trunk)
    norm = partial(nn.LayerNorm, eps=trunk.pop("eps"))
    activation = partial(nn.GELU, approximate=trunk.pop("approximate"))
    model = open_clip.CustomTextCLIP(vision_cfg=dict(STAND_IN), **settings)
    tower = VisionTransformer(
        **trunk, num_classes=0, class_token=False, global_pool="map", norm_layer=norm, act_layer=activation
    )
    model.visual = OwnTrunk(tower, (trunk["img_size"], trunk["img_size"]))
    return model


def check_stored(sketch: nn.Module, config: ClipConfig, weights: Path) -> None:
    """Raise OSError, naming a tensor, unless the files hold what the model has, in its shapes, and no other.

    sketch: the model on torch's meta device, which computes shapes alone.
    """
    rules = _rules(config)
    with opened(files_of(weights)) as held:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name, (file, _) in held.items()}
        places = {name: path for name, (_, path) in held.items()}
    wanted = {name for names, _ in rules.values() for name in names}
    _check_names(wanted - shapes.keys(), "missing", weights)
    _check_names({name for name in shapes.keys() - wanted if not UNUSED.fullmatch(name)}, "not expected", weights)
    for name, target in sketch.state_dict().items():
        sources, join = rules[name]
        stored = [shapes[source] for source in sources]
        try:
            found = join(*(torch.empty(shape, device="meta") for shape in stored)).shape
        except (RuntimeError, IndexError, TypeError):  # without the dimensions, or not fit to be put together
            found = None
        if found != target.shape:
            expected = f"a shape that makes {list(target.shape)}, as {config.file} says"
            raise OSError(f"{places[sources[0]]}: {sources[0]!r}: expected {expected}, got {list(stored[0])}")


@torch.no_grad()
def fill(model: nn.Module, config: ClipConfig, weights: Path) -> None:
    """Copy weights that were checked into a model of the config, one tensor after another."""
    rules = _rules(config)
    with opened(files_of(weights)) as held:
        for name, target in model.state_dict().items():
            sources, join = rules[name]
            target.copy_(join(*(held[source][0].get_tensor(source) for source in sources)))


def files_of(weights: Path) -> list[Path]:
    """The safetensors file itself, or the shards that an index names. Raises ValueError for an index that is none."""
    return [weights.parent / name for name in shards(weights.parent, weights.name)]


def _check_names(names: set[str], fault: str, weights: Path) -> None:
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise OSError(f"{weights}: {show_key(min(names))}{others}: {fault} in weights of transformers' layout")


def _rules(config: ClipConfig) -> dict[str, Rule]:
    """Of every tensor of the model, by its name."""
    layers = config.text["layers"]
    if config.layout == "clip":
        text = _open_clip_tower("", "text_model.", layers)
        image = _open_clip_tower("visual.", "vision_model.", config.model["vision_cfg"]["layers"])
        return text | image | _clip_ends()
    text = _open_clip_tower("text.", "text_model.", layers)
    return text | _trunk(config.model["trunk"]["depth"], config) | _siglip_ends()


def _both(own: str, stored: str) -> dict[str, Rule]:
    """Weight and bias of a layer, as they are."""
    return {f"{own}.{kind}": ((f"{stored}.{kind}",), _as_it_is) for kind in ("weight", "bias")}


def _open_clip_tower(own: str, stored: str, layers: int) -> dict[str, Rule]:
    """The blocks of an open_clip Transformer."""
    rules: dict[str, Rule] = {}
    for index in range(layers):
        block, layer = f"{own}transformer.resblocks.{index}.", f"{stored}encoder.layers.{index}."
        for name, source in (
            *(("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.out_proj", "self_attn.out_proj")),
            *(("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
        ):
            rules |= _both(block + name, layer + source)
        for kind in ("weight", "bias"):
            rules[f"{block}attn.in_proj_{kind}"] = (_projections(layer, kind), _stacked)
    return rules


def _clip_ends() -> dict[str, Rule]:
    """What a CLIP has before and after its blocks. "pre_layrnorm" is how transformers spells it."""
    return {
        **_text_ends(""),
        "text_projection": (("text_projection.weight",), _transposed),
        "visual.class_embedding": (("vision_model.embeddings.class_embedding",), _as_it_is),
        "visual.conv1.weight": (("vision_model.embeddings.patch_embedding.weight",), _as_it_is),
        "visual.positional_embedding": (("vision_model.embeddings.position_embedding.weight",), _as_it_is),
        **_both("visual.ln_pre", "vision_model.pre_layrnorm"),
        **_both("visual.ln_post", "vision_model.post_layernorm"),
        "visual.proj": (("visual_projection.weight",), _transposed),
        "logit_scale": (("logit_scale",), _scalar),
    }


def _siglip_ends() -> dict[str, Rule]:
    return {
        **_text_ends("text."),
        **_both("text.text_projection", "text_model.head"),
        "logit_scale": (("logit_scale",), _scalar),
        "logit_bias": (("logit_bias",), _scalar),
    }


def _text_ends(own: str) -> dict[str, Rule]:
    embeddings = "text_model.embeddings."
    return {
        f"{own}token_embedding.weight": ((f"{embeddings}token_embedding.weight",), _as_it_is),
        f"{own}positional_embedding": ((f"{embeddings}position_embedding.weight",), _as_it_is),
        **_both(f"{own}ln_final", "text_model.final_layer_norm"),
    }


def _trunk(layers: int, config: ClipConfig) -> dict[str, Rule]:
    """SigLIP's image tower, timm's VisionTransformer with its attention pool."""
    own, stored = "visual.trunk.", "vision_model."
    patch = config.model["trunk"]["patch_size"]
    embed: Join = partial(_as_convolution, side=patch) if config.layout == "siglip2" else _as_it_is
    rules: dict[str, Rule] = {
        f"{own}patch_embed.proj.weight": ((f"{stored}embeddings.patch_embedding.weight",), embed),
        f"{own}patch_embed.proj.bias": ((f"{stored}embeddings.patch_embedding.bias",), _as_it_is),
        f"{own}pos_embed": ((f"{stored}embeddings.position_embedding.weight",), _as_one),
        **_both(f"{own}norm", f"{stored}post_layernorm"),
    }
    for index in range(layers):
        block, layer = f"{own}blocks.{index}.", f"{stored}encoder.layers.{index}."
        for name, source in (
            *(("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "self_attn.out_proj")),
            *(("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")),
        ):
            rules |= _both(block + name, layer + source)
        for kind in ("weight", "bias"):
            rules[f"{block}attn.qkv.{kind}"] = (_projections(layer, kind), _stacked)
    return rules | _pool(f"{own}attn_pool.", f"{stored}head.")


def _pool(own: str, stored: str) -> dict[str, Rule]:
    rules: dict[str, Rule] = {f"{own}latent": ((f"{stored}probe",), _as_it_is)}
    for name, source in (
        *(("proj", "attention.out_proj"), ("norm", "layernorm")),
        *(("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")),
    ):
        rules |= _both(own + name, stored + source)
    for kind in ("weight", "bias"):
        together = (f"{stored}attention.in_proj_{kind}",)
        rules[f"{own}q.{kind}"], rules[f"{own}kv.{kind}"] = (together, _first_third), (together, _last_thirds)
    return rules


def _projections(layer: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{layer}self_attn.{name}_proj.{kind}" for name in "qkv")


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _as_one(tensor: Tensor) -> Tensor:
    return tensor[None]


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def _stacked(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _first_third(tensor: Tensor) -> Tensor:
    return tensor[: len(tensor) // 3]


def _last_thirds(tensor: Tensor) -> Tensor:
    return tensor[len(tensor) // 3 :]


def _as_convolution(tensor: Tensor, side: int) -> Tensor:
    """Weights of a linear layer on patches (side, side, 3), laid out in a row, as those of a convolution."""
    return tensor.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2) if tensor.shape[1] == side * side * 3 else tensor
