"""How long an image's masks will take, from timing a few calls of the networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emerdiff import EmerDiff, Options

SHORT = 0.5  # seconds of a call that is timed with more rows than one
ROWS = 4  # so many: a row hardly gets quicker with more
LONG = 5  # seconds of a first call beside which warming up does not count


def expected_seconds(model: EmerDiff, size: tuple[int, int], options: Options) -> float:
    """About how long `EmerDiff.segment` takes for an image of (H, W), pixels: what its networks' calls take.

    A large network's call takes as many times longer as it has rows, a small one's less: so where a call with one row
    is short, one with several is timed.
    """
    import torch

    diffusion, cost = model.diffusion, model.cost(size, options)
    factor = diffusion.latent_factor
    latent = torch.zeros(1, diffusion.latent_channels, cost.height // factor, cost.width // factor)
    latent = latent.to(diffusion.device)
    image = torch.zeros(1, 3, cost.height, cost.width)
    step = diffusion.grid(options.steps)[-1]

    def predict(rows: int) -> None:
        diffusion.predict_noise(latent.repeat(rows, 1, 1, 1), step)

    def decode(rows: int) -> None:
        diffusion.decode(latent.repeat(rows, 1, 1, 1))

    def encode(rows: int) -> None:
        diffusion.encode(image.repeat(rows, 1, 1, 1))

    with torch.inference_mode():
        seconds = cost.unet_rows * _seconds_a_row(predict, cost.unet_rows)
        if cost.decodes:  # beside which the one image that is encoded does not count
            return seconds + cost.decodes * _seconds_a_row(decode, cost.decodes)
        return seconds + cost.images * _seconds_a_row(encode, 1)


def _seconds_a_row(call: Callable[[int], None], together: int) -> float:
    """How long a call takes for each of its rows, of which there are so many together; a first call warms up.

    Where it takes `LONG`, warming up does not count and it is the answer.
    """
    first = _seconds(call, 1)
    if first >= SHORT:
        return first if first >= LONG else _seconds(call, 1)
    rows = min(together, ROWS)
    return min(_seconds(call, rows) for _ in range(2)) / rows


def _seconds(call: Callable[[int], None], rows: int) -> float:
    import torch

    start = time.perf_counter()
    call(rows)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # a GPU's work goes on when the call has returned
    return time.perf_counter() - start
