"""Forms of weights: half precision, shards, and single files in the layout of A1111 and ComfyUI."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusion_folder import known_of, save_checkpoint, save_tiny_diffusion
from fuzzing import check_one_line
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from emerdiff import LatentDiffusion
from emerdiff import checkpoint as checkpoints
from emerdiff.checkpoint import SPREAD, TELLING, Checkpoint
from emerdiff.checkpoint_configs import END, KNOWN, START
from emerdiff.checkpoint_names import openclip_pieces, unet_pieces, vae_pieces
from ovseg.cli import main
from ovseg.weights import WeightsMissing, find, identity, require

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def folder(tiny_diffusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion, tmp_path / "model"))


def outputs(path: Path) -> tuple[Tensor, ...]:
    """What a model computes: noise from latents, latents from an image, and an image again."""
    model = LatentDiffusion.from_pretrained(path)
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    with torch.no_grad():
        latents = model.encode(image)
        return latents, model.predict_noise(latents, model.grid(10)[2]), model.decode(latents)


def in_shards(folder: Path, stem: str, variant: str = "") -> None:
    """Split a file of weights in two, as save_pretrained names them."""
    weights = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    names, mark = sorted(weights), f".{variant}" if variant else ""
    places = {}
    for number, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem.split('/')[1]}{mark}-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in some}, folder / stem.split("/")[0] / file)
        places |= dict.fromkeys(some, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.safetensors.index{mark}.json").write_text(json.dumps(index))


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_are_the_whole(variant: str, folder: Path, tiny_diffusion: Path):
    expected = outputs(tiny_diffusion)
    for stem in (UNET, "text_encoder/model"):
        in_shards(folder, stem, variant)
    assert find("diffusion", str(folder)) == folder
    assert all(map(torch.equal, outputs(folder), expected))
    (folder / f"{UNET}{'.fp16' if variant else ''}-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="it lacks unet/diffusion_pytorch_model.*-00002-of-00002.safetensors"):
        require({"diffusion": str(folder)})
    with pytest.raises(OSError, match="missing: unet/diffusion_pytorch_model.*-00002-of-00002.safetensors"):
        LatentDiffusion.from_pretrained(folder)


def test_shards_as_diffusers_writes_them(folder: Path, tiny_diffusion: Path):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="20KB", variant="fp16")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    for found, expected in zip(outputs(folder), outputs(tiny_diffusion), strict=True):
        torch.testing.assert_close(found, expected)


def test_half_precision_files_are_read_where_there_are_no_others(folder: Path, tiny_diffusion: Path):
    half = {name: value.half() for name, value in load_file(folder / f"{UNET}.safetensors").items()}
    save_file(half, folder / f"{UNET}.fp16.safetensors")
    assert all(map(torch.equal, outputs(folder), outputs(tiny_diffusion)))  # full precision comes first
    (folder / f"{UNET}.safetensors").unlink()
    assert find("diffusion", str(folder)) == folder
    found = outputs(folder)[1]
    torch.testing.assert_close(found, outputs(tiny_diffusion)[1], atol=1e-2, rtol=1e-2)
    assert not torch.equal(found, outputs(tiny_diffusion)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "weight_map: expected an object that names 1 to 1000 files, got null"),
        ("{", "not JSON"),
        ('{"weight_map": {}}', "weight_map: expected an object that names 1 to 1000 files"),
        ('{"weight_map": {"a": "../../vae/diffusion_pytorch_model.safetensors"}}', "expected names of safetensors fil"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "expected names of safetensors files beside it"),
        ('{"weight_map": {"a": "evil.bin", "b": ["x"]}}', "expected names of safetensors files beside it"),
        ('{"weight_map": {"a": "https://127.0.0.1:9/x.safetensors"}}', "expected names of safetensors files beside it"),
    ],
)
def test_an_index_names_files_beside_it_alone(content: str, message: str, folder: Path):
    (folder / f"{UNET}.safetensors").unlink()
    index = folder / f"{UNET}.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        LatentDiffusion.from_pretrained(folder)
    check_one_line(caught.value, str(index))


def test_a_tensor_in_two_shards_or_of_whole_numbers_is_refused(folder: Path):
    in_shards(folder, UNET)
    second = folder / f"{UNET}-00002-of-00002.safetensors"
    first = load_file(folder / f"{UNET}-00001-of-00002.safetensors")
    save_file(load_file(second) | {"conv_in.bias": first["conv_in.bias"]}, second)
    with pytest.raises(ValueError, match=f"{second.name}: conv_in.bias: expected in one file alone"):
        LatentDiffusion.from_pretrained(folder)
    save_file(first | {"conv_in.bias": first["conv_in.bias"].to(torch.int8)}, folder / f"{UNET}.safetensors")
    kept = load_file(second)
    kept.pop("conv_in.bias")
    save_file(kept | load_file(folder / f"{UNET}.safetensors"), folder / f"{UNET}.safetensors")
    with pytest.raises(ValueError, match="conv_in.bias: expected floating-point numbers, got torch.int8"):
        LatentDiffusion.from_pretrained(folder)


# Single files.


@pytest.fixture(params=["sd-1", "sd-2", "sdxl"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A tiny folder, and the same model as a checkpoint of a kind that is known."""
    folder = save_tiny_diffusion(tmp_path / "folder", family=request.param)
    known = known_of(folder)
    monkeypatch.setitem(checkpoints.KNOWN, "tiny", known)
    return folder, save_checkpoint(tmp_path / "tiny.safetensors", folder, known)


