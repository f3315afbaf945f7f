"""A tower and a dense variant of one's own, each added in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovseg.towers.clip import Clip
from ovseg.towers.dense import dense_features, native_view, view_features
from ovseg.towers.readout import cell_size, readout
from ovseg.towers.variants import VARIANTS, Variant
from ovseg.towers.view import View


class Mosaic(nn.Module):
    """A toy tower: a cell is 4 x 2 pixels, its feature the mean colour. What has no `cell_size` is no tower here."""

    image_size = (16, 16)


class Unknown(nn.Module):
    pass


@pytest.fixture
def mosaic() -> Mosaic:
    @cell_size.register
    def _(tower: Mosaic) -> tuple[int, int]:
        return 4, 2

    @readout.register
    def _(tower: Mosaic, images: Tensor, variant: str) -> Tensor:
        return nn.functional.avg_pool2d(images, (4, 2))

    return Mosaic().eval()


def test_a_tower_of_ones_own_is_two_functions(mosaic: Mosaic) -> None:
    images = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    features = dense_features(mosaic, images)
    assert features.shape == (2, 3, 4, 6)
    assert torch.allclose(features[1, 2, 3, 5], images[1, 2, 12:16, 10:12].mean())
    whole = view_features(mosaic, images[0], View(short_side=12))
    windows = view_features(mosaic, images[0], View(short_side=12, window=8, stride=4))
    assert torch.allclose(whole.norm(dim=0), torch.ones(4, 6)) and torch.allclose(whole, windows, atol=1e-6)
    assert native_view(mosaic) == View(24, 16, 8)
    with pytest.raises(ValueError, match="H a multiple of 4 and W of 2"):
        dense_features(mosaic, images[:, :, :15])


def test_clip_sees_images_through_a_tower_of_ones_own(mosaic: Mosaic) -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual, self.logit_scale, self.logit_bias = mosaic, nn.Parameter(torch.tensor(2.0)), None

    clip = Clip(Toy(), tokenizer=None, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4, 0] = image[:, 4:, 2] = 255  # red and blue halves
    features = clip.dense_features(image, View(short_side=8))
    assert features.shape == (3, 2, 4)
    assert features.argmax(axis=0).tolist() == [[0, 0, 2, 2]] * 2
    assert repr(clip) == "Clip(Mosaic, cpu)" and clip.scoring.scale == pytest.approx(np.exp(2))


def test_other_towers_are_refused_by_their_type() -> None:
    with pytest.raises(ValueError, match="VisionTransformer, ModifiedResNet and TimmModel, got Unknown"):
        dense_features(Unknown().eval(), torch.zeros(1, 3, 8, 8))


def mean_of_all(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Every token attends to all alike."""
    return value.mean(dim=2, keepdim=True).expand_as(value)


def test_a_variant_of_ones_own_is_a_function_and_an_entry(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, image = Clip.from_pretrained(tiny_clip), np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    with pytest.raises(ValueError, match="no variant 'flat', expected one of maskclip"):
        View(short_side=32, variant="flat")
    monkeypatch.setitem(VARIANTS, "flat", Variant(mean_of_all, residual=False))
    features = clip.dense_features(image, View(short_side=32, variant="flat"))
    assert features.shape == (16, 4, 6)
    np.testing.assert_allclose(features, np.broadcast_to(features[:, :1, :1], features.shape), atol=1e-5)
    monkeypatch.setitem(VARIANTS, "own", Variant(VARIANTS["maskclip"].mix, residual=True))
    own, maskclip = (clip.dense_features(image, View(32, variant=name)) for name in ("own", "maskclip"))
    assert np.array_equal(own, maskclip) and not np.allclose(own, features)


def test_the_command_line_knows_a_variant_of_ones_own(
    tiny_diffusion: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from ovseg.cli import main

    monkeypatch.setitem(VARIANTS, "flat", Variant(mean_of_all, residual=False))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    models: Any = ["--clip", str(tiny_clip), "--by", "none", "--dense", "flat", "--device", "cpu"]
    assert (
        main(["label", str(tmp_path / "scene.png"), *models, "--classes", "cat,dog", "--out", str(tmp_path / "run")])
        == 0
    )
    with Image.open(tmp_path / "run/scene.png") as labels:
        assert len(np.unique(np.asarray(labels))) == 1  # every pixel has the same feature
