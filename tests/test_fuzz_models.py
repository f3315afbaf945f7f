"""Damaged model folders: each loads and works, or is one line that names a file in it; nothing is asked of a network.

Cases are drawn by a fixed seed, see `fuzzing`; all run in one process, which may take some GB more than it has.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from clip_folder import save_tiny_clip
from diffusion_folder import save_tiny_diffusion
from fuzzing import (
    bounded_memory,
    check_one_line,
    damage_file,
    damaged,
    damaged_bytes,
    refusing_network,
    seeds,
    to_json,
)
from test_configs import edit
from timm_trunks import save_timm_clip
from transformers_clip_folder import save_transformers_clip

from emerdiff import LatentDiffusion, naive_segments
from ovseg.analysis import FORMAT, Analysis
from ovseg.towers.clip import Clip
from ovseg.towers.regions import pool
from ovseg.towers.view import View

ROOM = 3 * 2**30  # bytes that a case may take
SECONDS = 20.0  # of the processor that a case may take
PARTS = {  # file -> weight among the cases
    "diffusion": {
        "unet/config.json": 4,
        "vae/config.json": 3,
        "scheduler/scheduler_config.json": 3,
        "text_encoder/config.json": 3,
        "tokenizer/tokenizer_config.json": 2,
        "tokenizer/tokenizer.json": 2,
    },
    "clip": {"open_clip_config.json": 6, "tokenizer_config.json": 2, "tokenizer.json": 2},
    "timm-clip": {"open_clip_config.json": 1},
    "transformers-clip": {
        **{"config.json": 6, "preprocessor_config.json": 1, "tokenizer_config.json": 1, "tokenizer.json": 1}
    },
}
CONFIGS = {"diffusion": 25, "clip": 80, "timm-clip": 20, "transformers-clip": 40}  # cases
WEIGHTS = {"diffusion": 10, "clip": 30, "timm-clip": 10, "transformers-clip": 20}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("fuzzed")
    diffusion = save_tiny_diffusion(place / "diffusion", tokenizer_form="tokenizer.json")
    clip = save_tiny_clip(place / "clip")
    config = json.loads((clip / "open_clip_config.json").read_text())
    model = config["model_cfg"]
    model |= {"init_logit_scale": 2.6592, "custom_text": False, "output_dict": False}
    model["vision_cfg"] |= {"mlp_ratio": 4.0, "pool_type": "tok", "no_ln_pre": False, "patch_dropout": 0.0}
    model["vision_cfg"] |= {"ls_init_value": None, "act_kwargs": None, "norm_kwargs": {"eps": 1e-5}}
    model["text_cfg"] |= {"pool_type": "argmax", "tokenizer_kwargs": {"clean": "lower"}, "proj_type": "linear"}
    config["preprocess_cfg"] = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}
    (clip / "open_clip_config.json").write_text(json.dumps(config))
    timm = save_timm_clip(place / "timm", "vit_base_patch16_siglip_001")
    edit(timm / "open_clip_config.json", vision_cfg__timm_drop=0.0, vision_cfg__timm_drop_path=None)
    siglip = save_transformers_clip(place / "siglip", "siglip")
    return {"diffusion": diffusion, "clip": clip, "timm-clip": timm, "transformers-clip": siglip}


def use_diffusion(folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(folder)
    step = model.grid(2)[-1]
    if model.size_multiple <= 64 and model.latent_channels <= 64:
        with torch.inference_mode():
            latents = model.encode(torch.zeros(1, 3, model.size_multiple, model.size_multiple))
            model.decode(model.predict_noise(latents, step))


def use_clip(folder: Path) -> None:
    clip = Clip.from_pretrained(folder)
    clip.encode_text(["cat"], ["a {}"])
    clip.dense_features(np.zeros((16, 16, 3), np.uint8), View(short_side=32))


USES: dict[str, Callable[[Path], None]] = {"diffusion": use_diffusion} | dict.fromkeys(
    ("clip", "timm-clip", "transformers-clip"), use_clip
)


def try_case(kind: str, folder: Path) -> bool:
    """Whether a folder loads and works; AssertionError where it fails in another way than it should."""
    start = time.process_time()
    with refusing_network() as asked, bounded_memory(ROOM):
        try:
            USES[kind](folder)
            worked = True
        except (ValueError, OSError) as error:
            check_one_line(error, str(folder), "steps:", "View", "CLIP overflowed", "class name")
            worked = False
    assert not asked
    assert time.process_time() - start < SECONDS
    return worked


@pytest.mark.parametrize("kind", PARTS)
def test_fuzzed_configs(kind: str, folders: dict[str, Path]) -> None:
    try_case(kind, folders[kind])  # imports what is imported once
    outcomes = []
    for seed in seeds(CONFIGS[kind]):
        draw = random.Random(seed)
        (name,) = draw.choices(list(PARTS[kind]), list(PARTS[kind].values()))
        path = folders[kind] / name
        sound = damage_file(path, draw)
        try:
            outcomes.append(try_case(kind, folders[kind]))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {name}: {type(error).__name__}: {error}") from error
        finally:
            path.write_bytes(sound)
    assert try_case(kind, folders[kind])
    assert len(outcomes) < 30 or 0.02 < np.mean(outcomes) < 0.98  # neither is everything refused, nor accepted


@pytest.mark.parametrize("kind", PARTS)
def test_fuzzed_weights(kind: str, folders: dict[str, Path]) -> None:
    names = [path.relative_to(folders[kind]).as_posix() for path in sorted(folders[kind].rglob("*.safetensors"))]
    for seed in seeds(WEIGHTS[kind]):
        draw = random.Random(seed)
        path = folders[kind] / draw.choice(names)
        sound = path.read_bytes()
        length = int.from_bytes(sound[:8], "little")
        damage = draw.choice((damaged_header, damaged_numbers, lambda content, _, draw: damaged_bytes(content, draw)))
        path.write_bytes(damage(sound, length, draw))
        try:
            try_case(kind, folders[kind])
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {path.name}: {type(error).__name__}: {error}") from error
        finally:
            path.write_bytes(sound)
    assert try_case(kind, folders[kind])


def damaged_header(content: bytes, length: int, draw: random.Random) -> bytes:
    header = to_json(damaged(json.loads(content[8 : 8 + length]), draw)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def damaged_numbers(content: bytes, length: int, draw: random.Random) -> bytes:
    """NaN, infinity, the largest and tiny numbers, in some places."""
    numbers = np.frombuffer(content[8 + length :], np.float32).copy()
    for _ in range(draw.choice((1, 1, 100))):
        numbers[draw.randrange(len(numbers))] = draw.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 1e6))
    return content[: 8 + length] + numbers.tobytes()


SEGMENTS = np.array([[0, 0, 1, 1, 2, 2]] * 4, np.uint8)
ARRAYS = {
    "segments": SEGMENTS,
    "features": np.ones((7, 2, 3), np.float16),
    "low_resolution_masks": np.array([[0, 1, 2], [0, 1, 2]], np.int32),
    "queries": np.ones((6, 5), np.float16),
    "difference_maps": np.zeros((3, 4, 6), np.uint8),
}
ORIGIN = {"image_sha256": "0" * 64, "height": 4, "width": 6, "clip": "clip@1", "dtype": "float32"}
ORIGIN |= {"view": {"short_side": 8, "variant": "maskclip"}, "masks": {"by": "emerdiff", "options": {"masks": 3}}}
CONTENT = {"format": FORMAT, "origin": ORIGIN, "facts": {"network_size": [4, 6], "layer_rms": 0.25}}
DTYPES = (np.uint8, np.int8, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64, np.bool_, np.uint16)


def test_fuzzed_analyses(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "kept.safetensors", []
    for seed in seeds(600):
        draw = random.Random(seed)
        arrays, text = dict(ARRAYS), json.dumps(CONTENT)
        kind = draw.randrange(4)
        if kind < 2:
            text = to_json(damaged(CONTENT, draw))
        if kind in (1, 2):
            damage_array(arrays, draw)
        content = safetensors.numpy.save(arrays, {"ovseg": text.encode("utf-8", "replace").decode()})
        path.write_bytes(damaged_bytes(content, draw) if kind == 3 else content)
        with refusing_network() as asked, bounded_memory(ROOM):
            try:
                use_analysis(Analysis.load(path))
                outcomes.append(True)
            except (ValueError, OSError) as error:
                check_one_line(error, str(path))
                outcomes.append(False)
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert not asked
    assert len(outcomes) < 30 or 0.02 < np.mean(outcomes) < 0.98


def use_analysis(analysis: Analysis) -> None:
    """What labelling does with one: a vector a mask, and masks again from what EmerDiff left."""
    height, width = analysis.origin.height, analysis.origin.width
    if analysis.segments is not None:
        assert pool(analysis.features, analysis.segments).shape[0] == analysis.segments.max() + 1
    if "low_resolution_masks" in analysis.evidence and height * width <= 10**6:
        naive_segments(analysis.evidence["low_resolution_masks"], (height, width))


def damage_array(arrays: dict[str, np.ndarray], draw: random.Random) -> None:
    """Another type, shape or number, or none of this name."""
    name = draw.choice(list(arrays))
    array = arrays.pop(name)
    kind = draw.randrange(5)
    if kind == 0:
        arrays[name] = array.astype(draw.choice(DTYPES))
    elif kind == 1:
        arrays[name] = array[..., None] if draw.random() < 0.3 else array[: draw.randrange(len(array) + 1)]
    elif kind == 2:
        arrays[name] = array.T.copy()
    elif kind == 3:
        changed = array.astype(np.float32 if array.dtype.kind == "f" else draw.choice((np.int32, np.int64, np.uint8)))
        number = draw.choice((-1, 0, 3, 200, 70_000, 2**31 - 1))
        changed.flat[draw.randrange(changed.size)] = number % 256 if changed.dtype == np.uint8 else number
        arrays[name] = changed
