"""Draws samples of the pocket diffusion model: a sheet with one row per caption.

    python -m ovseg.pocket.training.draw_samples --out samples.png

They show what the model has learned of its world. Sampling is diffusers' own pipeline, DDIM with
classifier-free guidance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from transformers import CLIPTextModel, CLIPTokenizer

from ovseg.pocket.weights import DIFFUSION
from ovseg.pocket.world import SIZE, caption

SHOWN = (
    ("cat", "car", "grass"),
    ("fish", "sand"),
    ("house", "tree", "snow"),
    ("dog", "wood"),
    ("bus", "brick"),
    ("ball", "chair", "water"),
)
LEFT, GAP = 250, 4  # pixels: for the caption, between pictures


def load(folder: Path) -> Any:
    """The diffusers folder, in float32 on the CPU, as diffusers' own pipeline, whose calls carry no types."""
    pipeline: Any = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Pictures of 128x128 pixels by caption, a row each, the caption to their left."""
    columns = max(map(len, rows.values()))
    page = Image.new("RGB", (LEFT + columns * (SIZE + GAP), len(rows) * (SIZE + GAP)), "white")
    draw = ImageDraw.Draw(page)
    for row, (text, pictures) in enumerate(rows.items()):
        top = row * (SIZE + GAP)
        draw.text((8, top + SIZE // 2), text, fill="black", anchor="lm")
        for column, picture in enumerate(pictures):
            page.paste(picture, (LEFT + column * (SIZE + GAP), top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ovseg.pocket.training.draw_samples", description="Draw samples for captions."
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--count", type=int, default=6, help="samples a caption (default 6)")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (default 50)")
    parser.add_argument("--guidance", type=float, default=4.0, help="classifier-free guidance scale (default 4)")
    parser.add_argument("--folder", type=Path, default=DIFFUSION, help="diffusers folder (default: the shipped one)")
    given = parser.parse_args()
    if given.count < 1 or given.steps < 1:
        parser.error("--count and --steps must be 1 or more")
    if given.out.suffix != ".png" or not given.out.parent.is_dir():
        parser.error(f"--out: expected a PNG in a folder that is there, got {given.out}")
    pipeline, rows = load(given.folder), {}
    for names in track(SHOWN, "drawing", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        rows[caption(names)] = pipeline(
            caption(names),
            height=SIZE,
            width=SIZE,
            num_images_per_prompt=given.count,
            num_inference_steps=given.steps,
            guidance_scale=given.guidance,
            generator=torch.Generator().manual_seed(0),
        ).images
    sheet(rows).save(given.out)


if __name__ == "__main__":
    main()
