"""Loading diffusers folders, the grid of timesteps, and the wrapper's four calls."""

from __future__ import annotations

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusion_folder import TOKENIZER_FORMS, save_tiny_diffusion
from safetensors.torch import load_file, save_file

from emerdiff import EmerDiff, LatentDiffusion, Options
from emerdiff.inversion import noisy_latent


@pytest.fixture(scope="module")
def diffusion(tiny_diffusion: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion)


@pytest.fixture
def folder(tiny_diffusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion, tmp_path / "model"))


def test_the_grid_is_stable_diffusions_own(diffusion: LatentDiffusion):
    grid = diffusion.grid(50)
    assert [step.timestep for step in grid] == list(range(981, 0, -20))
    assert {281, 1} <= {step.timestep for step in grid}
    below = [step for step in grid if step.timestep <= 281]
    assert len(below) == 15
    assert all(a.next_alpha == b.alpha for a, b in zip(grid, grid[1:], strict=False))


def test_below_the_last_timestep_lies_alpha_zero(diffusion: LatentDiffusion):
    last = diffusion.grid(50)[-1]
    assert last.next_alpha == pytest.approx(1 - 0.00085, abs=1e-7)
    sigma = ((1 - last.next_alpha) / (1 - last.alpha) * (1 - last.alpha / last.next_alpha)) ** 0.5
    assert sigma == pytest.approx(0.0206, abs=1e-4)


@pytest.mark.parametrize("steps", [0, 1000, 5000])
def test_impossible_step_counts_are_refused(diffusion: LatentDiffusion, steps: int):
    with pytest.raises(ValueError, match=f"steps: expected 1 to 999, got {steps}"):
        diffusion.grid(steps)


def test_every_other_step_count_has_its_grid(diffusion: LatentDiffusion):
    for steps in (1, 2, 333, 500, 501, 999):
        timesteps = [step.timestep for step in diffusion.grid(steps)]
        assert len(timesteps) == steps and timesteps[0] < 1000 and timesteps[-1] == 1


def test_an_offset_that_runs_over_the_end_is_refused(diffusion: LatentDiffusion):
    scheduler = DDIMScheduler.from_config(diffusion.scheduler.config, steps_offset=2)
    with pytest.raises(ValueError, match="500 would begin at timestep 1000, beyond 999"):
        replace(diffusion, scheduler=scheduler).grid(500)


def test_asking_for_a_grid_leaves_nothing_behind(diffusion: LatentDiffusion):
    before = diffusion.grid(50)
    diffusion.grid(7)
    assert diffusion.grid(50) == before


def test_encode_is_the_scaled_mode(diffusion: LatentDiffusion):
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        moments = diffusion.vae.quant_conv(diffusion.vae.encoder(images))
        latents = diffusion.encode(images)
    assert latents.shape == (2, 4, 16, 24)
    torch.testing.assert_close(latents, moments[:, :4] * 0.18215)


def test_decode_undoes_the_scale(diffusion: LatentDiffusion):
    latents = torch.randn(5, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(diffusion.decode(latents), diffusion.vae.decode(latents / 0.18215).sample)


@pytest.mark.parametrize(("height", "width", "expected"), [(256, 256, 2), (256, 128, 4), (512, 512, 1), (600, 600, 1)])
def test_as_many_are_decoded_at_once_as_fit_into_two_of_512_pixels(diffusion, height: int, width: int, expected: int):
    assert diffusion.decodes_at_once(torch.empty(1, 4, height, width)) == expected  # 2 pixels a latent position


def test_a_unet_that_takes_more_than_latents_is_refused(folder: Path):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    UNet2DConditionModel.from_config(unet.config, in_channels=9).save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match="unet/config.json: in_channels is 9, but latents have 4 channels"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predictions_become_noise(diffusion: LatentDiffusion, prediction: str):
    step = diffusion.grid(50)[30]
    x_0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    velocity = step.alpha**0.5 * noise - (1 - step.alpha) ** 0.5 * x_0
    output = {"epsilon": noise, "v_prediction": velocity}[prediction]
    perfect = LatentDiffusion(
        predictor=SimpleNamespace(evaluate=lambda *_, **__: output),
        vae=diffusion.vae,
        scheduler=SimpleNamespace(config=SimpleNamespace(prediction_type=prediction)),
    )
    found = perfect.predict_noise(noisy_latent(x_0, noise, step.alpha), step)
    torch.testing.assert_close(found, noise, atol=1e-5, rtol=1e-5)


def test_sizes(diffusion: LatentDiffusion):
    assert (diffusion.latent_factor, diffusion.size_multiple) == (2, 8)
    assert (diffusion.latent_channels, diffusion.native_size) == (4, 32)  # latents of 16 x 16 in training
    assert diffusion.dtype == torch.float32


def test_a_size_that_is_not_one_number_is_named(folder: Path):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"sample_size": [16, 24]}))
    loaded = LatentDiffusion.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"unet/config.json: sample_size: .* got \[16, 24\]"):
        _ = loaded.native_size


