"""Tables of what open_clip's JSON may say; see `clip_config`, which reads it by them."""

from __future__ import annotations

from emerdiff.settings import FLAG, NOTHING, OBJECT, Allowed, Table, choice, either, listed, number, text, whole
from ovseg.towers.families import is_known_to_timm


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
TIMM_VISION: Table = {  # of a tower that timm makes; open_clip hands nothing else on to it
    "timm_model_name": Allowed(
        "timm's name for a SigLIP, PE-Core, EVA, MobileCLIP, ViTamin or ConvNeXt tower, see `ovseg models`",
        lambda value: isinstance(value, str) and is_known_to_timm(value),
    ),
    "timm_model_pretrained": optional(choice(False)),
    "timm_pool": choice("", "avg", "token", "map"),
    "timm_proj": optional(choice("", "linear", "mlp", "none")),
    "timm_proj_bias": SWITCH,
    "timm_drop": number(0, 0.99),
    "timm_drop_path": optional(number(0, 0.99)),
    "image_size": SIDES,
    "patch_dropout": number(0, 0.99),
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
