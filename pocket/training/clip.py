"""Trains the pocket CLIP: a small open_clip ViT for the pocket world's names.

    python -m ovseg.pocket.training.clip

Pictures are windows of scenes; many frame an object, as photographs do. Three losses. Two on whole-image embeddings:
CLIP's contrastive loss with a caption of what the window shows, and cross-entropy of the image against one prompt for
every name of the world, the target spread evenly over the names it shows. The third on patches, as late interaction
(FILIP, arXiv 2111.07783) has it: each gets a distribution over the names, and the mean of them all is held against the
names shown, so that a patch may say one thing and its neighbour another. There the last block attends to itself alone,
as MaskCLIP has it. Attention is local by its weights (see `locality`). The result is an ordinary ViT.

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
from ovseg.pocket.training.data import scenes, visible
from ovseg.pocket.training.locality import impose, level, shield
from ovseg.pocket.training.loop import Plan, carry_out, fit, read_plan
from ovseg.pocket.weights import CLIP, replacing
from ovseg.pocket.world import NAMES, OBJECTS, caption
from ovseg.prompts import templates

SCENES = 40_000
WINDOW = 48  # pixels, side of a training picture: a part of the model's 128
FRAMED, NEAR = 0.4, 0.4  # shares of windows that frame an object, and that are laid round a pixel of one
SALIENT = 0.12  # texts of whole windows name what covers at least this share of them
NOTICED = 0.04  # and patches are held against what covers this share
CAPTIONS = 0.5  # weight of the caption loss; the losses on names have 1
SIDES = (48, 48, 48, 64, 96)  # of the windows that frame nothing, equally likely
LEAST = 16  # pixels, side of a window that frames an object
WEIGHTS = CLIP / "open_clip_model.safetensors"
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 128,
        "patch_size": 8,
        "width": 192,
        "head_width": 64,
        "layers": 5,
        "mlp_ratio": 4.0,
        "pool_type": "avg",
        "no_ln_pre": True,
    },
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
    config = dict(
        CONFIG, text_cfg={key: value for key, value in CONFIG["text_cfg"].items() if key != "hf_tokenizer_name"}
    )
    model = open_clip.CLIP(**config)
    level(model.visual)
    impose(model.visual)
    if from_weights:
        model.load_state_dict({key: value.float() for key, value in load_file(WEIGHTS).items()})
    return model


def to_network(images: np.ndarray, device: str) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 with CLIP's mean and deviation."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (
        pixels.new_tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (pixels - mean) / deviation


def windows(
    images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """`count` windows, some framing an object, some near one, some anywhere, and what they show.

    Returns pictures (B, 3, 48, 48) float32, and the names that are salient and those that can be noticed in each,
    (B, len(NAMES)) bool.
    """
    cut = [(pick, *window(labels[pick], rng)) for pick in np.sort(rng.choice(len(images), count, replace=False))]
    pictures = torch.cat([fitted(images[where]) for where in cut])
    pictures = pictures * torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1, 1))).float()  # contrast
    if rng.random() < 0.5:
        pictures = pictures.flip(-1)
    salient, noticed = (np.stack([visible(labels[where], share) for where in cut]) for share in (SALIENT, NOTICED))
    return pictures, salient, noticed


def window(labels: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
    """A square of a scene, rows and columns, from its label map (h, w) uint8."""
    length, kind = len(labels), rng.random()
    things = np.unique(labels[labels < len(OBJECTS)])
    side, centre = int(rng.choice(SIDES)), rng.integers(0, length, 2)
    if len(things) and kind < FRAMED + NEAR:
        places = np.argwhere(labels == rng.choice(things))
        if kind < FRAMED:
            low, high = places.min(0), places.max(0)
            side = int(np.clip((high - low).max() * rng.uniform(1, 1.6), LEAST, length))
            centre = (low + high) // 2 + rng.integers(-side // 8, side // 8 + 1, 2)
        else:
            centre = rng.choice(places)
    top, left = np.clip(centre - side // 2, 0, length - side)
    return slice(top, top + side), slice(left, left + side)


def fitted(picture: np.ndarray) -> Tensor:
    """A square picture (h, h, 3) uint8 as the network's (1, 3, 48, 48)."""
    found = to_network(picture[None], "cpu")
    if len(picture) == WINDOW:
        return found
    return functional.interpolate(found, size=WINDOW, mode="bilinear", antialias=True)


