"""Folders in transformers' layout of CLIP and SigLIP: equal to transformers' own, and every other file by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from fuzzing import check_one_line, refusing_network
from loopback_hub import loopback_hub
from safetensors.torch import load_file, save_file
from test_configs import edit
from test_weights import fetch_elsewhere, hub_copy
from transformers import AutoTokenizer
from transformers_clip_folder import CLASSES, TOWER, save_transformers_clip

from ovseg.classes import build_vocabulary
from ovseg.labels import label_masks
from ovseg.model_files import form, missing
from ovseg.towers.clip import Clip
from ovseg.towers.scoring import Scoring
from ovseg.towers.transformers_config import read_transformers_config
from ovseg.towers.view import View
from ovseg.weights import find, identity

CONFIG, WEIGHTS, IMAGES, TOKENS = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
SENTENCES = ["A photo of a cat.", "Dog", "two  dogs, one Café", "x" * 200, ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_transformers_clip(tmp_path_factory.mktemp(kind), kind) for kind in CLASSES}


def spoiled(folder: Path, place: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(folder, place))


def in_shards(folder: Path, place: Path) -> Path:
    """A copy whose weights are several files and an index, as transformers writes them."""
    copy = spoiled(folder, place)
    (copy / WEIGHTS).unlink()
    kind = json.loads((folder / CONFIG).read_text())["model_type"]
    theirs(folder, kind).save_pretrained(copy, max_shard_size="20KB")
    return copy


def theirs(folder: Path, kind: str) -> Any:
    return CLASSES[kind][1].from_pretrained(folder).eval()


@torch.inference_mode()
def image_features(model: Any, kind: str, images: torch.Tensor) -> torch.Tensor:
    """transformers' pooled features; SigLIP 2 in its own layout takes patches in a row."""
    if kind != "siglip2":
        return model.get_image_features(images).pooler_output
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    seen = torch.ones(patches.shape[:2], dtype=torch.long)
    shapes = torch.tensor([[4, 4]] * len(images))
    return model.get_image_features(patches, pixel_attention_mask=seen, spatial_shapes=shapes).pooler_output


