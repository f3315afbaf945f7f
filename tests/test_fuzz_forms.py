"""Fuzzed forms of weights: SDXL folders with two text encoders and shards, and single-file checkpoints.

Whatever is damaged, the model works or one line says what is wrong; nothing is fetched, and memory stays bounded.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from diffusion_folder import known_of, save_checkpoint, save_tiny_diffusion
from fuzzing import damage_file, damaged_bytes, seeds
from test_checkpoints import UNET, in_shards
from test_fuzz_models import damaged_header, damaged_numbers, try_case

from emerdiff import checkpoint as checkpoints

FILES = {  # file -> weight among the cases
    "unet/config.json": 4,
    "model_index.json": 2,
    "text_encoder_2/config.json": 3,
    "vae/config.json": 1,
    f"{UNET}.safetensors.index.json": 3,
}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_diffusion(tmp_path_factory.mktemp("fuzzed") / "sdxl", family="sdxl", zeros=False)
    in_shards(folder, UNET)
    return folder


def test_fuzzed_sdxl_folders(sdxl: Path) -> None:
    assert try_case("diffusion", sdxl)
    for seed in seeds(20):
        draw = random.Random(seed)
        (name,) = draw.choices(list(FILES), list(FILES.values()))
        path = sdxl / name
        sound = damage_file(path, draw)
        try:
            try_case("diffusion", sdxl)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {name}: {type(error).__name__}: {error}") from error
        finally:
            path.write_bytes(sound)
    assert try_case("diffusion", sdxl)


def test_fuzzed_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_diffusion(tmp_path / "folder", family="sd-2")
    monkeypatch.setitem(checkpoints.KNOWN, "tiny", known_of(folder))
    path = save_checkpoint(tmp_path / "tiny.safetensors", folder, known_of(folder))
    assert try_case("diffusion", path)
    sound = path.read_bytes()
    length = int.from_bytes(sound[:8], "little")
    for seed in seeds(20):
        draw = random.Random(seed)
        damage = draw.choice((damaged_header, damaged_numbers, lambda content, _, draw: damaged_bytes(content, draw)))
        path.write_bytes(damage(sound, length, draw))
        try:
            try_case("diffusion", path)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