def test_a_checkpoint_computes_what_its_folder_does(pair: tuple[Path, Path]):
    folder, path = pair
    for found, expected in zip(outputs(path), outputs(folder), strict=True):
        torch.testing.assert_close(found, expected)
    models = [LatentDiffusion.from_pretrained(each) for each in pair]
    prompts = [model.predictor.empty_prompt for model in models]
    if "text_encoder" in {part.name for part in folder.iterdir()} and not checkpoints.KNOWN["tiny"].openclip:
        torch.testing.assert_close(prompts[1], prompts[0])
    assert models[0].default_layers == models[1].default_layers and models[0].native_size == models[1].native_size


def test_label_takes_a_checkpoint(pair: tuple[Path, Path], tiny_clip: Path, tmp_path: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    command = ["label", str(tmp_path / "a.png"), "--classes", "cat,dog", "--clip", str(tiny_clip), "--device", "cpu"]
    command += ["--diffusion", str(pair[1]), "--masks", "2", "--steps", "10", "--t-m", "101"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))
    assert identity("diffusion", str(pair[1])) in json.dumps(run)


def test_identity_tells_checkpoints_apart(pair: tuple[Path, Path]):
    before = identity("diffusion", str(pair[1]))
    assert before.startswith("tiny.safetensors@") and len(before) == len("tiny.safetensors@") + 12
    content = bytearray(pair[1].read_bytes())
    content[len(content) // 2] ^= 1
    pair[1].write_bytes(content)
    assert identity("diffusion", str(pair[1])) != before


def meta_names(pieces, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of shape alone under their names in a checkpoint; three thirds become one."""
    stored: dict[str, Tensor] = {}
    for own, piece in pieces.items():
        tensor = wanted[own]
        if ".in_proj_" in piece.name:
            tensor = tensor.repeat(3, *[1] * (tensor.ndim - 1))
        elif piece.change is not None:
            tensor = tensor[:, :, None, None]
        stored[piece.name] = tensor
    return stored


@pytest.mark.parametrize("kind", KNOWN)
def test_full_size_names_are_those_that_diffusers_converts(kind: str, tmp_path: Path):
    """An oracle that knows the original names: diffusers' converters give its own names back, with the same shapes."""
    known = KNOWN[kind]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**known.unet)
        vae = AutoencoderKL(**known.vae)
    wanted = unet.state_dict()
    stored = meta_names(unet_pieces(known.unet, wanted), wanted)
    assert len(stored) == len(wanted)
    config = dict(unet.config) | {"addition_embed_type": known.unet.get("addition_embed_type")}
    back = convert_ldm_unet_checkpoint(dict(stored), config)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in wanted.items()}
    assert all(back[name] is wanted[name] for name in back)
    of_vae = vae.state_dict()
    found = convert_ldm_vae_checkpoint(meta_names(vae_pieces(known.vae, of_vae), of_vae), dict(vae.config))
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in of_vae.items()}
    if known.openclip:
        with torch.device("meta"):
            text = CLIPTextModel(CLIPTextConfig(**known.text))
        own = text.state_dict()
        names = meta_names(openclip_pieces(known.text_prefix, own), own)
        back = convert_open_clip_checkpoint(text, names, prefix=known.text_prefix)
        assert {n.removeprefix("text_model.") for n in back} >= {n.removeprefix("text_model.") for n in own}


def test_the_empty_prompts_tokens_are_clips(tmp_path: Path):
    tokenizer = SimpleTokenizer()
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (START, END)
    assert tokenizer.encode("!") == [KNOWN["Stable Diffusion 2.x"].padding + 256]  # a word's end; alone it is 0
    assert tokenizer.decoder[KNOWN["Stable Diffusion 2.x"].padding] == "!"
    for kind, padding in (("Stable Diffusion 1.x", END), ("Stable Diffusion 2.x", 0)):
        known = KNOWN[kind]
        config = CLIPTextConfig(**known.text)
        tokens = Checkpoint(tmp_path, known, "epsilon", False).tokens("text_encoder", config)
        assert tokens.tolist() == [[START, END] + [padding] * 75]