@pytest.mark.parametrize("kind", CLASSES)
def test_features_tokens_and_settings_are_transformers_own(folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    with refusing_network() as asked:
        clip = Clip.from_pretrained(folder)
    assert not asked and form("clip", folder) == "transformers-clip" and not missing("clip", folder)
    model, tokenizer = theirs(folder, kind), AutoTokenizer.from_pretrained(folder)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    length = clip.tokenizer.context_length
    ids = tokenizer(SENTENCES, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(clip.tokenizer(SENTENCES), ids)
        torch.testing.assert_close(
            clip.model.encode_text(ids), model.get_text_features(ids).pooler_output, atol=1e-5, rtol=0
        )
        own = clip.model.encode_image(images)
        torch.testing.assert_close(own, image_features(model, kind, images), atol=1e-5, rtol=0)
    assert own.abs().mean() > 0.1 and (own[0] - own[1]).abs().max() > 0.1
    assert (clip.mean, clip.deviation) == ((0.5,) * 3, (0.25,) * 3)
    assert clip.scoring.scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert (clip.scoring.rule, clip.scoring.bias) == (("softmax", 0.0) if kind == "clip" else ("sigmoid", -6.5))
    assert clip.dense_features(np.zeros((40, 20, 3), np.uint8), View(short_side=16)).shape == (own.shape[1], 4, 2)


@pytest.mark.parametrize(
    ("hidden_act", "quick"), [("quick_gelu", True), ("gelu", False), ("gelu_pytorch_tanh", False), ("gelu_new", False)]
)
def test_activations_are_the_config_s(tmp_path: Path, hidden_act: str, quick: bool) -> None:
    folder = save_transformers_clip(tmp_path, "clip", text={"hidden_act": hidden_act}, hidden_act=hidden_act)
    clip, images = Clip.from_pretrained(folder), 3 * torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        own = clip.model.encode_image(images)
    torch.testing.assert_close(own, image_features(theirs(folder, "clip"), "clip", images), atol=1e-5, rtol=0)
    other = "gelu" if hidden_act != "gelu" else "quick_gelu"
    for part in ("text_config", "vision_config"):
        edit(folder / CONFIG, **{f"{part}__hidden_act": other})
    with torch.inference_mode():
        wrong = Clip.from_pretrained(folder).model.encode_image(images)
    assert (wrong - own).abs().max() > 1e-5


def test_texts_of_old_files_are_read_at_their_highest_token(folders: dict[str, Path], tmp_path: Path) -> None:
    """Files of before transformers 4.31 say eos_token_id 2 whatever the tokenizer's, and have position_ids."""
    folder = spoiled(folders["clip"], tmp_path / "old")
    edit(folder / CONFIG, text_config__eos_token_id=2, projection_dim=24, vision_config_dict=None)
    content = json.loads((folder / CONFIG).read_text())
    content["text_config_dict"] = {key: content["text_config"][key] for key in (*TOWER, "vocab_size", "eos_token_id")}
    content["text_config"] |= {"hidden_size": 8, "num_attention_heads": 1}  # the other has the last word
    (folder / CONFIG).write_text(json.dumps(content))
    weights = load_file(folder / WEIGHTS)
    weights |= {f"{part}_model.embeddings.position_ids": torch.arange(17)[None] for part in ("text", "vision")}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    clip, new = Clip.from_pretrained(folder), Clip.from_pretrained(folders["clip"])
    assert clip.model.text_pool_type == "argmax" and new.model.text_pool_type == "eos"
    np.testing.assert_array_equal(*(one.encode_text(["cat", "dog"], ["a {}"]) for one in (clip, new)))


def test_a_tokenizer_in_two_files_is_read_as_one(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = spoiled(folders["clip"], tmp_path / "two")
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(FileNotFoundError, match="two/tokenizer.json: not there, nor vocab.json with merges.txt"):
        Clip.from_pretrained(folder)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    found, expected = (Clip.from_pretrained(one).tokenizer(SENTENCES) for one in (folder, folders["clip"]))
    assert torch.equal(found, expected)


def test_siglip_s_tokenizer_is_read_without_sentencepiece(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = spoiled(folders["siglip"], tmp_path / "published")
    edit(folder / TOKENS, tokenizer_class="SiglipTokenizer", sp_model_kwargs={}, do_lower_case=True)
    (folder / "spiece.model").write_bytes(b"never read")
    found, expected = (Clip.from_pretrained(one).tokenizer(SENTENCES) for one in (folder, folders["siglip"]))
    assert torch.equal(found, expected)
    (folder / "tokenizer.json").unlink()
    with refusing_network() as asked, pytest.raises(FileNotFoundError, match=r"published/tokenizer\.json: not there"):
        Clip.from_pretrained(folder)
    assert not asked


def test_siglip_scores_by_its_sigmoid(folders: dict[str, Path]) -> None:
    clip, model = Clip.from_pretrained(folders["siglip"]), theirs(folders["siglip"], "siglip")
    vocabulary = build_vocabulary("cat;kitten,dog", "none")
    text = clip.encode_text(vocabulary.prompts, ["a {}"])
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        ids = clip.tokenizer([f"a {prompt}" for prompt in vocabulary.prompts])
        logits = model(input_ids=ids, pixel_values=images).logits_per_image.numpy()
        features = clip.model.encode_image(images).numpy()
    expected = scipy.special.expit(logits)
    found, _ = label_masks(features, text, vocabulary, clip.scoring)
    np.testing.assert_allclose(found, np.stack([expected[:, :2].max(axis=1), expected[:, 2]], axis=1), rtol=1e-4)
    assert clip.scoring == Scoring(float(torch.tensor(2.5).exp()), -6.5, "sigmoid")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(folders: dict[str, Path], kind: str, dtype: torch.dtype) -> None:
    full, half = Clip.from_pretrained(folders[kind]), Clip.from_pretrained(folders[kind], dtype=dtype)
    scene = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    a, b = (clip.dense_features(scene, View(short_side=32)) for clip in (full, half))
    assert (a * b).sum(axis=0).min() > 0.99
    assert (full.encode_text(["cat"], ["{}"]) * half.encode_text(["cat"], ["{}"])).sum() > 0.99
    assert half.scoring.scale == full.scoring.scale and half.scoring.bias == full.scoring.bias


# Kind, tensor, what is done to it, what is said.
MISFITS: list[tuple[str, str, str, str]] = [
    ("clip", "visual_projection.weight", "absent", "visual_projection.weight: missing in weights"),
    (
        "clip",
        "vision_model.encoder.layers.1.self_attn.k_proj.bias",
        "absent",
        "layers.1.self_attn.k_proj.bias: missing",
    ),
    (
        "clip",
        "text_model.embeddings.token_embedding.weight",
        "short",
        "expected a shape that makes .514, 16., as config",
    ),
    ("clip", "vision_model.encoder.layers.0.self_attn.q_proj.weight", "short", "q_proj.weight'?: expected a shape"),
    ("clip", "classifier.weight", "new", "classifier.weight: not expected in weights"),
    ("siglip", "logit_bias", "absent", "logit_bias: missing"),
    ("siglip", "vision_model.head.probe", "absent", "vision_model.head.probe: missing"),
    ("siglip", "vision_model.head.attention.in_proj_weight", "short", "in_proj_weight'?: expected a shape"),
    ("siglip", "text_model.head.weight", "short", "expected a shape that makes .32, 16."),
    (
        "siglip2",
        "vision_model.embeddings.patch_embedding.weight",
        "short",
        "patch_embedding.weight'?: expected",
    ),
]


@pytest.mark.parametrize(("kind", "name", "fault", "said"), MISFITS)
def test_weights_of_another_model_are_named(folders, tmp_path: Path, kind, name: str, fault: str, said: str) -> None:
    folder = spoiled(folders[kind], tmp_path / kind)
    weights = load_file(folder / WEIGHTS)
    if fault == "absent":
        del weights[name]
    else:
        weights[name] = torch.zeros(3, 3) if fault == "new" else weights[name][:-1].clone()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(OSError, match=said) as caught:
        Clip.from_pretrained(folder)
    check_one_line(caught.value, str(folder / WEIGHTS))


def test_no_number_is_left_as_it_was_drawn(folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights that are all ones make a model that is all ones."""
    for kind, source in folders.items():
        folder = spoiled(source, tmp_path / kind)
        weights = {name: torch.ones_like(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        held = Clip.from_pretrained(folder).model.state_dict()
        assert all(tensor.eq(1).all() for tensor in held.values())


# Kind, file, what it says, what is said of it.
WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("clip", CONFIG, {"model_type": "bert"}, "model_type: expected clip, siglip or siglip2, got 'bert'"),
    ("clip", CONFIG, {"model_type": None}, "model_type: expected clip, siglip or siglip2, got null"),
    ("clip", CONFIG, {"vision_config__num_channels": 4}, "vision_config.num_channels: expected 3, got 4"),
    ("clip", CONFIG, {"vision_config__hidden_act": "relu"}, "vision_config.hidden_act: expected quick_gelu, gelu"),
    ("clip", CONFIG, {"vision_config__hidden_act": "gelu"}, "text_config.hidden_act: expected the image tower's, gelu"),
    ("clip", CONFIG, {"vision_config__num_attention_heads": 3}, "num_attention_heads: expected a divisor of hidden"),
    ("clip", CONFIG, {"vision_config__image_size": [32, 16]}, "vision_config.image_size: expected the same height"),
    ("clip", CONFIG, {"vision_config__patch_size": 64}, "vision_config.patch_size: expected 1 to 16384 cells"),
    ("clip", CONFIG, {"vision_config__num_hidden_layers": 10**6}, "num_hidden_layers: expected a whole number from 1"),
    ("clip", CONFIG, {"text_config": []}, "text_config: expected an object or null"),
    ("clip", CONFIG, {"text_config__vocab_size": 300}, "tokenizer has 514 entries, text_config.vocab_size is 300"),
    ("clip", CONFIG, {"text_config__eos_token_id": 500}, "the text is read at token 500, .* end-of-text is entry 513"),
    (
        "clip",
        CONFIG,
        {"text_config__eos_token_id": None},
        "text_config.eos_token_id: expected a whole number",
    ),
    ("siglip", CONFIG, {"vision_config__vision_use_head": False}, "vision_config.vision_use_head: expected true"),
    ("siglip", CONFIG, {"vision_config__hidden_act": "quick_gelu"}, "hidden_act: expected gelu or gelu_new"),
    ("siglip", CONFIG, {"text_config__projection_size": 16}, "projection_size: expected the image tower's hidden_size"),
    (
        "siglip2",
        CONFIG,
        {"vision_config__num_patches": 15},
        "num_patches: expected the square of a whole",
    ),
    ("siglip", IMAGES, {"image_std": [0.5, 0, 0.5]}, "image_std: expected a list of length 3"),
    ("siglip", IMAGES, {"do_normalize": False}, "do_normalize: expected true or null, got false"),
    ("siglip", IMAGES, {"rescale_factor": 1}, "rescale_factor: expected a number"),
]


@pytest.mark.parametrize(("kind", "file", "changes", "said"), WRONG)
def test_wrong_settings_are_one_line_by_their_key(folders, tmp_path: Path, kind, file, changes, said) -> None:
    folder = spoiled(folders[kind], tmp_path / kind)
    edit(folder / file, **changes)
    with pytest.raises((ValueError, OSError), match=said) as caught:
        Clip.from_pretrained(folder)
    check_one_line(caught.value, str(folder))


def test_the_command_line_labels_with_them_and_says_what_a_tower_cannot(folders, tmp_path: Path, capsys) -> None:
    from PIL import Image

    from ovseg.cli import main

    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")

    def label(kind: str, *others: str) -> int:
        given = ["--clip", str(folders[kind]), "--by", "none", "--device", "cpu", "--classes", "cat,dog", *others]
        return main(["label", str(tmp_path / "scene.png"), *given, "--out", str(tmp_path / kind)])

    assert [label(kind) for kind in folders] == [0, 0, 0]
    assert {path.name for path in (tmp_path / "siglip").glob("scene*")} >= {"scene.png", "scene.json"}
    capsys.readouterr()
    assert label("siglip", "--dense", "sclip", "--overwrite") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "sclip" in line]
    assert len(said) == 1 and "this tower ends in an attention pool, for which only maskclip and" in said[0]
    assert label("siglip", "--regions", "head", "--by", "slic", "--overwrite") == 0


@pytest.mark.parametrize("kind", CLASSES)
def test_weights_in_shards_are_the_whole(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """As transformers writes models beyond its limit of a file, such as the giant SigLIP 2."""
    folder = in_shards(folders[kind], tmp_path / kind)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and not missing("clip", folder) and form("clip", folder) == "transformers-clip"
    found, expected = (Clip.from_pretrained(one).model.state_dict() for one in (folder, folders[kind]))
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
    shards[1].unlink()
    assert missing("clip", folder) == [shards[1].name]
    with pytest.raises(OSError, match=shards[1].name):
        Clip.from_pretrained(folder)


def test_shards_that_do_not_fit_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = in_shards(folders["clip"], tmp_path / "clip")
    index = folder / f"{WEIGHTS}.index.json"
    holder = folder / json.loads(index.read_text())["weight_map"]["visual_projection.weight"]
    held = load_file(holder)
    for changed, error, said in (
        (held | {"visual_projection.weight": torch.zeros(3, 3)}, OSError, "projection.weight': expected a shape"),
        (held | {"more": torch.zeros(3)}, OSError, "more: not expected in weights"),
        (held | dict.fromkeys(load_file(min(folder.glob("model-*"))), torch.ones(1)), ValueError, "in one file alone"),
    ):
        save_file(changed, holder, {"format": "pt"})
        with pytest.raises(error, match=said) as caught:
            Clip.from_pretrained(folder)
        check_one_line(caught.value, str(folder))
    holder.write_bytes(b"{}")
    with pytest.raises(ValueError, match="not safetensors weights that can be read") as caught:
        Clip.from_pretrained(folder)
    check_one_line(caught.value, str(holder))
    index.write_text(json.dumps({"weight_map": {"logit_scale": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match="weight_map: expected names of safetensors files beside it") as caught:
        Clip.from_pretrained(folder)
    check_one_line(caught.value, str(index))


def test_weights_that_are_pickles_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = spoiled(folders["clip"], tmp_path / "clip")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert missing("clip", folder) == [WEIGHTS]
    with pytest.raises(FileNotFoundError, match=f"{WEIGHTS}: not there; CLIP weights are read from safetensors alone"):
        Clip.from_pretrained(folder)


# What is published, by its config: OpenAI's ViT-B/16 as transformers 4.0 wrote it, SigLIP so400m, SigLIP 2 giant.
OPENAI = {
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {
        **{"attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "quick_gelu"},
        **{"hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77, "num_attention_heads": 8},
        **{"num_hidden_layers": 12, "vocab_size": 49408, "torchscript": False, "id2label": {"0": "LABEL_0"}},
    },
    "text_config_dict": None,
    "vision_config": {
        **{"hidden_act": "quick_gelu", "hidden_size": 768, "image_size": 224, "intermediate_size": 3072},
        **{"num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 16},
    },
    "vision_config_dict": None,
}
SO400M = {
    "model_type": "siglip",
    "text_config": {
        **{"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27},
        **{"model_type": "siglip_text_model"},
    },
    "vision_config": {
        **{"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16},
        **{"num_hidden_layers": 27, "patch_size": 14, "model_type": "siglip_vision_model"},
    },
}


@pytest.mark.parametrize(("content", "parameters"), [(OPENAI, 149_620_737), (SO400M, 877_960_498)])
def test_configs_as_they_were_published_are_read(tmp_path: Path, content: dict[str, Any], parameters: int) -> None:
    """The counts of parameters are those of the published weights."""
    from ovseg.towers.clip_files import _build

    (tmp_path / CONFIG).write_text(json.dumps(content))
    config = read_transformers_config(tmp_path)
    with torch.device("meta"):
        sketch = _build(tmp_path, config, torch.float32)
    assert sum(parameter.numel() for parameter in sketch.parameters()) == parameters


def test_a_repository_in_the_hub_s_cache_is_found(folders, tiny_clip: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("huggingface_hub.constants", "huggingface_hub.file_download.constants"):
        monkeypatch.setattr(f"{name}.HF_HUB_CACHE", str(tmp_path))
    owned = hub_copy(tmp_path, "openai/clip-vit-base-patch16", folders["clip"])
    in_both = shutil.copytree(tiny_clip, spoiled(folders["clip"], tmp_path / "both"), dirs_exist_ok=True)
    both = hub_copy(tmp_path, "laion/both", Path(in_both))
    with refusing_network() as asked:
        assert find("clip", "openai/clip-vit-base-patch16") == owned and form("clip", owned) == "transformers-clip"
        assert find("clip", "laion/both") == both and form("clip", both) == "clip"
        assert identity("clip", "openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16@0123456789ab"
    assert not asked


@pytest.mark.slow
def test_a_repository_is_fetched_json_first_and_its_weights_in_one_layout(folders, tiny_clip, tmp_path: Path) -> None:
    owned, both = (spoiled(folders["siglip"], tmp_path / name) for name in ("owned", "both"))
    parts = in_shards(folders["siglip"], tmp_path / "parts")
    shutil.copytree(tiny_clip, both, dirs_exist_ok=True)
    for folder in (owned, both):
        (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    with loopback_hub({"good/owned": owned, "good/both": both, "good/parts": parts}) as hub:
        for name, ending in (("owned", WEIGHTS), ("both", "open_clip_model.safetensors"), ("parts", ".safetensors")):
            run = fetch_elsewhere(hub, tmp_path / "home", {"clip": f"good/{name}"}, "load")
            assert run.returncode == 0, run.stderr
            asked = [path for path in hub.asked if path.startswith(f"good/{name}/resolve/")]
            first = next(n for n, path in enumerate(asked) if path.endswith(".safetensors"))
            assert first > 1 and all(path.endswith(ending) for path in asked[first:])
    assert not [path for path in hub.asked if path.endswith(".bin")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_at_full_size_are_transformers_own(tmp_path: Path, kind: str) -> None:
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(0)
    config = config_class(**OPENAI) if kind == "clip" else config_class(text_config={"vocab_size": 64})
    model = model_class(config).eval()
    save_transformers_clip(tmp_path, kind)
    model.save_pretrained(tmp_path)
    if kind == "clip":  # the tiny tokenizer's vocabulary is part of OpenAI's; its end of text is not the highest there
        edit(tmp_path / CONFIG, text_config__eos_token_id=513)
        model.text_model.eos_token_id = 513
    clip, images = Clip.from_pretrained(tmp_path), torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        own, expected = clip.model.encode_image(images), image_features(model, kind, images)
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
        ids = clip.tokenizer(["a cat", "two dogs"])
        own, expected = clip.model.encode_text(ids), model.get_text_features(ids).pooler_output
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