@pytest.mark.parametrize("room", ["ovseg", "eval"])
def test_nobody_outside_reaches_into_the_model(room: str):
    """The surface of `LatentDiffusion` is all that the other rooms use."""
    inner = {"predictor", "unet", "vae", "scheduler", "empty_prompt"}
    files = list((Path(__file__).parent.parent / room).rglob("*.py"))
    assert len(files) > 10
    for path in files:
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & inner, path


def test_levels_count_halvings(diffusion: LatentDiffusion):
    """Three levels: latents of 16 x 16 are 8 x 8 in the middle of the way up, where the paper's layers are."""
    layers = ["down_blocks.0.attentions.1", "down_blocks.1.attentions.0", "mid_block.attentions.0"]
    layers += ["up_blocks.1.attentions.0", "up_blocks.2.attentions.2"]
    names = [f"{layer}.transformer_blocks.0.attn2" for layer in layers]
    assert set(names) <= diffusion.predictor.attentions.keys()
    assert [diffusion.level(name) for name in names] == [0, 1, 2, 1, 0]
    assert [diffusion.level(name) for name in diffusion.default_layers] == [1, 1]


def test_unknown_layers_are_refused_with_the_known_ones(diffusion: LatentDiffusion):
    with pytest.raises(
        ValueError, match=r"^feature_layer: 'up_blocks.9'.*up_blocks\.1\.attentions\.2\.transformer_blocks\.0\.attn2"
    ):
        diffusion.check_layer("feature_layer", "up_blocks.9")


def test_both_tokenizer_forms_give_the_same_empty_prompt(tmp_path: Path):
    prompts = [
        LatentDiffusion.from_pretrained(
            save_tiny_diffusion(tmp_path / form, tokenizer_form=form)
        ).predictor.empty_prompt
        for form in TOKENIZER_FORMS
    ]
    assert prompts[0].shape == (1, 77, 8)
    assert torch.equal(*prompts)


def test_the_empty_prompt_is_start_then_ends(tiny_diffusion: Path, diffusion: LatentDiffusion):
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(tiny_diffusion / "text_encoder").eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[512] + [513] * 76])).last_hidden_state
    torch.testing.assert_close(diffusion.predictor.empty_prompt, expected)


def test_key_names_of_the_published_checkpoints_load(folder: Path, diffusion: LatentDiffusion):
    text = folder / "text_encoder/model.safetensors"
    renamed = {f"text_model.{key}": value for key, value in load_file(text).items()}
    save_file(renamed | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, text, {"format": "pt"})
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(vae)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {key.replace(f".{new}.", f".{old}."): value for key, value in weights.items()}
    save_file(weights, vae, {"format": "pt"})
    loaded = LatentDiffusion.from_pretrained(folder)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.predictor.empty_prompt, diffusion.predictor.empty_prompt)
    with torch.no_grad():
        assert torch.equal(loaded.encode(images), diffusion.encode(images))


def test_half_precision_weights_load_in_float32(folder: Path):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(path).items()}, path, {"format": "pt"})
    loaded = LatentDiffusion.from_pretrained(folder)
    assert {parameter.dtype for parameter in loaded.predictor.unet.parameters()} == {torch.float32}


def test_dtype_reaches_every_part(tiny_diffusion: Path):
    loaded = LatentDiffusion.from_pretrained(tiny_diffusion, dtype=torch.bfloat16)
    step = loaded.grid(50)[-1]
    with torch.no_grad():
        latents = loaded.encode(torch.zeros(1, 3, 16, 16))
        assert loaded.dtype == loaded.predictor.unet.dtype == loaded.vae.dtype == torch.bfloat16
        assert loaded.predictor.empty_prompt.dtype == torch.bfloat16
        assert latents.dtype == loaded.predict_noise(latents, step).dtype == loaded.decode(latents).dtype
    assert latents.dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/config.json",
        "tokenizer/vocab.json",
    ],
)
def test_missing_files_are_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(OSError, match=f"missing: .*{name}"):
        LatentDiffusion.from_pretrained(folder)


