"""Trains the pocket CLIP: a small open_clip ResNet for the pocket world's names.

    python -m ovseg.pocket.training.clip

The image tower is the CLIP paper's ModifiedResNet with an attention pool, the form MaskCLIP was written for, a quarter
as wide as RN50; scenes are shown to it four times as large, so that its cells of 32 pixels are 8 of the scene's.

Pictures are windows of scenes; many frame an object, as photographs do. Three losses. Two on whole-image embeddings:
CLIP's contrastive loss with a caption of what the window shows, and cross-entropy of the image against one prompt for
every name of the world, the target spread evenly over the names it shows. The third on cells, as late interaction
(FILIP, arXiv 2111.07783) has it: each gets a distribution over the names, and the mean of them all is held against the
names shown, so that a cell may say one thing and its neighbour another. There the pool hands on every cell's own value,
as MaskCLIP has it.

Supervision: the losses see one window and the names it shows, not where in the window they are. But windows are
placed around objects, and named, by the scenes' label maps.
"""

from __future__ import annotations

import json
import math
import tempfile
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from ovseg.pocket.training import tokenizer
from ovseg.pocket.training.data import cut, scenes
from ovseg.pocket.training.loop import Plan, carry_out, fit, read_plan
from ovseg.pocket.weights import CLIP, replacing
from ovseg.pocket.world import NAMES, OBJECTS, caption
from ovseg.prompts import templates

SCENES = 100_000
STRIDE = 32  # pixels of the tower's cells
CELLS = 5  # of a training picture's side; a whole scene has 16
FRAMED, NEAR = 0.4, 0.4  # shares of windows that frame an object, and that are laid round a pixel of one
SALIENT = 0.12  # texts of whole windows name what covers at least this share of them
NOTICED = 0.04  # and cells are held against what covers this share
CAPTIONED = 192  # windows of a batch that the caption loss sees
CAPTIONS = 0.5  # weight of the caption loss; the losses on names have 1
SIDES = (40.0, 40.0, 40.0, 56.0, 88.0)  # scene pixels, of the windows that frame nothing, equally likely
LEAST = 16.0  # scene pixels, side of a window that frames an object
WEIGHTS = CLIP / "open_clip_model.safetensors"
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 512, "layers": [2, 2, 2, 2], "width": 32, "head_width": 64},
    "text_cfg": {
        "context_length": tokenizer.CONTEXT,
        "vocab_size": len(tokenizer.build()),
        "width": 128,
        "heads": 4,
        "layers": 3,
        "hf_tokenizer_name": "pocket",  # the tokenizer's files lie in the same folder
    },
}


def build(from_weights: bool = False) -> open_clip.CLIP:
    """An untrained pocket CLIP, or the one that ships."""
    text = {key: value for key, value in CONFIG["text_cfg"].items() if key != "hf_tokenizer_name"}
    model = open_clip.CLIP(CONFIG["embed_dim"], dict(CONFIG["vision_cfg"]), text)
    if from_weights:
        model.load_state_dict(load_file(WEIGHTS))
    return model


