"""Pixel-exact labels against the published pipeline written out slowly: one window, one pixel, one class at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_folder import TINY_CELL, save_tiny_clip
from torch.nn import functional as F

from ovseg import labels, pixel_exact
from ovseg.classes import Background, Vocabulary, build_vocabulary
from ovseg.pixel_exact import label_masks_exactly, label_pixels_exactly, pixel_cosines
from ovseg.resampling import resize_bilinear  # which has a slow version of its own, in test_resampling.py
from ovseg.towers.clip import Clip
from ovseg.towers.scoring import Scoring
from ovseg.towers.view import View

PROMPTS = ("cat", "dog", "red bus", "sky", "wall")
SLIDING = View(short_side=40, long_side=90, window=32, stride=16)
WHOLE = View(short_side=44, long_side=90)
VIEWS = {"windows": SLIDING, "whole": WHOLE, "long": View(short_side=40, long_side=60, window=32, stride=32)}
SIZES = [(21, 37), (48, 33), (30, 30), (13, 60)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip"), seed=3))


@pytest.fixture(scope="module")
def text(clip: Clip) -> np.ndarray:
    """Rows that tell a picture's cells apart, (P, C): those of a random text tower are all alike."""
    cells = clip.dense_features(picture((40, 50), 9), View(short_side=40)).reshape(16, -1)
    rows = (cells - cells.mean(1, keepdims=True))[:, :: cells.shape[1] // len(PROMPTS)].T[: len(PROMPTS)]
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Patches of colour with noise, so that labels change over the image."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (4, 5, 3))
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, (4, 5), strict=True))
    return np.clip(colours[rows][:, columns] + random.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def position_table(table: np.ndarray, trained: int, grid: tuple[int, int]) -> np.ndarray:
    """(1 + trained^2, D) for another grid: bicubic, at a scale of (cells + 0.1) / trained."""
    if grid[0] * grid[1] == trained**2:
        return table
    square = table[1:].reshape(trained, trained, -1)
    resized = np.zeros((*grid, square.shape[2]))
    for row in range(grid[0]):
        for column in range(grid[1]):
            y = (row + 0.5) * trained / (grid[0] + 0.1) - 0.5
            x = (column + 0.5) * trained / (grid[1] + 0.1) - 0.5
            for down in range(math.floor(y) - 1, math.floor(y) + 3):
                for right in range(math.floor(x) - 1, math.floor(x) + 3):
                    source = square[min(max(down, 0), trained - 1), min(max(right, 0), trained - 1)]
                    resized[row, column] += cubic(y - down) * cubic(x - right) * source
    return np.concatenate([table[:1], resized.reshape(-1, square.shape[2])])


def attention(variant: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Of one head, (1+N, d) each."""
    scale = q.shape[1] ** -0.5
    if variant.startswith("maskclip"):
        return v
    if variant == "sclip":
        return (torch.softmax(q @ q.T * scale, 1) + torch.softmax(k @ k.T * scale, 1)) @ v
    if variant == "clearclip":
        return torch.softmax(q @ q.T * scale, 1) @ v
    near = torch.zeros(len(q), len(q))
    for i in range(grid[0] * grid[1]):
        for j in range(grid[0] * grid[1]):
            squared = (i // grid[1] - j // grid[1]) ** 2 + (i % grid[1] - j % grid[1]) ** 2
            near[i + 1, j + 1] = math.exp(-squared / 50)
    return torch.softmax(k @ k.T * scale + near, 1) @ v


def window_tokens(clip: Clip, pixels: np.ndarray, variant: str) -> tuple[np.ndarray, tuple[int, int]]:
    """Unit features (N, C) of a window (3, h, w), whose pixels beyond the last whole cell are not seen."""
    tower = clip.model.visual
    grid = pixels.shape[1] // TINY_CELL, pixels.shape[2] // TINY_CELL
    kernel = tower.conv1.weight.numpy()
    tokens = [tower.class_embedding.numpy()]
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = row * TINY_CELL, column * TINY_CELL
            tokens.append(np.tensordot(kernel, pixels[:, y : y + TINY_CELL, x : x + TINY_CELL], 3))
    table = position_table(tower.positional_embedding.numpy(), tower.grid_size[0], grid)
    x = tower.ln_pre(torch.from_numpy((np.stack(tokens) + table).astype(np.float32)))[None]
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        x = block(x)
    normed, heads = last.ln_1(x)[0], last.attn.num_heads
    projected = normed @ last.attn.in_proj_weight.T + last.attn.in_proj_bias
    q, k, v = (part.reshape(len(normed), heads, -1) for part in projected.chunk(3, dim=1))
    mixed = torch.cat([attention(variant, q[:, h], k[:, h], v[:, h], grid) for h in range(heads)], dim=1)
    out = mixed @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
    if variant in ("maskclip", "sclip"):
        kept = x[0] + out
        out = kept + last.mlp(last.ln_2(kept))
    features = (tower.ln_post(out) @ tower.proj)[1:].numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True), grid


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(P, h, w) at another size, align_corners=False, one pixel at a time."""
    _, h, w = maps.shape
    out = np.zeros((len(maps), *size))
    for row in range(size[0]):
        for column in range(size[1]):
            y = max((row + 0.5) * h / size[0] - 0.5, 0)
            x = max((column + 0.5) * w / size[1] - 0.5, 0)
            top, left = min(int(y), h - 1), min(int(x), w - 1)
            low, right = min(top + 1, h - 1), min(left + 1, w - 1)
            dy, dx = y - top, x - left
            out[:, row, column] = (1 - dy) * ((1 - dx) * maps[:, top, left] + dx * maps[:, top, right])
            out[:, row, column] += dy * ((1 - dx) * maps[:, low, left] + dx * maps[:, low, right])
    return out


def slow_cosines(clip: Clip, image: np.ndarray, text: np.ndarray, view: View, pad: bool) -> np.ndarray:
    """(P, h, w) at the resized image's pixels."""
    height, width = image.shape[:2]
    factor = min(view.long_side / max(height, width), view.short_side / min(height, width))
    h, w = math.floor(height * factor + 0.5), math.floor(width * factor + 0.5)
    pixels = resize_bilinear(image, (h, w)).astype(np.float64).transpose(2, 0, 1)
    mean, deviation = ([122.771, 116.746, 104.094], [68.501, 66.632, 70.323])
    pixels = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))
    crop, stride = (view.window, view.stride) if view.window else (10**6, 10**6)
    total, count = np.zeros((len(text), h, w)), np.zeros((h, w))
    for row in range(max(h - crop + stride - 1, 0) // stride + 1):
        for column in range(max(w - crop + stride - 1, 0) // stride + 1):
            y2, x2 = min(row * stride + crop, h), min(column * stride + crop, w)
            y1, x1 = max(y2 - crop, 0), max(x2 - crop, 0)
            window = pixels[:, y1:y2, x1:x2]
            before = [0, 0]
            if pad:
                lacks = [-side % TINY_CELL for side in window.shape[1:]]
                before = [lack // 2 for lack in lacks]
                widths = [(one, lack - one) for one, lack in zip(before, lacks, strict=True)]
                window = np.pad(window, ((0, 0), *widths))
            features, grid = window_tokens(clip, window, view.variant)
            maps = bilinear(np.stack([(features @ row).reshape(grid) for row in text]), window.shape[1:])
            total[:, y1:y2, x1:x2] += maps[:, before[0] : before[0] + y2 - y1, before[1] : before[1] + x2 - x1]
            count[y1:y2, x1:x2] += 1
    return total / count


def slow_labels(
    cosines: np.ndarray, size: tuple[int, int], vocabulary: Vocabulary, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W), and which pixels are clear: the next name, and the threshold, are not within rounding."""
    logits = bilinear(cosines, size) * scale
    probabilities = np.exp(logits - logits.max(0))
    probabilities /= probabilities.sum(0)
    owners = np.array(vocabulary.owners)
    by_name = np.stack([probabilities[owners == n].max(0) for n in range(len(vocabulary.names))])
    if vocabulary.area is not None:
        best = by_name.argmax(0)
        counts = [int((best == n).sum()) for n in range(len(by_name))]
        for n in range(1, len(by_name)):
            if counts[n] <= vocabulary.area * sum(counts[1:]):
                by_name[n] = 0
    found = by_name.argmax(0)
    first, second = np.sort(by_name, axis=0)[-1:-3:-1]
    clear = first - second > 1e-5
    if vocabulary.threshold is not None:
        found[first < vocabulary.threshold] = 0
        clear &= abs(first - vocabulary.threshold) > 1e-5
    return found, clear


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("variant", ["maskclip", "maskclip-plain", "sclip", "clearclip", "naclip"])
@torch.inference_mode()
def test_every_variant_equals_the_slow_pipeline(clip: Clip, text: np.ndarray, variant: str, pad: bool) -> None:
    vocabulary = build_vocabulary("cat,dog,red bus,sky,wall", "none")
    for number, size in enumerate(SIZES):
        view = list(VIEWS.values())[number % len(VIEWS)]
        view = View(view.short_side, view.window, view.stride, variant, view.long_side)
        image = picture(size, number)
        cosines = pixel_cosines(clip, image, text, view, pad)
        expected = slow_cosines(clip, image, text, view, pad)
        assert cosines.shape == expected.shape
        assert np.abs(cosines.numpy() - expected).max() < 2e-5
        found, probabilities = label_pixels_exactly(cosines, size, vocabulary, Scoring(40.0))
        wanted, clear = slow_labels(expected, size, vocabulary, 40)
        assert clear.mean() > 0.9 and np.array_equal(found[clear], wanted[clear])
        assert found.dtype == np.int32 and probabilities.dtype == np.float32 and len(np.unique(found)) > 1


RULES = {
    "threshold": Background(words=("sky", "wall"), threshold=0.45),
    "area": Background(words=("sky", "wall"), threshold=0.1, area=0.3),
    "a word that is a class": Background(words=("sky", "wall", "dog"), threshold=0.2, repeats=True),
    "a threshold alone": Background(threshold=0.5),
}


@pytest.mark.parametrize("rule", RULES)
@torch.inference_mode()
def test_rules_of_the_background_equal_the_slow_ones(
    clip: Clip, text: np.ndarray, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = build_vocabulary(["cat", "dog; puppy", "red bus"], RULES[rule])
    known = ("sky", "wall", "dog", "cat", "puppy", "red bus")
    rows = np.concatenate([text, -text[:1]])[[known.index(prompt) for prompt in vocabulary.prompts]]
    seen = set()
    for seed in range(3):
        image = picture((33, 48), seed)
        cosines = pixel_cosines(clip, image, rows, SLIDING)
        found, _ = label_pixels_exactly(cosines, (33, 48), vocabulary, Scoring(30.0))
        owners = np.array(vocabulary.owners)
        by_name = [n for n in range(len(vocabulary.names)) if (owners == n).any()]
        if len(by_name) == len(vocabulary.names):
            wanted, clear = slow_labels(slow_cosines(clip, image, rows, SLIDING, False), (33, 48), vocabulary, 30)
            if vocabulary.prompts.count("dog") == 2:  # a draw is the background's, which comes first
                clear |= wanted == 0
            assert clear.mean() > 0.8 and np.array_equal(found[clear], wanted[clear])
        else:
            assert (found == 0).any()
        monkeypatch.setattr(labels, "BAND_VALUES", 500)  # bands of a row or two
        banded, _ = label_pixels_exactly(cosines, (33, 48), vocabulary, Scoring(30.0))
        monkeypatch.undo()
        assert np.array_equal(found, banded)
        seen |= set(np.unique(found).tolist())
    assert 0 in seen and len(seen) > 1


def test_where_a_word_is_a_class_the_background_wins_the_draw() -> None:
    """As in the published code for COCO-Object: `bed` can never be found there."""
    draw = build_vocabulary(["cat", "bed"], Background(words=("sky", "bed"), repeats=True))
    assert draw.prompts == ("sky", "bed", "cat", "bed") and draw.owners == (0, 0, 1, 2) and draw.notes == ()
    cosines = torch.tensor([0.1, 0.9, 0.2, 0.9])[:, None, None].expand(4, 3, 3)
    assert not label_pixels_exactly(cosines, (4, 5), draw, Scoring(40.0))[0].any()
    apart = build_vocabulary(["cat", "bed"], Background(words=("sky", "bed")))
    assert apart.prompts == ("sky", "cat", "bed") and apart.notes


def test_upsampling_in_bands_is_torchs_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(labels, "BAND_VALUES", 4000)
    for source, size in [((33, 50), (90, 45)), ((33, 44), (37, 150)), ((43, 33), (300, 7)), ((33, 50), (99, 151))]:
        maps = torch.randn(7, *source)
        bands = list(pixel_exact._upsampled(maps, size))
        whole = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
        assert len(bands) > 1 and np.array_equal(np.concatenate(bands, axis=1), whole)


@torch.inference_mode()
def test_masks_are_labelled_by_the_mean_of_their_pixels(clip: Clip, text: np.ndarray) -> None:
    vocabulary = build_vocabulary("cat,dog,red bus,sky,wall", "none")
    image, size = picture((33, 48)), (33, 48)
    cosines = pixel_cosines(clip, image, text, SLIDING)
    each_pixel = np.arange(33 * 48, dtype=np.int32).reshape(size)
    _, best = label_masks_exactly(cosines, each_pixel, vocabulary, Scoring(40.0))
    assert (best[each_pixel] == label_pixels_exactly(cosines, size, vocabulary, Scoring(40.0))[0]).mean() > 0.999
    masks = (np.arange(48)[None] // 12 + 4 * (np.arange(33)[:, None] // 20)).astype(np.int32)
    probabilities, best = label_masks_exactly(cosines, masks, vocabulary, Scoring(40.0))
    means = np.stack([bilinear(cosines.numpy(), size)[:, masks == mask].mean(1) for mask in range(8)])
    expected = np.exp(40 * means) / np.exp(40 * means).sum(1, keepdims=True)
    assert np.abs(probabilities - expected).max() < 1e-5 and best.tolist() == expected.argmax(1).tolist()


def test_a_table_with_as_many_cells_is_taken_as_it_is(clip: Clip) -> None:
    """Published code compares the number of tokens alone: 2 x 8 cells have the trained 4 x 4's positions in order."""
    tower = clip.model.visual
    other = pixel_exact._with_positions(tower, (2, 8))
    assert torch.equal(other.positional_embedding, tower.positional_embedding) and other.grid_size == (2, 8)
    assert pixel_exact._with_positions(tower, (4, 4)) is tower
    assert len(pixel_exact._with_positions(tower, (5, 8)).positional_embedding) == 41
    assert tower.grid_size == (4, 4) and len(tower.positional_embedding) == 17  # the tower itself is as it was


def test_what_cannot_be_seen_is_refused(clip: Clip, text: np.ndarray) -> None:
    with pytest.raises(ValueError, match="30 x 2 pixels after resizing, expected a cell of CLIP at least"):
        pixel_cosines(clip, picture((8, 120)), text, View(short_side=30, long_side=30))
    with pytest.raises(ValueError, match="image must be"):
        pixel_cosines(clip, picture((8, 12)).astype(np.float32), text, SLIDING)


def test_a_small_view_of_a_real_folder_is_deterministic(tiny_clip: Path) -> None:
    clip = Clip.from_pretrained(tiny_clip)
    rows = clip.encode_text(("cat", "dog"), ("{}",))
    first, second = (pixel_cosines(clip, picture((20, 31)), rows, SLIDING) for _ in range(2))
    assert torch.equal(first, second)
