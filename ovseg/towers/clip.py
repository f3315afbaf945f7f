"""The one wrapper round open_clip: load a CLIP from a folder, embed text, see an image densely.

Weights are read from safetensors alone, and what open_clip would do silently (random weights for a folder without
any, the wrong activation for OpenAI's weights, the wrong tokenizer for a small vocabulary) is an error here. It does
not train, and has no image-level embedding: see `dense` for the features and `ovseg.labels` for their use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from emerdiff.configs import check_configs
from ovseg.towers.clip_config import OPENAI_DEVIATION, OPENAI_MEAN
from ovseg.towers.clip_files import FolderTokenizer, find_weights, load_model, read_clip_tokenizer
from ovseg.towers.dense import native_view, view_features
from ovseg.towers.readout import cell_size, check_dense
from ovseg.towers.regions import patch_masks
from ovseg.towers.scope import NO_SCOPE
from ovseg.towers.scoring import Scoring
from ovseg.towers.text import embed
from ovseg.towers.token_lengths import check_lengths
from ovseg.towers.transformers_config import read_layout
from ovseg.towers.view import View, resized_sides

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_SCALE = 1000.0  # of logits; CLIP's training stops at 100, and beyond this every probability is 0 or 1
TEXT_BATCH = 256  # prompts per forward pass; fixed, so that results on the CPU are bit-equal


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """A CLIP in eval mode. Methods take and give NumPy arrays and keep no state between calls."""

    model: Any  # open_clip's CLIP or CustomTextCLIP
    tokenizer: Any  # open_clip's; texts -> (n, context length) int64
    mean: tuple[float, ...] = OPENAI_MEAN  # of RGB in 0..1, CLIP's own
    deviation: tuple[float, ...] = OPENAI_DEVIATION  # of RGB in 0..1, CLIP's own

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Clip:
        """Load an open_clip folder: open_clip_config.json, open_clip_model.safetensors, and tokenizer files if its
        vocabulary is not OpenAI's; or one of transformers, of CLIP or SigLIP: config.json, model.safetensors and
        tokenizer files. `weights.fetch` gets such a folder from the hub.

        Raises:
            OSError: a file that is not there (says which), or weights that do not load.
            ValueError: a config that would compute wrong features (activation, tokenizer) or asks for code
                (`emerdiff.configs`), an image tower without dense features, weights that are not finite, a logit scale
                that makes all scores alike, or an unsupported dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        folder = Path(folder)
        weights = find_weights(folder)
        config = read_layout(folder)
        check_configs(folder)
        tokenizer = read_clip_tokenizer(folder, config)
        model = load_model(folder, config, weights, device, dtype)
        cell_size(model.visual)  # a tower without dense features is refused now, not after minutes of diffusion
        clip = cls(model.eval().requires_grad_(False), tokenizer, config.mean, config.deviation)
        try:
            scale = clip.scoring.scale
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
        if scale > LARGEST_SCALE:
            raise ValueError(f"{weights}: logit scale: expected at most {LARGEST_SCALE:g}, got {scale:g}")
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

    @property
    def native_view(self) -> View:
        """How it sees images where no preset says, see `dense.native_view`."""
        return native_view(self.model.visual)

    def knows(self, _word: str) -> bool:
        """Any word: its text tower reads all text."""
        return True

    def check_lengths(self, prompts: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
        """What the text tower cuts off of these prompts, see `token_lengths.check_lengths`."""
        return check_lengths(prompts, templates, self._count_tokens, self.tokenizer.context_length)

    def _count_tokens(self, sentence: str) -> int:
        """Of a sentence as the tower reads it, start and end included, before anything is cut."""
        if isinstance(self.tokenizer, FolderTokenizer):
            return self.tokenizer.count(sentence)
        return len(self.tokenizer.encode(sentence)) + 2  # open_clip's own

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
            F.normalize(embed(self.model, self.tokenizer(sentences[i : i + TEXT_BATCH]).to(self.device)).float(), dim=1)
            for i in range(0, len(sentences), TEXT_BATCH)
        ]
        mean = torch.cat(rows).unflatten(0, (len(prompts), len(templates))).mean(dim=1)
        return self._finite(F.normalize(mean, dim=1)).cpu().numpy()

    @torch.inference_mode()
    def dense_features(self, image: np.ndarray, view: View, masks: np.ndarray | None = None) -> np.ndarray:
        """Dense features of an image: (H, W, 3) uint8 RGB -> (C, h, w) float32 in the text space.

        The image is resized (bicubic, as CLIP does) to `resized_sides`, normalised with the model's own mean and
        deviation, and seen as `view` says. masks: (H, W) int from 0, for a view with a scope; without them attention is
        by the view's variant. For lengths and errors see `dense.view_features`; numbers that overflowed are a
        ValueError as well.
        """
        pixels = self._seen(image, view)
        scope = self._scope(pixels, masks)
        return self._finite(view_features(self.model.visual, pixels, view, scope)).cpu().numpy()

    @torch.inference_mode()
    def region_features(
        self,
        image: np.ndarray,
        view: View,
        masks: np.ndarray,
        maps: np.ndarray | None = None,
        scope: np.ndarray | None = None,
    ) -> np.ndarray:
        """A feature for each of K masks of an image, (K, C) float32, by `view.regions`; see `region_features`.

        image: (H, W, 3) uint8; masks: (H, W) int from 0; maps: (K, h, w) uint8, difference maps, for soft masks; scope:
        (H, W) int from 0, for a view with a scope, the masks as they are joined for it.
        """
        from ovseg.towers.region_features import region_features

        pixels = self._seen(image, view)
        found = region_features(self.model.visual, pixels, view, masks, maps, self._scope(pixels, scope))
        self._finite(torch.from_numpy(found))
        return found

    @torch.inference_mode()
    def check_view(self, view: View) -> None:
        """Raise ValueError for a view that the tower cannot follow, before masks are made for it."""
        from ovseg.towers.region_kinds import REGIONS

        kind, (height, width) = REGIONS[view.regions], cell_size(self.model.visual)
        check_dense(self.model.visual, view.variant)
        if view.scope == NO_SCOPE and not (kind.values or kind.own_head):
            return
        image, masks = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int32)
        small = replace(view, short_side=max(height, width), window=0, stride=0, long_side=0)
        self.dense_features(image, small, masks)
        if kind.values or kind.own_head:
            self.region_features(image, small, masks, np.ones((1, 1, 1), np.uint8), masks)

    def _seen(self, image: np.ndarray, view: View) -> Tensor:
        """An image as the tower sees it, (3, H', W') float32, whole cells."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        height, width = resized_sides(image.shape[:2], view, cell_size(self.model.visual))
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1) / 255
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return ((pixels - mean) / deviation).to(self.device)

    def _scope(self, pixels: Tensor, masks: np.ndarray | None) -> np.ndarray | None:
        """Masks (H, W) on the grid of the image as it is seen."""
        height, width = cell_size(self.model.visual)
        return None if masks is None else patch_masks(masks, (pixels.shape[1] // height, pixels.shape[2] // width))

    def _finite(self, features: Tensor) -> Tensor:
        """The features themselves; ValueError where numbers overflowed, which would look like the first class."""
        if not features.isfinite().all():
            half = any(parameter.dtype == torch.float16 for parameter in self.model.parameters())
            cause = "use bfloat16 or float32 instead of float16" if half else "its weights are too large to be a CLIP's"
            raise ValueError(f"CLIP overflowed: {cause}")
        return features
