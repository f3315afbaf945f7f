"""Loading a CLIP folder, text embeddings, seeing an image; and every trap that must be an error."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import scipy.special
import torch
from clip_folder import TINY_CHANNELS, save_tiny_clip
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import ovseg.towers.clip
from ovseg.classes import build_vocabulary
from ovseg.labels import label_masks
from ovseg.towers.clip import Clip
from ovseg.towers.dense import dense_features
from ovseg.towers.scoring import Scoring
from ovseg.towers.text import embed
from ovseg.towers.view import View, resized_sides

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> Clip:
    return Clip.from_pretrained(tiny_clip)


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def broken_copy(tiny_clip: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the folder with entries of model_cfg changed, or of text_cfg for a dict."""
    shutil.copytree(tiny_clip, folder)
    config = json.loads((folder / CONFIG).read_text())
    for key, value in changes.items():
        config["model_cfg"][key] = config["model_cfg"][key] | value if isinstance(value, dict) else value
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_loads_the_folder_s_own_weights(clip: Clip, tiny_clip: Path) -> None:
    weights = load_file(tiny_clip / WEIGHTS)
    assert weights.keys() == clip.model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in clip.model.state_dict().items())
    assert clip.scoring.scale == pytest.approx(1 / 0.07)
    assert (clip.scoring.bias, clip.scoring.rule) == (0.0, "softmax")
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert not clip.model.training


def test_normalisation_comes_from_the_config(tiny_clip: Path, tmp_path: Path) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "clip")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    loaded = Clip.from_pretrained(folder)
    assert (loaded.mean, loaded.deviation) == ((0.5,) * 3, (0.25,) * 3)


def test_text_is_the_normalised_mean_of_normalised_embeddings(clip: Clip) -> None:
    text = clip.encode_text(["cat", "fire engine"], ["{}", "a photo of a {}."])
    assert text.shape == (2, TINY_CHANNELS)
    assert text.dtype == np.float32
    rows = []
    for sentence in ("fire engine", "a photo of a fire engine."):
        ids = [512, *(byte_id(c, word, i) for word in split(sentence) for i, c in enumerate(word)), 513]
        tokens = torch.tensor([ids + [513] * (77 - len(ids))])
        row = clip.model.encode_text(tokens)[0]
        rows.append(row / row.norm())
    mean = (rows[0] + rows[1]) / 2
    np.testing.assert_allclose(text[1], (mean / mean.norm()).numpy(), atol=1e-5)


def split(sentence: str) -> list[str]:
    return sentence.replace(".", " .").split()


