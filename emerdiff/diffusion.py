"""The one surface of a latent diffusion model: encode, decode, predict noise, name its attentions.

The noise predictor and its conditioning are of a family (`FAMILIES`, chosen by the UNet's settings); the autoencoder is
diffusers' AutoencoderKL, the scheduler any with a grid of timesteps and betas. Not done: guidance (a no-op with the
empty prompt), text prompts, safety checkers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.models.attention_processor import Attention
from torch import Tensor

from emerdiff.folder import load_network, sketch_network
from emerdiff.inversion import Step
from emerdiff.parts import ModelParts, check_whole, open_parts
from emerdiff.sdxl import StableDiffusionXL
from emerdiff.settings import refusal, show
from emerdiff.stable_diffusion import StableDiffusion

# Keys: unet/config.json's _class_name and its addition_embed_type (conditioning besides text).
FAMILIES: dict[tuple[Any, Any], type[StableDiffusion]] = {
    ("UNet2DConditionModel", None): StableDiffusion,
    ("UNet2DConditionModel", "text_time"): StableDiffusionXL,
}

# VAE decoding of two 512x512 images at a time takes some 4 GB in float32; smaller images go in larger batches.
PIXELS_PER_DECODE = 2 * 512 * 512


@dataclass(frozen=True, eq=False, repr=False)
class LatentDiffusion:
    """A text-to-image latent diffusion model, conditioned on the empty prompt."""

    predictor: StableDiffusion  # or another of FAMILIES
    vae: Any  # AutoencoderKL; Any: diffusers' classes carry no types for their calls and configurations
    scheduler: Any  # DDIMScheduler; for its grid of timesteps, cumulative alphas and prediction type alone

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> LatentDiffusion:
        """Load a diffusers folder, or a single-file checkpoint; `ovseg.weights.fetch` gets a folder from the hub.

        Raises OSError where it or one of its files is missing, ValueError where the files do not hold a model of this
        kind, or ask for code (`emerdiff.configs`). Settings are judged before weights are read. With float16, an
        autoencoder that overflows in it (force_upcast in vae/config.json, as SDXL's) runs in float32.
        """
        path = Path(folder)
        check_whole(path)
        plan, parts = cls.sketch(path), open_parts(path)
        predictor = plan.predictor.load(parts, device, dtype)
        upcast = dtype == torch.float16 and parts.vae().get("force_upcast", False)
        vae = load_network(plan.vae, parts.weights("vae"), torch.float32 if upcast else dtype, device)
        return cls(predictor, vae.to(device, memory_format=torch.channels_last), plan.scheduler)

    @classmethod
    def sketch(cls, folder: Path) -> LatentDiffusion:
        """A model without its weights, on torch's meta device: sizes, layers and grid, no results.

        Raises OSError and ValueError as `from_pretrained` does for settings.
        """
        parts = open_parts(folder)
        family, scheduler, settings = _check_settings(parts)
        vae = sketch_network(lambda: AutoencoderKL(**settings), parts.where("vae"))
        predictor = family.sketch(parts)
        _check_channels(parts, predictor, vae)
        return cls(predictor, vae, scheduler)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.predictor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the networks' weights and activations."""
        return self.predictor.dtype

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def latent_factor(self) -> int:
        """Image pixels per latent position along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this, so that every level of the UNet halves exactly."""
        return self.latent_factor * 2**self.predictor.deepest

    @property
    def native_size(self) -> int:
        """Side of the images that the model was trained at, pixels; ValueError where that is not one number."""
        side = self.predictor.sample_size
        if not isinstance(side, int):
            raise ValueError(
                f"unet/config.json: sample_size: expected the latents' side as one whole number, got {side}"
            )
        return side * self.latent_factor

    @property
    def default_layers(self) -> tuple[str, str]:
        """Default layers by name: the attention whose queries are read, and the one that is nudged."""
        return self.predictor.default_layers

    def attention(self, name: str) -> Attention:
        """Return the attention module called `name`; KeyError where there is none."""
        return self.predictor.attentions[name]

    def check_layer(self, field: str, name: str) -> None:
        """Raise ValueError, naming the field and the cross-attentions there are, unless an attention is called so."""
        modules = self.predictor.attentions
        if name not in modules:
            known = ", ".join(key for key in modules if key.endswith("attn2"))
            raise ValueError(f"{field}: {name!r} is no attention of this UNet; its cross-attentions are: {known}")

    def level(self, name: str) -> int:
        """How many times a latent's sides are halved where the attention called `name` is."""
        return self.predictor.level(name)

    def sharing_attention(self) -> AbstractContextManager[None]:
        """A block in which all rows of a batch use the attention maps of its first row."""
        return self.predictor.sharing_attention()

    def grid(self, steps: int) -> list[Step]:
        """Return the `steps` denoising steps of the scheduler's own grid, from the largest timestep down.

        Raises ValueError where the scheduler has no such grid.
        """
        last = self.scheduler.config.num_train_timesteps - 1
        if not 1 <= steps <= last:
            raise ValueError(f"steps: expected 1 to {last}, got {steps}")
        # A copy, because set_timesteps changes the scheduler.
        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        if timesteps[0] > last:  # steps_offset moves a whole grid up
            raise ValueError(f"steps: {steps} would begin at timestep {timesteps[0]}, beyond {last}; try fewer")
        alphas = [float(scheduler.alphas_cumprod[t]) for t in timesteps] + [float(scheduler.final_alpha_cumprod)]
        return [Step(*row) for row in zip(timesteps, alphas[:-1], alphas[1:], strict=True)]

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f) float32: the posterior's mode, scaled."""
        posterior = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32, nominally in [-1, 1], not clipped."""
        latents = latents.to(self.device, self.vae.dtype, memory_format=torch.channels_last)
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.float()

    def decodes_at_once(self, latents: Tensor) -> int:
        """How many of these latents (B, C, h, w) should be decoded in one call."""
        return max(1, PIXELS_PER_DECODE // (latents.shape[-2] * latents.shape[-1] * self.latent_factor**2))

    def predict_noise(self, latents: Tensor, step: Step, *, widen_at: str | None = None, rows: int = 1) -> Tensor:
        """Latents x_t (B, C, h, w) -> predicted noise, same shape, float32, in one evaluation of the UNet.

        widen_at: name of an attention; one latent is `rows` rows from the transformer that holds it on, and the result
        is (rows, C, h, w).
        """
        output = self.predictor.evaluate(latents, step.timestep, widen_at=widen_at, rows=rows).float()
        if self.scheduler.config.prediction_type == "v_prediction":
            # v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho, 2202.00512, appendix D)
            return step.alpha**0.5 * output + (1 - step.alpha) ** 0.5 * latents.float()
        return output


def _check_settings(parts: ModelParts) -> tuple[type[StableDiffusion], Any, dict[str, Any]]:
    """The model's family, its scheduler as a DDIMScheduler, and its autoencoder's settings.

    Raises ValueError, naming the file, for models of another kind.
    """
    kind = parts.family
    if kind not in list(FAMILIES):  # not in the dict: JSON may hold what has no hash
        raise ValueError(
            f"{parts.where('unet')}: _class_name {show(kind[0])} with addition_embed_type {show(kind[1])}; "
            "expected a UNet of Stable Diffusion 1.x, 2.x, SDXL or their kin"
        )
    return FAMILIES[kind], DDIMScheduler(**parts.scheduler()), parts.vae()


def _check_channels(parts: ModelParts, predictor: StableDiffusion, vae: Any) -> None:
    path = parts.where("unet")
    if predictor.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"{path}: in_channels is {predictor.in_channels}, but latents have "
            f"{vae.config.latent_channels} channels; models for inpainting and the like take more than latents"
        )
    if predictor.out_channels != predictor.in_channels:
        raise refusal(path, "out_channels", str(predictor.in_channels), predictor.out_channels)
