"""Modulated denoising: how the decoded image changes when one low-resolution mask is nudged up and down.

Paper, sections 3.2 and 3.3: a constant is added, at the positions of one mask and at one timestep, to the output of
one cross-attention; denoising then goes on unmodulated, with the attention maps of the unmodulated pass, and the
difference of the two decoded images measures how much every pixel belongs to that mask. Two rows a mask, in chunks,
so the memory a UNet call takes does not grow with the number of masks; one timestep's attention is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from emerdiff.diffusion import LatentDiffusion
from emerdiff.hooks import (
    Recording,
    add_to_input,
    add_to_output,
    inject_attention,
    record_attention,
    record_input,
    record_output,
)
from emerdiff.inversion import Step, invert_step, posterior_mean


@dataclass(frozen=True)
class Placement:
    """Where in an attention the constant is added: how to read the tensor there and how to add to it."""

    record: Callable[[Attention], AbstractContextManager[Recording]]
    add: Callable[[Attention, Tensor], AbstractContextManager[None]]


# The paper's f(softmax(QK^T)V) + cM is "after-projection"; f(softmax(QK^T)V + cM) is its neighbour.
PLACEMENTS = {
    "after-projection": Placement(record_output, add_to_output),
    "before-projection": Placement(
        lambda attention: record_input(attention.to_out[0]),
        lambda attention, delta: add_to_input(attention.to_out[0], delta),
    ),
}


@dataclass(frozen=True)
class Modulation:
    """How the rows are modulated."""

    layer: str  # name of the modulated attention
    strength: float  # lambda
    placement: str  # a key of PLACEMENTS
    attention_injection: bool  # use the unmodulated pass's attention maps
    batch: int  # rows per UNet call


def modulated_latents(
    diffusion: LatentDiffusion,
    steps: Sequence[Step],
    path: Sequence[Tensor],
    masks: Tensor,
    modulation: Modulation,
    count_rows: Callable[[int], None],
) -> tuple[Tensor, float]:
    """Denoise 2K copies of x_{t_m}, each with one mask nudged at the first step.

    steps: T steps from t_m down; path: T + 1 latents (1, C, h, w) x_{t_m}, ..., x_0 of the image, through which the
    unmodulated run passes; masks: (K, N) bool over the modulated layer's positions. `count_rows(n)` is called after
    every UNet call of n rows. Returns the final latents (K, 2, C, h, w), [:, 0] for -lambda and [:, 1] for +lambda,
    and the root mean square of the tensor that is modulated, in the unmodulated pass.
    """
    attention = diffusion.attention(modulation.layer)
    placement = PLACEMENTS[modulation.placement]
    signs = torch.tensor([-1.0, 1.0], device=masks.device)
    # (2K, N, 1): neighbouring rows are the two signs of one mask; one value for all channels.
    deltas = (modulation.strength * signs[None, :, None] * masks[:, None, :]).flatten(0, 1)[..., None]
    reference = path[0]
    rows = reference.expand(len(deltas), -1, -1, -1)
    layer_rms = 0.0
    for index, step in enumerate(steps):
        with record_attention(diffusion.unet) as recorded, placement.record(attention) as layer:
            predicted = diffusion.predict_noise(reference, step)
        count_rows(1)
        residual, reference = invert_step(reference, path[index + 1], predicted, step)
        if index == 0:
            layer_rms = _rms(layer.read(), masks.shape[1], modulation.layer)
        denoised = []
        for latents, delta in zip(rows.split(modulation.batch), deltas.split(modulation.batch), strict=True):
            with ExitStack() as stack:
                if modulation.attention_injection:
                    stack.enter_context(inject_attention(diffusion.unet, recorded))
                if index == 0:
                    stack.enter_context(placement.add(attention, delta))
                predicted = diffusion.predict_noise(latents, step)
            count_rows(len(latents))
            denoised.append(posterior_mean(latents, predicted, step) + residual)
        rows = torch.cat(denoised)
    return rows.unflatten(0, (-1, 2)), layer_rms


def difference_maps(diffusion: LatentDiffusion, latents: Tensor) -> Tensor:
    """Decode pairs of latents (K, 2, C, h, w) and return d = ||I^- - I^+||_2 over RGB, (K, H, W) float32 on the CPU.

    Images are compared as floats on the [-1, 1] scale, unclipped, and no map is normalised.
    """
    pairs = max(1, diffusion.rows_per_decode(latents.shape[-2:]) // 2)
    maps = []
    for chunk in latents.split(pairs):
        images = diffusion.decode(chunk.flatten(0, 1)).unflatten(0, (-1, 2))
        maps.append(torch.linalg.vector_norm(images[:, 0] - images[:, 1], dim=1).cpu())
    return torch.cat(maps)


def _rms(output: Tensor, positions: int, layer: str) -> float:
    if output.shape[1] != positions:
        raise ValueError(
            f"modulated layer {layer} has {output.shape[1]} positions, the feature layer's masks have {positions}: "
            "choose two layers of the same level"
        )
    return float(output.float().square().mean().sqrt())