def byte_id(character: str, word: str, index: int) -> int:
    """The tiny tokenizer's id of a character: the sorted bytes first, then the same at a word's end."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet()).index(character) + (256 if index == len(word) - 1 else 0)


def test_padding_behind_the_sentences_is_not_read(clip: Clip) -> None:
    sentences = ["a cat", "a photo of a fire engine.", "dog"]
    tokens = clip.tokenizer(sentences)
    read = []
    handle = clip.model.transformer.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].shape))
    try:
        found = embed(clip.model, tokens)
        own = clip.model.encode_text(tokens)
    finally:
        handle.remove()
    longest = max(map(clip._count_tokens, sentences))
    assert [shape[:2] for shape in read] == [(3, longest), (3, 77)] and longest < 30
    torch.testing.assert_close(found, own, atol=1e-6, rtol=0)


def test_text_batches_do_not_matter(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, templates = ["cat", "dog", "sky"], ["{}", "a {}", "the {{}} {}"]
    whole = clip.encode_text(prompts, templates)
    monkeypatch.setattr(ovseg.towers.clip, "TEXT_BATCH", 2)
    np.testing.assert_allclose(clip.encode_text(prompts, templates), whole, atol=1e-6)


def test_braces_in_a_name_are_letters(clip: Clip) -> None:
    assert not np.allclose(clip.encode_text(["{0}"], ["a {}"]), clip.encode_text(["cat"], ["a {}"]))


def test_dense_features_resize_and_normalise_as_clip_does(clip: Clip) -> None:
    image = scene(50, 80)
    features = clip.dense_features(image, View(short_side=32))
    assert features.shape == (TINY_CHANNELS, 4, 6)  # 32 x 51.2 pixels, rounded to whole patches of 8
    assert features.dtype == np.float32
    resized = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC)) / 255.0
    pixels = (resized - np.array(clip.mean)) / np.array(clip.deviation)
    expected = dense_features(clip.model.visual, torch.tensor(pixels).permute(2, 0, 1)[None].float())[0].numpy()
    np.testing.assert_allclose(features, expected / np.linalg.norm(expected, axis=0), atol=1e-5)


def test_dense_features_repeat_bit_for_bit(clip: Clip) -> None:
    view = View(short_side=48, window=32, stride=8)
    first = clip.dense_features(scene(48, 64), view)
    clip.dense_features(scene(30, 30), View(short_side=64))
    assert np.array_equal(clip.dense_features(scene(48, 64), view), first)


POOL = {"attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2}


@pytest.mark.parametrize(("variant", "pool"), [("maskclip", {}), ("sclip", {}), ("naclip", {}), ("maskclip", POOL)])
def test_half_precision_is_near_full_precision(tmp_path: Path, variant: str, pool: dict[str, Any]) -> None:
    folder = save_tiny_clip(tmp_path, **pool)
    full, half = Clip.from_pretrained(folder), Clip.from_pretrained(folder, dtype=torch.bfloat16)
    a, b = (clip.dense_features(scene(32, 48), View(short_side=32, variant=variant)) for clip in (full, half))
    assert b.dtype == np.float32
    assert (a * b).sum(axis=0).min() > 0.99
    assert (full.encode_text(["cat"], ["{}"]) * half.encode_text(["cat"], ["{}"])).sum() > 0.99


def test_resized_sides_by_hand() -> None:
    assert resized_sides((480, 640), View(336), (16, 16)) == (336, 448)
    assert resized_sides((500, 375), View(336), (16, 16)) == (448, 336)
    assert resized_sides((1, 4), View(3), (16, 16)) == (16, 16)


def test_resized_sides_with_a_limit_on_the_long_side_by_hand() -> None:
    # Cityscapes: 1024x2048 to 560x1120 stays under the limit.
    assert resized_sides((1024, 2048), View(560, long_side=2048), (16, 16)) == (560, 1120)
    # 100x1000: the short side alone would ask for 3360 pixels, so 2048 decide; 204.8 rounds to 13 cells of 16.
    assert resized_sides((100, 1000), View(336, long_side=2048), (16, 16)) == (208, 2048)
    # Both sides within 520: a 500x375 image becomes 520x390, in whole cells (32.5 goes to the even number) 512x384.
    assert resized_sides((500, 375), View(520, long_side=520), (16, 16)) == (512, 384)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    short=st.integers(16, 600),
    extra=st.integers(0, 2000),
    cell=st.integers(1, 32),
)
def test_resized_sides_obey_both_limits_to_half_a_cell(
    height: int, width: int, short: int, extra: int, cell: int
) -> None:
    view = View(short, long_side=short + extra)
    sides = resized_sides((height, width), view, (cell, cell))
    assert all(side % cell == 0 and side >= cell for side in sides)
    for side, limit in ((min(sides), view.short_side), (max(sides), view.long_side)):
        assert side <= max(limit + cell / 2, cell)
    reached = [abs(min(sides) - view.short_side) <= cell / 2, abs(max(sides) - view.long_side) <= cell / 2]
    assert any(reached)


def test_what_a_call_refuses(clip: Clip) -> None:
    with pytest.raises(ValueError, match="needs prompts and templates, got 0 and 1"):
        clip.encode_text([], ["{}"])
    with pytest.raises(ValueError, match="got 'a photo'"):
        clip.encode_text(["cat"], ["a photo"])
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got \(4, 4\) uint8"):
        clip.dense_features(np.zeros((4, 4), np.uint8), View(32))


def test_missing_files_are_named(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no/such/folder/open_clip_model.safetensors: not there"):
        Clip.from_pretrained("no/such/folder")
    for number, (name, reason) in enumerate([(WEIGHTS, "safetensors alone"), (CONFIG, "config beside its weights")]):
        folder = broken_copy(tiny_clip, tmp_path / str(number))
        (folder / name).unlink()
        (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
        with pytest.raises(FileNotFoundError, match=f"{name}: not there.*{reason}"):
            Clip.from_pretrained(folder)
    folder = broken_copy(tiny_clip, tmp_path / "tokenizer")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json: not there"):
        Clip.from_pretrained(folder)


def test_broken_files_are_named(tiny_clip: Path, tmp_path: Path) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "truncated")
    (folder / WEIGHTS).write_bytes((tiny_clip / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{WEIGHTS}: not the weights"):
        Clip.from_pretrained(folder)
    folder = broken_copy(tiny_clip, tmp_path / "other", embed_dim=24)
    with pytest.raises(OSError, match=f"{WEIGHTS}: not the weights"):
        Clip.from_pretrained(folder)
    folder = broken_copy(tiny_clip, tmp_path / "missing")
    weights = load_file(folder / WEIGHTS)
    del weights["visual.proj"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(OSError, match=r"not the weights.*visual\.proj"):
        Clip.from_pretrained(folder)
    with pytest.raises(ValueError, match=rf"{CONFIG}: model_cfg\.vision_cfg\.wide"):
        Clip.from_pretrained(broken_copy(tiny_clip, tmp_path / "unknown", vision_cfg={"wide": 3}))
    for text, said in (("{", "not JSON"), ("[]", "a JSON object"), ('{"model_cfg": {}}', "expected open_clip's JSON")):
        (folder / CONFIG).write_text(text)
        with pytest.raises(ValueError, match=f"{CONFIG}: .*{said}"):
            Clip.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"model": 3}'])
def test_a_broken_tokenizer_is_named(tiny_clip: Path, tmp_path: Path, content: str) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "broken")
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="broken/tokenizer.json: (not JSON|the file: exp|model: exp)"):
        Clip.from_pretrained(folder)


def test_features_that_overflow_are_an_error(tiny_clip: Path) -> None:
    for dtype, said in (
        (torch.float16, "use bfloat16 or float32 instead"),
        (torch.float32, "its weights are too large"),
    ):
        broken = Clip.from_pretrained(tiny_clip, dtype=dtype)
        broken.model.visual.conv1.weight.fill_(torch.inf)
        with pytest.raises(ValueError, match=f"CLIP overflowed: {said}"):
            broken.dense_features(scene(32, 32), View(short_side=32))
        broken.model.token_embedding.weight.fill_(torch.inf)
        with pytest.raises(ValueError, match=f"CLIP overflowed: {said}"):
            broken.encode_text(["cat"], ["{}"])


def test_openai_weights_need_quick_gelu(tiny_clip: Path, tmp_path: Path) -> None:
    assert Clip.from_pretrained(broken_copy(tiny_clip, tmp_path / "clip.openai"))
    assert Clip.from_pretrained(broken_copy(tiny_clip, tmp_path / "openai" / "own", quick_gelu=False))
    with pytest.raises(ValueError, match='set "quick_gelu": true'):
        Clip.from_pretrained(broken_copy(tiny_clip, tmp_path / "plain.openai", quick_gelu=False))


def test_a_small_vocabulary_needs_its_own_tokenizer(tiny_clip: Path, tmp_path: Path) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "unnamed", text_cfg={"hf_tokenizer_name": ""})
    with pytest.raises(ValueError, match="a vocabulary of 514 needs its own tokenizer"):
        Clip.from_pretrained(folder)


def test_the_tokenizer_must_fit_the_text_tower(tiny_clip: Path, tmp_path: Path) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "large", text_cfg={"vocab_size": 500})
    weights = load_file(folder / WEIGHTS)
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:500].clone()
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match="tokenizer has 514 entries, text_cfg.vocab_size is 500"):
        Clip.from_pretrained(folder)
    folder = broken_copy(tiny_clip, tmp_path / "order")
    content = (folder / "tokenizer.json").read_text()
    for old, new in (("512", "X"), ("513", "512"), ("X", "513")):
        content = content.replace(f": {old}", f": {new}").replace(f"    {old}\n", f"    {new}\n")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="end-of-text must be entry 513, the tokenizer has it at 512"):
        Clip.from_pretrained(folder)


def test_other_dtypes_are_refused(tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match="got torch.float64"):
        Clip.from_pretrained(tiny_clip, dtype=torch.float64)


def test_a_hub_id_is_no_folder_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(OSError, match="owner/tiny/open_clip_model.safetensors: not there"):
        Clip.from_pretrained("owner/tiny")


def with_weights(tiny_clip: Path, folder: Path, **tensors: float) -> Path:
    """A copy of the folder with other numbers in its weights."""
    shutil.copytree(tiny_clip, folder)
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {name: torch.tensor(value) for name, value in tensors.items()}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6, -1e6, 7.0])
def test_a_logit_scale_that_labels_everything_alike_is_refused(tiny_clip: Path, tmp_path: Path, value: float) -> None:
    folder = with_weights(tiny_clip, tmp_path / "clip", logit_scale=value)
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: logit.scale: expected (a finite|finite|at most 1000)") as caught:
        Clip.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_clip_with_a_logit_bias_is_scored_by_sigmoids(tiny_clip: Path, tmp_path: Path) -> None:
    folder = broken_copy(tiny_clip, tmp_path / "clip", init_logit_bias=-10)
    weights = load_file(folder / WEIGHTS) | {"logit_bias": torch.tensor(-6.5), "logit_scale": torch.tensor(2.5)}
    save_file(weights, folder / WEIGHTS)
    loaded = Clip.from_pretrained(folder)
    assert loaded.scoring == Scoring(float(torch.tensor(2.5).exp()), -6.5, "sigmoid")
    vocabulary = build_vocabulary("cat;kitten,dog", "none")
    text = loaded.encode_text(vocabulary.prompts, ["a {}"])
    features = loaded.dense_features(scene(32, 32), View(short_side=32)).reshape(TINY_CHANNELS, -1).T
    cosines = features / np.linalg.norm(features, axis=1, keepdims=True) @ text.T
    expected = scipy.special.expit(np.exp(2.5) * cosines - 6.5)
    found, _ = label_masks(features, text, vocabulary, loaded.scoring)
    np.testing.assert_allclose(found, np.stack([expected[:, :2].max(axis=1), expected[:, 2]], axis=1), rtol=1e-4)


def test_names_whose_end_the_tower_would_not_read_are_refused(clip: Clip) -> None:
    """The tiny tokenizer has a token a letter, the context holds 77 with start and end: 75 letters."""
    text = clip.encode_text(["a" * 75, "a" * 74 + "b"], ["{}"])
    assert not np.allclose(text[0], text[1])
    for letter in "bc":
        with pytest.raises(ValueError, match=r"class name 'a+\.\.\.': expected at most 77 tokens in '\{\}', got 78"):
            clip.encode_text(["a" * 75 + letter], ["{}", "a {}"])
    assert clip.check_lengths(["cat"], ["{}", "a {}"]) == ()
    (note,) = clip.check_lengths(["cat", "a" * 75], ["{}", "a {}"])
    assert "which have 78" in note


def test_tokens_are_counted_as_open_clips_own_tokenizer_does(clip: Clip) -> None:
    own = replace(clip, tokenizer=open_clip.SimpleTokenizer(context_length=12))
    for sentence in (
        "cat",
        "a photo of a fire engine.",
        "Café &amp; bar",
        "one two three four five six seven eight nine",
    ):
        count = own._count_tokens(sentence)
        row = open_clip.SimpleTokenizer(context_length=77)([sentence])[0]
        assert count == int((row != 0).sum())  # what follows the end is filled with zeros
    with pytest.raises(ValueError, match="expected at most 12 tokens"):
        own.check_lengths(["one two three four five six seven eight nine ten eleven"], ["{}"])
