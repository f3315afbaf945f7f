"""The files of a diffusers folder: which of them a model needs, by its own JSON, and in which forms weights may come.

Loads no torch. Weights are one safetensors file, its half-precision variant, or shards that an index names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from emerdiff.configs import read_config, read_json
from emerdiff.settings import refusal, show

UNET, VAE, SCHEDULER = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"
ENCODERS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))  # each with its tokenizer
INDEX = "model_index.json"  # of the pipeline; of its settings one is read, see `encoders`
ZEROS = "force_zeros_for_empty_prompt"
TRANSFORMER = "transformer/config.json"  # of models without a UNet
TOKENIZERS = (("{}/tokenizer.json",), ("{}/vocab.json", "{}/merges.txt"))  # one group is needed, with all its files
NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}  # of weights; those of encoders: model
# The first that is there is read; full precision comes before half.
FORMS = (
    "{}.safetensors",
    "{}.safetensors.index.json",
    "{}.fp16.safetensors",
    "{}.safetensors.index.fp16.json",
)
MOST_SHARDS = 1000
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")  # endings of weights that may hold code, and are never read

# What is fetched before any weights; those that are not there are left out.
JSON = (
    *(UNET, VAE, SCHEDULER, INDEX, TRANSFORMER),
    *(f"{encoder}/config.json" for encoder, _ in ENCODERS),
    *(f"{tokenizer}/*.{ending}" for _, tokenizer in ENCODERS for ending in ("json", "txt")),
    *(f"{part}/*.index*.json" for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
)


def family(folder: Path) -> tuple[Any, Any]:
    """unet/config.json's _class_name and addition_embed_type, its conditioning besides text; ValueError for no JSON."""
    unet = read_config(folder / UNET)
    return unet.get("_class_name", "UNet2DConditionModel"), unet.get("addition_embed_type")


def encoders(folder: Path) -> tuple[tuple[str, str], ...]:
    """The text encoders, each with its tokenizer, that the empty prompt takes.

    None for a model that was trained with zeros in place of the empty prompt, as SDXL was: its model_index.json says
    so, and diffusers takes it so where nothing is said. ValueError for JSON that cannot be read.
    """
    if family(folder)[1] != "text_time":
        return ENCODERS[:1]
    said = read_config(folder / INDEX).get(ZEROS, True) if (folder / INDEX).is_file() else True
    if not isinstance(said, bool):
        raise refusal(folder / INDEX, ZEROS, "true or false", said)
    return () if said else ENCODERS


def missing_files(folder: Path) -> list[str]:
    """The files that a folder lacks, by their names; "a or b" where one of them would do."""
    if not (folder / UNET).is_file():
        return [UNET]
    try:
        needed = encoders(folder)
    except ValueError:  # said when the model is read
        needed = ENCODERS[:1]
    configs = [VAE, SCHEDULER, *(f"{encoder}/config.json" for encoder, _ in needed)]
    lacking = [name for name in configs if not (folder / name).is_file()]
    for part in ("unet", "vae", *(encoder for encoder, _ in needed)):
        lacking += missing_weights(folder, part)
    for _, tokenizer in needed:
        groups = [[name.format(tokenizer) for name in group] for group in TOKENIZERS]
        if not any(all((folder / name).is_file() for name in group) for group in groups):
            lacking.append(" or ".join(" + ".join(group) for group in groups))
    return lacking


def parts(folder: Path) -> tuple[str, ...]:
    """The parts whose weights are read; ValueError for JSON that cannot be read."""
    return ("unet", "vae", *(encoder for encoder, _ in encoders(folder)))


def missing_weights(folder: Path, part: str) -> list[str]:
    """The files of weights that a part lacks: shards that its index names, or whichever form would do."""
    return absent_weights(folder, _forms(part))


def absent_weights(folder: Path, forms: Sequence[str]) -> list[str]:
    """The files of weights that a folder lacks in the first of these forms that it has, and "a or b" where it has none.

    A form is a safetensors file or the index of several.
    """
    form = next((name for name in forms if (folder / name).is_file()), None)
    if form is None:
        return [" or ".join(single_files(forms))]
    try:
        names = shards(folder, form)
    except ValueError:  # said when the model is read
        return []
    return [name for name in names if not (folder / name).is_file()]


def single_files(forms: Sequence[str]) -> list[str]:
    """Those of the forms that are no index."""
    return [name for name in forms if name.endswith(".safetensors")]


def first_form(part: str, present: Container[str]) -> str | None:
    """Of the files in `present`, by their paths in a folder, the one in which a part's weights are looked for."""
    return next((name for name in _forms(part) if name in present), None)


def _forms(part: str) -> list[str]:
    return [name.format(f"{part}/{NAMES.get(part, 'model')}") for name in FORMS]


def shards(folder: Path, form: str) -> list[str]:
    """The safetensors files of a form of weights, by their paths in the folder. Raises ValueError for a bad index."""
    if form.endswith(".safetensors"):
        return [form]
    path = folder / form
    content = read_json(path)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if not 1 <= len(names) <= MOST_SHARDS:
        raise refusal(path, "weight_map", f"an object that names 1 to {MOST_SHARDS} files", weight_map)
    for name in sorted(names):
        if not re.fullmatch(r"\w[\w.-]{,200}\.safetensors", name, re.ASCII):
            raise refusal(path, "weight_map", "names of safetensors files beside it", name)
    return [(Path(form).parent / name).as_posix() for name in sorted(names)]


def check_kind(folder: Path) -> None:
    """Raise ValueError for a model that has a transformer in place of a UNet."""
    path = folder / TRANSFORMER
    if path.is_file() and not (folder / UNET).is_file():
        kind = show(read_config(path).get("_class_name"))
        raise ValueError(
            f"{path}: _class_name {kind}, a diffusion transformer (SD 3, Flux, PixArt and the like); expected a UNet "
            "of Stable Diffusion 1.x, 2.x, SDXL or their kin"
        )
