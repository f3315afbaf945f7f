"""The one wrapper round open_clip: load a CLIP from a folder, embed text, see an image densely.

Weights are read from safetensors alone, and what open_clip would do silently (random weights for a folder without
any, the wrong activation for OpenAI's weights, the wrong tokenizer for a small vocabulary) is an error here. It does
not train, and has no image-level embedding: see `ovseg.dense` for the features and `ovseg.labels` for their use.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from emerdiff.configs import check_configs
from emerdiff.memory import is_out_of_memory
from ovseg.classes import check_lengths
from ovseg.clip_config import CLIP_CONFIG, CLIP_WEIGHTS, check_tokenizer, read_clip_config
from ovseg.dense import View, view_features
from ovseg.labels import Scoring
from ovseg.towers import cell_size

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
FROM_FILES_ALONE = {"trust_remote_code": False, "local_files_only": True}  # for transformers' tokenizers
TEXT_BATCH = 256  # prompts per forward pass; fixed, so that results on the CPU are bit-equal


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """A CLIP in eval mode. Methods take and give NumPy arrays and keep no state between calls."""

    model: Any  # open_clip's CLIP or CustomTextCLIP
    tokenizer: Any  # open_clip's; texts -> (n, context length) int64
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN  # of RGB in 0..1, CLIP's own
    deviation: tuple[float, ...] = OPENAI_DATASET_STD  # of RGB in 0..1, CLIP's own

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Clip:
        """Load an open_clip folder: open_clip_config.json, open_clip_model.safetensors, and tokenizer files if its
        vocabulary is not OpenAI's. `weights.fetch` gets such a folder from the hub.

        Raises:
            OSError: a file that is not there (says which), or weights that do not load.
            ValueError: a config that would compute wrong features (activation, tokenizer) or asks for code
                (`emerdiff.configs`), an image tower without dense features, a logit scale that is not finite, or an
                unsupported dtype.
        """
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype must be one of {', '.join(map(str, PRECISIONS))}, got {dtype}")
        folder = Path(folder)
        weights = _find_weights(folder)
        config = read_clip_config(folder)
        check_configs(folder)
        model = _create_model(folder, weights, device, dtype)
        cell_size(model.visual)  # a tower without dense features is refused now, not after minutes of diffusion
        tokenizer = _read_tokenizer(folder, config)
        preprocessing = model.visual.preprocess_cfg
        clip = cls(
            model=model.eval().requires_grad_(False),
            tokenizer=tokenizer,
            mean=tuple(preprocessing["mean"]),
            deviation=tuple(preprocessing["std"]),
        )
        try:
            _ = clip.scoring
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
        return clip

    @property
    def scoring(self) -> Scoring:
        """How its cosines become probabilities, as it learned it: the factor is 100 for OpenAI's models."""
        scale = float(self.model.logit_scale.detach().float().exp())
        bias = self.model.logit_bias  # of CLIPs with a sigmoid for every pair, such as SigLIP
        return Scoring(scale) if bias is None else Scoring(scale, float(bias.detach().float()), "sigmoid")

    def __repr__(self) -> str:
        return f"Clip({type(self.model.visual).__name__}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def check_lengths(self, prompts: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
        """What the text tower cuts off of these prompts, see `classes.check_lengths`."""
        return check_lengths(prompts, templates, self._count_tokens, self.tokenizer.context_length)

    def _count_tokens(self, sentence: str) -> int:
        """Of a sentence as the tower reads it, start and end included, before anything is cut."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:  # open_clip's own tokenizer
            return len(self.tokenizer.encode(sentence)) + 2
        return len(inner(self.tokenizer.clean_fn(sentence), verbose=False).input_ids)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Text embeddings as in CLIP: over all templates, the mean of the normalised embeddings, normalised again.

        Args:
            prompts: n class names or aliases.
            templates: sentences with one "{}" each where the name goes (see `ovseg.prompts.templates`).
        Returns:
            (n, C) float32, rows of length 1.
        Raises:
            ValueError: no prompt, no template, a template without "{}", a prompt whose end the tower would not read,
                or numbers that overflowed.
        """
        if not prompts or not templates:
            raise ValueError(f"encode_text needs prompts and templates, got {len(prompts)} and {len(templates)}")
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"a template needs '{{}}' where the name goes, got {template!r}")
        self.check_lengths(prompts, templates)
        sentences = [template.replace("{}", prompt) for prompt in prompts for template in templates]
        rows = [
            F.normalize(
                self.model.encode_text(self.tokenizer(sentences[i : i + TEXT_BATCH]).to(self.device)).float(), dim=1
            )
            for i in range(0, len(sentences), TEXT_BATCH)
        ]
        mean = torch.cat(rows).unflatten(0, (len(prompts), len(templates))).mean(dim=1)
        return _finite(F.normalize(mean, dim=1)).cpu().numpy()

    @torch.inference_mode()
    def dense_features(self, image: np.ndarray, view: View) -> np.ndarray:
        """Dense features of an image: (H, W, 3) uint8 RGB -> (C, h, w) float32 in the text space.

        The image is resized (bicubic, as CLIP does) to `resized_sides`, normalised with the model's own mean and
        deviation, and seen as `view` says. For lengths and errors see `ovseg.dense.view_features`; numbers that
        overflowed are a ValueError as well.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        tower = self.model.visual
        height, width = resized_sides(image.shape[:2], view, cell_size(tower))
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1) / 255
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return _finite(view_features(tower, ((pixels - mean) / deviation).to(self.device), view)).cpu().numpy()


def _finite(features: Tensor) -> Tensor:
    """The features themselves; ValueError where numbers overflowed, which would look like the first class."""
    if not features.isfinite().all():
        raise ValueError("CLIP overflowed: use bfloat16 or float32 instead of float16")
    return features


def resized_sides(sides: tuple[int, int], view: View, cell: tuple[int, int]) -> tuple[int, int]:
    """(H, W) as `view` has it resized, each side rounded to whole cells, at least one. Pixels."""
    scale = view.short_side / min(sides)
    if view.long_side:
        scale = min(scale, view.long_side / max(sides))
    height, width = (max(1, round(side * scale / unit)) * unit for side, unit in zip(sides, cell, strict=True))
    return height, width


def _create_model(folder: Path, weights: Path, device: str | torch.device, dtype: torch.dtype) -> Any:
    """open_clip's model of a folder that was checked, with its weights."""
    source = f"{open_clip.factory.LOCAL_DIR_PREFIX}{folder}"
    try:
        return open_clip.create_model(source, device=device, precision=PRECISIONS[dtype], require_pretrained=True)
    except (RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = textwrap.shorten(str(error), 200)
        raise OSError(f"{weights}: not the weights that {folder / CLIP_CONFIG} describes ({reason})") from error
    except (TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"{folder / CLIP_CONFIG}: open_clip cannot build this model ({error})") from error


def _read_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    """The folder's own tokenizer, or the one that open_clip carries with it."""
    from_files = bool(config["text_cfg"].get("hf_tokenizer_name"))
    source = f"{open_clip.factory.LOCAL_DIR_PREFIX}{folder}"
    try:
        tokenizer = open_clip.get_tokenizer(source, **(FROM_FILES_ALONE if from_files else {}))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ValueError(f"{folder}: not a tokenizer that can be read ({error})") from error
    check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _find_weights(folder: Path) -> Path:
    for name in CLIP_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder / CLIP_WEIGHTS[0]}: not there; CLIP weights are read from safetensors alone, "
        f"in a file named {' or '.join(CLIP_WEIGHTS)}"
    )
