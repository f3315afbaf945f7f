"""Trains the pocket latent diffusion model, in the shape of Stable Diffusion 1.x, and writes its diffusers folder.

    python -m ovseg.pocket.training.diffusion

It needs the trained autoencoder and CLIP: latents come from the one, and, as in Stable Diffusion 1.x, the other's text
tower is the frozen text encoder. Noise prediction on Stable Diffusion's schedule; some captions are left empty, for
the unconditional path that EmerDiff uses.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from ovseg.pocket.training import precision, processes, tokenizer
from ovseg.pocket.training.autoencoder import to_network
from ovseg.pocket.training.clip import CONFIG as CLIP_CONFIG
from ovseg.pocket.training.clip import WEIGHTS as CLIP_WEIGHTS
from ovseg.pocket.training.data import CACHE, scenes, visible
from ovseg.pocket.training.loop import Plan, carry_out, fit, read_plan
from ovseg.pocket.weights import DIFFUSION, save_half
from ovseg.pocket.world import NAMES, caption

SCENES = 40_000
EMPTY_CAPTIONS = 0.15  # share of captions left empty


def build(from_weights: bool = False) -> Any:
    """An untrained UNet, or the shipped one.

    On 32x32 latents; `up_blocks.1` is the 16x16 level with three cross-attentions.
    """
    if from_weights:
        return UNet2DConditionModel.from_pretrained(DIFFUSION / "unet").float()
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 160),
        layers_per_block=(1, 2, 2),
        cross_attention_dim=CLIP_CONFIG["text_cfg"]["width"],
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """Stable Diffusion 1.x's schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def text_encoder(from_weights: bool = False) -> Any:
    """The pocket CLIP's text tower as transformers has it, or the text encoder that ships."""
    if from_weights:
        return CLIPTextModel.from_pretrained(DIFFUSION / "text_encoder").float().eval().requires_grad_(False)
    settings = CLIP_CONFIG["text_cfg"]
    model: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=settings["vocab_size"],
            hidden_size=settings["width"],
            intermediate_size=4 * settings["width"],
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            max_position_embeddings=settings["context_length"],
            hidden_act="gelu",
            projection_dim=CLIP_CONFIG["embed_dim"],
            bos_token_id=settings["vocab_size"] - 2,
            eos_token_id=settings["vocab_size"] - 1,
            pad_token_id=settings["vocab_size"] - 1,
        )
    )
    source = {key: value.float() for key, value in load_file(CLIP_WEIGHTS).items()}
    weights = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    renamed = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    renamed |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(settings["layers"]):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for a, b in renamed.items():
                weights[f"{new}.{b}.{kind}"] = source[f"{old}.{a}.{kind}"]
            parts = source[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                weights[f"{new}.self_attn.{letter}_proj.{kind}"] = part
    prefix = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    loaded = model.load_state_dict({prefix + key: value for key, value in weights.items()}, strict=False)
    missing = [key for key in loaded.missing_keys if not key.endswith("position_ids")]
    if missing or loaded.unexpected_keys:
        raise ValueError(f"text tower: missing {missing}, unexpected {loaded.unexpected_keys}")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def latents(autoencoder: Any, images: np.ndarray, plan: Plan) -> Tensor:
    """Scaled latents of images (n, 128, 128, 3) uint8: (n, 8, 32, 32) float16; kept in the cache."""
    weights = (DIFFUSION / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    path = CACHE / f"latents-world{plan.world}-{len(images)}-{hashlib.sha256(weights).hexdigest()[:12]}.npy"
    with processes.first_alone():
        if not path.exists():
            chunks = []
            for first in track(range(0, len(images), 256), "encoding scenes"):
                with precision.autocast(plan.device):
                    posterior = autoencoder.encode(to_network(images[first : first + 256], plan.device)).latent_dist
                chunks.append((posterior.mode() * autoencoder.config.scaling_factor).half().cpu().numpy())
            draft = path.with_suffix(".partial.npy")
            np.save(draft, np.concatenate(chunks))
            draft.rename(path)
    return torch.from_numpy(np.load(path))


def train(plan: Plan) -> tuple[Any, Any]:
    torch.manual_seed(plan.seed)
    model = build(plan.from_weights).to(plan.device)
    autoencoder: Any = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float().to(plan.device).eval()
    encoder = text_encoder(plan.from_weights).to(plan.device)
    images, labels = scenes("train", SCENES, plan.world)
    encoded = latents(autoencoder, images, plan)
    tokenize = tokenizer.build()
    alphas = scheduler().alphas_cumprod.to(plan.device)

    def loss(rng: np.random.Generator) -> Tensor:
        picks = rng.choice(SCENES, plan.batch, replace=False)
        captions = [
            "" if rng.random() < EMPTY_CAPTIONS else caption([NAMES[i] for i in np.flatnonzero(visible(labels[pick]))])
            for pick in picks
        ]
        tokens = tokenize(
            captions, padding="max_length", max_length=tokenizer.CONTEXT, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            states = encoder(tokens.to(plan.device)).last_hidden_state
        return noise_loss(model, alphas, encoded[picks].to(plan.device).float(), states)

    fit(model, loss, plan, matrices=matrices(model))
    return model, encoder


def noise_loss(model: Any, alphas: Tensor, clean: Tensor, states: Tensor) -> Tensor:
    """The mean squared error of the noise predicted in `clean` latents (B, C, h, w) noised to random timesteps."""
    noise = torch.randn_like(clean)
    timesteps = torch.randint(len(alphas), (len(clean),), device=clean.device)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    return functional.mse_loss(model(noisy, timesteps, states).sample.float(), noise)


def matrices(model: Any) -> list[nn.Parameter]:
    """The UNet's parameters that Muon trains."""
    ends = ("conv_in", "conv_out")
    return [one for name, one in model.named_parameters() if one.ndim > 1 and not name.startswith(ends)]


def save(models: tuple[Any, Any]) -> None:
    """Writes the diffusers folder but for its autoencoder, which is there already."""
    unet, encoder = models
    save_half(unet, DIFFUSION / "unet")
    save_half(encoder, DIFFUSION / "text_encoder")
    tokenizer.build().save_pretrained(DIFFUSION / "tokenizer")
    scheduler().save_pretrained(DIFFUSION / "scheduler")


def main() -> None:
    plan = read_plan("diffusion", "Train the pocket diffusion model.", steps=2900, batch=32, learning_rate=2e-3)
    carry_out(plan, train, save)


if __name__ == "__main__":
    main()