def test_pickled_weights_are_not_read(folder: Path):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(OSError, match="missing: unet/diffusion_pytorch_model.safetensors"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_incomplete_weights_are_refused(folder: Path, part: str):
    path = folder / f"{part}.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match="parameters are not in the weights|do not fit"):
        LatentDiffusion.from_pretrained(folder)


def test_weights_of_another_size_are_refused(folder: Path):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"] = torch.zeros(3)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(
        ValueError,
        match=r"unet/diffusion_pytorch_model.safetensors: weights do not fit .*\[8\] for conv_in.bias, got \[3\]",
    ):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_truncated_weights_are_an_error_that_names_the_part(folder: Path, part: str, kept: int):
    (path,) = (folder / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises((OSError, ValueError), match=f"model/{part}"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}'])
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str):
    folder = save_tiny_diffusion(tmp_path / "model", tokenizer_form="tokenizer.json")
    (folder / "tokenizer/tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="model/tokenizer/tokenizer.json: (not JSON|the file: exp|model: exp)"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "sample", "epsilon or v_prediction, got 'sample'"),
        (
            "scheduler/scheduler_config.json",
            "_class_name",
            "FlowMatchEulerDiscreteScheduler",
            "scheduler_config.json: _class_name: expected a scheduler with betas, .* got 'FlowMatchEulerDiscrete",
        ),
        ("scheduler/scheduler_config.json", "use_flow_sigmas", True, "expected a scheduler with betas"),
        ("scheduler/scheduler_config.json", "beta_schedule", None, "expected a scheduler with betas"),
        ("unet/config.json", "_class_name", "UNet3DConditionModel", "unet/config.json: _class_name 'UNet3DCondition"),
        ("unet/config.json", "addition_embed_type", "image", "addition_embed_type 'image'; expected a UNet of"),
        ("unet/config.json", "addition_embed_type", "text_time", "addition_time_embed_dim: expected a whole number, f"),
        ("unet/config.json", "addition_embed_type", ["text"], r"addition_embed_type \['text'\]; expected a UNet of"),
        ("vae/config.json", "_class_name", "AutoencoderTiny", "expected AutoencoderKL, got 'AutoencoderTiny'"),
        ("unet/config.json", "cross_attention_norm", "layer_norm", "cross_attention_norm: expected null .* got 'la"),
    ],
)
def test_models_of_another_kind_are_refused_with_and_without_weights(
    folder: Path, file: str, key: str, value: object, message: str
):
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {key: value}))
    for load in (LatentDiffusion.from_pretrained, LatentDiffusion.sketch):
        with pytest.raises(ValueError, match=message) as raised:
            load(folder)
        assert len(str(raised.value).splitlines()) == 1


def test_settings_are_judged_before_weights_are_read(folder: Path):
    for path in folder.glob("*/*.safetensors"):
        path.write_bytes(b"")
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    config |= {"_class_name": "FlowMatchHeunDiscreteScheduler"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected a scheduler with betas"):
        LatentDiffusion.from_pretrained(folder)


def test_a_flow_matching_folder_as_diffusers_writes_it_is_refused(folder: Path):
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match="got 'FlowMatchEulerDiscreteScheduler'"):
        LatentDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("scheduler", [PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_a_scheduler_of_any_class_with_these_betas_gives_the_same_grid(folder: Path, diffusion, scheduler):
    scheduler.from_config(diffusion.scheduler.config).save_pretrained(folder / "scheduler")
    assert LatentDiffusion.from_pretrained(folder).grid(50) == diffusion.grid(50)


def test_a_sketch_has_sizes_layers_and_grid_without_weights(folder: Path, diffusion: LatentDiffusion):
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    sketch = LatentDiffusion.sketch(folder)
    for name in ("latent_factor", "latent_channels", "size_multiple", "native_size", "default_layers"):
        assert getattr(sketch, name) == getattr(diffusion, name), name
    assert sketch.predictor.attentions.keys() == diffusion.predictor.attentions.keys()
    assert sketch.grid(50) == diffusion.grid(50)
    assert sketch.device.type == "meta"
    options = Options(masks=4, base_size=32, feature_timestep=40, modulated_layer="up1.1")
    assert EmerDiff(sketch).snap(options) == EmerDiff(diffusion).snap(options)
    assert EmerDiff(sketch).cost((40, 60), options) == EmerDiff(diffusion).cost((40, 60), options)


def test_a_folder_that_does_not_exist(tmp_path: Path):
    with pytest.raises(OSError, match="no such folder"):
        LatentDiffusion.from_pretrained(tmp_path / "nothing")
