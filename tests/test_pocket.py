"""The embedded models: as other libraries load them, local as they claim to be, and at work on scenes never seen."""

from __future__ import annotations

import sys
from dataclasses import replace

import diffusers
import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional

from emerdiff import EmerDiff
from ovseg import Segmenter
from ovseg.pocket.training import draw_samples
from ovseg.pocket.training.autoencoder import build as build_autoencoder
from ovseg.pocket.training.autoencoder import psnr
from ovseg.pocket.training.clip import to_network
from ovseg.pocket.weights import CLIP, DIFFUSION
from ovseg.pocket.world import NAMES, SIZE, scene
from ovseg.presets import get_preset
from ovseg.towers.dense import dense_features


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    return open_clip.create_model(f"local-dir:{CLIP}", require_pretrained=True).eval()


def test_weights_are_safetensors_and_json_of_at_most_40_megabytes():
    files = [path for folder in (CLIP, DIFFUSION) for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 40e6


def test_diffusers_and_transformers_load_the_folder_as_it_is():
    unet = diffusers.UNet2DConditionModel.from_pretrained(DIFFUSION / "unet")
    vae = diffusers.AutoencoderKL.from_pretrained(DIFFUSION / "vae")
    encoder = transformers.CLIPTextModel.from_pretrained(DIFFUSION / "text_encoder", dtype=torch.float32)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(DIFFUSION / "tokenizer")
    tokens = tokenizer("a cat, on grass", padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        states = encoder(tokens).last_hidden_state
        latents = vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mode()
        noise = unet(latents, 1, encoder_hidden_states=states).sample
    assert latents.shape == noise.shape == (1, 8, 32, 32) and noise.isfinite().all()
    assert len(unet.up_blocks[1].attentions) == 3


@pytest.mark.slow
def test_the_autoencoder_keeps_more_than_31_decibels():
    images = np.stack([scene("tuning", 0, number).image for number in range(100)])
    assert psnr(build_autoencoder(from_weights=True), images, "cpu") > 31


def test_samples_are_drawn_a_row_a_caption(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_samples", "--count", "2", "--steps", "2", "--out", str(tmp_path / "s.png")])
    draw_samples.main()
    with Image.open(tmp_path / "s.png") as sheet:
        first, second = (
            np.asarray(sheet)[:SIZE, left : left + SIZE] for left in (draw_samples.LEFT, draw_samples.LEFT + SIZE + 4)
        )
        assert sheet.height == len(draw_samples.SHOWN) * (SIZE + draw_samples.GAP)
    assert first.std() > 5 and (first != second).any()


def test_the_text_tower_knows_its_names_apart(clip):
    tokenize = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    with torch.inference_mode():
        text = clip.encode_text(tokenize([f"a photo of a {name}" for name in NAMES]), normalize=True)
    similarity = text @ text.T - 2 * torch.eye(len(NAMES))
    assert similarity.max() < 0.95


def test_the_shipped_cells_name_their_object_under_true_masks(clip):
    """Of 20 scenes never trained on: the mean of a mask's cells, as MaskCLIP reads them, against one prompt a name."""
    tokenize = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    with torch.inference_mode():
        text = clip.encode_text(tokenize([f"a photo of a {name}" for name in NAMES]), normalize=True)
        right = []
        for index in range(20):
            one = scene("tuning", 1, index)
            pixels = torch.from_numpy(one.image).movedim(-1, 0)[None].float()
            image = to_network(functional.interpolate(pixels, size=384, mode="bicubic"))
            cells = functional.normalize(dense_features(clip.visual, image), dim=1)
            features = functional.interpolate(cells, size=SIZE, mode="bilinear")[0]
            for name in np.unique(one.labels):
                mean = features[:, torch.from_numpy(one.labels == name)].mean(1)
                right.append(int((text @ mean).argmax()) == name)
    assert np.mean(right) > 0.85


@pytest.mark.slow
def test_fast_masks_are_mostly_those_of_the_exact_engine_from_fewer_rows():
    model, options = EmerDiff.from_pretrained(DIFFUSION), get_preset("pocket").options
    equal, rows = [], []
    for index in range(2):
        image, done = scene("evaluation", 3, index).image, [0]
        exact = model.segment(image, replace(options, speed="exact"))
        fast = model.segment(
            image, replace(options, speed="fast"), progress=lambda count, total, done=done: done.append(count)
        )
        equal.append(np.mean(exact.labels == fast.labels))
        rows.append(done[-1] - done[-2])
    assert min(equal) > 0.7
    assert max(rows) < 1 + options.masks  # 20 masks share fewer latents


def test_four_scenes_never_trained_on_are_labelled_mostly_right():
    segmenter = Segmenter.from_preset("pocket", device="cpu")
    scenes = [scene("evaluation", 2, index) for index in range(4)]
    results = [segmenter.label(one.image, list(NAMES), background="none") for one in scenes]
    right = [np.mean(result.labels == one.labels) for result, one in zip(results, scenes, strict=True)]
    assert np.mean(right) > 0.7
    assert results[0].names == NAMES
