"""A latent diffusion model on disk, part by part: what each is built from, and where its weights are.

Two forms have the same surface, `ModelParts`: a diffusers folder, and a single-file checkpoint (`emerdiff.checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from emerdiff.checkpoint import Checkpoint
from emerdiff.configs import check_configs, read_config
from emerdiff.diffusers_config import read_text_encoder, read_unet, read_vae
from emerdiff.empty_prompt import TextEncoders, tokenize_nothing
from emerdiff.folder import Stored
from emerdiff.layout import ENCODERS, INDEX, check_kind, encoders, family, first_form, missing_files, shards
from emerdiff.scheduler_config import read_scheduler


class ModelParts(TextEncoders, Protocol):
    """A model's parts by their names: "unet", "vae" and those of `encoders`. Errors name the file."""

    @property
    def path(self) -> Path:
        """The folder or file."""

    @property
    def family(self) -> tuple[Any, Any]:
        """The UNet's class and its conditioning besides text, as unet/config.json has them."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that are needed."""

    def unet(self) -> dict[str, Any]:
        """The arguments of UNet2DConditionModel; ValueError."""

    def vae(self) -> dict[str, Any]:
        """The arguments of AutoencoderKL; ValueError."""

    def scheduler(self) -> dict[str, Any]:
        """The arguments of DDIMScheduler; ValueError."""


@dataclass(frozen=True)
class Folder:
    """A diffusers folder. Raises ValueError for settings that ask for code, and for models without a UNet."""

    path: Path

    def __post_init__(self) -> None:
        check_kind(self.path)
        names = ("unet", "vae", "scheduler", *(name for pair in ENCODERS for name in pair))
        check_configs(*(self.path / name for name in names))
        if (self.path / INDEX).is_file():
            read_config(self.path / INDEX)

    @property
    def family(self) -> tuple[Any, Any]:
        """unet/config.json's _class_name and addition_embed_type."""
        return family(self.path)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that are needed."""
        return tuple(encoder for encoder, _ in encoders(self.path))

    def where(self, part: str) -> Path:
        """A part's config.json."""
        return self.path / part / "config.json"

    def unet(self) -> dict[str, Any]:
        """See `read_unet`."""
        return read_unet(self.path)

    def vae(self) -> dict[str, Any]:
        """See `read_vae`."""
        return read_vae(self.path)

    def scheduler(self) -> dict[str, Any]:
        """See `read_scheduler`."""
        return read_scheduler(self.path)

    def text_encoder(self, part: str) -> dict[str, Any]:
        """See `read_text_encoder`."""
        return read_text_encoder(self.path, part)

    def tokens(self, part: str, config: Any) -> Tensor:
        """The empty prompt's tokens (1, S) int64 by the encoder's own tokenizer."""
        return tokenize_nothing(self.path / dict(ENCODERS)[part], config)

    def weights(self, part: str) -> Stored:
        """The files of the first form of weights that is there."""
        form = first_form(part, {f"{part}/{path.name}" for path in (self.path / part).glob("*")})
        if form is None:
            raise FileNotFoundError(f"{self.path / part}: no safetensors weights")
        return Stored(tuple(self.path / name for name in shards(self.path, form)))


def open_parts(path: Path) -> ModelParts:
    """The model in a folder or a single file, by its settings alone. Raises OSError, and ValueError as they do."""
    return Checkpoint.read(path) if path.is_file() else Folder(path)


def check_whole(path: Path) -> None:
    """Raise FileNotFoundError where there is nothing, or a folder lacks a file that its model needs."""
    if path.is_file():
        return
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or file")
    check_kind(path)
    if missing := missing_files(path):
        raise FileNotFoundError(
            f"{path}: not a diffusers folder with safetensors weights; missing: {', '.join(missing)}"
        )