@pytest.mark.parametrize(
    ("metadata", "extra", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, {"v_pred": torch.ones(1)}, "epsilon"),
        ({}, {"v_pred": torch.ones(1)}, "v_prediction"),
        ({}, {TELLING: torch.linspace(-4 * SPREAD, 4 * SPREAD, 320)}, "v_prediction"),
        ({}, {TELLING: torch.linspace(-SPREAD, SPREAD, 320)}, "epsilon"),
        ({}, {}, "epsilon"),
    ],
)
def test_what_a_sd_2_file_predicts_is_told(metadata, extra, expected: str, tmp_path: Path):
    known = KNOWN["Stable Diffusion 2.x"]
    shapes = {name: torch.zeros(shape) for name, shape in checkpoints._signature(known).items()}
    save_file(shapes | extra, tmp_path / "x.safetensors", metadata or None)
    found = Checkpoint.read(tmp_path / "x.safetensors")
    assert found.known is known and found.prediction == found.scheduler()["prediction_type"] == expected
    assert found.unet()["sample_size"] == (96 if expected == "v_prediction" else 64)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_down.lora_up.weight": (2, 2)}, "a LoRA"),
        ({"model.diffusion_model.double_blocks.0.x": (2,)}, "Flux"),
        ({"model.diffusion_model.joint_blocks.0.x": (2,)}, "Stable Diffusion 3"),
        ({"down_blocks.0.x": (2,)}, "a UNet alone"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "a UNet of 9 channels, for inpainting"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3)}, "a UNet of another shape"),
        ({"x": (2,)}, "got none"),
    ],
)
def test_files_of_something_else_are_named_for_what_they_are(tensors, said: str, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    for load in (LatentDiffusion.sketch, LatentDiffusion.from_pretrained):
        with pytest.raises(ValueError, match=f"expected a checkpoint of Stable Diffusion 1.x, .*{said}") as caught:
            load(path)
        check_one_line(caught.value, str(path))


def test_an_incomplete_checkpoint_names_what_it_lacks(pair: tuple[Path, Path]):
    weights = load_file(pair[1])
    save_file({name: value for name, value in weights.items() if "first_stage_model" not in name}, pair[1])
    with pytest.raises(ValueError, match=r"tiny.safetensors: \d+ parameters are not in the weights"):
        LatentDiffusion.from_pretrained(pair[1])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "x.ckpt",
            b"PK",
            "a file; expected a diffusers folder, a .safetensors checkpoint .*pickled weights may hold code",
        ),
        ("x.jpg", b"x", "x.jpg: a file; expected a diffusers folder, a .safetensors checkpoint or a hub id"),
        ("models/x.safetensors", None, "models/x.safetensors: no such file"),
        ("x.safetensors", b"nothing", "not a safetensors checkpoint that can be read"),
        ("x.safetensors", b"", "not a safetensors checkpoint that can be read"),
    ],
)
def test_a_file_is_never_taken_for_a_hub_id(
    name: str, content: bytes | None, said: str, tiny_clip: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (32, 32)).save("photo.png")
    command = ["label", "photo.png", "--classes", "cat", "--clip", str(tiny_clip), "--out", "out"]
    assert main([*command, "--diffusion", name]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ovseg: error: ")
    assert re.search(said, line), line


def test_a_folder_of_checkpoints_says_to_name_one(pair: tuple[Path, Path], tmp_path: Path):
    (tmp_path / "models").mkdir()
    shutil.copy(pair[1], tmp_path / "models")
    with pytest.raises(WeightsMissing, match="it holds tiny.safetensors: if that is a whole checkpoint, give"):
        require({"diffusion": str(tmp_path / "models")})


def test_pickled_weights_are_said_to_be(folder: Path):
    (folder / f"{UNET}.safetensors").rename(folder / f"{UNET}.bin")
    with pytest.raises(WeightsMissing, match="lacks unet/.*; unet/diffusion_pytorch_model.bin is pickled"):
        require({"diffusion": str(folder)})


def test_the_published_unets_have_the_published_sizes():
    """Parameters of the full-size models, in millions, as their cards and papers state them."""
    sizes = {}
    for kind, known in KNOWN.items():
        with torch.device("meta"):
            sizes[kind] = sum(one.numel() for one in UNet2DConditionModel(**known.unet).parameters()) // 10**6
    assert sizes == {"Stable Diffusion 1.x": 859, "Stable Diffusion 2.x": 865, "SDXL": 2567}
