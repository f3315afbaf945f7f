"""The one wrapper round a diffusers latent diffusion model: encode, decode, predict noise, name its attentions.

For models of the shape of Stable Diffusion 1.x and 2.x (unet, vae, text_encoder, tokenizer, scheduler). Only
safetensors weights are read. Not done: guidance (a no-op with the empty prompt), text prompts, safety checkers,
sharded weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from emerdiff.configs import check_configs, read_config
from emerdiff.hooks import attentions
from emerdiff.inversion import Step
from emerdiff.memory import is_out_of_memory
from emerdiff.unet import check_shape, evaluate

WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
TOKENIZERS = (("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt"))
PARTS = ("unet", "vae", "text_encoder", "scheduler", "tokenizer")
# What CLIP's text encoder is built from; every other entry of its config is left unread.
TEXT_ENCODER_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
FETCHED = [*WEIGHTS, *CONFIGS, "tokenizer/*.json", "tokenizer/*.txt"]

# VAE decoding of two 512x512 images at a time takes some 4 GB in float32; smaller images go in larger batches.
PIXELS_PER_DECODE = 2 * 512 * 512


@dataclass(frozen=True, eq=False, repr=False)
class LatentDiffusion:
    """A text-to-image latent diffusion model, conditioned on the empty prompt."""

    # Any: diffusers' classes carry no types for their calls and configurations.
    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL
    scheduler: Any  # DDIMScheduler; for its grid of timesteps, cumulative alphas and prediction type alone
    empty_prompt: Tensor  # (1, S, C) the text encoder's states for ""

    @classmethod
    def from_pretrained(
        cls, id_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> LatentDiffusion:
        """Load a diffusers folder or a hub repository ("owner/name"; the local cache is tried before the network).

        Raises OSError where the folder, the repository or one of its files is missing, ValueError where the files do
        not hold a model of this kind, or ask for code (`emerdiff.configs`).
        """
        folder = _local_folder(id_or_folder)
        check_configs(*(folder / part for part in PARTS))
        unet = _load(UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
        check_shape(unet)
        _check_autoencoder(folder)
        vae = _load(AutoencoderKL, folder, "vae", torch_dtype=dtype)
        if unet.config.in_channels != vae.config.latent_channels:
            raise ValueError(
                f"{folder}/unet/config.json: in_channels is {unet.config.in_channels}, but latents have "
                f"{vae.config.latent_channels} channels; models for inpainting and the like take more than latents"
            )
        scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler")
        if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"{folder}/scheduler: expected prediction_type epsilon or v_prediction, "
                f"got {scheduler.config.prediction_type!r}"
            )
        empty_prompt = _encode_empty_prompt(folder, dtype)
        # Convolutions are faster in this layout, on CPUs and GPUs; numbers stay the same but for rounding.
        unet, vae = (model.to(device, memory_format=torch.channels_last).eval() for model in (unet, vae))
        return cls(unet, vae, scheduler, empty_prompt.to(device))

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.empty_prompt.device

    @property
    def latent_factor(self) -> int:
        """Image pixels per latent position along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this, so that every level of the UNet halves exactly."""
        return self.latent_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def attention(self, name: str) -> Attention:
        """Return the attention module called `name`; ValueError lists the cross-attentions where there is none."""
        modules = attentions(self.unet)
        if name not in modules:
            known = ", ".join(key for key in modules if key.endswith("attn2"))
            raise ValueError(f"layer {name!r} is no attention of this UNet; its cross-attentions are: {known}")
        return modules[name]

    def level(self, name: str) -> int:
        """How many times a latent's sides are halved where the attention called `name` is."""
        deepest = len(self.unet.config.block_out_channels) - 1
        block, index, *_ = name.split(".")
        if block == "mid_block":
            return deepest
        return int(index) if block == "down_blocks" else deepest - int(index)

    def grid(self, steps: int) -> list[Step]:
        """Return the `steps` denoising steps of the scheduler's own grid, from the largest timestep down.

        Raises ValueError where the scheduler has no such grid.
        """
        last = self.scheduler.config.num_train_timesteps - 1
        if not 1 <= steps <= last:
            raise ValueError(f"steps: expected 1 to {last}, got {steps}")
        # A scheduler of its own: set_timesteps writes into the object.
        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        if timesteps[0] > last:  # steps_offset moves a whole grid up
            raise ValueError(f"steps: {steps} would begin at timestep {timesteps[0]}, beyond {last}; try fewer")
        alphas = [float(scheduler.alphas_cumprod[t]) for t in timesteps] + [float(scheduler.final_alpha_cumprod)]
        return [Step(*row) for row in zip(timesteps, alphas[:-1], alphas[1:], strict=True)]

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f) float32: the posterior's mode, scaled."""
        posterior = self.vae.encode(images.to(self.device, self.empty_prompt.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32, nominally in [-1, 1], not clipped."""
        latents = latents.to(self.device, self.empty_prompt.dtype, memory_format=torch.channels_last)
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.float()

    def decodes_at_once(self, latents: Tensor) -> int:
        """How many of these latents (B, C, h, w) should be decoded in one call."""
        return max(1, PIXELS_PER_DECODE // (latents.shape[-2] * latents.shape[-1] * self.latent_factor**2))

    def predict_noise(self, latents: Tensor, step: Step, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
        """Latents x_t (B, C, h, w) -> predicted noise, same shape, float32, in one evaluation of the UNet.

        widen_at: name of an attention; one latent is `rows` rows from the transformer that holds it on, and the result
        is (rows, C, h, w).
        """
        transformer = widen_at.partition(".transformer_blocks")[0] if widen_at else None
        inputs = latents.to(self.empty_prompt.dtype, memory_format=torch.channels_last)
        output = evaluate(self.unet, inputs, step.timestep, self.empty_prompt, widen_at=transformer, rows=rows).float()
        if self.scheduler.config.prediction_type == "v_prediction":
            # v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho, 2202.00512, appendix D)
            return step.alpha**0.5 * output + (1 - step.alpha) ** 0.5 * latents.float()
        return output


def _local_folder(id_or_folder: str | Path) -> Path:
    folder = Path(id_or_folder)
    if not folder.is_dir():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(id_or_folder)):
            raise FileNotFoundError(f"{id_or_folder}: no such folder (and not a hub id like owner/name)")
        folder = _snapshot(str(id_or_folder))
    missing = _missing(folder)
    if missing:
        raise FileNotFoundError(f"{folder}: not a diffusers folder with safetensors weights; missing: {missing}")
    return folder


def _snapshot(repository: str) -> Path:
    """Return the local copy of a hub repository, downloading it only where the cache does not hold it whole."""
    try:
        folder = Path(snapshot_download(repository, allow_patterns=FETCHED, local_files_only=True))
        if not _missing(folder):
            return folder
    except OSError:
        pass
    try:
        return Path(snapshot_download(repository, allow_patterns=FETCHED))
    except Exception as error:  # the hub client's network errors share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{repository}: no such folder, not in the local hub cache, and not to be had from the hub ({reason})"
        ) from error


def _missing(folder: Path) -> str:
    """Return the files that `folder` lacks, joined by commas."""
    missing = [name for name in (*CONFIGS, *WEIGHTS) if not (folder / name).is_file()]
    if not any(all((folder / name).is_file() for name in form) for form in TOKENIZERS):
        missing.append(" or ".join(" + ".join(form) for form in TOKENIZERS))
    return ", ".join(missing)


def _load(model_class: Any, folder: Path, part: str, **settings: Any) -> Any:
    """Load one network of the folder, refusing weights that leave a parameter at its random start."""
    try:
        model, report = model_class.from_pretrained(
            folder / part, use_safetensors=True, local_files_only=True, output_loading_info=True, **settings
        )
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{folder}/{part}: weights do not fit config.json ({error})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{folder}/{part}: {len(missing)} parameters are not in the weights, such as {missing[0]}")
    return model


def _check_autoencoder(folder: Path) -> None:
    """ValueError where vae/config.json is of another class: most others give no latent distribution."""
    name = read_config(folder / "vae/config.json").get("_class_name", "AutoencoderKL")
    if name != "AutoencoderKL":
        raise ValueError(f"{folder}/vae/config.json: _class_name: expected AutoencoderKL, got {name!r}")


def _encode_empty_prompt(folder: Path, dtype: torch.dtype) -> Tensor:
    """Return the text encoder's last hidden states (1, S, C) for the empty prompt, padded as the tokenizer says."""
    found = read_config(folder / "text_encoder/config.json")
    try:
        config = CLIPTextConfig(**{key: found[key] for key in TEXT_ENCODER_KEYS if key in found})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}/text_encoder/config.json: not of a CLIP text encoder ({error})") from error
    with _no_progress_bar():
        encoder = _load(CLIPTextModel, folder, "text_encoder", config=config, dtype=dtype).eval()
    length = encoder.config.max_position_embeddings
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
        tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ValueError(f"{folder}/tokenizer: not a tokenizer that can be read ({error})") from error
    with torch.inference_mode():
        return encoder(tokens).last_hidden_state


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over the second that loading from a disk takes."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
