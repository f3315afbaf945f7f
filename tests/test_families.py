"""Families of diffusion models: conditioning as in diffusers' pipelines, default layers, the whole chain, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusion_folder import UNETS, save_tiny_diffusion
from fuzzing import check_one_line
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from emerdiff import LatentDiffusion
from ovseg.cli import main
from ovseg.weights import WeightsMissing, require

FIRST, LAST = "attentions.0.transformer_blocks.0.attn2", "attentions.{}.transformer_blocks.{}.attn2"
LAYERS = {  # first and last cross-attention of the deepest block on the way up that has any; how often halved there
    "sd-1": ("up_blocks.1", 2, 0, 1),
    "sd-2": ("up_blocks.1", 2, 0, 1),
    "sd-turbo": ("up_blocks.1", 2, 0, 1),
    "bk-sdm-base": ("up_blocks.1", 1, 0, 1),
    "bk-sdm-small": ("up_blocks.1", 1, 0, 1),
    "bk-sdm-tiny": ("up_blocks.0", 1, 0, 1),
    "sdxl": ("up_blocks.0", 2, 2, 2),
    "sdxl-turbo": ("up_blocks.0", 2, 2, 2),
    "ssd-1b": ("up_blocks.0", 2, 3, 2),
    "vega": ("up_blocks.0", 2, 1, 2),
}
PREDICTION = {"sd-2": "v_prediction"}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {
        name: save_tiny_diffusion(root / name, family=name, prediction=PREDICTION.get(name, "epsilon"))
        for name in UNETS
    }


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL whose empty prompt is encoded by both text encoders."""
    return save_tiny_diffusion(tmp_path_factory.mktemp("encoded"), family="sdxl", zeros=False)


@pytest.mark.parametrize("family", UNETS)
def test_default_layers_follow_the_papers_rule(family: str, families: dict[str, Path]):
    block, attention, transformer, level = LAYERS[family]
    sketch = LatentDiffusion.sketch(families[family])
    assert sketch.default_layers == (f"{block}.{FIRST}", f"{block}.{LAST.format(attention, transformer)}")
    assert [sketch.level(name) for name in sketch.default_layers] == [level, level]
    assert set(sketch.default_layers) <= sketch.predictor.attentions.keys()


@pytest.mark.parametrize("family", UNETS)
def test_the_whole_chain_runs(family: str, families: dict[str, Path], tiny_clip: Path, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    command = ["label", str(tmp_path / "photo.png"), "--classes", "cat,dog", "--clip", str(tiny_clip)]
    command += ["--diffusion", str(families[family]), "--device", "cpu", "--masks", "3", "--steps", "10"]
    assert main([*command, "--t-m", "101", "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "photo.png") as labels:
        assert labels.size == (40, 32) and set(np.unique(labels)) <= {0, 1, 2}


def pipeline_of(folder: Path) -> StableDiffusionXLPipeline:
    """Diffusers' own, as the oracle of conditioning."""
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        add_watermarker=False,
    )


def test_sdxls_conditioning_is_its_pipelines(encoded: Path, families: dict[str, Path]):
    pipeline, model = pipeline_of(encoded), LatentDiffusion.from_pretrained(encoded)
    with torch.no_grad():
        states, absent, pooled, pooled_absent = pipeline.encode_prompt("", device="cpu", negative_prompt=None)
    torch.testing.assert_close(model.predictor.empty_prompt, states)
    torch.testing.assert_close(model.predictor.pooled, pooled)
    assert states.shape == (1, 77, 8) and pooled.abs().max() > 0
    zeros = LatentDiffusion.from_pretrained(families["sdxl"])  # what a pipeline takes where no prompt is given
    torch.testing.assert_close(zeros.predictor.empty_prompt, absent)
    torch.testing.assert_close(zeros.predictor.pooled, pooled_absent)


def test_sdxls_noise_is_its_pipelines(encoded: Path):
    pipeline, model = pipeline_of(encoded), LatentDiffusion.from_pretrained(encoded)
    latents = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    step = model.grid(10)[3]
    ids = pipeline._get_add_time_ids((32, 48), (0, 0), (32, 48), torch.float32, text_encoder_projection_dim=6)
    conditions = {"text_embeds": model.predictor.pooled.expand(2, -1), "time_ids": ids.expand(2, -1)}
    with torch.no_grad():
        prompt = model.predictor.empty_prompt.expand(2, -1, -1)
        expected = pipeline.unet(latents, step.timestep, encoder_hidden_states=prompt, added_cond_kwargs=conditions)
        found = model.predict_noise(latents, step)
    torch.testing.assert_close(found, expected.sample, atol=1e-5, rtol=1e-5)


def test_an_encoder_is_needed_only_where_it_is_used(encoded: Path, families: dict[str, Path]):
    assert {path.name for path in families["sdxl"].iterdir()} == {"unet", "vae", "scheduler", "model_index.json"}
    assert require({"diffusion": str(families["sdxl"])}) == require({"diffusion": str(encoded)}) == []
    index = encoded / "text_encoder_2/config.json"
    kept = index.read_text()
    index.unlink()
    try:
        with pytest.raises(WeightsMissing, match="it lacks text_encoder_2/config.json"):
            require({"diffusion": str(encoded)})
    finally:
        index.write_text(kept)


@pytest.mark.parametrize(
    ("dtype", "of_vae"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)],
)
def test_a_vae_that_overflows_in_half_precision_runs_in_full(dtype, of_vae, families: dict[str, Path]):
    model = LatentDiffusion.from_pretrained(families["sdxl"], dtype=dtype)
    assert model.dtype == model.predictor.unet.dtype == dtype and model.vae.dtype == of_vae
    config = json.loads((families["sdxl"] / "vae/config.json").read_text())
    assert model.vae.config.force_upcast is True and config["scaling_factor"] == 0.13025
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, 16, 16))
        assert latents.dtype == model.decode(latents).dtype == torch.float32
    plain = LatentDiffusion.from_pretrained(families["sd-1"], dtype=dtype)
    assert plain.vae.dtype == (of_vae if plain.vae.config.force_upcast else dtype)