def windows(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of scenes, some framing an object, some near one, some anywhere, and what they show.

    images (B, h, h, 3) and labels (B, h, h), uint8. Returns pictures (B, 3, CELLS * 32, CELLS * 32) float32, and the
    names that are salient and those that can be noticed in each, (B, len(NAMES)) bool. Draws from torch's own state.
    """
    corners, sides = squares(labels)
    mirrored = torch.rand(len(labels), device=labels.device) < 0.5
    pictures = to_network(cut(images.movedim(-1, 1).float(), corners, sides, mirrored, CELLS * STRIDE))
    pictures = pictures * torch.empty_like(sides).uniform_(0.8, 1.2).view(-1, 1, 1, 1)  # contrast
    seen = cut(labels[:, None].float(), corners, sides, mirrored, 8 * CELLS, mode="nearest")
    areas = _areas(seen[:, 0].long())
    salient, noticed = (visible_of(areas, share) for share in (SALIENT, NOTICED))
    return pictures, salient, noticed


def squares(labels: Tensor) -> tuple[Tensor, Tensor]:
    """A square window of each scene: corners (B, 2), row and column, and sides (B,), float32 in scene pixels.

    labels: (B, h, h) uint8.
    """
    count, length, device = len(labels), labels.shape[-1], labels.device
    kind = torch.rand(count, device=device)
    things = _areas(labels.long())[:, : len(OBJECTS)] > 0
    kind = torch.where(things.any(1), kind, 1.0)  # nothing to frame
    chosen = torch.multinomial(things + 1e-6, 1)
    mask = labels == chosen[:, None]
    low, high = (torch.stack(ends, 1) for ends in zip(*(_ends(mask.any(axis)) for axis in (2, 1)), strict=True))
    place = (mask * torch.rand(mask.shape, device=device)).flatten(1).argmax(1)  # some pixel of the object
    near = torch.stack([place // length, place % length], 1).float()
    anywhere = length * torch.rand(count, 2, device=device)
    side = torch.tensor(SIDES, device=device)[torch.randint(len(SIDES), (count,), device=device)]
    framing = ((high - low).amax(1) * torch.empty(count, device=device).uniform_(1, 1.6)).clamp(LEAST, length)
    side = torch.where(kind < FRAMED, framing, side)
    framed = (low + high) / 2 + side[:, None] * (torch.rand(count, 2, device=device) - 0.5) / 4
    centre = torch.where((kind < FRAMED)[:, None], framed, torch.where((kind < FRAMED + NEAR)[:, None], near, anywhere))
    corner = (centre - side[:, None] / 2).clamp(min=0)
    return torch.minimum(corner, length - side[:, None]), side


def _areas(labels: Tensor) -> Tensor:
    """How many pixels each name has, (B, len(NAMES)) float32, from labels (B, h, w) int64."""
    flat = labels.flatten(1)
    return torch.zeros(len(flat), len(NAMES), device=flat.device).scatter_add_(1, flat, torch.ones_like(flat).float())


def visible_of(areas: Tensor, share: float) -> Tensor:
    """Which names cover at least `share` of a picture, or the most of it: (B, L) bool, from pixel counts (B, L)."""
    return areas >= torch.minimum(share * areas.sum(1), areas.amax(1))[:, None]


def _ends(there: Tensor) -> tuple[Tensor, Tensor]:
    """The first true place of each row, and the one behind the last, (B,) float32, from (B, h) bool."""
    first = there.int().argmax(1)
    behind = there.shape[1] - there.flip(1).int().argmax(1)
    return first.float(), behind.float()


def embed(tower: Any, pictures: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Embeddings of pictures smaller than the tower's, placed at `corner` (row, column) of its grid.

    Returns those of whole pictures, (B, C), and those of their cells, (B, N, C), each its own value alone, as MaskCLIP
    has it.
    """
    grid = tower.stem(pictures)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        grid = layer(grid)
    pool, (rows, columns) = tower.attnpool, grid.shape[2:]
    side = math.isqrt(len(pool.positional_embedding) - 1)
    places = pool.positional_embedding[1:].unflatten(0, (side, side))
    places = places[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns].flatten(0, 1)
    cells = grid.flatten(2).transpose(1, 2)
    mean = cells.mean(1, keepdim=True) + pool.positional_embedding[0]
    tokens = torch.cat([mean, cells + places], 1)
    query, keys, values = (
        project(of).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for project, of in ((pool.q_proj, mean), (pool.k_proj, tokens), (pool.v_proj, tokens))
    )
    pooled = functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
    return pool.c_proj(pooled)[:, 0], pool.c_proj(pool.v_proj(cells))


def train(plan: Plan) -> open_clip.CLIP:
    torch.manual_seed(plan.seed)
    model: Any = build(plan.from_weights).to(plan.device)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.build().save_pretrained(folder)
        tokenize = HFTokenizer(folder, context_length=tokenizer.CONTEXT)
    phrases = templates("imagenet80")
    images, labels = (torch.from_numpy(part).to(plan.device) for part in scenes("train", SCENES, plan.world))
    spare = CONFIG["vision_cfg"]["image_size"] // STRIDE - CELLS

    def loss(rng: np.random.Generator) -> Tensor:
        picks = torch.from_numpy(rng.choice(SCENES, plan.batch, replace=False)).to(plan.device)
        pictures, shown, there = windows(images[picks], labels[picks])
        captioned = shown[:CAPTIONED]
        sentences = [caption([NAMES[i] for i in rng.permutation(np.flatnonzero(one))]) for one in captioned.cpu()]
        prompts = [str(rng.choice(phrases)).replace("{}", name) for name in NAMES]
        row, column = rng.integers(0, spare + 1, 2)
        embedded = embed(model.visual, pictures.contiguous(memory_format=torch.channels_last), (row, column))
        whole, cells = (functional.normalize(features.float(), dim=-1) for features in embedded)
        text = model.encode_text(tokenize(sentences + prompts).to(plan.device)).float()
        text = functional.normalize(text, dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        nouns = text[len(sentences) :].T
        sentences_loss = contrastive(scale * whole[:CAPTIONED] @ text[: len(sentences)].T, captioned)
        return CAPTIONS * sentences_loss + spread(scale * whole @ nouns, shown) + mixture(scale * cells @ nouns, there)

    layers = (model.visual.layer1, model.visual.layer2, model.visual.layer3, model.visual.layer4)
    blocks = (*layers, model.visual.attnpool, model.transformer)
    matrices = [
        weight
        for block in blocks
        for name, weight in block.named_parameters()
        if weight.ndim > 1 and name != "positional_embedding"
    ]
    fit(model, loss, plan, matrices=matrices)
    return model


def to_network(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in 0..255 -> the same with CLIP's mean and deviation."""
    mean, deviation = (
        pixels.new_tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (pixels / 255 - mean) / deviation


def contrastive(logits: Tensor, names: Tensor) -> Tensor:
    """CLIP's symmetric loss, (B, B) image-text logits; pairs that show the same names as the true one do not count."""
    same = (names[:, None] == names[None]).all(-1) & ~torch.eye(len(names), dtype=torch.bool, device=names.device)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(names), device=names.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def spread(logits: Tensor, names: Tensor) -> Tensor:
    """Cross-entropy of (B, L) image-name logits against equal shares for the names shown, (B, L) bool."""
    return functional.cross_entropy(logits, names.float() / names.sum(1, keepdim=True))


def mixture(logits: Tensor, names: Tensor) -> Tensor:
    """Cross-entropy of the cells' mean distribution over names, from logits (B, N, L), against the names, (B, L)."""
    found = logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])
    return -((found * names).sum(1) / names.sum(1)).mean()


def save(model: open_clip.CLIP) -> None:
    """Writes the open_clip folder: configuration, tokenizer, weights in half precision."""
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    document = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    with replacing(CLIP) as folder:
        tokenizer.build().save_pretrained(folder)
        (folder / "open_clip_config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        weights = {key: halved(value).contiguous() for key, value in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS.name)


def halved(tensor: Tensor) -> Tensor:
    """Half precision, but for counters."""
    return tensor.half() if tensor.is_floating_point() else tensor


def main() -> None:
    plan = read_plan("clip", "Train the pocket CLIP.", steps=1200, batch=2048, learning_rate=3e-3)
    carry_out(plan, train, save)


if __name__ == "__main__":
    main()
