"""Trains a diffusion model for photographs of one's own, from the pocket diffusion model's weights.

    python -m ovseg.pocket.training.photos PHOTOS OUT
    ovseg label img.jpg --classes cat,dog --preset photo --diffusion OUT

PHOTOS holds a folder for every kind of picture, PHOTOS/NAME/*.jpg and the like: captions are "a photo of a NAME", a
share of them left empty; "_" in a name is a space, and a name without letters stands for none. First the autoencoder's
decoder learns to draw photographs; its encoder, and with it the latents, stays what it is. Then the UNet learns on
crops of 192 pixels that are cut and encoded anew at every step. No labels of pixels are needed, and none are used.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from ovseg.pocket.training import autoencoder as pocket_autoencoder
from ovseg.pocket.training import diffusion as pocket_diffusion
from ovseg.pocket.training import tokenizer
from ovseg.pocket.training.data import cut
from ovseg.pocket.training.loop import Plan, fit
from ovseg.pocket.weights import DIFFUSION, save_half

SIDE = 200  # pixels, of the squares that photographs are kept as
CROP = 192  # pixels, of a training picture
LEAST = 0.7  # of a square's side, of the smallest crop
EMPTY_CAPTIONS = 0.2  # share of captions left empty: EmerDiff asks with none
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def squares(path: Path) -> np.ndarray:
    """A photograph as one square, or two where it is elongated: (1 or 2, SIDE, SIDE, 3) uint8."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = SIDE / min(picture.size)
    width, height = (max(SIDE, round(scale * side)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3))
    if max(width, height) < 1.25 * SIDE:
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        return pixels[None, top : top + SIDE, left : left + SIDE]
    return np.stack([pixels[:SIDE, :SIDE], pixels[-SIDE:, -SIDE:]])


def photographs(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All squares (N, SIDE, SIDE, 3) uint8, the number of each one's caption (N,), and the captions."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no photographs found; expected {folder}/NAME/*.jpg")
    captions = sorted({caption(path.parent.name) for path in paths})
    with ProcessPoolExecutor() as pool:
        done = pool.map(squares, paths, chunksize=32)
        found = list(track(done, f"reading {len(paths)} photographs", total=len(paths)))
    kinds = [captions.index(caption(path.parent.name)) for path in paths]
    return np.concatenate(found), np.repeat(kinds, [len(one) for one in found]), captions


def caption(name: str) -> str:
    """'a photo of a golden retriever' from golden_retriever, and "" where there is no word in it."""
    words = name.replace("_", " ").strip()
    if not any(letter.isalpha() for letter in words):
        return ""
    return f"a photo of {'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def crops(images: Tensor, picks: Tensor, device: str) -> Tensor:
    """Random crops of the squares `picks`, some mirrored: (B, 3, CROP, CROP) float32 in -1..1."""
    chosen = images[picks.to(images.device)].to(device).movedim(-1, 1).float()
    sides = SIDE * torch.empty(len(chosen), device=device).uniform_(LEAST, 1)
    corners = (SIDE - sides)[:, None] * torch.rand(len(chosen), 2, device=device)
    mirrored = torch.rand(len(chosen), device=device) < 0.5
    return cut(chosen, corners, sides, mirrored, CROP) / 127.5 - 1


def train_decoder(plan: Plan, images: Tensor) -> Any:
    """The pocket autoencoder with a decoder fitted to photographs."""
    torch.manual_seed(plan.seed)
    model = pocket_autoencoder.build(from_weights=True).to(plan.device)

    def loss(rng: np.random.Generator) -> Tensor:
        picks = torch.from_numpy(rng.integers(0, len(images), plan.batch))
        pictures = crops(images, picks, plan.device)[:, :, : CROP // 2, : CROP // 2]
        with torch.no_grad():
            latents = model.encode(pictures).latent_dist.sample()
        return pocket_autoencoder.distance(model.decode(latents).sample.float(), pictures)

    fit(model, loss, plan)
    return model


def train_unet(plan: Plan, images: Tensor, kinds: np.ndarray, captions: list[str], autoencoder: Any) -> Any:
    """The pocket diffusion model's UNet, trained on."""
    torch.manual_seed(plan.seed)
    model = pocket_diffusion.build(from_weights=True).to(plan.device)
    autoencoder = autoencoder.to(plan.device).eval()
    states = text_states([*captions, ""], plan.device)
    alphas = pocket_diffusion.scheduler().alphas_cumprod.to(plan.device)

    def loss(rng: np.random.Generator) -> Tensor:
        picks = rng.integers(0, len(images), plan.batch)
        said = np.where(rng.random(plan.batch) < EMPTY_CAPTIONS, len(captions), kinds[picks])
        with torch.no_grad():
            posterior = autoencoder.encode(crops(images, torch.from_numpy(picks), plan.device)).latent_dist
            clean = (posterior.mode() * autoencoder.config.scaling_factor).float()
        return pocket_diffusion.noise_loss(model, alphas, clean, states[torch.from_numpy(said).to(plan.device)])

    fit(model, loss, plan, matrices=pocket_diffusion.matrices(model))
    return model


@torch.no_grad()
def text_states(captions: list[str], device: str) -> Tensor:
    """The shipped text encoder's states of captions, (n, CONTEXT, C) float32."""
    tokens = tokenizer.build()(
        captions, padding="max_length", max_length=tokenizer.CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids
    encoder = pocket_diffusion.text_encoder(from_weights=True).to(device)
    return torch.cat([encoder(part.to(device)).last_hidden_state for part in tokens.split(64)])


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    plan = Plan("photo-unet", given.steps, given.batch, given.learning_rate, 0.999, given.seed, given.device, True)
    try:
        if given.out.exists() and any(given.out.iterdir()):
            raise ValueError(f"{given.out}: expected a new or an empty folder")
        found, kinds, captions = photographs(given.photos)
        images = torch.from_numpy(found)
        decoder = train_decoder(replace(plan, name="photo-decoder", steps=given.decoder_steps), images)
        unet = train_unet(plan, images, kinds, captions, decoder)
    except (OSError, ValueError) as error:  # another run's checkpoint is a ValueError
        print(f"pocket: error: {error}", file=sys.stderr)
        return 2
    for part in ("tokenizer", "scheduler", "text_encoder"):
        shutil.copytree(DIFFUSION / part, given.out / part)
    save_half(decoder, given.out / "vae")
    save_half(unet, given.out / "unet")
    for name in ("photo-decoder", "photo-unet"):
        replace(plan, name=name).checkpoint.unlink()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ovseg.pocket.training.photos", description="Train a diffusion model on one's own photographs."
    )
    parser.add_argument("photos", type=Path, help="a folder with a folder for every kind of picture")
    parser.add_argument("out", type=Path, help="the model's folder, for `ovseg label --diffusion`")
    parser.add_argument("--steps", type=int, default=1700, help="of the UNet (default %(default)s)")
    parser.add_argument("--decoder-steps", type=int, default=1100, help="of the decoder (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="crops in a step (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
