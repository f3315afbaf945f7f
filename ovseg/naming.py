"""The models that say what is where, CLIPs and classifiers: what a segmenter asks of one, and which a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ovseg.classes import Background, Vocabulary, parse_background
from ovseg.model_files import form

if TYPE_CHECKING:
    import torch

    from ovseg.towers.scoring import Scoring
    from ovseg.towers.view import View


class NamingModel(Protocol):
    """Sees an image densely and reads names, in the same C channels: the surface of `ovseg.towers.clip.Clip`."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def scoring(self) -> Scoring:
        """How its features become probabilities."""

    @property
    def native_view(self) -> View:
        """How it sees images where no preset says."""

    def knows(self, word: str) -> bool:
        """Whether it has learned a word; a model that reads any text says yes."""

    def check_lengths(self, prompts: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
        """Lines to tell of these prompts; ValueError for one that cannot be read."""

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """(P, C) float32."""

    def check_view(self, view: View) -> None:
        """Raise ValueError for a view that it cannot follow."""

    def dense_features(self, image: np.ndarray, view: View, masks: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) uint8 -> (C, h, w) float32; masks (H, W), for a view with a scope."""

    def region_features(
        self,
        image: np.ndarray,
        view: View,
        masks: np.ndarray,
        maps: np.ndarray | None = None,
        scope: np.ndarray | None = None,
    ) -> np.ndarray:
        """(K, C) float32, of the masks (H, W), for a view whose regions dense features do not give."""


MODELS: dict[str, str] = {  # loaded when used
    "clip": "ovseg.towers.clip:Clip",
    "transformers-clip": "ovseg.towers.clip:Clip",
    "classifier": "ovseg.towers.classifier:Classifier",
}


def load_naming_model(folder: Path, device: torch.device, dtype: torch.dtype) -> NamingModel:
    """The model of a folder, by what the folder holds, see `model_files.form`. Raises OSError and ValueError."""
    module, name = MODELS[form("clip", folder)].split(":")
    model: Any = getattr(import_module(module), name)
    loaded: NamingModel = model.from_pretrained(folder, device=device, dtype=dtype)
    return loaded


def without_unknown(vocabulary: Vocabulary, rule: Background | str, model: NamingModel) -> Vocabulary:
    """A vocabulary without those default background words that the model does not know; a note says which.

    Words that the user gave stay, for the model to refuse. Raises ValueError where no default word is left.
    """
    rule = parse_background(rule) if isinstance(rule, str) else rule
    unknown = [] if rule.own else [word for word in rule.words if not model.knows(word)]
    if not unknown:
        return vocabulary
    pairs = zip(vocabulary.prompts, vocabulary.owners, strict=True)
    kept = [(prompt, owner) for prompt, owner in pairs if owner != 0 or prompt not in unknown]
    if all(owner != 0 for _, owner in kept):
        raise ValueError(
            "background: this naming model knows none of the default background words; choose threshold=T, none or "
            "your own words"
        )
    note = f"default background words that this naming model does not know: {', '.join(unknown)}"
    prompts, owners = zip(*kept, strict=True)
    return replace(vocabulary, prompts=prompts, owners=owners, notes=(*vocabulary.notes, note))
