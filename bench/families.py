"""The diffusion models that load, at full size: parameters, memory and FLOPs of an image, without their weights.

    python -m bench.families            # the figures of docs/MODELS.md and of `ovseg models diffusion`

The UNets are those of the published configurations; `save_family` writes one with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.random_weights import save_scheduler, save_text_encoder, save_tokenizer, sd14_scheduler
from bench.shapes import META
from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.checkpoint_configs import KNOWN, TEXT_1, UNET_1, UNET_2, UNET_XL, VAE
from emerdiff.cost import PACKED
from emerdiff.sdxl import StableDiffusionXL
from emerdiff.segment import FAST_STEPS
from emerdiff.stable_diffusion import StableDiffusion

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
VAE_XL = KNOWN["SDXL"].vae
BK_SDM = {**UNET_1, "layers_per_block": 1}
SSD_1B = {
    **UNET_XL,
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [[0, 0], [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
# Name -> settings of its UNet and autoencoder.
FAMILIES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "sd-1": (UNET_1, VAE),
    "sd-2-base": (UNET_2, VAE),
    "sd-2-v": ({**UNET_2, "sample_size": 96}, VAE),
    "bk-sdm-base": (BK_SDM, VAE),
    "bk-sdm-small": ({**BK_SDM, "mid_block_type": None}, VAE),
    "bk-sdm-tiny": (
        {
            **BK_SDM,
            "mid_block_type": None,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": (CROSS_DOWN,) * 3,
            "up_block_types": (CROSS_UP,) * 3,
        },
        VAE,
    ),
    "sdxl": (UNET_XL, VAE_XL),
    "sdxl-turbo": ({**UNET_XL, "sample_size": 64}, VAE_XL),
    "ssd-1b": (SSD_1B, VAE_XL),
    "vega": (
        {**UNET_XL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": (1, 1, 2)},
        VAE_XL,
    ),
}

LISTED = {  # a name in `ovseg.diffusion_families` -> the shape it has
    "Stable Diffusion 1.x": "sd-1",
    "Stable Diffusion 2.x base": "sd-2-base",
    "Stable Diffusion 2.x": "sd-2-v",
    "sd-turbo": "sd-2-base",
    "BK-SDM base": "bk-sdm-base",
    "BK-SDM small": "bk-sdm-small",
    "BK-SDM tiny": "bk-sdm-tiny",
    "SDXL": "sdxl",
    "sdxl-turbo": "sdxl-turbo",
    "SSD-1B": "ssd-1b",
    "Segmind Vega": "vega",
}


def shapes_of(name: str) -> EmerDiff:
    """A family's model at full size, without values."""
    unet_settings, vae_settings = FAMILIES[name]
    with META:
        networks: list[Any] = [UNet2DConditionModel(**unet_settings), AutoencoderKL(**vae_settings)]
    unet, vae = (network.eval() for network in networks)
    scheduler: Any = DDIMScheduler.from_config(sd14_scheduler("epsilon").config)
    prompt = torch.empty(1, 77, unet_settings["cross_attention_dim"], device=META)
    if "addition_embed_type" in unet_settings:
        predictor: StableDiffusion = StableDiffusionXL(unet, prompt, torch.empty(1, 1280, device=META), 8)
    else:
        predictor = StableDiffusion(unet, prompt)
    return EmerDiff(LatentDiffusion(predictor, vae, scheduler))


def save_family(folder: Path, name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Save a family's model with random weights in `dtype`, as its publishers lay it out."""
    torch.manual_seed(seed)
    unet_settings, vae_settings = FAMILIES[name]
    kinds: dict[str, tuple[Any, Mapping[str, Any]]] = {
        "unet": (UNet2DConditionModel, unet_settings),
        "vae": (AutoencoderKL, vae_settings),
    }
    before = torch.get_default_dtype()
    for part, (kind, settings) in kinds.items():
        torch.set_default_dtype(dtype)  # so that no copy in full precision is ever there
        try:
            network = kind(**settings)
        finally:
            torch.set_default_dtype(before)
        network.save_config(folder / part)
        save_model(network, str(folder / part / "diffusion_pytorch_model.safetensors"), {"format": "pt"})
    save_scheduler(folder, "v_prediction" if name == "sd-2-v" else "epsilon")
    if "addition_embed_type" not in unet_settings:
        save_tokenizer(folder / "tokenizer", "vocab.json", vocabulary_size=TEXT_1["vocab_size"])
        width = unet_settings["cross_attention_dim"]
        save_text_encoder(folder, 49408, hidden_size=width, intermediate_size=4 * width, layers=2, heads=width // 64)
    return folder


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_call(model: EmerDiff, side: int) -> int:
    """FLOPs of one call of the UNet for one image of so many pixels a side."""
    diffusion = model.diffusion
    latent = torch.empty(1, diffusion.latent_channels, *[side // diffusion.latent_factor] * 2, device=META)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        diffusion.predict_noise(latent, diffusion.grid(50)[-1])
    return int(counter.get_total_flops())


def estimate_flops(model: EmerDiff, options: Options) -> float:
    """FLOPs of a square image with speed="fast", the masks' responses packed into as many latents as `cost` expects.

    One call of each kind is counted, with two numbers of rows where it takes several: FLOPs grow evenly with them.
    """
    diffusion = model.diffusion
    side = options.base_size // diffusion.latent_factor
    step, layer = diffusion.grid(options.steps)[-1], diffusion.default_layers[1]

    def latents(rows: int) -> torch.Tensor:
        return torch.empty(rows, diffusion.latent_channels, side, side, device=META)

    def flops(call: Callable[[], object]) -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
        return int(counter.get_total_flops())

    def in_rows(call: Callable[[int], object], rows: int, calls: int) -> float:
        with diffusion.sharing_attention():
            few, more = (flops(partial(call, count)) for count in (3, 5))
        each = (more - few) / 2
        return calls * (few - 3 * each) + rows * each

    calls = ceil(options.masks / (options.batch - 1))
    nudged = in_rows(
        lambda rows: diffusion.predict_noise(latents(1), step, widen_at=layer, rows=rows), options.masks + calls, calls
    )
    carried = in_rows(lambda rows: diffusion.predict_noise(latents(rows), step), PACKED + 1, 1)
    image = torch.empty(1, 3, options.base_size, options.base_size, device=META)
    once = flops(lambda: diffusion.predict_noise(latents(1), step)) + flops(lambda: diffusion.encode(image))
    return once + nudged + (FAST_STEPS - 1) * carried


def line(name: str) -> str:
    """A model's figures in `ovseg.diffusion_families`, and the estimate of an image at its own size, TFLOP."""
    model = shapes_of(LISTED[name])
    diffusion = model.diffusion
    size = diffusion.native_size
    unet, vae = (count_parameters(part) for part in (diffusion.predictor.unet, diffusion.vae))
    call, image = count_call(model, 512) / 1e12, estimate_flops(model, Options(base_size=size)) / 1e12
    figures = (f"{size}", f"{unet / 1e6:.0f}", f"{(unet + vae) * 4 / 1e9:.2f}", f"{call:.3f}", f"{image:.1f}")
    return "\t".join((name, *figures))


def main() -> None:
    """Print a line for each model."""
    for name in sys.argv[1:] or LISTED:
        print(line(name), flush=True)


if __name__ == "__main__":
    main()
