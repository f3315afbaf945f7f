"""What several images in one pass could save at most: how full the UNet's calls of one image are, and what a row costs.

    python -m bench.rows [--setting pocket|sd14] [--device cpu] [--dtype float32] [--engine fast]

Prints how many rows each UNet call of an image has, what a row costs in calls of 1, 2, 4, ... rows, whether a row in a
call of several has the bytes that it has alone, and the share of an image's time that calls as full as possible and
encodings and CLIP at the largest batch's rate would save.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from bench.clock import synchronize
from bench.engine import EXACT, FAST, Setting, load, setting
from bench.machine import choose_device, machine
from emerdiff import EmerDiff
from emerdiff.image import to_tensor
from ovseg.presets import get_preset
from ovseg.run.terminal import show
from ovseg.setup import Setup
from ovseg.towers.clip import Clip
from ovseg.towers.dense import dense_features

ROWS = (1, 2, 4, 8, 16)
ROUNDS = 5


def rows_of_calls(model: EmerDiff, at: Setting) -> tuple[list[int], float]:
    """The rows of each UNet call of an image, the second one, and its seconds."""
    for number in (0, 1):
        done = [0]
        start = time.perf_counter()
        model.segment(at.image(number), at.options, progress=lambda now, _: done.append(now))  # noqa: B023
        synchronize(model.diffusion.device)
        seconds = time.perf_counter() - start
    return [now - before for before, now in zip(done, done[1:], strict=False)], seconds


def best_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Of some rounds after one to warm up."""
    found = []
    for _ in range(ROUNDS + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


@torch.inference_mode()
def main() -> int:
    parser = ArgumentParser(prog="python -m bench.rows")
    parser.add_argument("--setting", choices=("pocket", "sd14"), default="pocket")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", choices=(FAST, EXACT), default=FAST)
    given = parser.parse_args()
    device, at = choose_device(given.device), setting(given.setting, None)
    at = replace(at, options=replace(at.options, speed=given.engine))
    model = load(at, given.engine, device, getattr(torch, given.dtype))
    calls, seconds = rows_of_calls(model, at)
    show(
        f"{machine(device)['cpu']}, {device}, {given.dtype}, {given.setting}, {given.engine}: {seconds:.2f} s an image"
    )
    show(f"UNet calls of an image: {len(calls)}, of {', '.join(map(str, calls))} rows")
    rows_of_the_unet(model, at, calls, seconds)
    if given.setting == "pocket":
        clip_share(seconds, device, at)
    return 0


def rows_of_the_unet(model: EmerDiff, at: Setting, calls: list[int], seconds: float) -> None:
    """What a row of the UNet and an encoded image cost in calls of several, beside an image's calls and seconds."""
    diffusion, device = model.diffusion, model.diffusion.device
    grid = diffusion.grid(at.options.steps)
    step = grid[len(grid) // 2]
    cost = model.cost(at.image(0).shape[:2], at.options)
    pixels = to_tensor(at.image(0), cost.height, cost.width)
    latent = diffusion.encode(pixels)
    noise = torch.randn((max(ROWS), *latent.shape[1:]), generator=torch.Generator().manual_seed(0))
    latents = latent + noise.to(device)
    row = {n: best_seconds(device, partial(diffusion.predict_noise, latents[:n], step)) / n for n in ROWS}
    image = {n: best_seconds(device, partial(diffusion.encode, pixels.expand(n, -1, -1, -1))) / n for n in ROWS[:4]}
    show("ms a row, in calls of " + ", ".join(f"{n}: {1000 * row[n]:.2f}" for n in ROWS))
    show("ms an image encoded, at a time " + ", ".join(f"{n}: {1000 * image[n]:.2f}" for n in image))
    alone = torch.cat([diffusion.predict_noise(latents[n : n + 1], step) for n in range(max(ROWS))])
    same = [n for n in ROWS if torch.equal(diffusion.predict_noise(latents[:n], step), alone[:n])]
    show(f"a row has the bytes that it has alone in calls of {', '.join(map(str, same))} rows")
    best = min(row.values())
    nearest = [row[min(ROWS, key=lambda n: abs(n - count))] for count in calls]  # noqa: B023 - called at once
    saved = sum(count * (each - best) for count, each in zip(calls, nearest, strict=True))
    encoding = image[1] - min(image.values())
    show(f"full calls would save {max(0.0, saved) / seconds:.1%}, encoding several {encoding / seconds:.1%}")


def clip_share(seconds: float, device: torch.device, at: Setting) -> None:
    """CLIP's dense features, of one image, beside the masks' seconds, and of eight at a time."""
    clip = Clip.from_pretrained(get_preset("pocket").clip, device=device)
    view = Setup(preset=get_preset("pocket"), device=str(device)).view(clip)
    pixels = clip._seen(at.image(0), view)[None]
    each = {
        n: best_seconds(device, partial(dense_features, clip.model.visual, pixels.expand(n, -1, -1, -1), view.variant))
        for n in (1, 8)
    }
    each[8] /= 8
    saved = (each[1] - each[8]) / seconds
    show(f"CLIP: {1000 * each[1]:.1f} ms an image, {1000 * each[8]:.1f} of 8 at a time, which saves {saved:.1%}")


if __name__ == "__main__":
    raise SystemExit(main())
