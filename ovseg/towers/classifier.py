"""The one wrapper round a classifying network: seen densely it names what is where, in the words of `words`.

The network ends in an average over positions and a linear classifier; the classifier at every position instead gives
logits of its classes there, as MaskCLIP (arXiv 2112.01071) reads CLIP's last layer densely. The mean of a mask's logits
is then what the network itself would say of the mask. A name is a set of classes, and its probability the sum of
theirs. The surface is that of `clip.Clip`; timm builds the network, and nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from emerdiff.memory import is_out_of_memory
from emerdiff.settings import choice, known_settings, listed, number, one_line, whole
from ovseg.json_files import read_json
from ovseg.towers.scope import NO_SCOPE
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View, resized_sides
from ovseg.towers.words import CLASSIFIER_CONFIG, CLASSIFIER_WEIGHTS, CLASSIFIER_WORDS, Words, read_words

# timm's names of the networks whose dense readout is known: features before the pooling, then `classifier`.
ARCHITECTURES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "tf_efficientnet_lite3")
PIXELS_OF_STRIDE = 32  # a side of the resized image is a multiple of this, whatever the stride of the grid
SIZE_POWER = 0.7  # a name of n classes is held back by n to this power; 1 would be their mean, 0 their sum
SETTINGS = {
    "architecture": choice(*ARCHITECTURES),
    "classes": whole(2, 100_000),
    "stride": choice(8, 16, 32),  # pixels per cell of the feature grid; below 32 the last stages are dilated
    "mean": listed(number(0, 1), 3, 3),  # of RGB in 0..1
    "deviation": listed(number(0.001, 10), 3, 3),
    "temperature": number(0.01, 100),  # by which the classes' logits are divided
    "context": number(0, 10),  # how much of the whole image's mean logits is added everywhere
    "scale": number(0.01, 100),  # of the names' logits, and what is added, so that probabilities hold what they say
    "bias": number(-100, 100),
    "doubt": number(0, 100),  # of its surest names, see `Scoring`
    "size": whole(32, 4096),  # short side of an image where no preset says another
}
COUNTER = "num_batches_tracked"  # of training; not in the files
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """A classifying network in eval mode, and its words. Methods take and give NumPy arrays, without state."""

    model: Any  # timm's, with `forward_features` and `classifier`
    words: Words
    settings: dict[str, Any]  # a value for each of `SETTINGS`

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Classifier:
        """Load a folder of `CLASSIFIER_CONFIG`, `CLASSIFIER_WORDS` and `CLASSIFIER_WEIGHTS` (see `pocket.weights`).

        Raises:
            OSError: a file that is not there, or weights of another network.
            ValueError: a setting, a word or a weight that cannot be meant, naming the file, or an unsupported dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        folder = Path(folder)
        settings = read_settings(folder / CLASSIFIER_CONFIG)
        words = read_words(folder / CLASSIFIER_WORDS, settings["classes"])
        model = _load(folder / CLASSIFIER_WEIGHTS, settings).to(device=device, dtype=dtype)
        return cls(model.eval().requires_grad_(False), words, settings)

    def __repr__(self) -> str:
        return f"Classifier({self.settings['architecture']}, {self.words!r}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def scoring(self) -> Scoring:
        """How features become probabilities: by membership, against none of the names, as fitted on photos."""
        scale, bias, doubt = (self.settings[key] for key in ("scale", "bias", "doubt"))
        return Scoring(scale, bias, "softmax-or-none", "membership", doubt)

    @property
    def native_view(self) -> View:
        """The whole image at the size that its settings name."""
        return View(short_side=self.settings["size"])

    def knows(self, word: str) -> bool:
        """Whether it has classes for a word."""
        return bool(self.words.find(word))

    def check_lengths(self, prompts: Sequence[str], _templates: Sequence[str]) -> tuple[str, ...]:
        """Nothing to tell of known prompts, and ValueError, with the nearest known words, for unknown ones."""
        self.words.check(prompts)
        return ()

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Which classes each prompt stands for: (P, C) float32, n^-SIZE_POWER for each of a prompt's n classes, else 0.

        Templates are for CLIPs and change nothing. Raises ValueError for no prompt or an unknown one.
        """
        if not prompts:
            raise ValueError("encode_text needs prompts, got 0")
        self.check_lengths(prompts, templates)
        rows = np.zeros((len(prompts), self.settings["classes"]), np.float32)
        for row, prompt in zip(rows, prompts, strict=True):
            members = list(self.words.find(prompt))
            row[members] = len(members) ** -SIZE_POWER
        return rows

    def check_view(self, view: View) -> None:
        """Raise ValueError for a view that only a CLIP can follow."""
        if view.window or view.variant != "maskclip":
            raise ValueError(
                "this naming model sees the whole image and has no variants: expected a view with window 0 and "
                f"variant maskclip, got window {view.window} and variant {view.variant}"
            )
        if view.scope != NO_SCOPE or view.regions not in ("mean", "soft"):
            raise ValueError(
                "this naming model has no transformer: expected regions mean or soft and scope none, "
                f"got {view.regions} and {view.scope}"
            )

    def region_features(
        self,
        image: np.ndarray,
        view: View,
        masks: np.ndarray,
        maps: np.ndarray | None = None,
        scope: np.ndarray | None = None,
    ) -> np.ndarray:
        """Refused: it has dense features alone."""
        self.check_view(view)
        raise ValueError(f"regions: {view.regions} is the mean of dense features, see `regions.pool`")

    @torch.inference_mode()
    def dense_features(self, image: np.ndarray, view: View, masks: np.ndarray | None = None) -> np.ndarray:
        """The classes' logits at every position: (H, W, 3) uint8 RGB -> (C, h, w) float32.

        Divided by the temperature, with the whole image's mean added as `context` says. Raises ValueError for an image
        of another kind, a view with windows or a variant of CLIP's, and numbers that overflowed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        self.check_view(view)
        height, width = resized_sides(image.shape[:2], view, (PIXELS_OF_STRIDE, PIXELS_OF_STRIDE))
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None] / 255
        mean, deviation = (torch.tensor(self.settings[key])[:, None, None] for key in ("mean", "deviation"))
        head = self.model.classifier
        features = self.model.forward_features(((pixels - mean) / deviation).to(self.device, head.weight.dtype))
        logits = torch.einsum("kc,chw->khw", head.weight.float(), features[0].float())
        logits = logits + head.bias.float()[:, None, None]
        logits = logits + self.settings["context"] * logits.mean(dim=(1, 2), keepdim=True)
        if not logits.isfinite().all():
            raise ValueError("the naming model overflowed: use bfloat16 or float32 instead of float16")
        return (logits / self.settings["temperature"]).cpu().numpy()


def read_settings(path: Path) -> dict[str, Any]:
    """A classifier's settings, all of `SETTINGS` and nothing else; without "doubt" there is none.

    Raises OSError, and ValueError naming the key.
    """
    settings = {"doubt": 0.0, **known_settings(path, read_json(path), SETTINGS)}
    for key, kind in SETTINGS.items():
        if key not in settings:
            raise ValueError(f"{path}: {key}: missing, expected {kind.expected}")
    return settings


def _load(path: Path, settings: dict[str, Any]) -> nn.Module:
    """The network with its weights, float32. Raises OSError and ValueError as `from_pretrained`."""
    model: nn.Module = timm.create_model(
        settings["architecture"],
        pretrained=False,
        num_classes=settings["classes"],
        output_stride=settings["stride"],
    )
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        counters = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(COUNTER)}
        model.load_state_dict(counters | tensors)
    except (RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise OSError(f"{path}: not the weights that {CLASSIFIER_CONFIG} describes ({one_line(error)})") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name}: expected finite numbers, got NaN or infinity")
    return model