def test_the_native_size_and_factor_are_the_models_own(families: dict[str, Path]):
    sizes = {name: LatentDiffusion.sketch(folder).native_size for name, folder in families.items()}
    assert sizes["sdxl"] == 32 and sizes["sdxl-turbo"] == 16


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"addition_time_embed_dim": 5}, "projection_class_embeddings_input_dim: expected more"),
        (
            "text_encoder_2/config.json",
            {"projection_dim": 7},
            "projection_dim: expected 6, what the UNet's proj.* got 7",
        ),
        ("unet/config.json", {"addition_time_embed_dim": None}, "addition_time_embed_dim: expected a whole number"),
        ("unet/config.json", {"up_block_types": ["UpBlock2D"] * 3}, "up_block_types: expected cross-attention on the"),
        ("unet/config.json", {"cross_attention_dim": 9}, "cross_attention_dim: expected 8, the width of the text enc"),
        ("text_encoder_2/config.json", {"projection_dim": None}, "projection_dim: expected a whole number, for a p"),
        ("model_index.json", {"force_zeros_for_empty_prompt": 1}, "force_zeros_for_empty_prompt: expected true or fal"),
        ("model_index.json", {"custom_pipeline": "evil/code"}, "custom_pipeline: this setting takes code"),
    ],
)
def test_sdxl_folders_that_do_not_fit_are_refused_by_the_key(file, changes, message, encoded: Path, tmp_path: Path):
    for path in encoded.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(encoded)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(encoded)).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(content | changes))
    for load in (LatentDiffusion.sketch, LatentDiffusion.from_pretrained):
        with pytest.raises(ValueError, match=message) as caught:
            load(tmp_path)
        check_one_line(caught.value, file)


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "SD3Transformer2DModel", ["evil"]])
def test_a_diffusion_transformer_is_refused_in_one_line(name, tiny_clip: Path, tmp_path: Path, capsys):
    (tmp_path / "model/transformer").mkdir(parents=True)
    (tmp_path / "model/transformer/config.json").write_text(json.dumps({"_class_name": name}))
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "model/scheduler")
    for load in (LatentDiffusion.sketch, LatentDiffusion.from_pretrained):
        with pytest.raises(
            ValueError, match="a diffusion transformer .* expected a UNet of Stable Diffusion"
        ) as caught:
            load(tmp_path / "model")
        check_one_line(caught.value, "transformer/config.json")
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    command = ["label", str(tmp_path / "photo.png"), "--classes", "cat", "--clip", str(tiny_clip)]
    assert main([*command, "--diffusion", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "a diffusion transformer" in said[0] and not (tmp_path / "out").exists()