def embed(tower: Any, pictures: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Embeddings of pictures smaller than the tower's, placed at `corner` (row, column) of its grid.

    Returns those of whole pictures, (B, C), and those of their patches, (B, N, C), where in the last block tokens
    attend to themselves alone, as MaskCLIP has it.
    """
    patches = tower.conv1(pictures)
    rows, columns = patches.shape[2:]
    places = tower.positional_embedding[1:].unflatten(0, tower.grid_size)
    places = places[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns].flatten(0, 1)
    class_token = (tower.class_embedding + tower.positional_embedding[0]).expand(len(pictures), 1, -1)
    tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2) + places], dim=1)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    count = tokens.shape[1]
    itself = torch.full((count, count), float("-inf"), device=tokens.device).fill_diagonal_(0)
    pooled, _ = tower._pool(last(tokens))
    _, dense = tower._pool(last(tokens, attn_mask=itself))
    return pooled @ tower.proj, dense @ tower.proj


def train(plan: Plan) -> open_clip.CLIP:
    torch.manual_seed(plan.seed)
    model: Any = build(plan.from_weights).to(plan.device)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.build().save_pretrained(folder)
        tokenize = HFTokenizer(folder, context_length=tokenizer.CONTEXT)
    phrases = templates("imagenet80")
    images, labels = scenes("train", SCENES, plan.world)
    spare = model.visual.grid_size[0] - WINDOW // model.visual.patch_size[0]

    def loss(rng: np.random.Generator) -> Tensor:
        pictures, salient, noticed = windows(images, labels, plan.batch, rng)
        row, column = rng.integers(0, spare + 1, 2)
        embedded = embed(model.visual, pictures.to(plan.device), (row, column))
        whole, patches = (functional.normalize(features.float(), dim=-1) for features in embedded)
        sentences = [caption([NAMES[i] for i in rng.permutation(np.flatnonzero(shown))]) for shown in salient]
        prompts = [str(rng.choice(phrases)).replace("{}", name) for name in NAMES]
        text = model.encode_text(tokenize(sentences + prompts).to(plan.device)).float()
        text = functional.normalize(text, dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        shown, there = (torch.from_numpy(one).to(plan.device) for one in (salient, noticed))
        sentences_loss = contrastive(scale * whole @ text[: plan.batch].T, shown)
        nouns = text[plan.batch :].T
        return (
            CAPTIONS * sentences_loss + spread(scale * whole @ nouns, shown) + mixture(scale * patches @ nouns, there)
        )

    shield(model.visual)
    blocks = (model.visual.transformer, model.transformer)
    matrices = [weight for block in blocks for weight in block.parameters() if weight.ndim == 2]
    fit(model, loss, plan, constrain=lambda: impose(model.visual), matrices=matrices)
    return model


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
    """Cross-entropy of the patches' mean distribution over names, from logits (B, N, L), against the names, (B, L)."""
    found = logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])
    return -((found * names).sum(1) / names.sum(1)).mean()


def save(model: open_clip.CLIP) -> None:
    """Writes the open_clip folder: configuration, tokenizer, weights in half precision."""
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    document = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    with replacing(CLIP) as folder:
        tokenizer.build().save_pretrained(folder)
        (folder / "open_clip_config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS.name)


def main() -> None:
    plan = read_plan("clip", "Train the pocket CLIP.", steps=3500, batch=192, learning_rate=2.5e-3)
    carry_out(plan, train, save)


if __name__ == "__main__":
    main()
