"""How long an image's masks will take, from timing a few calls of the networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emerdiff import EmerDiff, Options

SHORT = 0.5  # seconds of a call that is timed with many rows as well


def expected_seconds(model: EmerDiff, size: tuple[int, int], options: Options) -> float:
    """About how long `EmerDiff.segment` takes for an image of (H, W), pixels.

    A large network's call takes as many times longer as it has rows, a small one's hardly longer: so where a call with
    one row is short, one with as many rows as the method puts together is timed.
    """
    import torch

    diffusion, cost = model.diffusion, model.cost(size, options)
    factor, pixels = diffusion.latent_factor, cost.height * cost.width
    latent = torch.zeros(1, diffusion.latent_channels, cost.height // factor, cost.width // factor)
    latent = latent.to(diffusion.device)
    step = diffusion.grid(options.steps)[-1]
    together = max(1, options.batch * options.base_size**2 // pixels)

    def predict(rows: int) -> None:
        diffusion.predict_noise(latent.repeat(rows, 1, 1, 1), step)

    def decode(rows: int) -> None:
        diffusion.decode(latent.repeat(rows, 1, 1, 1))

    with torch.inference_mode():
        seconds = cost.unet_rows * _seconds_a_row(predict, min(together, cost.unet_rows))
        if cost.decodes:
            seconds += cost.decodes * _seconds_a_row(decode, min(diffusion.decodes_at_once(latent), cost.decodes))
    return seconds


def _seconds_a_row(call: Callable[[int], None], together: int) -> float:
    """How long a call takes for each of its rows; done twice where it is short, because the first warms up."""
    alone = _seconds(call, 1)
    if alone >= SHORT:
        return alone
    _seconds(call, together)
    return _seconds(call, together) / together


def _seconds(call: Callable[[int], None], rows: int) -> float:
    import torch

    start = time.perf_counter()
    call(rows)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # a GPU's work goes on when the call has returned
    return time.perf_counter() - start
